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
    /// Only of a live cluster.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub without_node: Option<MeanWithoutNode>,
    /// What the cluster has now; only of a live cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Now>,
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
    /// Only of a live cluster.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub without_node: Option<WithoutNode>,
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

/// Pods of a live cluster that got no node in a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WithoutNode {
    /// All of them.
    pub pods_without_node: u64,
    /// Of these, those that ask for GPUs.
    pub gpu_pods_without_node: u64,
}

/// The same over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanWithoutNode {
    /// All of them.
    pub pods_without_node: Spread,
    /// Of these, those that ask for GPUs.
    pub gpu_pods_without_node: Spread,
}

/// A live cluster as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Now {
    /// Nodes that are replayed.
    pub nodes: usize,
    /// What their devices count in cards: a MIG instance as its memory slices.
    #[serde(serialize_with = "rounded")]
    pub gpus: f64,
    /// Pods that are replayed.
    pub pods: usize,
    /// Of these, those that ask for GPUs.
    pub gpu_pods: usize,
    /// Of these, those without a node now.
    pub waiting: usize,
    /// GPU that nobody holds, in percent of all.
    #[serde(serialize_with = "rounded")]
    pub unallocated: f64,
    /// Nodes that list devices and are not replayed; each was named in a warning.
    pub left_out_nodes: usize,
    /// Pods that hold or ask for GPUs, or are on such nodes, and are not replayed; each was counted in a warning.
    pub left_out_pods: usize,
    /// Of those that are replayed, pods whose devices the server's code chose under every policy.
    pub served: usize,
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
        let recorded = self.0.iter().any(|report| report.without_node.is_some());
        if recorded {
            write!(f, "{:>16}{:>18}", "without node", "with GPUs")?;
        }
        write!(f, "{:>16}{:>16}{:>10}", "at 100, %", "at the end, %", "seconds")?;
        for report in self.0 {
            write!(f, "\n{:16}", report.policy)?;
            if let Some(departures) = &report.departures {
                let Departures { unallocated_time_average, rejected, rejected_8_gpu, .. } = departures;
                write!(f, "{unallocated_time_average:>16}{rejected:>18}{rejected_8_gpu:>16}")?;
            }
            if let Some(MeanWithoutNode { pods_without_node, gpu_pods_without_node }) = &report.without_node {
                write!(f, "{pods_without_node:>16}{gpu_pods_without_node:>18}")?;
            }
            let Report { unallocated_at_100, unallocated_at_end, seconds, .. } = report;
            write!(f, "{unallocated_at_100:>16}{unallocated_at_end:>16}{:>10.2}", seconds.mean)?;
        }
        match self.0.iter().find_map(|report| report.cluster) {
            Some(now) => write!(f, "\n{now}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, gpus, pods, gpu_pods, waiting, unallocated, left_out_nodes, left_out_pods, served } = self;
        write!(f, "{:16}{waiting:>34}{unallocated:>32.2}", "the cluster now")?;
        write!(f, "\n{pods} pods, {gpu_pods} of them with GPUs, on {nodes} nodes with {gpus:.2} GPUs")?;
        if *left_out_nodes + *left_out_pods > 0 {
            write!(f, "; left out: {left_out_nodes} nodes, {left_out_pods} pods")?;
        }
        if *served > 0 {
            write!(
                f,
                "\n{served} pods with MIG instances, several containers with GPUs or NUMA binding: devices by the server's code"
            )?;
        }
        Ok(())
    }
}

/// To four digits: what is beyond is noise.
fn rounded<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1e4).round() / 1e4)
}
