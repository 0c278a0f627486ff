//! Every reason to refuse: the message, the count, whether the world is told, and that the neighbours do not notice.

use std::sync::Arc;

use packhorse::agent::start::Reason;
use packhorse::agent::view::NodeView;
use packhorse::gpu::device::{Enforcement, Health};
use serde_json::{Value, json};

use super::bench::*;

type Change = fn(&mut Value);

fn allocation(pod: &mut Value, change: fn(&mut Value)) {
    let text = &mut pod["metadata"]["annotations"]["packhorse.dev/allocation"];
    let mut value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    change(&mut value["containers"]);
    *text = value.to_string().into();
}

fn drop_annotation(pod: &mut Value, key: &str) {
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove(key).unwrap();
}

#[tokio::test]
async fn a_pod_that_was_given_the_wrong_thing_is_refused_and_reported() {
    let cases: [(&str, Change, Reason, &str); 20] = [
        (
            "allocation removed",
            |pod| drop_annotation(pod, "packhorse.dev/allocation"),
            Reason::NoAllocation,
            "no annotation packhorse.dev/allocation",
        ),
        (
            "nothing of ours",
            |pod| {
                pod["metadata"]["annotations"] = json!({});
                pod["spec"]["schedulerName"] = "default-scheduler".into();
            },
            Reason::Foreign,
            "did not come through Packhorse",
        ),
        (
            "allocation without a request",
            |pod| drop_annotation(pod, "packhorse.dev/request"),
            Reason::Forged,
            "no annotation packhorse.dev/request",
        ),
        (
            "allocation without totals",
            |pod| pod["spec"]["containers"][0]["resources"] = json!({"limits": {"nvidia.com/gpu": "1"}}),
            Reason::Forged,
            "no resource packhorse.dev/gpu-cores of container main",
        ),
        (
            "damaged allocation",
            |pod| pod["metadata"]["annotations"]["packhorse.dev/allocation"] = "{\"v\":1".into(),
            Reason::DamagedAllocation,
            "cannot be read",
        ),
        (
            "allocation of a later version",
            |pod| pod["metadata"]["annotations"]["packhorse.dev/allocation"] = "{\"v\":2,\"containers\":{}}".into(),
            Reason::DamagedAllocation,
            "cannot be read",
        ),
        (
            "damaged request",
            |pod| pod["metadata"]["annotations"]["packhorse.dev/request"] = "{}".into(),
            Reason::DamagedRequest,
            "what pod ns/p asks for cannot be read",
        ),
        (
            "nothing for the container",
            |pod| allocation(pod, |containers| *containers = json!({})),
            Reason::Count,
            "asks for 1 device(s), and its allocation names 0",
        ),
        (
            "devices for a container that asks for none",
            |pod| allocation(pod, |containers| containers["ghost"] = containers["main"].clone()),
            Reason::DamagedAllocation,
            "container ghost of pod ns/p",
        ),
        (
            "one device more",
            |pod| {
                allocation(pod, |containers| {
                    let mut second = containers["main"][0].clone();
                    second["device"] = "GPU-2".into();
                    containers["main"].as_array_mut().unwrap().push(second);
                });
            },
            Reason::Count,
            "asks for 1 device(s), and its allocation names 2",
        ),
        (
            "a device of another node",
            |pod| allocation(pod, |containers| containers["main"][0]["device"] = "GPU-9".into()),
            Reason::UnknownDevice,
            "device GPU-9, which container main of pod ns/p was given, is not on this node",
        ),
        (
            "more memory than asked for",
            |pod| allocation(pod, |containers| containers["main"][0]["memory"] = 1001.into()),
            Reason::Amount,
            "memory 1001 MiB is allocated where 1000 of 10000 MiB was asked for",
        ),
        (
            "less cores than asked for",
            |pod| allocation(pod, |containers| containers["main"][0]["cores"] = 0.into()),
            Reason::Amount,
            "cores 0 % is allocated where 10 %",
        ),
        (
            "exclusive where a share was asked for",
            |pod| allocation(pod, |containers| containers["main"][0]["exclusive"] = true.into()),
            Reason::Amount,
            "exclusive true is allocated where false",
        ),
        (
            "a share where a whole card was asked for",
            |pod| {
                let request = json!({"v": 1, "containers": {"main": {"count": 1, "exclusive": true}}});
                pod["metadata"]["annotations"]["packhorse.dev/request"] = request.to_string().into();
            },
            Reason::Amount,
            "memory 1000 MiB is allocated where 10000 of 10000 MiB was asked for",
        ),
        (
            "more memory asked for than the card has",
            |pod| {
                let request = json!({"v": 1, "containers": {"main": {"count": 1, "memory": 10_001, "cores": 10}}});
                pod["metadata"]["annotations"]["packhorse.dev/request"] = request.to_string().into();
                allocation(pod, |containers| containers["main"][0]["memory"] = 10_001.into());
            },
            Reason::Amount,
            "10001 of 10000 MiB",
        ),
        (
            "a share of memory that is not the percentage asked for",
            |pod| {
                let request = json!({"v": 1, "containers": {"main": {"count": 1, "memoryPercent": 11, "cores": 10}}});
                pod["metadata"]["annotations"]["packhorse.dev/request"] = request.to_string().into();
            },
            Reason::Amount,
            "memory 1000 MiB is allocated where 1100 of 10000 MiB",
        ),
        (
            "a card where a MIG instance was asked for",
            |pod| {
                let limits = json!({"nvidia.com/mig-1g.10gb": "1", "packhorse.dev/gpu-cores": "0"});
                pod["spec"]["containers"][0]["resources"] = json!({"limits": limits, "requests": limits});
                let request = json!({"v": 1, "containers": {"main": {"count": 1, "mig": "1g.10gb"}}});
                pod["metadata"]["annotations"]["packhorse.dev/request"] = request.to_string().into();
            },
            Reason::Resource,
            "asks for a MIG instance 1g.10gb, which device GPU-1 is not",
        ),
        (
            "more enforcement required than the device gives",
            |pod| pod["metadata"]["annotations"]["packhorse.dev/require-enforcement"] = "mps".into(),
            Reason::Enforcement,
            "requires enforcement mps, and device GPU-1 gives advisory",
        ),
        (
            "a slot of a resource that the pod never asked for",
            |pod| {
                let limits = json!({"packhorse.dev/gpu-cores": "10"});
                pod["spec"]["containers"][0]["resources"] = json!({"limits": limits, "requests": limits});
                drop_annotation(pod, "packhorse.dev/request");
            },
            Reason::DamagedRequest,
            "a total without a GPU",
        ),
    ];
    for (case, change, reason, expected) in cases {
        let node = Node::ready().await;
        let (_, neighbour) = node.bind("neighbour", &main("GPU-2::5", 2)).await;
        node.prepare(&["GPU-2::5"]).await.unwrap();
        let containers = main("GPU-1::0", 1);
        let mut object = pod("p", &containers);
        change(&mut object);
        let (uid, named) = node.bind_object("p", object, &containers).await;
        let message = node.prepare(&["GPU-1::0"]).await.expect_err(case);
        assert!(message.contains(expected), "{case}: {message}");
        assert_eq!(node.count(reason), 1, "{case}: {message}");
        assert_eq!(node.refused(&uid).as_deref(), Some(message.as_str()), "{case}: published");
        assert_eq!(node.gets(&named[0]), None, "{case}: nothing is written");
        assert!(node.agent().pins.get(&uid).is_none(), "{case}: nothing is pinned");
        assert_eq!(node.gets(&neighbour[0]), Some(uuid(2)), "{case}: the neighbour keeps what it has");
        node.prepare(&["GPU-2::5"]).await.expect("the neighbour starts again");
    }
}

