//! Devices that fail, recover, come, go and are cut anew on a real node: what the ledger, the kubelet and the pods are told, and when.

#[path = "../../benches/figures.rs"]
mod figures;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::agent::{Agent, cards, uuid};
use super::kubelab::say;
use super::lab::{Lab, on_cluster};
use super::node::{Node, Runtime, workload};
use super::objects::{self, annotation};
use super::said::History;
use super::{http, pods, wait};

const GPU: &str = "nvidia.com/gpu";

/// Everybody who has to know, knows by then (design.md section 8).
const LIMIT: Duration = Duration::from_secs(2);

/// A topology of cards to which events happen, one after the other.
struct Script {
    cards: String,
    events: Vec<String>,
}

impl Script {
    fn new(cards: String) -> Self {
        Self { cards, events: Vec::new() }
    }

    /// Something that is due as soon as the file is read. Equal events happen once, hence no two have the same time.
    fn then(&mut self, device: usize, kind: &str) -> &mut Self {
        self.events.push(format!("- {{after: {}ms, device: {device}, kind: {kind}}}\n", self.events.len()));
        self
    }

    fn text(&self) -> String {
        format!("{}events:\n{}", self.cards, self.events.concat())
    }
}

fn share(cards: u32, memory: u32) -> Value {
    json!({GPU: cards, "nvidia.com/gpumem": memory, "nvidia.com/gpucores": 5})
}

fn sleeper(node: &Node, name: &str, limits: &Value) -> Pod {
    workload::pod(node, name, &[], &[workload::container("main", &["sleep"], limits)])
}

/// Whether the ledger has room for such a pod on the node.
struct Question(String);

impl Question {
    async fn new(lab: &Lab, namespace: &str, limits: &Value) -> Self {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let pod = pods::api(&lab.client, namespace).create(&dry, &objects::pod("question", limits)).await;
        Self(json!({"Pod": pod.expect("admitted"), "NodeNames": ["gpus"]}).to_string())
    }

    async fn fits(&self, lab: &Lab) -> bool {
        let (_, answer) = http::post(lab.extender_address(), "/filter", &self.0).await.expect("an answer");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["NodeNames"].as_array().is_some_and(|names| !names.is_empty())
    }
}

