//! Admission on the real API server: which pods meet the webhook, what becomes of them whoever creates them, and what the
//! policies refuse by themselves.

#![allow(clippy::needless_pass_by_value, reason = "pods read best where they are made")]

use axum::http::Request;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingAdmissionPolicy};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::lab::{Lab, on_cluster};
use super::objects::{self, GpuNode, annotation};
use super::{pods, wait};

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

/// A pod with one container, whose members are given, and further members of the spec.
fn with(container: Value, spec: Value) -> Pod {
    let mut all = json!({"name": "main", "image": "none"});
    all.as_object_mut().expect("an object").extend(container.as_object().cloned().unwrap_or_default());
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [all]}});
    pod["spec"].as_object_mut().expect("an object").extend(spec.as_object().cloned().unwrap_or_default());
    serde_json::from_value(pod).expect("a Pod")
}

fn limits(name: &str, amount: &str) -> Value {
    json!({"resources": {"limits": {name: amount}}})
}

fn env(name: &str) -> Value {
    json!({"env": [{"name": name, "value": "x"}]})
}

fn annotated(key: &str, value: &str) -> Pod {
    let mut pod = with(json!({}), json!({}));
    pod.metadata.annotations = Some([(key.to_owned(), value.to_owned())].into());
    pod
}

/// The message of a refusal.
fn refusal<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> Option<String> {
    match answer {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message.clone()),
        Err(error) => panic!("no answer: {error}"),
    }
}

async fn runtime_classes(client: &Client) {
    let classes: Api<RuntimeClass> = Api::all(client.clone());
    for name in ["nvidia", "kata"] {
        let class =
            serde_json::from_value(json!({"metadata": {"name": name}, "handler": name})).expect("a RuntimeClass");
        // There already where another test has made it.
        let _ = classes.create(&PostParams::default(), &class).await;
    }
}

