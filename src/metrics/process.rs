//! What the process uses, read from `/proc` at each scrape. A value that cannot be read is left out of the scrape: where there is
//! no `/proc`, there are no such series.

use std::fs;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Ticks a second in `stat`, fixed for user space.
const TICKS: f64 = 100.0;

/// Collects the process's own series.
#[derive(Debug)]
pub struct Process {
    started: SystemTime,
}

impl Default for Process {
    /// Started now.
    fn default() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        gauge(
            &mut encoder,
            "process_start_time",
            "When the process started, Unix time",
            Some(&Unit::Seconds),
            started,
        )?;
        if let Some(memory) = resident() {
            let memory = i64::try_from(memory).unwrap_or(i64::MAX);
            let gauge = ConstGauge::new(memory);
            let help = "Memory in use";
            let series =
                encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), gauge.metric_type())?;
            gauge.encode(series)?;
        }
        if let Some(seconds) = processor() {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time used";
            let series = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), counter.metric_type())?;
            counter.encode(series)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let files = i64::try_from(files.count()).unwrap_or(i64::MAX);
            let gauge = ConstGauge::new(files);
            let series = encoder.encode_descriptor("process_open_fds", "Open files", None, gauge.metric_type())?;
            gauge.encode(series)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: f64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    let series = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
    gauge.encode(series)
}

/// Resident memory in bytes. `statm` counts in pages, whose size differs between machines; `status` says kB.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Seconds of processor time, user and system.
fn processor() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in brackets, and may itself hold blanks and brackets.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}
