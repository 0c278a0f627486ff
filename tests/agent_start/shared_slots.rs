//! Each container gets the devices of its own allocation, whatever slots the kubelet chose and however its pod shares them.

use super::bench::*;

/// Binds, prepares every slot set once in order, and gives what each container got.
async fn start(containers: &[Spec]) -> Vec<Option<String>> {
    let node = Node::ready().await;
    let (_, named) = node.bind("p", containers).await;
    for spec in containers {
        node.prepare(&spec.slots).await.unwrap();
    }
    named.iter().map(|cdi| node.gets(cdi)).collect()
}

fn expected(containers: &[Spec]) -> Vec<Option<String>> {
    let list = |spec: &Spec| spec.devices.iter().map(|device| uuid(*device)).collect::<Vec<_>>().join(",");
    containers.iter().map(|spec| Some(list(spec))).collect()
}

#[tokio::test]
async fn slots_of_another_device_do_not_matter() {
    let node = Node::ready().await;
    let (_, a) = node.bind("a", &main("GPU-2::0", 1)).await;
    let (_, b) = node.bind("b", &main("GPU-1::0", 2)).await;
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!((node.gets(&a[0]), node.gets(&b[0])), (None, Some(uuid(2))), "one start writes for one pod");
    node.prepare(&["GPU-2::0"]).await.unwrap();
    assert_eq!(node.gets(&a[0]), Some(uuid(1)));
    assert_eq!(node.agent().metrics.started(), 2);
}

#[tokio::test]
async fn containers_that_share_slots_each_get_their_own() {
    for (case, containers) in [
        (
            "two init containers and one app, different devices",
            vec![
                container("i1", "init", &["GPU-1::0"], &[1]),
                container("i2", "init", &["GPU-1::0"], &[2]),
                container("a", "app", &["GPU-1::0"], &[1]),
            ],
        ),
        (
            "an init container with more GPUs",
            vec![
                container("i", "init", &["GPU-1::0", "GPU-2::0"], &[2, 1]),
                container("a", "app", &["GPU-1::0"], &[2]),
                container("b", "app", &["GPU-2::0"], &[1]),
            ],
        ),
        (
            "a sidecar after an init container",
            vec![
                container("i", "init", &["GPU-1::0"], &[2]),
                container("s", "sidecar", &["GPU-1::1"], &[1]),
                container("a", "app", &["GPU-1::0"], &[1]),
            ],
        ),
        (
            "a sidecar that took the init container's slots",
            vec![
                container("i", "init", &["GPU-1::0"], &[2]),
                container("s", "sidecar", &["GPU-1::0"], &[1]),
                container("a", "app", &["GPU-2::0"], &[2]),
            ],
        ),
        (
            "an init container of whole cards before its apps",
            vec![
                container("i", "init", &["GPU-1::0", "GPU-1::1"], &[1, 2]).whole(),
                container("a", "app", &["GPU-1::0"], &[1]).whole(),
                container("b", "app", &["GPU-1::1"], &[2]).whole(),
            ],
        ),
    ] {
        assert_eq!(start(&containers).await, expected(&containers), "{case}");
    }
}

#[tokio::test]
async fn the_order_in_which_the_kubelet_names_slots_does_not_matter() {
    let node = Node::ready().await;
    let (_, named) = node.bind("p", &[container("a", "app", &["GPU-1::0", "GPU-2::0"], &[2, 1])]).await;
    node.prepare(&["GPU-2::0", "GPU-1::0"]).await.unwrap();
    assert_eq!(node.gets(&named[0]), Some("GPU-2,GPU-1".to_owned()));
}

#[tokio::test]
async fn a_container_without_a_cdi_device_is_let_through_and_nothing_is_written() {
    let node = Node::ready().await;
    node.bind("p", &main("GPU-1::0", 1)).await;
    node.kubelet.record(|recorded| recorded[0].cdi = None);
    node.prepare(&["GPU-1::0"]).await.unwrap();
    assert_eq!(std::fs::read_dir(node.directory.path().join("cdi")).unwrap().count(), 0);
}
