//! What `/metrics` tells of devices in use: a topology file says what runs, a directory stands for `/proc`, and the text of the answer is
//! read as Prometheus reads it.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod world;

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use world::{CARD, OTHER, UID, World, id};

#[tokio::test]
async fn what_a_card_tells_is_told_and_what_it_does_not_is_absent() {
    let world = World::new(
        "usage:
- {device: 0, memoryUsed: 3000, utilization: 35, memoryUtilization: 12, temperature: 54, power: 310, powerLimit: 400, smClock: 1410}
- {device: 1, temperature: 0}
",
    )
    .await;
    let series = world.scrape().await;
    let of = |what: &str| [series.of_device(what, CARD), series.of_device(what, "GPU-2")];
    assert_eq!(of("memory_mebibytes"), [Some(81920.0); 2]);
    assert_eq!(of("memory_used_mebibytes"), [Some(3000.0), None]);
    assert_eq!(of("utilization_percent"), [Some(35.0), None]);
    assert_eq!(of("memory_utilization_percent"), [Some(12.0), None]);
    assert_eq!(of("temperature_celsius"), [Some(54.0), Some(0.0)]);
    assert_eq!(of("power_watts"), [Some(310.0), None]);
    assert_eq!(of("power_limit_watts"), [Some(400.0), None]);
    assert_eq!(of("sm_clock_megahertz"), [Some(1410.0), None]);
    let labels = [("node", "n1"), ("device", CARD), ("index", "0"), ("model", "NVIDIA A100-SXM4-80GB")];
    assert_eq!(series.value("packhorse_agent_device_power_watts", &labels), Some(310.0));
    assert!(!series.0.contains("DCGM_"), "not asked for");
}

#[tokio::test]
async fn memory_of_an_instance_is_its_own_and_heat_is_the_cards() {
    let world = World::new(
        "usage:
- device: 2
  memoryUsed: 600
  temperature: 41
  instances: [{uuid: MIG-1, memoryUsed: 512}]
  processes: [{pid: 9, instance: MIG-2, memory: 100}]
",
    )
    .await;
    world.process(9, "0::/user.slice\n");
    let series = world.scrape().await;
    assert_eq!(series.of_device("memory_mebibytes", "MIG-1"), Some(40192.0));
    assert_eq!(series.of_device("memory_used_mebibytes", "MIG-1"), Some(512.0));
    assert_eq!(series.of_device("memory_used_mebibytes", "MIG-2"), None);
    assert_eq!(series.of_device("memory_used_mebibytes", "GPU-3"), None, "or it would be counted twice");
    assert_eq!(series.of_device("temperature_celsius", "GPU-3"), Some(41.0));
    assert_eq!(series.of_device("temperature_celsius", "MIG-1"), None);
    assert_eq!(series.unattributed("MIG-2"), [Some(100.0), Some(0.0), Some(0.0)]);
    assert_eq!(series.unattributed("MIG-1"), [Some(0.0); 3]);
}