#[test]
fn only_pods_that_could_use_a_gpu_meet_the_webhook_and_only_they_wait_for_it() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("match", json!({})).await;
        runtime_classes(&lab.client).await;
        lab.kill_server();
        let pods = pods::api(&lab.client, &namespace);
        let init = |container: Value| {
            let mut container = container;
            container["name"] = json!("init");
            container["image"] = json!("none");
            with(json!({}), json!({"initContainers": [container]}))
        };
        let mut sidecar = limits("nvidia.com/gpu", "1");
        sidecar["restartPolicy"] = json!("Always");
        let from = json!({"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]});
        for (what, pod) in [
            ("count", with(limits("nvidia.com/gpu", "1"), json!({}))),
            ("memory", with(limits("nvidia.com/gpumem", "4000"), json!({}))),
            ("percentage", with(limits("nvidia.com/gpumem-percentage", "50"), json!({}))),
            ("cores", with(limits("nvidia.com/gpucores", "30"), json!({}))),
            ("MIG", with(limits("nvidia.com/mig-1g.10gb", "1"), json!({}))),
            ("requests alone", with(json!({"resources": {"requests": {"nvidia.com/gpumem": "4000"}}}), json!({}))),
            ("an init container", init(limits("nvidia.com/gpu", "1"))),
            ("a sidecar", init(sidecar)),
            ("total of memory", with(limits("packhorse.dev/gpu-memory", "1"), json!({}))),
            ("total of cores", with(limits("packhorse.dev/gpu-cores", "1"), json!({}))),
            ("visible devices", with(env("NVIDIA_VISIBLE_DEVICES"), json!({}))),
            ("visible devices of an init container", init(env("NVIDIA_VISIBLE_DEVICES"))),
            ("visible devices from elsewhere", with(from, json!({}))),
            ("memory variable", with(env("NVIDIA_GPU_MEMORY_LIMIT"), json!({}))),
            ("MPS variable", with(env("CUDA_MPS_PIPE_DIRECTORY"), json!({}))),
            ("runtime class", with(json!({}), json!({"runtimeClassName": "nvidia"}))),
            ("scheduler", with(json!({}), json!({"schedulerName": "packhorse"}))),
            ("request", annotated("packhorse.dev/request", "{}")),
            ("allocation", annotated("packhorse.dev/allocation", "{}")),
            ("devices", annotated("devices.packhorse.dev/main", "GPU-1")),
            ("CDI", annotated("cdi.k8s.io/x", "nvidia.com/gpu=all")),
        ] {
            let message = refusal(pods.create(&dry_run(), &pod).await)
                .unwrap_or_else(|| panic!("{what} does not meet the webhook"));
            assert!(message.contains("failed calling webhook \"pods.packhorse.dev\""), "{what}: {message}");
        }
        for (what, pod) in [
            ("nothing", with(json!({}), json!({}))),
            ("CPU", with(limits("cpu", "1"), json!({}))),
            ("another vendor", with(limits("amd.com/gpu", "1"), json!({}))),
            ("a GPU passed through to a virtual machine", with(limits("nvidia.com/GA102GL_A10", "1"), json!({}))),
            ("a harmless variable", with(env("CUDA_VISIBLE_DEVICES"), json!({}))),
            ("another runtime class", with(json!({}), json!({"runtimeClassName": "kata"}))),
            ("the default scheduler", with(json!({}), json!({"schedulerName": "default-scheduler"}))),
            ("an annotation that means nothing without a GPU", annotated("packhorse.dev/gpu-model", "A100")),
            ("a foreign annotation", annotated("example.com/cdi.k8s.io", "x")),
            ("an init container without a GPU", init(limits("cpu", "1"))),
        ] {
            let answer = refusal(pods.create(&dry_run(), &pod).await);
            assert_eq!(answer, None, "{what} meets the webhook");
        }
        let gpu = with(limits("nvidia.com/gpu", "1"), json!({"serviceAccountName": "packhorse-server"}));
        let answer = refusal(pods::api(&lab.client, "packhorse-system").create(&dry_run(), &gpu).await);
        assert_eq!(answer, None, "its own namespace meets the webhook");
        // Whoever was there before is not touched: its labels can be changed.
        pods::create(&lab.client, &namespace, &with(json!({}), json!({}))).await;
        let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        pods.patch("p", &PatchParams::default(), &label).await.expect("a label is changed");
        lab.start_server();
        lab.wait_until_ready().await;
    });
}

/// What admission leaves on a pod that asks for 4096 MiB and 30 percent.
fn assert_mutated(pod: &Pod) {
    let request = annotation(pod, "packhorse.dev/request").expect("the request annotation");
    assert_eq!(request, r#"{"v":1,"containers":{"main":{"count":1,"memory":4096,"cores":30}}}"#);
    let spec = serde_json::to_value(&pod.spec).expect("JSON");
    assert_eq!(spec["schedulerName"], "packhorse");
    let resources = &spec["containers"][0]["resources"];
    let amounts = json!({"nvidia.com/gpu": "1", "packhorse.dev/gpu-memory": "4096", "packhorse.dev/gpu-cores": "30"});
    assert_eq!((&resources["limits"], &resources["requests"]), (&amounts, &amounts));
}

#[test]
fn pods_are_mutated_whoever_creates_them() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("creators", json!({})).await;
        let pods = pods::api(&lab.client, &namespace);
        let share = json!({"nvidia.com/gpumem": "4096", "nvidia.com/gpucores": "30"});
        assert_mutated(&pods.create(&dry_run(), &objects::pod("dry", &share)).await.expect("a dry run"));
        assert!(pods.get_opt("dry").await.expect("an answer").is_none());
        let mut generated = objects::pod("x", &share);
        generated.metadata.name = None;
        generated.metadata.generate_name = Some("generated-".to_owned());
        assert_mutated(&pods.create(&PostParams::default(), &generated).await.expect("a generated name"));

        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), &namespace);
        let deployment = objects::deployment("deployment", 2, &objects::pod_spec(&share));
        deployments.create(&PostParams::default(), &deployment).await.expect("a Deployment");
        let jobs: Api<Job> = Api::namespaced(lab.client.clone(), &namespace);
        let mut template = objects::pod_spec(&share);
        template["restartPolicy"] = json!("Never");
        let job = json!({"metadata": {"name": "job"}, "spec": {"template": {"spec": template}}});
        jobs.create(&PostParams::default(), &serde_json::from_value(job).expect("a Job")).await.expect("a Job");
        let mut created = Vec::new();
        wait::until("four pods", 30, async || {
            created = pods::list(&lab.client, &namespace).await;
            (created.len() == 4).then_some(())
        })
        .await;
        created.iter().for_each(assert_mutated);
    });
}

