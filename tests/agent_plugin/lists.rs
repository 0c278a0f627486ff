//! Which slots the kubelet is shown, and with which health.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_device_takes_all_its_slots_along_and_brings_them_back() {
    let node = Node::new(vec![device("GPU-1", 10), device("GPU-2", 10)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 20).await;
    for health in [Health::Unhealthy, Health::Suspect, Health::Recovering] {
        let start = Instant::now();
        node.view.send_replace(view(vec![Device { health, ..device("GPU-1", 10) }, device("GPU-2", 10)]));
        let expected = Count { capacity: 20, allocatable: 10 };
        eventually("only the healthy card takes pods", || kubelet.counts()[GPU] == expected).await;
        println!("from the view to the kubelet: {:?}", start.elapsed());
        for number in 0..3 {
            let uid = format!("{health:?}{number}");
            kubelet.admit(one(&uid)).await.unwrap();
            assert_eq!(slots::device(&kubelet.slots(&uid, "main", GPU)[0]), Some("GPU-2"));
        }
    }
    node.view.send_replace(view(vec![device("GPU-1", 10), device("GPU-2", 10)]));
    ready(&kubelet, 20).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_go_are_unhealthy_before_they_are_withdrawn_and_new_resources_appear() {
    let node = Node::new(vec![device("GPU-1", 2), device("GPU-2", 2)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    node.view.send_replace(view(vec![device("GPU-1", 2), instance("MIG-1"), instance("MIG-2")]));
    let expected = BTreeMap::from([(GPU.to_owned(), Count { capacity: 4, allocatable: 2 }), (MIG.to_owned(), all(2))]);
    eventually("the instances are there", || kubelet.counts() == expected).await;
    agent.registered().await;
    // Slots of the device that is going, given out to an init container, may still be taken over by its pod.
    assert_eq!(kubelet.crash(), None);
    agent.stop().await;
}
