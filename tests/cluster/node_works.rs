//! The real node of the tests itself, with both versions of containerd: pods run on it, say what they see, and outlive their kubelet.

use std::path::Path;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Client;
use packhorse::kubelet_api::device_plugin::{CdiDevice, ContainerAllocateResponse, DeviceSpec};
use serde_json::json;

use super::lab::on_cluster;
use super::node::plugin::Plugin;
use super::node::{Node, Runtime, Sight, StandIns, workload};
use super::{pods, wait};

/// A name that Packhorse has nothing to do with.
const RESOURCE: &str = "test.example/card";
const BOTH: [Runtime; 2] = [Runtime::Containerd16, Runtime::Containerd22];

fn status_of<'pod>(pod: &'pod Pod, container: &str) -> Option<&'pod ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == container)
}

/// Waits until a container runs that has been restarted exactly so often; its ID.
async fn running(client: &Client, namespace: &str, pod: &str, container: &str, restarts: i32) -> String {
    let api = pods::api(client, namespace);
    wait::until(&format!("{container} of {pod} to run"), 60, async || {
        let pod = api.get(pod).await.ok()?;
        let status = status_of(&pod, container)?;
        let runs = status.state.as_ref()?.running.is_some() && status.restart_count == restarts;
        runs.then(|| status.container_id.clone()).flatten()
    })
    .await
}

#[test]
fn a_pod_runs_says_what_it_sees_and_outlives_the_kubelet() {
    on_cluster(async |lab| {
        for runtime in BOTH {
            if !runtime.is_here() {
                continue;
            }
            let mut node = Node::start(lab, "real", runtime, &[]).await;
            let namespace = lab.namespace("plain", json!({})).await;
            let main = workload::container("main", &["sleep"], &json!({}));
            pods::create(&lab.client, &namespace, &workload::pod(&node, "plain", &[], &[main])).await;
            let id = running(&lab.client, &namespace, "plain", "main", 0).await;

            let seen = node.output(&namespace, "plain", "main");
            assert_eq!(seen.len(), 1);
            assert_eq!(seen[0].container(), "main");
            assert_eq!(seen[0].visible_devices(), Some("all"), "what the image says");
            assert!(seen[0].devices.is_empty(), "{:?}", seen[0].devices);
            assert!(seen[0].mounts.is_empty());

            node.restart_kubelet().await;
            node.stop_kubelet().await;
            let pods_seen = node.kubelet_log().matches("SyncLoop ADD").count();
            node.start_kubelet().await;
            wait::until("the kubelet to look at its pods", 30, async || {
                (node.kubelet_log().matches("SyncLoop ADD").count() > pods_seen).then_some(())
            })
            .await;
            assert_eq!(running(&lab.client, &namespace, "plain", "main", 0).await, id);
            assert_eq!(node.records().len(), 1);

            node.power_off();
            node.power_on().await;
            assert_ne!(running(&lab.client, &namespace, "plain", "main", 1).await, id);
            assert_eq!(node.records().len(), 2, "{}", node.kubelet_log());
        }
    });
}

#[test]
fn init_containers_sidecars_and_crashes_leave_a_record_each() {
    on_cluster(async |lab| {
        if !Runtime::Containerd16.is_here() {
            return;
        }
        let node = Node::start(lab, "real", Runtime::Containerd16, &[]).await;
        let namespace = lab.namespace("kinds", json!({})).await;
        let none = json!({});
        let init = [
            workload::container("first", &["exit", "0"], &none),
            workload::sidecar("beside", &none),
            workload::container("second", &["exit", "0"], &none),
        ];
        let main = workload::container("main", &["after", "100", "3"], &none);
        let pod = pods::create(&lab.client, &namespace, &workload::pod(&node, "kinds", &init, &[main])).await;
        // It runs for a tenth of a second; kubelet 1.34 looks at a crashed container every 12 s.
        wait::until("main of kinds to crash twice", 120, async || {
            let pod = pods::api(&lab.client, &namespace).get("kinds").await.ok()?;
            (status_of(&pod, "main")?.restart_count >= 2).then_some(())
        })
        .await;

        let records = node.records();
        let order: Vec<&str> = records.iter().map(Sight::container).collect();
        assert_eq!(order[..3], ["first", "beside", "second"]);
        assert!(order.len() >= 6 && order[3..].iter().all(|&name| name == "main"), "{order:?}");
        assert!(records.iter().all(|sight| Some(sight.pod_uid()) == pod.metadata.uid.as_deref()));
        assert!(node.output(&namespace, "kinds", "main").len() >= 3, "the logs of crashed containers are kept");
    });
}

