//! The numbers that an axis shows, and where they stand on it.

/// One axis, linear or logarithmic, between round numbers.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What is counted, and in which unit.
    pub label: String,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    logarithmic: bool,
}

/// Decades that are shown with the numbers 1, 2 and 5; with more of them only 1.
const FINE: f64 = 2.5;

impl Axis {
    /// From `low` to `high`, widened to round numbers, about six of them.
    pub fn linear(label: impl Into<String>, low: f64, high: f64) -> Self {
        let rough = ((high - low) / 6.0).max(0.1);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let ticks = (0..=(last - first) as u32).map(|tick| (first + f64::from(tick)) * step).collect();
        Self { label: label.into(), low: first * step, high: last * step, ticks, logarithmic: false }
    }

    /// From `low` to `high`, both above zero, widened to numbers that begin with 1, 2 or 5.
    pub fn logarithmic(label: impl Into<String>, low: f64, high: f64) -> Self {
        let (low, high) = (low.max(f64::MIN_POSITIVE), high.max(low * 1.01));
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let round: Vec<f64> =
            (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|x| x * 10_f64.powi(power))).collect();
        let low = round.iter().copied().filter(|tick| *tick <= low * 1.000_001).fold(10_f64.powi(first), f64::max);
        let high = round.iter().copied().filter(|tick| *tick >= high * 0.999_999).fold(10_f64.powi(last), f64::min);
        let fine = (high / low).log10() <= FINE;
        let every = if fine { 1 } else { 3 };
        let ticks = round.into_iter().step_by(every).filter(|tick| (low..=high).contains(tick)).collect();
        Self { label: label.into(), low, high, ticks, logarithmic: true }
    }

    /// Ends exactly there: where the end needs no round number.
    #[must_use]
    pub fn ending_at(mut self, high: f64) -> Self {
        self.high = high;
        self.ticks.retain(|tick| *tick <= high + 1e-9);
        self
    }

    /// The lowest number.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Whether a number has a place on it. Larger ones have: the line that leads there is cut.
    pub fn shows(&self, number: f64) -> bool {
        number.is_finite() && (!self.logarithmic || number > 0.0)
    }

    /// Where a number stands, 0..=1.
    pub(super) fn place(&self, number: f64) -> f64 {
        if self.logarithmic {
            (number / self.low).ln() / (self.high / self.low).ln()
        } else {
            (number - self.low) / (self.high - self.low)
        }
    }

    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> {
        self.ticks.iter().copied()
    }
}

/// A number as people write it: `0.2`, `15`, `10,000`.
pub(super) fn text(number: f64) -> String {
    let rounded = (number * 1000.0).round() / 1000.0;
    let plain = rounded.to_string();
    let (sign, plain) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    let (whole, rest) =
        plain.split_once('.').map_or((plain, String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ticks = |axis: Axis| axis.ticks().map(text).collect::<Vec<_>>().join(" ");
        for (axis, expected) in [
            (Axis::linear("", 0.0, 100.0), "0 20 40 60 80 100"),
            (Axis::linear("", 3.0, 97.0), "0 20 40 60 80 100"),
            (Axis::linear("", 0.0, 0.55), "0 0.1 0.2 0.3 0.4 0.5 0.6"),
            (Axis::linear("", 0.0, 70.0).ending_at(43.0), "0 20 40"),
            (Axis::logarithmic("", 100.0, 10_000.0), "100 200 500 1,000 2,000 5,000 10,000"),
            (Axis::logarithmic("", 62.0, 4_300.0), "50 100 200 500 1,000 2,000 5,000"),
            (Axis::logarithmic("", 7.0, 90_000.0), "10 100 1,000 10,000 100,000"),
        ] {
            assert_eq!(ticks(axis), expected);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, expected) in
            [(0.0, "0"), (0.25, "0.25"), (999.0, "999"), (1e6, "1,000,000"), (-1234.5, "-1,234.5"), (0.1 + 0.2, "0.3")]
        {
            assert_eq!(text(number), expected);
        }
    }
}
