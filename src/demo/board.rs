//! One look at the fleet: who is on which GPU, from what the checker knows of the API objects.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checker::{Checker, Take};
use super::report::Shares;

/// Everything a frame shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Board {
    pub(super) elapsed: Duration,
    pub(super) duration: Option<Duration>,
    pub(super) seed: u64,
    pub(super) offered: usize,
    pub(super) refused: usize,
    pub(super) placed: usize,
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// Containers with devices.
    pub(super) started: u64,
    /// Of these, with others than their own.
    pub(super) wrong: u64,
    pub(super) use_now: Shares,
    pub(super) nodes: Vec<NodeRow>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeRow {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) gpus: Vec<GpuRow>,
}

/// One card; a card in MIG mode with all its instances.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct GpuRow {
    pub(super) index: i64,
    pub(super) memory: i64,
    pub(super) used: i64,
    /// Percent.
    pub(super) cores: i64,
    pub(super) exclusive: bool,
    /// `healthy`, another health, or `cordoned`.
    pub(super) state: String,
    /// Name without namespace, and how much.
    pub(super) pods: Vec<(String, String)>,
    /// MIG instances: profile, and who has it.
    pub(super) instances: Vec<(String, Option<String>)>,
}

fn amount(take: Take) -> String {
    if take.exclusive {
        return "whole".to_owned();
    }
    let gib = take.memory as f64 / 1024.0;
    if gib < 9.95 { format!("{gib:.1}G") } else { format!("{gib:.0}G") }
}

/// The rows of all nodes, in natural order of their names.
pub(super) fn nodes(checker: &Checker) -> Vec<NodeRow> {
    let mut rows: Vec<NodeRow> = checker
        .hosts
        .iter()
        .map(|(name, host)| {
            let mut gpus: BTreeMap<i64, GpuRow> = BTreeMap::new();
            for (uuid, card) in &host.cards {
                let gpu = gpus.entry(card.index).or_default();
                gpu.index = card.index;
                gpu.memory += card.memory;
                if gpu.state.is_empty() || card.health != "healthy" {
                    gpu.state = card.health.clone();
                }
                if host.cordoned.contains(uuid) && gpu.state == "healthy" {
                    gpu.state = "cordoned".to_owned();
                }
                let users = checker.users(name, uuid);
                for (_, take) in &users {
                    gpu.used += take.memory;
                    gpu.cores += take.cores;
                    gpu.exclusive |= take.exclusive && card.profile.is_none();
                }
                match &card.profile {
                    Some(profile) => {
                        let user = users.first().map(|(holder, _)| holder.name.clone());
                        gpu.instances.push((profile.clone(), user));
                    }
                    None => {
                        gpu.pods.extend(users.into_iter().map(|(holder, take)| (holder.name.clone(), amount(take))))
                    }
                }
            }
            for gpu in gpus.values_mut() {
                gpu.pods.sort();
            }
            let model = host.cards.first().map(|(_, card)| card.model.clone()).unwrap_or_default();
            NodeRow { name: name.clone(), model, gpus: gpus.into_values().collect() }
        })
        .collect();
    rows.sort_by_key(|row| (row.name.len(), row.name.clone()));
    rows
}

/// What of the fleet is in use; a GPU that is not healthy counts as there.
pub(super) fn in_use(nodes: &[NodeRow]) -> Shares {
    let gpus: Vec<&GpuRow> = nodes.iter().flat_map(|node| &node.gpus).collect();
    let memory: i64 = gpus.iter().map(|gpu| gpu.memory).sum();
    let whole: Vec<&&GpuRow> = gpus.iter().filter(|gpu| gpu.instances.is_empty()).collect();
    let share = |part: i64, of: i64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    Shares {
        memory: share(gpus.iter().map(|gpu| gpu.used).sum(), memory),
        cores: share(whole.iter().map(|gpu| gpu.cores).sum(), 100 * whole.len() as i64),
        gpus: share(gpus.iter().filter(|gpu| gpu.used > 0).count() as i64, gpus.len() as i64),
    }
}
