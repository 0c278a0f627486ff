//! What `Allocate` and `PreStartContainer` answer, as it reaches the container runtime.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_s_answer_reaches_the_runtime() {
    let dev = tempfile::tempdir().unwrap();
    std::fs::create_dir(dev.path().join("dev")).unwrap();
    std::fs::write(dev.path().join("dev/nvidiactl"), "").unwrap();
    for (strategy, form, by_field, by_annotation) in [
        (Strategy::Envvar, Form::Full, 1, 0),
        (Strategy::Envvar, Form::Env, 1, 0),
        (Strategy::Envvar, Form::None, 0, 0),
        (Strategy::VolumeMounts, Form::Full, 1, 0),
        (Strategy::CdiCri, Form::Full, 1, 0),
        (Strategy::CdiAnnotations, Form::Full, 0, 1),
    ] {
        let node = Node::new(vec![device("GPU-1", 4), device("GPU-2", 4)]);
        node.specifications.set_form(form);
        let kubelet = node.kubelet(1);
        let agent = node.agent_that(|settings| {
            settings.reply = ReplySettings {
                strategies: vec![strategy],
                pass_device_specs: true,
                own_dev_root: dev.path().to_owned(),
                ..ReplySettings::default()
            };
        });
        ready(&kubelet, 8).await;
        kubelet.admit(pod("a", &[("one", Phase::App, 1), ("two", Phase::App, 2)])).await.unwrap();
        let mut names = HashSet::new();
        for container in ["one", "two"] {
            let options = kubelet.start_container("a", container).await.unwrap();
            assert_eq!(options.envs, BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned())]));
            assert_eq!(options.cdi_devices.len(), by_field, "{strategy:?} {form:?}");
            assert_eq!(options.annotations.len(), by_annotation, "{strategy:?} {form:?}");
            assert!(options.annotations.keys().all(|key| key.starts_with("cdi.k8s.io/packhorse_")));
            assert_eq!(options.devices.len(), 1);
            assert_eq!(options.devices[0].host_path, "/dev/nvidiactl");
            assert_eq!(kubelet.start_container("a", container).await.unwrap(), options, "the same at every start");
            names.extend(options.cdi_devices.into_iter().chain(options.annotations.into_values()));
        }
        assert!(names.iter().all(|name| DeviceName::from_qualified(name).is_some()));
        assert_eq!(names.len(), if form == Form::None { 0 } else { 2 }, "one name a container");
        agent.stop().await;
        kubelet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_and_app_containers_that_share_slots_have_names_of_their_own() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    let phases =
        [("init", Phase::Init, 1), ("side", Phase::Sidecar, 1), ("late", Phase::Init, 2), ("main", Phase::App, 1)];
    kubelet.admit(pod("a", &phases)).await.unwrap();
    let slots = |container| kubelet.slots("a", container, GPU);
    assert_eq!(slots("init"), slots("side"), "the sidecar takes over what the init container had");
    assert!(!slots("late").contains(&slots("side")[0]));
    assert!(slots("late").contains(&slots("main")[0]));
    let mut names = HashSet::new();
    for (container, ..) in phases {
        names.extend(kubelet.start_container("a", container).await.unwrap().cdi_devices);
    }
    assert_eq!(names.len(), 4);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_what_the_pod_s_event_says_and_the_next_try_may_succeed() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(one("a")).await.unwrap();
    let record = node.directory.path().join("device-plugins/kubelet_internal_checkpoint");
    std::fs::remove_file(&record).unwrap();
    *node.check.refusal.lock().unwrap() = Some("packhorse: pod team/pod-a has no allocation".to_owned());
    let error = kubelet.start_container("a", "main").await.unwrap_err();
    assert_eq!(
        error,
        "device plugin PreStartContainer rpc failed with err: rpc error: code = FailedPrecondition desc = \
         packhorse: pod team/pod-a has no allocation"
    );
    eventually("the kubelet writes its checkpoint anew, for it may be what the check stumbled over", || {
        std::fs::read_to_string(&record).is_ok_and(|text| text.contains(r#""PodUID":"a""#))
    })
    .await;
    *node.check.refusal.lock().unwrap() = None;
    kubelet.start_container("a", "main").await.unwrap();

    *node.check.gate.lock().unwrap() = Some(Arc::default());
    let error = kubelet.start_container("a", "main").await.unwrap_err();
    assert!(error.contains("could not be verified within 2 s"), "{error}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_in_flight_is_answered_before_the_plugin_goes() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = Arc::new(node.kubelet(1));
    let agent = node.agent();
    ready(&kubelet, 4).await;
    kubelet.admit(one("a")).await.unwrap();
    let gate = Arc::new(Notify::new());
    *node.check.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let starting = tokio::spawn({
        let kubelet = Arc::clone(&kubelet);
        async move { kubelet.start_container("a", "main").await }
    });
    eventually("the check has begun", || node.check.begun.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn(agent.stop());
    tokio::task::yield_now().await;
    assert_eq!(node.sockets().len(), 1, "the socket goes last");
    gate.notify_one();
    starting.await.unwrap().unwrap();
    stopping.await.unwrap();
    assert!(node.sockets().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_plugin_of_another_vendor_s_slots_is_refused_by_name() {
    let node = Node::new(vec![device("GPU-1", 4)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 4).await;
    let error = allocate(&node, &["GPU-1"]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("\"GPU-1\" is not a slot of Packhorse"), "{error}");
    assert_eq!(allocate(&node, &["GPU-gone::3"]).await.unwrap(), 1, "a slot of a device that is gone");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_handed_out_again_has_lost_its_old_specification() {
    let node = Node::new(vec![device("GPU-1", 1)]);
    let kubelet = node.kubelet(1);
    let agent = node.agent();
    ready(&kubelet, 1).await;
    kubelet.admit(one("a")).await.unwrap();
    let old = kubelet.start_container("a", "main").await.unwrap().cdi_devices;
    let written = specification::Container {
        name: DeviceName::from_qualified(&old[0]).unwrap(),
        pod_uid: "a".into(),
        container: "main".into(),
        slots: kubelet.slots("a", "main", GPU),
        devices: Vec::new(),
    };
    node.specifications.write(&written).unwrap();
    assert_eq!(node.specifications.on_disk().unwrap().len(), 1);
    kubelet.remove("a");
    kubelet.admit(one("b")).await.unwrap();
    assert!(node.specifications.on_disk().unwrap().is_empty());
    assert_ne!(kubelet.start_container("b", "main").await.unwrap().cdi_devices, old);
    agent.stop().await;
}

/// Past the kubelet; the number of containers answered.
async fn allocate(node: &Node, slots: &[&str]) -> Result<usize, tonic::Status> {
    use packhorse::kubelet_api::device_plugin as api;
    let path = node.sockets().into_iter().next().unwrap();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = api::device_plugin_client::DevicePluginClient::new(channel);
    let devices_ids = slots.iter().map(|slot| (*slot).to_owned()).collect();
    let request = api::AllocateRequest { container_requests: vec![api::ContainerAllocateRequest { devices_ids }] };
    client.allocate(request).await.map(|answer| answer.into_inner().container_responses.len())
}
