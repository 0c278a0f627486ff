//! What is measured: the extenders, the samplings, and how much of it, by environment variables.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// What kube-scheduler asks besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nobody: the profile without its extender.
    Nobody,
    /// The no-op extender, which returns the first name.
    OneName,
    /// The no-op extender, which returns all names.
    AllNames,
    /// `packhorse server`, which returns at most so many.
    Packhorse {
        /// `bestNodes`.
        best_nodes: u32,
    },
}

/// All, in the order of a round.
pub(crate) const ASKED: [Asked; 5] = [
    Asked::Nobody,
    Asked::OneName,
    Asked::AllNames,
    Asked::Packhorse { best_nodes: 16 },
    Asked::Packhorse { best_nodes: 1 },
];

impl Asked {
    /// As in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "none",
            Self::OneName => "one_name",
            Self::AllNames => "all_names",
            Self::Packhorse { .. } => "packhorse",
        }
    }

    /// As in the tables.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Packhorse { best_nodes } => format!("packhorse {best_nodes}"),
            other => other.name().to_owned(),
        }
    }
}

/// `percentageOfNodesToScore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    /// As kube-scheduler chooses itself: 500 of 5,000 nodes.
    Stock,
    /// All nodes.
    All,
}

impl Sampling {
    /// As in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::All => "100",
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) mix: String,
    pub(crate) asked: Asked,
    pub(crate) sampling: Sampling,
    pub(crate) round: usize,
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
}

impl Case {
    /// As the figures name it.
    pub(crate) fn json(&self) -> Value {
        let mut case = json!({
            "mix": self.mix, "extender": self.asked.name(), "sampling": self.sampling.name(), "round": self.round,
            "pods": self.pods, "nodes": self.nodes,
        });
        if let Asked::Packhorse { best_nodes } = self.asked {
            case["best_nodes"] = json!(best_nodes);
        }
        case
    }
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
    pub(crate) rounds: usize,
    pub(crate) mixes: Vec<String>,
    pub(crate) samplings: Vec<Sampling>,
    pub(crate) asked: Vec<Asked>,
    /// A run ends after this, whether or not all pods are bound by then.
    pub(crate) limit: Duration,
    /// Where the names of three consecutive filter requests are written, if anywhere.
    pub(crate) names: Option<PathBuf>,
    /// Where kube-scheduler's CPU profiles are written, if anywhere.
    pub(crate) profiles: Option<PathBuf>,
    /// Pods created with and without the webhook; 0: that is not measured.
    pub(crate) admissions: usize,
    pub(crate) packhorse: PathBuf,
}

impl Settings {
    /// From the environment; the head of the program lists the variables. Panics on a value that it does not know.
    pub(crate) fn read() -> Self {
        let mixes = text("MIXES").unwrap_or_else(|| "default,gpushare40,multigpu30".to_owned());
        let samplings = text("SAMPLINGS").unwrap_or_else(|| "stock,100".to_owned());
        let asked = text("EXTENDERS");
        let chosen = |name: &str| asked.as_ref().is_none_or(|list| list.split(',').any(|entry| entry == name));
        let all: Vec<String> = ASKED.iter().map(|asked| asked.title().replace(' ', "_")).collect();
        for entry in asked.iter().flat_map(|list| list.split(',')) {
            assert!(all.iter().any(|known| known == entry), "{PREFIX}EXTENDERS: {entry:?} is none of {all:?}");
        }
        Self {
            nodes: number("NODES", 5000),
            pods: number("PODS", 5000),
            rounds: number("ROUNDS", 3),
            mixes: mixes.split(',').map(str::to_owned).collect(),
            samplings: samplings
                .split(',')
                .map(|entry| match entry {
                    "stock" => Sampling::Stock,
                    "100" => Sampling::All,
                    other => panic!("{PREFIX}SAMPLINGS: {other:?} is neither stock nor 100"),
                })
                .collect(),
            asked: ASKED.into_iter().filter(|asked| chosen(&asked.title().replace(' ', "_"))).collect(),
            limit: Duration::from_secs(number("LIMIT", 90) as u64),
            names: text("NAMES").map(PathBuf::from),
            profiles: text("PROFILES").map(PathBuf::from),
            admissions: number("ADMISSIONS", 2000),
            packhorse: std::env::var_os("PACKHORSE_BINARY")
                .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_packhorse")), PathBuf::from),
        }
    }
}

const PREFIX: &str = "PACKHORSE_THROUGHPUT_";

fn text(name: &str) -> Option<String> {
    std::env::var(format!("{PREFIX}{name}")).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, default: usize) -> usize {
    text(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|error| panic!("{PREFIX}{name}={value:?} is not a number: {error}"))
    })
}
