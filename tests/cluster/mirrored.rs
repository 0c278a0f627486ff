//! The production trace through the real kube-scheduler, against what `packhorse simulate --mirror-scheduler` says of it.
//!
//! Cards have 1000 MiB, so that a thousandth of a card is one MiB to the server as it is to the simulator. Nodes, pods and their order
//! are the simulator's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use packhorse::simulate::trace::{Cluster, Machine, Shape};
use packhorse::simulate::{mirrored, openb, script};
use serde_json::json;

use super::lab::on_cluster;
use super::objects::{self, GpuNode, node_of};
use super::{kubelab, pods, wait};

/// Every so-manieth node: more than kube-scheduler's sample of 100, and a number that shares no factor with it, or else the searches for nodes
/// would begin at the same few over and over. Of every fourth it took more than six minutes on two busy cores: once
/// the cluster is full, kube-scheduler tries everybody who waits again after each placement.
const NODE_STEP: usize = 6;
const SEED: u64 = 42;
/// How many mirrored runs tell what kube-scheduler's chance is worth.
const CHANCES: u64 = 8;
/// In points. The real run differs from time to time by more than the mirrored one (it left 5.05, 5.26 and 6.19 % where 5.62 was said; on every eighth node
/// 5.09, 5.71 and, on a machine at its limits, 7.09 where 5.54 was said), and why is not known. A random choice of nodes would leave over 13 %.
const TOLERANCE: f64 = 2.0;
/// So many pods may wait for kube-scheduler: it is told of pods about when they are decided on, as the simulator assumes.
const AHEAD: usize = 24;
const AT_ONCE: usize = 6;

/// Which pods were decided on, by their position in the stream.
struct Decisions {
    state: Arc<Mutex<Vec<State>>>,
    decided: Arc<AtomicUsize>,
    bound: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Refused,
    Bound,
}

#[test]
fn the_trace_leaves_unallocated_what_the_mirrored_scheduler_says() {
    on_cluster(async |lab| {
        let openb = |file: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openb").join(file);
        let read: [PathBuf; 2] = ["openb_node_list_gpu_node.csv", "openb_pod_list_default.csv"].map(openb);
        let mut cluster: Cluster = openb::nodes(&read[0]).expect("nodes");
        cluster.machines = cluster.machines.into_iter().step_by(NODE_STEP).collect();
        let trace = openb::pods(&read[1]).expect("pods");
        let expected: Vec<f64> = (0..CHANCES).map(|chance| mirrored(&cluster, &trace, SEED, SEED + chance)).collect();
        let (machines, stream) = script(&cluster, &trace, SEED);
        let shapes: Vec<&Shape> = stream.iter().map(|shape| &trace.shapes[*shape]).collect();

        // It must not know any pods of the tests before.
        lab.configure_server(None).await;
        let nodes: Vec<GpuNode> = machines.iter().enumerate().map(node).collect();
        pods::create_nodes(&lab.client, &nodes).await;
        lab.wait_for_ledger(nodes.len()).await;
        let namespace = lab.namespace("mirrored", json!({})).await;
        let decisions = Decisions::watch(&lab.client, &namespace, shapes.len()).await;
        let started = Instant::now();
        let objects: Vec<Pod> = shapes.iter().enumerate().map(pod).collect();
        for (at, some) in objects.chunks(AT_ONCE).enumerate() {
            let created = at * AT_ONCE;
            wait::until("kube-scheduler to decide", 120, async || {
                (created - decisions.decided.load(Ordering::Relaxed) <= AHEAD).then_some(())
            })
            .await;
            pods::create_all(&lab.client, &namespace, some).await;
        }
        let came = started.elapsed().as_secs_f64();
        decisions.settle().await;
        let seconds = started.elapsed().as_secs_f64();
        pods::checked(&lab.client).await;

        let state = decisions.state.lock().expect("no watcher panics").clone();
        let placed: u64 = shapes.iter().zip(&state).filter(|it| *it.1 == State::Bound).map(|it| it.0.demand()).sum();
        let real = 100.0 - 100.0 * placed as f64 / cluster.capacity() as f64;
        let mean = expected.iter().sum::<f64>() / CHANCES as f64;
        let refused =
            |gpu: bool| shapes.iter().zip(&state).filter(|it| (it.0.gpus > 0) == gpu && *it.1 != State::Bound).count();
        let [nominated, conflicts] = [
            lab.metric("packhorse_extender_nominations_total", &["result=\"nominated\""]).await + 0.0,
            lab.bind_conflicts().await,
        ];
        kubelab::say(&format!(
            "mirrored: {} nodes, {} pods in {came:.0} s, settled after {seconds:.0} s; {} GPU pods and {} others refused, {nominated} nominations, \
             {conflicts} conflicts; {real:.2} % unallocated, mirrored {mean:.2} % {expected:.2?}",
            nodes.len(),
            shapes.len(),
            refused(true),
            refused(false),
        ));
        assert!((real - mean).abs() <= TOLERANCE, "{real:.2} % unallocated, {expected:.2?} expected");
    });
}

