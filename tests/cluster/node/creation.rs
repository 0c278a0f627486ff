//! Containers that containerd is creating. One that is being created when the kubelet ends is removed again by containerd, which may
//! take a while. Until then it has a cgroup and no task, and cAdvisor, at the next kubelet's start and before anything else, asks for
//! every such task for 3 s, one after the other: many of them keep a kubelet away for minutes.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use super::super::kubelab::say;
use super::super::process::Component;
use super::super::wait;
use super::{ctr, runtime};

/// So many may be left when the kubelet returns.
const FEW: usize = 4;

/// Waits until containerd has done with all but [`FEW`]; not for ever, for the kubelet copes.
pub(super) async fn settle(containerd: &Component, programs: runtime::Programs) {
    let (started, mut left) = (Instant::now(), 0);
    wait::becomes(30, async || {
        left = count(containerd, programs);
        left <= FEW
    })
    .await;
    if started.elapsed() > Duration::from_secs(2) {
        let seconds = started.elapsed().as_secs_f64();
        say(&format!("the kubelet was held back for {seconds:.1} s; {left} containers are still being created"));
    }
}

/// A creation begins with a bundle and ends with a task, or without the bundle.
fn count(containerd: &Component, programs: runtime::Programs) -> usize {
    let root = format!("/proc/{}/root/run/containerd/state/io.containerd.runtime.v2.task/k8s.io", containerd.id());
    // Before the first container there is no such folder.
    let bundles = fs::read_dir(root).into_iter().flatten().flatten();
    let bundles: Vec<String> = bundles.filter_map(|bundle| bundle.file_name().into_string().ok()).collect();
    let tasks = ctr(containerd, programs, &["-n", "k8s.io", "tasks", "list", "-q"].map(str::to_owned));
    let tasks = tasks.unwrap_or_else(|error| panic!("containerd does not tell its tasks: {error}"));
    let tasks: HashSet<&str> = tasks.lines().collect();
    bundles.iter().filter(|bundle| !tasks.contains(bundle.as_str())).count()
}
