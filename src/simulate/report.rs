//! What a comparison found, per policy: the JSON that outsiders read, and the table that people read.

use std::fmt;

use serde::{Serialize, Serializer};

use super::curve::Curve;

/// One policy over all seeds. Shares in percent of all GPU; serialises to the documented JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this format.
    pub v: u8,
    /// The policy's name.
    pub policy: &'static str,
    /// Who broke ties.
    pub ties: &'static str,
    /// Where the target workload came from.
    pub workload: &'static str,
    /// Fitting nodes that were enough to decide, in percent of all nodes.
    pub sample: u8,
    /// One run each.
    pub seeds: Vec<u64>,
    /// Beside the seeds.
    pub runs: Vec<Run>,
    /// When arrivals reached 100 % of all GPU.
    pub unallocated_at_100: Spread,
    /// After the last arrival.
    pub unallocated_at_end: Spread,
    /// Only with departures.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub departures: Option<Departures>,
    /// Of the replay alone, on one thread.
    pub seconds: Mean,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// What it was drawn by.
    pub seed: u64,
    /// When arrivals reached 100 % of all GPU.
    #[serde(serialize_with = "rounded")]
    pub unallocated_at_100: f64,
    /// After the last arrival.
    #[serde(serialize_with = "rounded")]
    pub unallocated_at_end: f64,
    /// Only with departures.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub departures: Option<RunDepartures>,
    /// Of the replay alone.
    #[serde(serialize_with = "rounded")]
    pub seconds: f64,
    /// For the picture.
    #[serde(skip)]
    pub(crate) curve: Curve,
}

/// What a run with departures tells besides, all after its warm-up.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RunDepartures {
    /// Averaged over time.
    #[serde(serialize_with = "rounded")]
    pub unallocated_time_average: f64,
    /// Pods that got no node.
    pub rejected: u64,
    /// Of these, those that asked for 8 GPUs or more.
    pub rejected_8_gpu: u64,
}

/// The same over all seeds, and how the runs were set.
#[derive(Debug, Clone, Serialize)]
pub struct Departures {
    /// GPU asked for on the mean, as a part of all.
    pub load: f64,
    /// Pods that came, the warm-up included.
    pub arrivals: usize,
    /// How long pods stayed.
    pub lifetimes: &'static str,
    /// Averaged over time.
    pub unallocated_time_average: Spread,
    /// Pods that got no node.
    pub rejected: Spread,
    /// Of these, those that asked for 8 GPUs or more.
    pub rejected_8_gpu: Spread,
}

/// Mean and population standard deviation over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    #[serde(serialize_with = "rounded")]
    pub mean: f64,
    /// Of the population.
    #[serde(serialize_with = "rounded")]
    pub sd: f64,
}

/// A mean alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// Over seeds.
    #[serde(serialize_with = "rounded")]
    pub mean: f64,
}

/// Reports as a table, one line each.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a>(pub &'a [Report]);

impl Spread {
    /// Of these values; 0 where there are none.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Self { mean, sd: variance.sqrt() }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2} ± {:.2}", self.mean, self.sd);
        f.pad(&text)
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let departures = self.0.iter().any(|report| report.departures.is_some());
        write!(f, "{:16}", "policy")?;
        if departures {
            write!(f, "{:>16}{:>18}{:>16}", "over time, %", "rejected", "8 GPUs")?;
        }
        write!(f, "{:>16}{:>16}{:>10}", "at 100, %", "at the end, %", "seconds")?;
        for report in self.0 {
            write!(f, "\n{:16}", report.policy)?;
            if let Some(departures) = &report.departures {
                let Departures { unallocated_time_average, rejected, rejected_8_gpu, .. } = departures;
                write!(f, "{unallocated_time_average:>16}{rejected:>18}{rejected_8_gpu:>16}")?;
            }
            let Report { unallocated_at_100, unallocated_at_end, seconds, .. } = report;
            write!(f, "{unallocated_at_100:>16}{unallocated_at_end:>16}{:>10.2}", seconds.mean)?;
        }
        Ok(())
    }
}

/// To four digits: what is beyond is noise.
fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e4).round() / 1e4)
}