#[tokio::test]
async fn memory_belongs_to_containers_foreign_pods_the_host_or_nobody() {
    let world = World::new(
        "usage:
- device: 0
  memoryUsed: 9000
  processes:
  - {pid: 10, memory: 2000, utilization: 20}
  - {pid: 11, memory: 1000, utilization: 5}
  - {pid: 12, memory: 700}
  - {pid: 13, memory: 60}
  - {pid: 14, memory: 5}
  - {pid: 15, memory: 300}
  - {pid: 16, memory: 11}
  - {pid: 17, memory: 9}
- {device: 1, processes: []}
",
    )
    .await;
    let (main, other, side) = (id('a'), id('b'), id('c'));
    world.given(UID, "trainer", CARD, 4000, 30);
    world.given(OTHER, "idle", "GPU-2", 8000, 0);
    world.pod(UID, "trainer", &[("main", &main), ("side", &side)]);
    world.pod(OTHER, "idle", &[("main", &other)]);
    world.process_of(10, UID, &main);
    world.process(11, &format!("0::/k8s.io/{main}\n"));
    world.process_of(12, "22222222-d0e2-4706-8787-57d52c03ddf2", &id('d'));
    world.process(13, "0::/user.slice/user-0.slice/session-1.scope\n");
    // A container of docker's, and one of a pod that asked for nothing where the kubelet makes no groups for pods.
    world.pod("33333333-d0e2-4706-8787-57d52c03ddf2", "plain", &[("main", &id('f'))]);
    world.process(16, &format!("0::/system.slice/docker-{}.scope\n", id('0')));
    world.process(17, &format!("0::/k8s.io/{}\n", id('f')));
    // 14 has ended. 15 is in a container of ours that the watch has not told of.
    world.process_of(15, UID, &id('e'));

    let series = world.scrape().await;
    assert_eq!(series.of_container("memory_used_mebibytes", "trainer", CARD), Some(3000.0));
    assert_eq!(series.of_container("utilization_percent", "trainer", CARD), Some(25.0));
    assert_eq!(series.of_container("processes", "trainer", CARD), Some(2.0));
    let limit = [("pod", "trainer"), ("device", CARD), ("enforcement", "advisory")];
    assert_eq!(series.value("packhorse_agent_container_memory_limit_mebibytes", &limit), Some(4000.0));
    assert_eq!(series.of_container("cores_limit_percent", "trainer", CARD), Some(30.0));
    assert_eq!(series.unattributed(CARD), [Some(71.0), Some(1009.0), Some(5.0)]);

    // It holds a device and runs nothing there: that is known.
    assert_eq!(series.of_container("memory_used_mebibytes", "idle", "GPU-2"), Some(0.0));
    assert_eq!(series.of_container("processes", "idle", "GPU-2"), Some(0.0));
    assert_eq!(series.of_container("utilization_percent", "idle", "GPU-2"), Some(0.0));
    assert_eq!(series.of_container("cores_limit_percent", "idle", "GPU-2"), None, "no limit");
    assert_eq!(series.failures("cgroup"), 0.0, "a process may end");
    assert!(!series.0.contains("side"), "it holds no device and uses none");
}

