//! What the webhook adds to the creation of a GPU pod: the same pods, created with the shipped webhook configuration and without it,
//! in turn. Without it they are created as the webhook would have left them, so that the API server stores the same.
//!
//! Two figures each: pods per second with several creators, and the time of one creation where each waits for the one before.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::figures::record;
use super::plane::Plane;
use super::run::start_packhorse;
use super::settings::Settings;
use super::told::CpuTimes;
use super::{checker, manifests, objects, pods, wait};

/// Pods created one after the other.
const IN_TURN: usize = 300;

/// Makes as many rounds as the runs have.
pub(crate) async fn measure(plane: &Plane, settings: &Settings) {
    let wanted = settings.admissions + IN_TURN;
    // More than enough: at least every other pod of the trace has a GPU.
    let mut written = pods::written("default", wanted * 2);
    written.retain(|pod| !checker::gpu_containers(pod).is_empty());
    written.truncate(wanted);
    let admitted = pods::admitted(&written);

    let ip = match plane.at(0).ip() {
        std::net::IpAddr::V4(ip) => ip,
        std::net::IpAddr::V6(ip) => panic!("{ip} is no address of the lab"),
    };
    let port = manifests::route_webhook(&plane.client, ip).await;
    let mut server = start_packhorse(plane, &settings.packhorse, port, None);
    println!("\n{:<9} {:>5} {:>8} {:>12} {:>16}", "webhook", "round", "pods/s", "in turn, us", "server's CPU, us");
    for round in 1..=settings.rounds {
        for webhook in [round % 2 == 0, round % 2 == 1] {
            let file = "deployments/webhook/mutating-webhook.yaml";
            if webhook {
                plane.kubectl(&["apply", "--server-side", "-f", file]);
            } else {
                plane.kubectl(&["delete", "--ignore-not-found", "-f", file]);
            }
            let probe = &written[0];
            wait::until("the webhook to be asked, or not to be", 60, async || {
                server.must_run();
                (is_asked(plane, probe).await == webhook).then_some(())
            })
            .await;

            let given = if webhook { &written } else { &admitted };
            let (many, few) = given.split_at(settings.admissions);
            let mut cpu = CpuTimes::of(vec![("server", server.id())]);
            let started = Instant::now();
            cpu.read();
            plane.create_pods(many).await;
            let took = started.elapsed();
            cpu.read();
            let spent = cpu.shares(started, started + took).first().map_or(0.0, |(_, share)| *share);
            let rate = many.len() as f64 / took.as_secs_f64();
            let in_turn = in_turn(plane, few).await;
            plane.delete_pods().await;

            let case = json!({"webhook": webhook, "round": round, "pods": many.len(), "nodes": plane.nodes.len()});
            let cpu_us = spent / rate * 1e6;
            println!(
                "{:<9} {round:>5} {rate:>8.0} {:>12.0} {cpu_us:>16.0}",
                if webhook { "with" } else { "without" },
                in_turn.as_secs_f64() * 1e6,
            );
            record("pod_creations_per_second", rate, "pods/s", &case);
            record("pod_creation_in_turn_mean_us", in_turn.as_secs_f64() * 1e6, "us", &case);
            record("pod_creation_server_cpu_us", cpu_us, "us", &case);
        }
    }
    plane.kubectl(&["delete", "--ignore-not-found", "-f", "deployments/webhook/mutating-webhook.yaml"]);
    server.kill();
}

/// Whether a GPU pod as its author wrote it comes back as the webhook leaves it.
async fn is_asked(plane: &Plane, written: &Pod) -> bool {
    let pods: Api<Pod> = Api::namespaced(plane.client.clone(), "default");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, written).await.is_ok_and(|pod| objects::scheduler_of(&pod) == "packhorse")
}

async fn in_turn(plane: &Plane, pods: &[Pod]) -> Duration {
    let started = Instant::now();
    for pod in pods {
        plane.create_pods(std::slice::from_ref(pod)).await;
    }
    started.elapsed() / u32::try_from(pods.len().max(1)).unwrap_or(1)
}
