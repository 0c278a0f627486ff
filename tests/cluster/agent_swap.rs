//! The swap test: whoever guesses which pod the kubelet's `Allocate` is about will sooner or later give one pod's card to another.
//! Pairs of pods of equal size are bound to one node at the same moment, in both orders, with init containers, sidecars, crashes,
//! the same names again and again; every start of every container tells by the numbers of its device nodes which cards it has, and
//! that must be what was promised to that container of the pod of that UID. Full form of specifications, on containerd 2.
//!
//! Pods that the kubelet itself fails, because no plugin is registered in the moment of their admission, are counted apart.
//!
//! Tried by hand: without the write at container start no container with a device starts, and the first round fails; with another
//! pod's allocation of the same size taken there, 239 of 261 starts are wrong.

#[path = "agent_swap/gap.rs"]
mod gap;
#[path = "agent_swap/order.rs"]
mod order;
#[path = "agent_swap/promises.rs"]
mod promises;
#[path = "agent_swap/shapes.rs"]
mod shapes;
#[path = "agent_swap/stage.rs"]
mod stage;
#[path = "agent_swap/unrest.rs"]
mod unrest;
#[path = "agent_swap/verdict.rs"]
mod verdict;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use super::lab::on_cluster;
use super::node::Runtime;
use super::objects::annotation;
use super::{kubelab, pods, wait};
use shapes::CARDS;
use stage::Stage;
use unrest::{Chance, Victims};

/// How many starts each test looks at.
const IN_PEACE: usize = 200;
const AGENT_ENDS: usize = 150;
const BOTH_END: usize = 150;
const _: () = assert!(IN_PEACE + AGENT_ENDS + BOTH_END >= 500, "a rare swap needs many starts to show");

#[test]
fn pods_that_are_bound_at_the_same_moment_get_their_own_devices() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut stage = Stage::start(lab, CARDS, &[]).await;
        let (shapes, mut named) = (shapes::all(), (0, 0));
        while stage.node.records().len() < IN_PEACE {
            let cast = stage.cast(&shapes);
            cast.enter().await;
            cast.settle(120).await;
            let (matching, all) = stage.named_by_slots().await;
            named = (named.0 + matching, named.1 + all);
            cast.leave().await;
        }
        stage.conclude("pods bound at once", IN_PEACE);
        let orders = order::orders(&stage.versions.all(), &stage.namespace, &stage.node.kubelet_log());
        let metric = "packhorse_agent_started_slots_total";
        let started = [stage.agent.metric(metric, &["yes"]).await, stage.agent.metric(metric, &["no"]).await];
        kubelab::say(&format!(
            "{orders:?}; PodResources named slots of the very cards for {} of {} running containers, and at {} of {} checks",
            named.0,
            named.1,
            started[0],
            started[0] + started[1],
        ));
        assert!(orders.admitted_second_first > 0 && orders.admitted_second_first < orders.pairs, "{orders:?}");
        assert!(named.0 * 2 > named.1, "monitoring by slots is of use in the ordinary case");
    });
}

#[test]
fn the_agent_may_end_at_any_moment() {
    through_unrest(0x5eed_0001, Victims::Agent, "the agent ended at random", AGENT_ENDS);
}

#[test]
fn the_kubelet_and_the_agent_may_end_at_any_moment() {
    through_unrest(0x5eed_0002, Victims::AgentAndKubelet, "kubelet and agent ended at random", BOTH_END);
}

/// Rounds in which somebody ends while pods are born, and again while they go.
fn through_unrest(seed: u64, victims: Victims, what: &str, starts: usize) {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut stage = Stage::start(lab, CARDS, &["--drain-timeout", "2"]).await;
        let (shapes, mut chance) = (shapes::all(), Chance(seed));
        while stage.node.records().len() < starts {
            let cast = stage.cast(&shapes);
            let Stage { node, agent, .. } = &mut stage;
            let strikes = async {
                for _ in 0..2 {
                    unrest::strike(node, agent, &mut chance, victims).await;
                }
            };
            futures::join!(cast.enter(), strikes);
            cast.settle(150).await;
            let Stage { node, agent, .. } = &mut stage;
            futures::join!(cast.leave(), unrest::strike(node, agent, &mut chance, victims));
            stage.agent.wait_until_ready().await;
        }
        stage.conclude(what, starts);
    });
}

