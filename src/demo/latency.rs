//! Percentiles of measured times.

use std::fmt;
use std::time::Duration;

/// What is told of a series of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Percentiles {
    /// How many were measured.
    pub count: usize,
    /// Half took no longer.
    pub p50: Duration,
    /// 90 of 100 took no longer.
    pub p90: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Percentiles {
    /// Of times in any order.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: times.len(), p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

/// A time with a unit that fits: `84 µs`, `1.9 ms`, `2.4 s`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Short(pub(super) Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_secs_f64() * 1e6;
        let text = match micros {
            m if m < 999.5 => format!("{m:.0} µs"),
            m if m < 9.95e3 => format!("{:.1} ms", m / 1e3),
            m if m < 999.5e3 => format!("{:.0} ms", m / 1e3),
            m => format!("{:.1} s", m / 1e6),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let p = Percentiles::of(times);
        let ms = [p.p50, p.p90, p.p99, p.max].map(|d| d.as_millis());
        assert_eq!((p.count, ms), (100, [50, 90, 99, 100]));
        assert_eq!(Percentiles::of(vec![]).max, Duration::ZERO);
        assert_eq!(Percentiles::of(vec![Duration::from_millis(3)]).p50.as_millis(), 3);
        let shown = [84, 1_900, 24_000, 2_400_000].map(|m| Short(Duration::from_micros(m)).to_string());
        assert_eq!(shown, ["84 µs", "1.9 ms", "24 ms", "2.4 s"]);
    }
}
