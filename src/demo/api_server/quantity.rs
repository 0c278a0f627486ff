//! Quantities as the API server rewrites them: `4000` becomes `4k`, `1024Mi` becomes `1Gi`, `0.5` becomes `500m`. Packhorse's own
//! parser is not used here on purpose: the demo must meet what the original sends, not what Packhorse believes it sends.

/// A quantity: billionths, and the family of suffixes it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantity {
    nanos: i128,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Decimal,
    Binary,
    Exponent,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// `None` for anything the API server would not take.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 {
            return None;
        }
        let (family, scale) = scale(suffix)?;
        let mut nanos = whole.parse::<i128>().or_else(|e| if whole.is_empty() { Ok(0) } else { Err(e) }).ok()?;
        nanos = nanos.checked_mul(scale)?;
        // Digits beyond what the scale can hold round up, as in the original.
        let mut unit = scale;
        for digit in fraction.bytes() {
            let digit = i128::from(digit - b'0');
            nanos = nanos.checked_add((digit * unit + 9) / 10)?;
            unit = (unit + 9) / 10;
        }
        Some(Self { nanos: if negative { -nanos } else { nanos }, family })
    }

    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub(crate) fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Rounded up.
    pub(crate) fn value(self) -> i64 {
        self.rounded_up(NANO)
    }

    /// Thousandths, rounded up.
    pub(crate) fn milli(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let whole = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) != 0);
        i64::try_from(whole).unwrap_or(i64::MAX)
    }

    pub(crate) fn nanos(self) -> i128 {
        self.nanos
    }

    /// As the API server writes it.
    pub(crate) fn canonical(self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        if self.family == Family::Binary && self.is_integer() && self.nanos.abs() >= 1024 * NANO {
            let (mut value, mut power) = (self.nanos / NANO, 0);
            while value % 1024 == 0 && power < BINARY.len() {
                value /= 1024;
                power += 1;
            }
            return format!("{value}{}", if power == 0 { "" } else { BINARY[power - 1] });
        }
        let (suffix, exponent) = DECIMAL
            .into_iter()
            .rev()
            .find(|(_, exponent)| self.nanos % power_of_ten(exponent + 9) == 0)
            .unwrap_or(("n", -9));
        let value = self.nanos / power_of_ten(exponent + 9);
        match (self.family, exponent) {
            (Family::Exponent, exponent) if exponent != 0 => format!("{value}e{exponent}"),
            _ => format!("{value}{suffix}"),
        }
    }
}

fn power_of_ten(exponent: i32) -> i128 {
    10_i128.pow(exponent.unsigned_abs())
}

fn scale(suffix: &str) -> Option<(Family, i128)> {
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Family::Binary, NANO << (10 * (power + 1))));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Family::Decimal, power_of_ten(exponent + 9)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-9..=18).contains(&exponent).then(|| (Family::Exponent, power_of_ten(exponent + 9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_as_the_api_server_does() {
        for (written, stored) in [
            ("4000", "4k"),
            ("4096", "4096"),
            ("4k", "4k"),
            ("4e3", "4e3"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("2000m", "2"),
            ("0", "0"),
            ("1Ki", "1Ki"),
            ("0.5Gi", "512Mi"),
            ("100", "100"),
            ("1000000", "1M"),
            ("512", "512"),
        ] {
            assert_eq!(Quantity::parse(written).unwrap().canonical(), stored, "{written}");
        }
        for bad in ["", "Gi", "1.2.3", "4 k", "abc", "1gi", "--1"] {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
        assert_eq!(Quantity::parse("1500m").unwrap().value(), 2);
        assert_eq!(Quantity::parse("1500m").unwrap().milli(), 1500);
        assert!(!Quantity::parse("1500m").unwrap().is_integer());
        assert!(Quantity::parse("-1").unwrap().is_negative());
    }
}
