//! What the probe says in a container: `tests/lab/probe` prints one line of JSON at each start, and keeps a copy in the node's
//! folder of records, because the kubelet removes logs with their containers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One start of one container.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sight {
    /// Nanoseconds since 1970.
    pub(crate) at: u64,
    /// The whole environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Character devices that not every container has: path to `major:minor`.
    pub(crate) devices: BTreeMap<String, String>,
    /// The entries of `/var/run/nvidia-container-devices`.
    pub(crate) mounts: Vec<String>,
    /// When it ended by itself or at SIGTERM, nanoseconds since 1970; of records only.
    #[serde(skip)]
    pub(crate) ended: Option<u64>,
}

impl Sight {
    /// The pod's UID.
    pub(crate) fn pod_uid(&self) -> &str {
        &self.env["POD_UID"]
    }

    /// The container's name.
    pub(crate) fn container(&self) -> &str {
        &self.env["CONTAINER"]
    }

    /// `NVIDIA_VISIBLE_DEVICES` as the process has it.
    pub(crate) fn visible_devices(&self) -> Option<&str> {
        self.env.get("NVIDIA_VISIBLE_DEVICES").map(String::as_str)
    }
}

/// All starts in a folder of records, oldest first.
pub(super) fn records(folder: &Path) -> Vec<Sight> {
    let files = paths(folder).into_iter().filter(|path| path.extension().is_some_and(|it| it == "json"));
    let record = |path: PathBuf| {
        let ended = read(&path.with_extension("ended")).parse().ok();
        Sight { ended, ..parse(&read(&path)) }
    };
    in_order(files.map(record).collect())
}

/// All starts that the log files of a container still tell of, oldest first. Pods of the same name, one after the other, are
/// one.
pub(super) fn logged(logs: &Path, namespace: &str, pod: &str, container: &str) -> Vec<Sight> {
    let prefix = format!("{namespace}_{pod}_");
    let pods = paths(logs)
        .into_iter()
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix)));
    let files = pods.flat_map(|pod| paths(&pod.join(container)));
    in_order(files.flat_map(|file| lines(&read(&file))).map(|line| parse(&line)).collect())
}

/// The lines that a container wrote to its standard output. CRI's format: time, stream, `P` for a part or `F` for the end of a
/// line, text.
fn lines(log: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    // What follows the last end of a line is still being written.
    let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
    for entry in whole.lines() {
        let mut fields = entry.splitn(4, ' ');
        let (stream, tag, text) = (fields.nth(1), fields.next(), fields.next());
        if stream == Some("stdout") {
            line.push_str(text.unwrap_or_default());
            if tag == Some("F") {
                lines.push(std::mem::take(&mut line));
            }
        }
    }
    lines
}

fn parse(line: &str) -> Sight {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("the probe said {line:?}: {error}"))
}

fn in_order(mut sights: Vec<Sight>) -> Vec<Sight> {
    sights.sort_by_key(|sight| sight.at);
    sights
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    // Not there yet, or already gone.
    fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