#[tokio::test]
async fn a_container_on_a_device_that_it_was_not_given_is_shown_without_a_limit() {
    let world = World::new("usage: [{device: 1, processes: [{pid: 10, memory: 2000}]}]\n").await;
    world.given(UID, "trainer", CARD, 4000, 30);
    world.pod(UID, "trainer", &[("main", &id('a'))]);
    world.process_of(10, UID, &id('a'));
    let series = world.scrape().await;
    assert_eq!(series.of_container("memory_used_mebibytes", "trainer", "GPU-2"), Some(2000.0));
    assert_eq!(series.of_container("memory_limit_mebibytes", "trainer", "GPU-2"), None);
    assert_eq!(series.of_container("utilization_percent", "trainer", "GPU-2"), None, "the driver does not tell");
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_absent_and_never_zero() {
    let world = World::new(
        "usage:
- {device: 0, memoryUsed: 5000}
- {device: 1, processes: [{pid: 10}, {pid: 11, memory: 5}, {pid: 12, memory: 40}]}
",
    )
    .await;
    world.given(UID, "trainer", CARD, 4000, 30);
    world.given(OTHER, "other", "GPU-2", 4000, 30);
    world.pod(UID, "trainer", &[("main", &id('a'))]);
    world.pod(OTHER, "other", &[("main", &id('b'))]);
    world.process_of(10, OTHER, &id('b'));
    world.process(11, "0::/\n");
    let broken = world.process(12, "0::/\n");
    let series = world.scrape().await;
    assert_eq!(series.of_container("memory_limit_mebibytes", "trainer", CARD), Some(4000.0));
    assert_eq!(series.of_container("memory_used_mebibytes", "trainer", CARD), None, "processes were not listed");
    assert_eq!(series.of_container("processes", "trainer", CARD), None);
    assert_eq!(series.unattributed(CARD), [None; 3]);
    assert_eq!(series.of_container("memory_used_mebibytes", "other", "GPU-2"), None, "not told of one process");
    assert_eq!(series.of_container("processes", "other", "GPU-2"), Some(1.0));
    assert_eq!(series.unattributed("GPU-2"), [Some(45.0), Some(0.0), Some(0.0)]);

    // A process that can be anybody's.
    fs::remove_file(&broken).unwrap();
    fs::create_dir(&broken).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let series = world.scrape().await;
    assert_eq!(series.of_container("processes", "other", "GPU-2"), None);
    assert_eq!(series.unattributed("GPU-2"), [Some(5.0), Some(0.0), Some(40.0)]);
    assert_eq!(series.failures("cgroup"), 1.0);
}

#[tokio::test]
async fn an_agent_that_sees_only_its_own_pods_processes_says_nothing_of_others() {
    let world = World::new("usage: [{device: 0, memoryUsed: 100, processes: []}]\n").await;
    let own = "99999999-d0e2-4706-8787-57d52c03ddf2";
    world.pod(own, "packhorse-agent-x", &[("agent", &id('9'))]);
    world.process_of(1, own, &id('9'));
    world.given(UID, "trainer", CARD, 4000, 30);
    world.pod(UID, "trainer", &[("main", &id('a'))]);
    let series = world.scrape().await;
    assert_eq!(series.of_container("processes", "trainer", CARD), None);
    assert_eq!(series.unattributed(CARD), [None; 3]);
    assert_eq!(series.of_device("memory_used_mebibytes", CARD), Some(100.0));
    assert_eq!(series.failures("processes"), 1.0);
}

#[tokio::test]
async fn a_pod_that_has_ended_or_does_not_run_yet_has_no_series() {
    let world = World::new("usage: [{device: 0, processes: []}]\n").await;
    world.given(UID, "trainer", CARD, 4000, 30);
    world.pod(UID, "trainer", &[]);
    assert_eq!(world.scrape().await.of_container("memory_limit_mebibytes", "trainer", CARD), None);
}

#[tokio::test]
async fn the_driver_is_asked_once_a_second_at_most() {
    let world = World::new("usage: [{device: 0, memoryUsed: 100}]\n").await;
    let begun = Instant::now();
    futures::future::join_all((0..50).map(|_| world.scrape())).await;
    world.scrape().await;
    let asked = world.backend.asked.load(Ordering::Relaxed);
    let allowed = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=allowed).contains(&asked), "{asked} of {allowed}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.scrape().await;
    assert!(world.backend.asked.load(Ordering::Relaxed) > asked, "it is not kept for ever");
}