#[tokio::test]
async fn a_pod_that_only_waits_is_refused_and_not_reported() {
    let ended = |pod: &mut Value| pod["status"] = json!({"phase": "Failed"});
    let elsewhere = |pod: &mut Value| pod["spec"]["nodeName"] = "m".into();
    let cases: [(&str, Change, Reason, &str); 2] = [
        ("ended", ended, Reason::Ended, "has ended"),
        ("bound elsewhere", elsewhere, Reason::OtherNode, "is bound to node m, not to n"),
    ];
    for (case, change, reason, expected) in cases {
        let node = Node::ready().await;
        let containers = main("GPU-1::0", 1);
        let mut object = pod("p", &containers);
        change(&mut object);
        let uid = node.create(object);
        node.admit(&uid, "p", &containers);
        let message = node.prepare(&["GPU-1::0"]).await.expect_err(case);
        assert!(message.contains(expected), "{case}: {message}");
        assert_eq!((node.count(reason), node.refused(&uid)), (1, None), "{case}");
    }
}

#[tokio::test]
async fn a_device_that_is_not_healthy_takes_no_new_pod_and_keeps_its_old_ones_while_it_may_recover() {
    let node = Node::ready().await;
    let set = |health: Health| {
        node.view.send_modify(|view| {
            let mut next = NodeView::clone(view);
            next.devices[0].health = health;
            *view = Arc::new(next);
        });
    };
    node.bind("old", &main("GPU-1::0", 1)).await;
    let (new, _) = node.bind("new", &main("GPU-1::1", 1)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    for (health, old_starts) in [(Health::Suspect, true), (Health::Unhealthy, false), (Health::Recovering, true)] {
        set(health);
        assert_eq!(node.prepare(&["GPU-1::0"]).await.is_ok(), old_starts, "{health:?}");
        let message = node.prepare(&["GPU-1::1"]).await.unwrap_err();
        assert!(message.contains("GPU-1 of container main of pod ns/new is not healthy"), "{message}");
        assert!(node.refused(&new).is_some(), "{health:?}");
    }
    set(Health::Healthy);
    node.prepare(&["GPU-1::1"]).await.unwrap();
    assert_eq!(node.refused(&new), None, "it has started after all");
}

#[tokio::test]
async fn slots_of_a_resource_that_the_device_does_not_belong_to_are_refused() {
    let node = Node::ready().await;
    node.bind("p", &main("GPU-1::0", 1)).await;
    node.kubelet.record(|recorded| recorded[0].resource = "nvidia.com/mig-1g.10gb".to_owned());
    node.kubelet.list(|listed| listed[0].resource = "nvidia.com/mig-1g.10gb".to_owned());
    let slots = ["GPU-1::0".to_owned()];
    let start = &node.agent().start;
    let refusal =
        packhorse::agent::start::Starter::prepare(&**start, "nvidia.com/mig-1g.10gb", &slots).await.unwrap_err();
    assert!(refusal.0.contains("belongs to resource nvidia.com/gpu on this node"), "{refusal}");
}

#[tokio::test]
async fn an_agent_that_does_not_know_its_devices_refuses_without_blaming_the_pod() {
    let node = Node::ready().await;
    node.view.send_replace(Arc::new(NodeView { trouble: Some("no driver".to_owned()), ..NodeView::default() }));
    let (uid, _) = node.bind("p", &main("GPU-1::0", 1)).await;
    let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(message.contains("no driver"), "{message}");
    assert_eq!((node.count(Reason::NoDevices), node.refused(&uid)), (1, None));
}

#[tokio::test]
async fn enforcement_that_an_exclusive_pod_requires_is_satisfied() {
    let node = Node::ready().await;
    let containers = [container("main", "app", &["GPU-1::0"], &[1]).whole()];
    let mut object = pod("p", &containers);
    object["metadata"]["annotations"]["packhorse.dev/require-enforcement"] = Enforcement::Mps.as_str().into();
    node.bind_object("p", object, &containers).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
}

#[tokio::test]
async fn of_two_pods_with_one_share_the_second_is_refused() {
    let apps = |slots: &[&'static str], share: (u32, u16)| {
        let app = |name, slot: &&'static str| container(name, "app", &[*slot], &[1]).share(share.0, share.1);
        ["main", "more"].into_iter().zip(slots).map(|(name, slot)| app(name, slot)).collect::<Vec<_>>()
    };
    let whole = |slot: &'static str| vec![container("main", "app", &[slot], &[1]).whole()];
    for (case, first, second, what) in [
        ("memory", apps(&["GPU-1::0"], (6000, 0)), apps(&["GPU-1::1"], (4001, 0)), Some("memory")),
        ("memory that fits", apps(&["GPU-1::0"], (6000, 0)), apps(&["GPU-1::1"], (4000, 0)), None),
        ("cores", apps(&["GPU-1::0"], (100, 60)), apps(&["GPU-1::1"], (100, 41)), Some("cores")),
        ("cores that fit", apps(&["GPU-1::0"], (100, 60)), apps(&["GPU-1::1"], (100, 40)), None),
        ("two containers", apps(&["GPU-1::0", "GPU-1::2"], (100, 30)), apps(&["GPU-1::1"], (100, 41)), Some("cores")),
        ("exclusive first", whole("GPU-1::0"), apps(&["GPU-1::1"], (1, 0)), Some("exclusive")),
        ("exclusive second", apps(&["GPU-1::0"], (1, 0)), whole("GPU-1::1"), Some("exclusive")),
    ] {
        let node = Node::ready().await;
        let (_, one) = node.bind("one", &first).await;
        let (uid, two) = node.bind("two", &second).await;
        node.prepare(&["GPU-1::0"]).await.unwrap();
        let started = node.prepare(&["GPU-1::1"]).await;
        assert_eq!(started.is_err(), what.is_some(), "{case}: {started:?}");
        assert_eq!(node.gets(&one[0]), Some(uuid(1)), "{case}");
        assert_eq!(node.gets(&two[0]).is_some(), what.is_none(), "{case}");
        if let Some(what) = what {
            let message = started.unwrap_err();
            assert!(message.contains(what) && message.contains("it is held by ns/one"), "{case}: {message}");
            assert!(node.refused(&uid).is_some(), "{case}");
            // The one leaves: the other starts at the kubelet's next try.
            node.delete("one", &node.agent().pods.list().iter().find(|pod| &*pod.name == "one").unwrap().uid);
            node.prepare(&["GPU-1::1"]).await.expect(case);
            assert_eq!(node.refused(&uid), None, "{case}");
        }
    }
}

#[tokio::test]
async fn a_pod_that_is_too_much_by_itself_is_refused() {
    let node = Node::ready().await;
    let two = [
        container("main", "app", &["GPU-1::0"], &[1]).share(6000, 0),
        container("more", "app", &["GPU-1::1"], &[1]).share(6000, 0),
    ];
    node.bind("p", &two).await;
    let message = node.prepare(&["GPU-1::0"]).await.unwrap_err();
    assert!(message.contains("together are given more of device GPU-1 than it has (memory)"), "{message}");
}