#[test]
fn ephemeral_containers_are_told_void() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("debug", json!({})).await;
        let pods = pods::api(&lab.client, &namespace);
        pods::create(&lab.client, &namespace, &objects::pod("gpu", &json!({"nvidia.com/gpu": "1"}))).await;
        pods::create(&lab.client, &namespace, &objects::pod("plain", &json!({}))).await;
        let debug = |name: &str| {
            let env = json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]);
            Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": name, "image": "none", "env": env}]}}))
        };
        for name in ["first", "second"] {
            let after = pods.patch_ephemeral_containers("gpu", &PatchParams::default(), &debug(name)).await;
            let after = serde_json::to_value(after.expect("admitted").spec).expect("JSON");
            for container in after["ephemeralContainers"].as_array().expect("ephemeral containers") {
                assert_eq!(container["env"], json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]));
            }
        }
        let answer = pods.patch_ephemeral_containers("plain", &PatchParams::default(), &debug("first")).await;
        let message = refusal(answer).expect("refused without a GPU request");
        assert!(message.contains("NVIDIA_VISIBLE_DEVICES") && message.contains("first"), "{message}");
    });
}

/// Somebody who may do everything with the pods of the cluster.
async fn tenant(lab: &Lab, namespace: &str) -> Client {
    let role = json!({"metadata": {"name": "lab-tenant"}, "rules": [{"apiGroups": [""], "verbs": ["*"],
        "resources": ["pods", "pods/status", "pods/resize", "pods/binding", "pods/ephemeralcontainers", "bindings"]}]});
    let binding = json!({"metadata": {"name": format!("lab-tenant-{namespace}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lab-tenant"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}]});
    let account = json!({"metadata": {"name": "tenant", "namespace": namespace}});
    let roles: Api<ClusterRole> = Api::all(lab.client.clone());
    // There already where another test has made it.
    let _ = roles.create(&PostParams::default(), &serde_json::from_value(role).expect("a role")).await;
    let bindings: Api<ClusterRoleBinding> = Api::all(lab.client.clone());
    let binding = serde_json::from_value(binding).expect("a binding");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.client.clone(), namespace);
    let account = serde_json::from_value(account).expect("an account");
    accounts.create(&PostParams::default(), &account).await.expect("an account");
    lab.client_of(namespace, "tenant", None).await
}

/// Binds a pod by one of the two ways.
async fn bind(client: &Client, path: &str, pod: &str, annotations: Value) -> Result<Value, kube::Error> {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "annotations": annotations},
        "target": {"kind": "Node", "name": "by-hand"}});
    let request = Request::post(path).header("content-type", "application/json").body(binding.to_string().into_bytes());
    client.request::<Value>(request.expect("a request")).await
}

/// The API server compiles policies some time after it has accepted them.
async fn policies_in_force(lab: &Lab) {
    wait::until("the policies to be in force", 20, async || {
        let answer =
            bind(&lab.client, "/api/v1/namespaces/default/bindings", "none", json!({"packhorse.dev/allocation": ""}));
        refusal(answer.await).filter(|message| message.contains("packhorse-bindings"))
    })
    .await;
}

