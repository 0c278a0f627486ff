//! What the components tell of themselves: metrics in Prometheus' text form, and the CPU time that the kernel counts.

use std::time::Instant;

/// One exposition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exposition(pub(crate) String);

/// A histogram, over all series that were asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    pub(crate) count: f64,
    /// Seconds.
    pub(crate) sum: f64,
    /// Upper bound and how many are at or below it, in order.
    buckets: Vec<(f64, f64)>,
}

impl Exposition {
    /// The sum over all series of the name whose labels contain each of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name, labels).map(|(_, value)| value).sum()
    }

    /// The histogram of this name.
    pub(crate) fn histogram(&self, name: &str, labels: &[&str]) -> Histogram {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (series, value) in self.series(&format!("{name}_bucket"), labels) {
            let Some(bound) = label(series, "le").and_then(|bound| bound.parse::<f64>().ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => buckets.push((bound, value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Histogram {
            count: self.sum(&format!("{name}_count"), labels),
            sum: self.sum(&format!("{name}_sum"), labels),
            buckets,
        }
    }

    /// All values of a label among the series of a name.
    pub(crate) fn values(&self, name: &str, key: &str) -> Vec<String> {
        let mut values: Vec<String> =
            self.series(name, &[]).filter_map(|(series, _)| label(series, key).map(str::to_owned)).collect();
        values.sort();
        values.dedup();
        values
    }

    fn series<'a>(&'a self, name: &'a str, labels: &'a [&str]) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = series.split('{').next() == Some(name) && labels.iter().all(|label| series.contains(label));
            found.then(|| value.parse().ok().map(|value| (series, value))).flatten()
        })
    }
}

impl Histogram {
    /// Microseconds.
    pub(crate) fn mean_us(&self) -> f64 {
        if self.count > 0.0 { self.sum / self.count * 1e6 } else { 0.0 }
    }

    /// Microseconds, interpolated within the bucket as Prometheus does.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        let wanted = quantile * self.count;
        let (mut lower, mut before) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= wanted && *count > before {
                let upper = if bound.is_finite() { *bound } else { lower };
                return (lower + (upper - lower) * (wanted - before) / (count - before)) * 1e6;
            }
            (lower, before) = (*bound, *count);
        }
        0.0
    }
}

fn label<'a>(series: &'a str, key: &str) -> Option<&'a str> {
    // `le` is also the end of `profile`.
    let opened = [format!("{{{key}=\""), format!(",{key}=\"")];
    let (_, rest) = opened.iter().find_map(|opened| series.split_once(opened.as_str()))?;
    rest.split('"').next()
}

/// The CPU time of some processes, read again and again.
#[derive(Debug, Default)]
pub(crate) struct CpuTimes {
    processes: Vec<(&'static str, u32)>,
    read: Vec<(Instant, Vec<f64>)>,
}

impl CpuTimes {
    pub(crate) fn of(processes: Vec<(&'static str, u32)>) -> Self {
        Self { processes, read: Vec::new() }
    }

    /// Reads them now.
    pub(crate) fn read(&mut self) {
        let seconds = self.processes.iter().map(|(_, id)| cpu_seconds(*id)).collect();
        self.read.push((Instant::now(), seconds));
    }

    /// Seconds of CPU per second between the readings nearest to two moments, by process.
    pub(crate) fn shares(&self, from: Instant, to: Instant) -> Vec<(&'static str, f64)> {
        let near = |moment: Instant| {
            let distance = |at: Instant| at.max(moment).duration_since(at.min(moment));
            self.read.iter().min_by_key(|(at, _)| distance(*at))
        };
        let (Some((start, before)), Some((end, after))) = (near(from), near(to)) else { return Vec::new() };
        let seconds = end.saturating_duration_since(*start).as_secs_f64();
        if seconds == 0.0 {
            return Vec::new();
        }
        let spent = before.iter().zip(after).map(|(before, after)| (after - before) / seconds);
        self.processes.iter().map(|(name, _)| *name).zip(spent).collect()
    }
}

/// Of a process and its threads so far; 0 once it is gone.
fn cpu_seconds(id: u32) -> f64 {
    /// `USER_HZ`, which Linux fixes.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything; the 12th and 13th field after it are user and system time.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS
}