#[tokio::test]
async fn a_driver_that_hangs_delays_one_scrape_and_its_last_words_are_dropped() {
    let world = World::new("usage: [{device: 0, memoryUsed: 100, processes: []}]\n").await;
    world.given(UID, "trainer", CARD, 4000, 30);
    world.pod(UID, "trainer", &[("main", &id('a'))]);
    assert_eq!(world.scrape().await.of_device("memory_used_mebibytes", CARD), Some(100.0));

    let (held, gate) = std::sync::mpsc::channel();
    *world.backend.gate.lock().unwrap() = Some(gate);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let asked = world.backend.asked.load(Ordering::Relaxed);
    for scrape in 1..=3_u8 {
        let begun = Instant::now();
        let series = tokio::time::timeout(Duration::from_secs(5), world.scrape()).await.unwrap();
        assert_eq!(series.of_device("memory_used_mebibytes", CARD), None);
        assert_eq!(series.of_container("processes", "trainer", CARD), None);
        assert_eq!(series.of_device("memory_mebibytes", CARD), Some(81920.0), "known without the driver");
        assert_eq!(series.of_container("memory_limit_mebibytes", "trainer", CARD), Some(4000.0));
        assert_eq!(series.failures("timeout"), f64::from(scrape));
        let waited = begun.elapsed();
        assert_eq!(waited >= Duration::from_millis(250), scrape == 1, "waited {waited:?} at scrape {scrape}");
    }
    assert_eq!(world.backend.asked.load(Ordering::Relaxed), asked + 1, "nobody asks again meanwhile");

    drop(held);
    let begun = Instant::now();
    while world.scrape().await.of_device("memory_used_mebibytes", CARD).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it answers again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_card_that_is_lost_leaves_the_others_theirs() {
    let world = World::new(
        "usage: [{device: 0, memoryUsed: 100}, {device: 1, memoryUsed: 200}]
events: [{after: 0s, device: 0, kind: lost}]
",
    )
    .await;
    let begun = Instant::now();
    loop {
        let series = world.scrape().await;
        assert_eq!(series.of_device("memory_used_mebibytes", "GPU-2"), Some(200.0));
        if series.of_device("memory_used_mebibytes", CARD).is_none() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it is lost");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn dcgm_exporters_names_are_there_when_asked_for() {
    let world = World::with(
        "usage:
- {device: 0, memoryUsed: 3000, utilization: 35, memoryUtilization: 12, temperature: 54, power: 310, smClock: 1410, memoryClock: 1593, energy: 123456, processes: []}
- {device: 2, temperature: 41, power: 100, instances: [{uuid: MIG-1, memoryUsed: 512}]}
events: [{after: 0s, device: 0, kind: xid, code: 31}]
",
        true,
    )
    .await;
    world.given(UID, "trainer", CARD, 4000, 30);
    world.pod(UID, "trainer", &[("main", &id('a'))]);
    let begun = Instant::now();
    let series = loop {
        let series = world.scrape().await;
        if series.value("DCGM_FI_DEV_XID_ERRORS", &[("gpu", "0")]) == Some(31.0) {
            break series;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the Xid is told: {}", series.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // What Grafana dashboard 12239 asks for, by {instance, gpu}; Prometheus adds instance. DCGM_FI_PROF_PIPE_TENSOR_ACTIVE is left.
    for (name, value) in [
        ("DCGM_FI_DEV_GPU_TEMP", 54.0),
        ("DCGM_FI_DEV_POWER_USAGE", 310.0),
        ("DCGM_FI_DEV_SM_CLOCK", 1410.0),
        ("DCGM_FI_DEV_GPU_UTIL", 35.0),
        ("DCGM_FI_DEV_FB_USED", 3000.0),
        ("DCGM_FI_DEV_FB_FREE", 78920.0),
        ("DCGM_FI_DEV_MEM_CLOCK", 1593.0),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", 12.0),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 123_456.0),
    ] {
        assert_eq!(series.value(name, &[("gpu", "0")]), Some(value), "{name}");
    }
    let labels = [
        ("gpu", "0"),
        ("UUID", CARD),
        ("pci_bus_id", "00000000:07:00.0"),
        ("device", "nvidia3"),
        ("modelName", "NVIDIA A100-SXM4-80GB"),
        ("Hostname", "n1"),
        ("DCGM_FI_DRIVER_VERSION", "580.95.05"),
        ("namespace", "ns"),
        ("pod", "trainer"),
        ("container", "main"),
    ];
    assert_eq!(series.value("DCGM_FI_DEV_GPU_TEMP", &labels), Some(54.0));
    // A MIG instance repeats what its card tells.
    let instance = [("gpu", "2"), ("UUID", "GPU-3"), ("device", "nvidia5"), ("GPU_I_PROFILE", "3g.40gb")];
    assert_eq!(series.value("DCGM_FI_DEV_FB_USED", &instance), Some(512.0));
    assert_eq!(series.value("DCGM_FI_DEV_GPU_TEMP", &instance), Some(41.0));
    assert_eq!(series.value("DCGM_FI_DEV_GPU_UTIL", &instance), None);
    assert!(!series.0.contains("DCGM_FI_PROF"), "profiling needs DCGM");

    // Of a card that two share it cannot be said whose it is.
    world.given(OTHER, "other", CARD, 4000, 30);
    world.pod(OTHER, "other", &[("main", &id('b'))]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let series = world.scrape().await;
    assert_eq!(series.value("DCGM_FI_DEV_GPU_TEMP", &[("gpu", "0"), ("pod", "trainer")]), None);
    assert_eq!(series.value("DCGM_FI_DEV_GPU_TEMP", &[("gpu", "0")]), Some(54.0));
}