impl Decisions {
    async fn watch(client: &kube::Client, namespace: &str, count: usize) -> Self {
        let api = pods::api(client, namespace);
        let listed = api.list(&Default::default()).await.expect("pods are listed").metadata.resource_version;
        let this = Self {
            state: Arc::new(Mutex::new(vec![State::Open; count])),
            decided: Arc::default(),
            bound: Arc::default(),
        };
        let sink =
            Self { state: Arc::clone(&this.state), decided: Arc::clone(&this.decided), bound: Arc::clone(&this.bound) };
        tokio::spawn(async move {
            let mut version = listed.unwrap_or_default();
            while Arc::strong_count(&sink.state) > 1 {
                let events = api.watch(&WatchParams::default().timeout(290), &version).await.expect("pods are watched");
                let mut events = events.boxed();
                // Whatever ends the stream, the next one goes on where it was.
                while let Ok(Some(event)) = events.try_next().await {
                    match event {
                        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                            version = pod.metadata.resource_version.clone().unwrap_or_default();
                            sink.note(&pod);
                        }
                        WatchEvent::Error(error) => panic!("decisions were missed: {error}"),
                        WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                    }
                }
            }
        });
        this
    }

    fn note(&self, pod: &Pod) {
        let at: usize = pod.metadata.name.as_deref().unwrap_or_default()[1..].parse().expect("a position");
        let new = match (node_of(pod), pods::refusal(pod)) {
            (Some(_), _) => State::Bound,
            (None, Some(_)) => State::Refused,
            (None, None) => return,
        };
        let old = std::mem::replace(&mut self.state.lock().expect("nobody panics")[at], new);
        if old == State::Open {
            self.decided.fetch_add(1, Ordering::Relaxed);
        }
        if new == State::Bound && old != State::Bound {
            self.bound.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All are decided on, and nobody got a node for a while.
    async fn settle(&self) {
        let count = self.state.lock().expect("nobody panics").len();
        let mut last = (usize::MAX, Instant::now());
        wait::until("the trace to settle", 120, async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let bound = self.bound.load(Ordering::Relaxed);
            if bound != last.0 {
                last = (bound, Instant::now());
            }
            let decided = self.decided.load(Ordering::Relaxed) == count;
            (decided && last.1.elapsed() >= Duration::from_secs(8)).then_some(())
        })
        .await;
    }
}

fn node((at, machine): (usize, &Machine)) -> GpuNode {
    // Names in the order of the simulator's, among which it breaks ties as the extender does.
    let mut node = GpuNode::new(&format!("n{at:04}"), machine.gpus as usize, &machine.model, 1000);
    node.cpu = machine.cpu.unsigned_abs();
    node.memory = machine.memory.unsigned_abs();
    for device in &mut node.devices {
        device["slots"] = json!(1000);
    }
    node
}

fn pod((at, shape): (usize, &&Shape)) -> Pod {
    let mut limits = json!({"cpu": format!("{}m", shape.cpu), "memory": shape.memory.to_string()});
    if shape.gpus > 0 {
        limits["nvidia.com/gpu"] = json!(shape.gpus);
        if !shape.is_whole() {
            limits["nvidia.com/gpumem"] = json!(shape.milli);
        }
    }
    let mut pod = objects::pod(&format!("p{at:05}"), &limits);
    if !shape.models.is_empty() {
        pod.metadata.annotations = Some([("packhorse.dev/gpu-model".to_owned(), shape.models.join(","))].into());
    }
    if shape.gpus == 0 {
        // None of Packhorse's business; it takes part for the CPU and memory that it uses up.
        pod.spec.as_mut().expect("a spec").scheduler_name = Some("packhorse".to_owned());
    }
    pod
}