#[test]
fn reserved_annotations_are_stripped_at_creation_and_the_server_s_alone_afterwards() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("reserved", json!({})).await;
        policies_in_force(lab).await;
        // Nothing must bind the pods but we: the node takes none by itself.
        GpuNode::new("by-hand", 1, "NVIDIA A100-SXM4-80GB", 81920)
            .taint("by-hand", "NoSchedule")
            .create(&lab.client)
            .await;
        let tenant = tenant(lab, &namespace).await;
        let server = lab.client_of("packhorse-system", "packhorse-server", None).await;
        let theirs = pods::api(&tenant, &namespace);

        let mut forged = objects::pod("p", &json!({"nvidia.com/gpu": "1"}));
        let keys = ["packhorse.dev/allocation", "devices.packhorse.dev/main"];
        forged.metadata.annotations = Some(keys.map(|key| (key.to_owned(), "forged".to_owned())).into());
        let created = theirs.create(&PostParams::default(), &forged).await.expect("admitted");
        assert_eq!(keys.map(|key| annotation(&created, key)), [None, None], "stripped at creation");
        let request = annotation(&created, "packhorse.dev/request").expect("a request").to_owned();

        let params = PatchParams::default();
        let change = |key: &str, value: Value| Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        for key in ["packhorse.dev/allocation", "devices.packhorse.dev/main", "packhorse.dev/request"] {
            for client in [&tenant, &lab.client] {
                let pods = pods::api(client, &namespace);
                let patch = change(key, json!("forged"));
                let message = refusal(pods.patch("p", &params, &patch).await).expect(key);
                assert!(message.contains("packhorse") && message.contains(key.trim_end_matches("main")), "{message}");
                refusal(pods.patch_status("p", &params, &patch).await).expect(key);
                // These two ignore all but their own part.
                for subresource in ["resize", "ephemeralcontainers"] {
                    let after = pods.patch_subresource(subresource, "p", &params, &patch).await.expect("ignored");
                    assert_ne!(annotation(&after, key), Some("forged"), "{subresource}");
                }
                for path in ["pods/p/binding", "bindings"] {
                    let path = format!("/api/v1/namespaces/{namespace}/{path}");
                    let message = refusal(bind(client, &path, "p", json!({key: "forged"})).await).expect(key);
                    assert!(message.contains("only Packhorse's server may"), "{message}");
                }
            }
        }
        let message = refusal(theirs.patch("p", &params, &change("packhorse.dev/request", Value::Null)).await);
        assert!(message.is_some(), "the request is removed");
        let other =
            theirs.patch("p", &params, &change("team/note", json!("hello"))).await.expect("other annotations are free");
        assert_eq!(annotation(&other, "packhorse.dev/request"), Some(request.as_str()));

        let allocation = json!({"packhorse.dev/allocation": "{\"v\":1,\"containers\":{}}", "devices.packhorse.dev/main": "GPU-by-hand-0"});
        let path = format!("/api/v1/namespaces/{namespace}/pods/p/binding");
        bind(&server, &path, "p", allocation).await.expect("the server binds");
        let bound = theirs.get("p").await.expect("the pod");
        assert_eq!(annotation(&bound, "devices.packhorse.dev/main"), Some("GPU-by-hand-0"));
        for key in keys {
            refusal(theirs.patch("p", &params, &change(key, Value::Null)).await).expect("an allocation is removed");
            refusal(theirs.patch_status("p", &params, &change(key, Value::Null)).await)
                .expect("an allocation is removed");
        }
        theirs.patch("p", &params, &change("team/note", json!("again"))).await.expect("other annotations stay free");

        // A pod without GPUs is bound by whom it may concern.
        pods::create(&lab.client, &namespace, &objects::pod("plain", &json!({}))).await;
        let path = format!("/api/v1/namespaces/{namespace}/pods/plain/binding");
        bind(&tenant, &path, "plain", json!({})).await.expect("a plain pod is bound");
    });
}