#[test]
fn stand_ins_of_gpus_are_seen_by_their_numbers() {
    on_cluster(async |lab| {
        if !Runtime::Containerd16.is_here() {
            return;
        }
        let node = Node::start(lab, "real", Runtime::Containerd16, &[]).await;
        let stand_ins = node.stand_ins(&["GPU-a", "GPU-b"]);
        let host_path = stand_ins.host_path("GPU-b").display().to_string();
        // As the device plugin API hands nodes out where there is no CDI.
        let answer = move |_: &[String]| ContainerAllocateResponse {
            devices: vec![DeviceSpec {
                container_path: "/dev/nvidia1".to_owned(),
                host_path: host_path.clone(),
                permissions: "rw".to_owned(),
            }],
            ..Default::default()
        };
        let _plugin = Plugin::register(&node, RESOURCE, &["any"], Box::new(answer)).await;

        let namespace = lab.namespace("stand-ins", json!({})).await;
        let main = workload::container("main", &["sleep"], &json!({RESOURCE: 1}));
        pods::create(&lab.client, &namespace, &workload::pod(&node, "one", &[], &[main])).await;
        running(&lab.client, &namespace, "one", "main", 0).await;
        let seen = node.output(&namespace, "one", "main");
        assert_eq!(seen[0].devices, [("/dev/nvidia1".to_owned(), "195:1".to_owned())].into());
        let given = node.pod_resources().await;
        assert_eq!(given.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["one"]);
        let devices = &given[0].containers[0].devices;
        assert_eq!(
            (devices[0].resource_name.as_str(), &devices[0].device_ids[..]),
            (RESOURCE, &["any".to_owned()][..])
        );
    });
}

#[test]
fn a_cdi_specification_gives_exactly_its_devices_and_wins_over_the_images_environment() {
    on_cluster(async |lab| {
        if !Runtime::Containerd22.is_here() {
            return;
        }
        let node = Node::start(lab, "real", Runtime::Containerd22, &[]).await;
        let uuids = ["GPU-a", "GPU-b", "GPU-c"];
        let stand_ins = node.stand_ins(&uuids);
        stand_ins.write_specification(&node.cdi_dir);
        let answer = |ids: &[String]| ContainerAllocateResponse {
            cdi_devices: ids.iter().map(|id| CdiDevice { name: format!("nvidia.com/gpu={id}") }).collect(),
            ..Default::default()
        };
        let _plugin = Plugin::register(&node, RESOURCE, &uuids, Box::new(answer)).await;

        let namespace = lab.namespace("cdi", json!({})).await;
        let main = workload::container("main", &["sleep"], &json!({RESOURCE: 1}));
        let beside = workload::container("beside", &["sleep"], &json!({}));
        for name in uuids.map(str::to_lowercase) {
            let pod = workload::pod(&node, &name, &[], &[main.clone(), beside.clone()]);
            pods::create(&lab.client, &namespace, &pod).await;
        }
        let mut cards = Vec::new();
        for name in uuids.map(str::to_lowercase) {
            running(&lab.client, &namespace, &name, "main", 0).await;
            running(&lab.client, &namespace, &name, "beside", 0).await;
            let seen = node.output(&namespace, &name, "main").remove(0);
            assert_eq!(seen.visible_devices(), Some("void"));
            let mut devices = seen.devices;
            for (path, number) in StandIns::common() {
                assert_eq!(devices.remove(&path), Some(number), "{path}");
            }
            assert_eq!(devices.len(), 1, "{devices:?}");
            cards.extend(devices);
            assert!(node.output(&namespace, &name, "beside")[0].devices.is_empty());
        }
        cards.sort();
        let expected = uuids.map(|uuid| (stand_ins.path(uuid), stand_ins.number(uuid)));
        assert_eq!(cards, expected, "each card went to one container");
    });
}

#[test]
fn two_nodes_run_side_by_side_and_one_that_goes_leaves_nothing() {
    on_cluster(async |lab| {
        if !BOTH.into_iter().all(Runtime::is_here) {
            return;
        }
        let stays = Node::start(lab, "stays", Runtime::Containerd22, &[]).await;
        let goes = Node::start(lab, "goes", Runtime::Containerd16, &[]).await;
        let namespace = lab.namespace("two", json!({})).await;
        let main = workload::container("main", &["sleep"], &json!({}));
        for node in [&stays, &goes] {
            let pod = workload::pod(node, &node.name, &[], std::slice::from_ref(&main));
            pods::create(&lab.client, &namespace, &pod).await;
        }
        let id = running(&lab.client, &namespace, "stays", "main", 0).await;
        running(&lab.client, &namespace, "goes", "main", 0).await;
        assert_eq!((stays.records().len(), goes.records().len()), (1, 1));

        let (directory, processes) = (goes.directory.clone(), goes.processes());
        // unshare, sh, containerd, shim, sandbox, container.
        assert!(processes.len() >= 6, "{processes:?}");
        drop(goes);
        let left: Vec<_> = processes.into_iter().filter(|id| Path::new("/proc").join(id).exists()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!directory.exists());
        assert!(
            !Path::new("/sys/fs/cgroup/memory/packhorse-lab").join(directory.file_name().expect("a name")).exists()
        );
        assert_eq!(running(&lab.client, &namespace, "stays", "main", 0).await, id);
    });
}