#[test]
fn a_container_waits_while_the_agent_is_away_between_allocation_and_start() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut stage = Stage::start(lab, CARDS, &[]).await;
        let shapes: Vec<_> = shapes::all().into_iter().take(4).collect();
        let (mut caught, mut before) = (0, BTreeSet::new());
        while caught < 6 {
            assert!(stage.rounds < 8, "only {caught} pods were caught between allocation and start");
            let cast = stage.cast(&shapes);
            let Stage { node, agent, .. } = &mut stage;
            let strike = async {
                let new = gap::newly_allocated(node, &before, 4).await;
                agent.kill();
                new
            };
            let ((), new) = futures::join!(cast.enter(), strike);
            before.extend(gap::allocated(&stage.node).into_keys());
            // All that were admitted, and are not there yet: they are told so, or run because they were checked before.
            let begun = |uid: &str| stage.node.records().iter().any(|sight| sight.pod_uid() == uid);
            let mut waiting = Vec::new();
            wait::until("the admitted pods to run or to wait", 60, async || {
                let pods = pods::list(&stage.client, &stage.namespace).await;
                let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
                let admitted: Vec<_> = pods.iter().filter(|pod| new.contains(&uid(pod))).collect();
                waiting = admitted.iter().filter(|pod| gap::waits(pod)).map(|pod| uid(pod)).collect();
                let told = |pod: &Pod| gap::waits(pod) || shapes::is_settled(pod) || begun(&uid(pod));
                admitted.into_iter().all(told).then_some(())
            })
            .await;
            waiting.retain(|uid| !begun(uid));
            caught += waiting.len();
            stage.agent.run();
            stage.agent.wait_until_ready().await;
            cast.settle(120).await;
            assert!(waiting.iter().all(|uid| begun(uid)), "{waiting:?} never ran");
            cast.leave().await;
        }
        kubelab::say(&format!("{caught} pods waited for the agent"));
        stage.conclude("the agent ended between allocation and start", caught);
    });
}

/// Two cards with one slot each. One slot belongs to a pod that will never start, so that the other goes to whoever comes: first to a
/// pod with the one card, then to a pod with the other. What was written for the first must never reach the second.
#[test]
fn a_slot_of_another_card_is_never_taken_for_the_card() {
    if !Runtime::Containerd22.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut stage = Stage::start(lab, 2, &["--slots", "1"]).await;
        let (client, namespace) = (stage.client.clone(), stage.namespace.clone());
        let api = pods::api(&client, &namespace);

        // Bound around Packhorse: the agent refuses it, and the kubelet keeps its slot.
        lab.pause_scheduler();
        let squatter = pods::create(&client, &namespace, &shapes::whole(&stage.node, "squatter")).await;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "squatter"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": stage.node.name},
        });
        let answer: Result<Value, _> =
            api.create_subresource("binding", "squatter", &PostParams::default(), &binding).await;
        answer.expect("the administrator may bind");
        lab.resume_scheduler();
        let squatted = gap::newly_allocated(&stage.node, &BTreeSet::new(), 1).await;
        assert_eq!(squatted.first(), squatter.metadata.uid.as_ref());

        for kubelet_ends in [false, true] {
            let [one, other] = ["tenant", "heir"];
            pods::create(&client, &namespace, &shapes::whole(&stage.node, one)).await;
            let tenant =
                wait::until("the tenant to run", 60, async || api.get(one).await.ok().filter(shapes::is_settled)).await;
            let card = annotation(&tenant, "devices.packhorse.dev/app").expect("a card").to_owned();
            let slots = gap::allocated(&stage.node)[&tenant.metadata.uid.clone().expect("a UID")].clone();
            pods::annotate_node(&client, &stage.node.name, json!({"packhorse.dev/cordon": card})).await;
            api.delete(one, &DeleteParams::default()).await.expect("the tenant goes");
            wait::until("the tenant to go", 60, async || api.get_opt(one).await.ok()?.is_none().then_some(())).await;

            let before: BTreeSet<String> = gap::allocated(&stage.node).into_keys().collect();
            let strike = async {
                let new = gap::newly_allocated(&stage.node, &before, 1).await;
                stage.agent.kill();
                new
            };
            let heir = shapes::whole(&stage.node, other);
            let (heir, new) = futures::join!(pods::create(&client, &namespace, &heir), strike);
            let uid = heir.metadata.uid.expect("a UID");
            assert!(new.contains(&uid), "{new:?}");
            assert_eq!(gap::allocated(&stage.node)[&uid], slots, "the heir has the tenant's slot");
            if kubelet_ends {
                stage.node.restart_kubelet().await;
            }
            let stuck = wait::until("the heir to wait or to be failed", 60, async || {
                let pod = api.get(other).await.ok()?;
                (gap::waits(&pod) || shapes::is_settled(&pod)).then_some(pod)
            })
            .await;
            let given = annotation(&stuck, "devices.packhorse.dev/app").expect("a card");
            assert_ne!(given, card, "the heir has the other card");
            assert!(stage.node.records().iter().all(|sight| sight.pod_uid() != uid), "it runs unchecked");
            stage.agent.run();
            stage.agent.wait_until_ready().await;
            let ended = wait::until("the heir to run or to be failed", 60, async || {
                api.get(other).await.ok().filter(shapes::is_settled)
            })
            .await;
            let starts = stage.node.records().iter().filter(|sight| sight.pod_uid() == uid).count();
            let failed = ended.status.and_then(|status| status.phase).as_deref() == Some("Failed");
            assert_eq!(starts, usize::from(!failed));
            assert!(!failed || kubelet_ends, "only a kubelet that has just started may fail it");
            kubelab::say(&format!("kubelet ended: {kubelet_ends}; the heir was failed by the kubelet: {failed}"));
            api.delete(other, &DeleteParams::default()).await.expect("the heir goes");
            wait::until("the heir to go", 60, async || api.get_opt(other).await.ok()?.is_none().then_some(())).await;
            pods::annotate_node(&client, &stage.node.name, json!({"packhorse.dev/cordon": null})).await;
        }
        stage::clear(&client, &namespace).await;
        stage.conclude("a slot of another card", 3);
    });
}
