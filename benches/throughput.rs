//! How many pods the real kube-scheduler binds per second, without an extender, with one that does nothing, and with Packhorse.
//!
//! etcd, kube-apiserver and kube-scheduler are the lab's (`tests/lab`): upstream code, as processes on this machine. The nodes are API
//! objects with eight cards each. The pods are those of the openb trace, as the webhook leaves them; the webhook itself is measured
//! apart (`admission.rs`).
//!
//! A run is made like this. The extender is started anew and waited for; then all pods are created; only then kube-scheduler
//! starts, finds all of them in its queue, and works them off as fast as it can. The rate is that of the binds between the first tenth
//! and the last tenth of them, at the moments at which a watch of the API server tells of them. A run that has not ended after a
//! limit of time is cut off there, and its rate is that of the pods which were bound. Pods are deleted between runs. All variants take turns in one round, beginning with another one each time, and there are several rounds.
//!
//! kube-scheduler has the shipped profile (`deployments/scheduler`), with three changes: no leader election, because the lease of
//! the run before would have to end first; a client without a limit of requests, because without an extender it would bind 50 pods
//! a second; and where asked for `percentageOfNodesToScore`. The no-op extender is written in Rust, with the HTTP server and the API
//! client that Packhorse uses, so that the difference is what Packhorse does.
//!
//! After each run with Packhorse the books are checked: no device beyond its means, no bound pod without an allocation. A
//! violation ends the program.
//!
//! Environment, each with `PACKHORSE_THROUGHPUT_` before it: `NODES`, `PODS` (5000 each), `ROUNDS` (3), `MIXES`
//! (`default,gpushare40,multigpu30`), `SAMPLINGS` (`stock,100`), `EXTENDERS`
//! (`none,one_name,all_names,packhorse_16,packhorse_1`), `LIMIT` (90, seconds of a run), `ADMISSIONS` (2000 pods; 0 leaves that part
//! out), `NAMES` (prefix of files for the names of three filter requests), `PROFILES` (folder for kube-scheduler's CPU profiles).
//! `PACKHORSE_KUBELAB` names a lab built elsewhere, `PACKHORSE_BINARY` another `packhorse`.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, reason = "a measurement ends where it fails")]

mod figures;

#[path = "../tests/cluster/address.rs"]
mod address;
#[path = "../tests/cluster/built.rs"]
mod built;
#[path = "../tests/cluster/checker.rs"]
#[allow(dead_code, unused_imports, reason = "the cluster tests use all of it")]
mod checker;
#[path = "../tests/cluster/http.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod http;
#[path = "../tests/cluster/identity.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod identity;
#[path = "../tests/cluster/kubelab.rs"]
mod kubelab;
#[path = "../tests/cluster/manifests.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod manifests;
#[path = "../tests/cluster/objects.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod objects;
#[path = "../tests/cluster/process.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod process;
#[path = "../tests/cluster/wait.rs"]
#[allow(dead_code, reason = "the cluster tests use all of it")]
mod wait;

#[path = "throughput/admission.rs"]
mod admission;
#[path = "throughput/bound.rs"]
mod bound;
#[path = "throughput/noop.rs"]
mod noop;
#[path = "throughput/plane.rs"]
mod plane;
#[path = "throughput/pods.rs"]
mod pods;
#[path = "throughput/run.rs"]
mod run;
#[path = "throughput/settings.rs"]
mod settings;
#[path = "throughput/table.rs"]
mod table;
#[path = "throughput/told.rs"]
mod told;

use plane::Plane;
use settings::{Case, Settings};
use table::Table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, rest @ ..] = arguments.as_slice()
        && argument == noop::ARGUMENT
    {
        // Packhorse answers kube-scheduler on one thread too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(noop::serve(rest));
    } else if figures::is_bench()
        && let Some(kubelab) = kubelab::binary()
    {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(measure(kubelab, &Settings::read()));
    }
}

async fn measure(kubelab: &'static std::path::Path, settings: &Settings) {
    let started = std::time::Instant::now();
    let plane = Plane::start(kubelab, settings.nodes).await;
    println!("{} nodes after {:.1} s", settings.nodes, started.elapsed().as_secs_f64());
    let mut table = Table::default();
    table::head();
    for round in 1..=settings.rounds {
        for mix in &settings.mixes {
            let pods = pods::admitted(&pods::written(mix, settings.pods));
            for sampling in &settings.samplings {
                let mut turn = settings.asked.clone();
                let first = (round - 1) % turn.len().max(1);
                turn.rotate_left(first);
                for asked in turn {
                    let (pods_count, nodes) = (settings.pods, settings.nodes);
                    let case = Case { mix: mix.clone(), asked, sampling: *sampling, round, pods: pods_count, nodes };
                    let outcome = run::run(&plane, settings, &case, &pods).await;
                    table.add(&case, &outcome);
                }
            }
        }
    }
    table.summary();
    if settings.admissions > 0 {
        admission::measure(&plane, settings).await;
    }
}