/// Waits until ledger and kubelet have it so; how long after `began` each did.
async fn told(lab: &Lab, node: &Node, question: &Question, began: Instant, fits: bool, slots: usize) -> [Duration; 2] {
    let mut times = [None; 2];
    while times.contains(&None) {
        assert!(began.elapsed() < Duration::from_secs(20), "fits {fits}, {slots} slots: {times:?}");
        if times[0].is_none() && question.fits(lab).await == fits {
            times[0] = Some(began.elapsed());
        }
        if times[1].is_none() && node.healthy_slots(GPU).await.len() == slots {
            times[1] = Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times.map(|time| time.expect("just asked"))
}

async fn devices_of(lab: &Lab, namespace: &str, name: &str) -> String {
    let pod = pods::api(&lab.client, namespace).get(name).await.expect("the pod is there");
    annotation(&pod, "devices.packhorse.dev/main").unwrap_or_default().to_owned()
}

/// Waits for an Event of that reason about an object; its message.
async fn event(lab: &Lab, namespace: &str, name: &str, reason: &str, about: &str) -> String {
    let events: Api<Event> = Api::namespaced(lab.client.clone(), namespace);
    let params = ListParams::default().fields(&format!("involvedObject.name={name},reason={reason}"));
    wait::until(&format!("the Event {reason} about {name}"), 20, async || {
        let listed = events.list(&params).await.ok()?.items;
        listed.into_iter().filter_map(|event| event.message).find(|message| message.contains(about))
    })
    .await
}

#[test]
fn a_failed_device_is_gone_from_ledger_and_kubelet_in_two_seconds_and_comes_back() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let mut node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let agent = Agent::start(lab, &node, &cards(2), &[]).await;
        let namespace = lab.namespace("failing", json!({})).await;
        // One on each card: together they do not fit on one.
        for name in ["one", "two"] {
            pods::create(&lab.client, &namespace, &sleeper(&node, name, &share(1, 50_000))).await;
        }
        let mut running = pods::all_running(&lab.client, &namespace, 2, 60).await;
        let on = async |index: usize| {
            let first = devices_of(lab, &namespace, "one").await == uuid(index);
            if first { "one" } else { "two" }
        };
        let hit = on(0).await;
        let both = Question::new(lab, &namespace, &share(2, 1000)).await;
        assert!(both.fits(lab).await);
        let history = History::watch(&lab.client, "gpus").await;
        let totals = history.now().totals();
        let mut script = Script::new(cards(2));
        let mut number = 0;
        for kind in ["lost", "xid, code: 79", "ecc"] {
            script.then(0, kind);
            let began = Instant::now();
            agent.set_topology(&script.text());
            let [ledger, kubelet] = told(lab, &node, &both, began, false, 10).await;
            let says = history
                .until("10 slots", 10, |said| said.slots(GPU) == Some(10))
                .await
                .saturating_duration_since(began);
            say(&format!(
                "{kind}: gone from the ledger after {ledger:.1?}, from the kubelet after {kubelet:.1?}, from allocatable after {says:.1?}"
            ));
            assert!(ledger < LIMIT && kubelet < LIMIT, "{ledger:?} {kubelet:?}");
            assert_eq!(history.now().devices[&uuid(0)], "unhealthy");
            assert_eq!(history.now().devices[&uuid(1)], "healthy");
            event(lab, "default", "gpus", "GPUUnhealthy", &uuid(0)).await;
            event(lab, &namespace, hit, "GPUUnhealthy", &uuid(0)).await;

            for _ in 0..2 {
                let name = format!("new-{number}");
                number += 1;
                pods::create(&lab.client, &namespace, &sleeper(&node, &name, &share(1, 1000))).await;
            }
            let now = pods::all_running(&lab.client, &namespace, 2 + number, 60).await;
            for new in 0..number {
                assert_eq!(devices_of(lab, &namespace, &format!("new-{new}")).await, uuid(1), "{kind}");
            }
            assert!(running.iter().all(|(name, id)| now.get(name) == Some(id)), "{running:?} {now:?}");
            running = now;
            if kind == "lost" {
                // Pods of the failed device as well: nobody but their user may end them.
                node.restart_kubelet().await;
                wait::until("the kubelet to have its slots", 30, async || {
                    (node.healthy_slots(GPU).await.len() == 10).then_some(())
                })
                .await;
                let later = sleeper(&node, "later", &share(1, 1000));
                let later = pods::create(&lab.client, &namespace, &later).await;
                running = pods::all_running(&lab.client, &namespace, running.len() + 1, 60)
                    .await
                    .into_iter()
                    .filter(|(name, id)| name == "later/main" || running.get(name) == Some(id))
                    .collect();
                assert_eq!(running.len(), 3 + number, "containers were started anew");
                let name = later.metadata.name.expect("a name");
                pods::api(&lab.client, &namespace).delete(&name, &Default::default()).await.expect("deleted");
                running.remove("later/main");
                pods::all_running(&lab.client, &namespace, running.len(), 30).await;
            }

            script.then(0, "recovered");
            let began = Instant::now();
            agent.set_topology(&script.text());
            let [ledger, kubelet] = told(lab, &node, &both, began, true, 20).await;
            say(&format!("recovered: back in the ledger after {ledger:.1?}, with the kubelet after {kubelet:.1?}"));
            history.until("20 slots", 10, |said| said.slots(GPU) == Some(20)).await;
        }
        event(lab, "default", "gpus", "GPUHealthy", &uuid(0)).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "both", &share(2, 1000))).await;
        let now = pods::all_running(&lab.client, &namespace, running.len() + 1, 60).await;
        assert!(running.iter().all(|(name, id)| now.get(name) == Some(id)), "{running:?} {now:?}");
        assert!(history.all().iter().all(|(_, said)| said.totals() == totals), "{:#?}", history.all());
        pods::checked(&lab.client).await;
    });
}

/// One card in MIG mode with these instances (profile, memory, start, size) beside one that is whole.
fn cut(instances: &[(&str, u32, u32, u32)]) -> String {
    let listed: Vec<String> = instances
        .iter()
        .map(|(profile, memory, start, size)| {
            let digits = profile.bytes().fold(u32::from(b'0'), |sum, byte| sum * 7 % 100_003 + u32::from(byte));
            let id = format!("MIG-00000000-0000-0000-{start:04}-{digits:012}");
            format!("{{uuid: {id}, profile: {profile}, memory: {memory}, start: {start}, size: {size}}}")
        })
        .collect();
    let whole = cards(2);
    let card = whole.lines().last().expect("a card").trim_end_matches('}');
    let rest = whole.lines().count() - 1;
    let rest: String = whole.lines().take(rest).map(|line| format!("{line}\n")).collect();
    format!("{rest}{card}, mig: [{}]}}\n", listed.join(", "))
}

