//! The processes of a node, as the machine sees them.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process and all that descend from it, parents first.
pub(super) fn descendants(id: u32) -> Vec<String> {
    let mut all = Vec::new();
    let mut next = VecDeque::from([id.to_string()]);
    while let Some(process) = next.pop_front() {
        next.extend(children(&process));
        all.push(process);
    }
    all
}

/// Waits until killed processes are gone; those that are not, after some seconds.
pub(super) fn remaining(mut processes: Vec<String>) -> Vec<String> {
    let started = Instant::now();
    loop {
        processes.retain(|process| Path::new("/proc").join(process).exists());
        if processes.is_empty() || started.elapsed() > Duration::from_secs(20) {
            return processes;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The kernel lists them by the thread that forked, or adopted.
fn children(process: &str) -> Vec<String> {
    // It may just have ended.
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}