#[test]
fn without_the_webhook_an_unmarked_gpu_pod_is_refused_with_the_remedy() {
    on_cluster(async |lab| {
        let namespace = lab.namespace("unmarked", json!({})).await;
        let pods = pods::api(&lab.client, &namespace);
        let marked =
            pods.create(&dry_run(), &objects::pod("marked", &json!({"nvidia.com/gpu": "1"}))).await.expect("admitted");
        let marked: Pod = {
            let mut value = serde_json::to_value(marked).expect("JSON");
            value["metadata"] = json!({"name": "marked", "annotations": value["metadata"]["annotations"]});
            serde_json::from_value(value).expect("a Pod")
        };

        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(lab.client.clone());
        let mut registration = webhooks.get("packhorse").await.expect("the registration");
        webhooks.delete("packhorse", &DeleteParams::default()).await.expect("the webhook is switched off");
        let gpu = objects::pod("p", &json!({"nvidia.com/gpu": "1"}));
        let message =
            wait::until("the webhook to be gone", 20, async || refusal(pods.create(&dry_run(), &gpu).await)).await;
        for part in ["container \"main\"", "MutatingWebhookConfiguration", "packhorse-marked"] {
            assert!(message.contains(part), "{message}");
        }
        let change = |change: &dyn Fn(&mut Value)| -> Pod {
            let mut value = serde_json::to_value(&marked).expect("JSON");
            change(&mut value);
            serde_json::from_value(value).expect("a Pod")
        };
        assert_eq!(refusal(pods.create(&dry_run(), &marked).await), None, "a marked pod is refused");
        for (what, pod) in [
            ("MIG", objects::pod("p", &json!({"nvidia.com/mig-1g.10gb": "1"}))),
            ("memory", objects::pod("p", &json!({"nvidia.com/gpumem": "1000"}))),
            ("no request", change(&|pod| pod["metadata"]["annotations"] = json!({}))),
            ("another scheduler", change(&|pod| pod["spec"]["schedulerName"] = json!("default-scheduler"))),
            (
                "no total of cores",
                change(&|pod| {
                    pod["spec"]["containers"][0]["resources"] =
                        json!({"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}});
                }),
            ),
            (
                "per-GPU names left",
                change(&|pod| {
                    for list in ["limits", "requests"] {
                        pod["spec"]["containers"][0]["resources"][list]["nvidia.com/gpumem"] = json!("1000");
                    }
                }),
            ),
            ("a node", change(&|pod| pod["spec"]["nodeName"] = json!("n"))),
        ] {
            let message = refusal(pods.create(&dry_run(), &pod).await).unwrap_or_else(|| panic!("{what} is admitted"));
            assert!(message.contains("packhorse-marked"), "{what}: {message}");
        }
        for (what, pod) in [
            ("no GPU", objects::pod("p", &json!({}))),
            ("count 0", objects::pod("p", &json!({"nvidia.com/gpu": "0"}))),
            ("a node without a GPU", with(json!({}), json!({"nodeName": "n"}))),
        ] {
            assert_eq!(refusal(pods.create(&dry_run(), &pod).await), None, "{what} is refused");
        }
        let forged = annotated("packhorse.dev/allocation", "{}");
        assert!(refusal(pods.create(&dry_run(), &forged).await).is_some(), "a forged allocation is admitted");

        registration.metadata.resource_version = None;
        registration.metadata.uid = None;
        webhooks.create(&PostParams::default(), &registration).await.expect("the webhook is switched on");
        lab.wait_until_ready().await;
    });
}

#[test]
fn an_agent_writes_only_to_its_own_node() {
    on_cluster(async |lab| {
        for name in ["own", "other"] {
            GpuNode::new(name, 1, "NVIDIA A100-SXM4-80GB", 81920).create(&lab.client).await;
        }
        // Its token is bound to its pod, and thereby to the pod's node.
        let agent = with(json!({}), json!({"nodeName": "own", "serviceAccountName": "packhorse-agent"}));
        let agent = pods::create(&lab.client, "packhorse-system", &agent).await;
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": agent.metadata.uid});
        let agent = lab.client_of("packhorse-system", "packhorse-agent", Some(bound)).await;
        let nodes: Api<Node> = Api::all(agent);
        let unbound: Api<Node> = Api::all(lab.client_of("packhorse-system", "packhorse-agent", None).await);

        let inventory = Patch::Merge(json!({"metadata": {"annotations": {"packhorse.dev/inventory": "{}"}}}));
        let capacity = Patch::Merge(json!({"status": {"capacity": {"packhorse.dev/gpu-cores": "200"}}}));
        let params = PatchParams::default();
        wait::until("the policy to be in force", 20, async || refusal(nodes.patch("other", &params, &inventory).await))
            .await;
        nodes.patch("own", &params, &inventory).await.expect("its own node");
        nodes.patch_status("own", &params, &capacity).await.expect("its own node's status");
        for (nodes, name) in [(&nodes, "other"), (&unbound, "own")] {
            for answer in
                [nodes.patch(name, &params, &inventory).await, nodes.patch_status(name, &params, &capacity).await]
            {
                let message = refusal(answer).expect("another node");
                assert!(message.contains("an agent writes only to the node it runs on"), "{message}");
            }
        }
    });
}

/// Applies shipped manifests over what is there.
fn apply(lab: &Lab, files: &[&str]) {
    for file in files {
        let file = format!("deployments/webhook/{file}");
        lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
    }
}

#[test]
fn with_opt_in_only_labelled_namespaces_are_covered_and_no_other_passes_for_ours() {
    on_cluster(async |lab| {
        let labelled = lab.namespace("labelled", json!({"packhorse.dev/admission": "enabled"})).await;
        let other = lab.namespace("other", json!({})).await;
        apply(lab, &["opt-in.yaml"]);
        let gpu = objects::pod("p", &json!({"nvidia.com/gpu": "1"}));
        let there = pods::api(&lab.client, &other);
        wait::until("the other namespace to be left alone", 20, async || {
            let pod = there.create(&dry_run(), &gpu).await.ok()?;
            (objects::scheduler_of(&pod) == "default-scheduler").then_some(())
        })
        .await;
        let here = pods::api(&lab.client, &labelled).create(&dry_run(), &gpu).await.expect("admitted");
        assert_eq!(objects::scheduler_of(&here), "packhorse");
        for (what, pod) in [
            ("our scheduler", with(json!({}), json!({"schedulerName": "packhorse"}))),
            ("a request", annotated("packhorse.dev/request", r#"{"v":1,"containers":{"main":{"count":1}}}"#)),
            ("a total", with(limits("packhorse.dev/gpu-cores", "1"), json!({}))),
        ] {
            let message = refusal(there.create(&dry_run(), &pod).await).unwrap_or_else(|| panic!("{what} is admitted"));
            assert!(message.contains("packhorse.dev/admission=enabled"), "{what}: {message}");
        }
        let policy = "validatingadmissionpolicybinding/packhorse-opted-in";
        lab.kubectl(&["delete", policy, "validatingadmissionpolicy/packhorse-opted-in"]);
        apply(lab, &["mutating-webhook.yaml", "policies.yaml"]);
        lab.wait_until_ready().await;
    });
}

#[test]
fn the_api_server_finds_no_fault_with_the_policies() {
    on_cluster(async |lab| {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(lab.client.clone());
        let checked = wait::until("the policies to be checked", 60, async || {
            let all = policies.list(&ListParams::default()).await.ok()?.items;
            let checked = all.iter().all(|policy| {
                let seen = policy.status.as_ref().and_then(|status| status.observed_generation);
                seen.is_some() && seen == policy.metadata.generation
            });
            (checked && all.len() >= 5).then_some(all)
        })
        .await;
        for policy in checked {
            let warnings = policy.status.and_then(|status| status.type_checking?.expression_warnings);
            assert_eq!(warnings.unwrap_or_default(), [], "{:?}", policy.metadata.name);
        }
    });
}