#[test]
fn the_kubelets_resources_follow_the_mig_layout() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    let (half, small) = ("nvidia.com/mig-3g.40gb", "nvidia.com/mig-1g.10gb");
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let halves = [("3g.40gb", 40192, 0, 4), ("3g.40gb", 40192, 4, 4)];
        let agent = Agent::start(lab, &node, &cut(&halves), &["--mig-strategy", "mixed"]).await;
        let history = History::watch(&lab.client, "gpus").await;
        let offers = |resource: &'static str, slots: Option<u64>| {
            move |said: &super::said::Said| {
                said.slots(resource).filter(|slots| *slots > 0) == slots && said.ready == Some(true)
            }
        };
        history.until("two halves", 30, offers(half, Some(2))).await;
        history.until("one whole card", 30, offers(GPU, Some(10))).await;
        let namespace = lab.namespace("mig", json!({})).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "whole", &share(1, 1000))).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "half", &json!({half: 1}))).await;
        let running = pods::all_running(&lab.client, &namespace, 2, 60).await;
        assert!(devices_of(lab, &namespace, "half").await.starts_with("MIG-"));

        // Somebody cuts the unused half into pieces.
        let used = history.now().devices;
        assert_eq!(used.len(), 3, "a card, two instances: {used:?}");
        let in_use = devices_of(lab, &namespace, "half").await;
        let start = if in_use.contains("-0000-0000-0000-") { 0 } else { 4 };
        let free = 4 - start;
        let pieces = [("3g.40gb", 40192, start, 4), ("1g.10gb", 9728, free, 1), ("1g.10gb", 9728, free + 1, 1)];
        let began = Instant::now();
        agent.set_topology(&cut(&pieces));
        let told = history.until("two small ones", 30, offers(small, Some(2))).await;
        history.until("one half", 30, offers(half, Some(1))).await;
        say(&format!("another MIG layout is with the kubelet after {:.1?}", told.saturating_duration_since(began)));
        pods::create(&lab.client, &namespace, &sleeper(&node, "small", &json!({small: 1}))).await;
        let now = pods::all_running(&lab.client, &namespace, 3, 60).await;
        assert!(running.iter().all(|(name, id)| now.get(name) == Some(id)), "{running:?} {now:?}");
        let given: BTreeSet<String> = [in_use, devices_of(lab, &namespace, "small").await].into();
        assert_eq!(given.len(), 2);
        pods::checked(&lab.client).await;
    });
}

#[test]
fn a_card_that_comes_is_offered_and_one_that_goes_is_not() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let agent = Agent::start(lab, &node, &cards(1), &[]).await;
        let history = History::watch(&lab.client, "gpus").await;
        let namespace = lab.namespace("cards", json!({})).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "first", &share(1, 50_000))).await;
        pods::all_running(&lab.client, &namespace, 1, 60).await;
        let without_the_middle: String = cards(3)
            .lines()
            .filter(|line| !line.contains(&uuid(1)))
            .fold(String::new(), |text, line| text + line + "\n");
        for (what, topology, slots) in
            [("two", cards(2), 20), ("one", cards(1), 10), ("another", without_the_middle, 20)]
        {
            let began = Instant::now();
            agent.set_topology(&topology);
            let told = history.until(&format!("{slots} slots"), 30, |said| said.slots(GPU) == Some(slots)).await;
            say(&format!("{what}: {slots} slots after {:.1?}", told.saturating_duration_since(began)));
        }
        // A card that went stays in the books as a failed one.
        history.until("the cards", 10, |said| said.devices.values().eq(["healthy", "unhealthy", "healthy"])).await;
        pods::create(&lab.client, &namespace, &sleeper(&node, "second", &share(1, 50_000))).await;
        pods::all_running(&lab.client, &namespace, 2, 60).await;
        assert_eq!(devices_of(lab, &namespace, "second").await, uuid(2));
        assert!(history.all().windows(2).all(|pair| pair[1].1.totals() >= pair[0].1.totals()), "{:#?}", history.all());
        pods::checked(&lab.client).await;
    });
}

#[test]
fn many_events_leave_no_memory_behind() {
    if !Runtime::Containerd16.is_here() {
        return;
    }
    on_cluster(async |lab| {
        let node = Node::start(lab, "gpus", Runtime::Containerd16, &[]).await;
        let agent = Agent::start(lab, &node, &cards(8), &[]).await;
        let namespace = lab.namespace("memory", json!({})).await;
        for number in 0..5 {
            pods::create(&lab.client, &namespace, &sleeper(&node, &format!("pod-{number}"), &share(1, 1000))).await;
        }
        pods::all_running(&lab.client, &namespace, 5, 60).await;
        let history = History::watch(&lab.client, "gpus").await;
        let start = agent.resident_mib();
        let mut script = Script::new(cards(8));
        let mut grown = Vec::new();
        for round in 1..=5 {
            for number in 0..100 {
                script.then(number % 8, "xid, code: 79").then(number % 8, "recovered");
            }
            agent.set_topology(&script.text());
            wait::until("all events to have happened", 60, async || {
                let seen = agent.metric("packhorse_agent_xid_events_total", &["xid=\"79\""]).await;
                (seen == f64::from(round * 100)).then_some(())
            })
            .await;
            history
                .until("all cards in order", 60, |said| said.devices.values().all(|health| health == "healthy"))
                .await;
            let api = pods::api(&lab.client, &namespace);
            for number in 0..100 {
                let patch = json!({"metadata": {"annotations": {"example.com/number": format!("{round}-{number}")}}});
                let name = format!("pod-{}", number % 5);
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a pod's change");
            }
            grown.push(agent.resident_mib());
        }
        say(&format!(
            "resident memory of the agent (this build): {start:.1} MiB at its start, after every 200 events of devices and 100 of pods {}",
            grown.iter().map(|mib| format!("{mib:.1}")).collect::<Vec<_>>().join(", ")
        ));
        figures::record("agent_memory_mib", grown[4], "MiB", &json!({"cards": 8, "events": 1500}));
        assert!(grown[4] - grown[1] < 4.0, "it grows from event to event: {grown:?}");
    });
}
