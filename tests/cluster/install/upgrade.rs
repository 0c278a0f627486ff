//! Upgrade and rollback: one rendering of the chart applied over another by server-side apply, as `docs/operate.md` has it, while a GPU pod
//! runs. What the server itself keeps in the cluster, its CA and the registration's `caBundle`, is not part of any rendering.

use std::process::Output;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::*;

/// What another rendering has: another version, one server more, other settings, and parts that were not there before.
const NEWER: &str = "namespace.create=true,image.tag=9.9.9,server.replicas=3,server.podDisruptionBudget.maxUnavailable=50%,\
                     config.webhook.countAlone=share-50,agent.slots=20,agent.podLabels.team=ml,runtimeClass.create=true,\
                     metrics.dashboards.enabled=true,commonLabels.owner=ml";

/// The chart with these values, as a file.
fn rendered(lab: &Lab, helm: &Path, name: &str, values: &str) -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/helm/packhorse");
    let output: Output = std::process::Command::new(helm)
        .arg("template")
        .arg(&chart)
        .args(["--set", values])
        .output()
        .expect("packhorse-helm runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = lab.directory.join(name);
    identity::write(&file, &String::from_utf8(output.stdout).expect("UTF-8"));
    file.display().to_string()
}

/// What outlives every upgrade: the CA's Secret with what is in it, and the bundle that the API server trusts.
async fn kept(lab: &Lab) -> (Option<String>, Value, Vec<u8>) {
    let secrets: Api<Secret> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let secret = secrets.get("packhorse-webhook-ca").await.expect("the CA");
    let registrations: Api<MutatingWebhookConfiguration> = Api::all(lab.client.clone());
    let registration = registrations.get("packhorse").await.expect("the registration");
    let bundle = registration.webhooks.unwrap_or_default().remove(0).client_config.ca_bundle.unwrap_or_default().0;
    assert!(!bundle.is_empty(), "the API server could call no webhook");
    (secret.metadata.uid, serde_json::to_value(secret.data).expect("JSON"), bundle)
}

/// Arguments of the installed agent that are not about places in the lab.
async fn agent_arguments(lab: &Lab) -> Vec<String> {
    let daemons: Api<DaemonSet> = Api::namespaced(lab.client.clone(), NAMESPACE);
    let daemon = daemons.get("packhorse-agent").await.expect("it is there").spec.expect("a spec");
    let arguments = daemon.template.spec.expect("a pod").containers.remove(0).args.expect("arguments");
    let own = ["--kubelet-dir", "--cdi-dir", "--state-dir", "--metrics-listen", "--containerd-config"];
    let kept = |argument: &String| !own.iter().any(|flag| argument.starts_with(flag));
    arguments.into_iter().skip(1).filter(kept).collect()
}

#[test]
fn a_gpu_pod_runs_through_an_upgrade_and_a_rollback() {
    on_cluster_for(lab::TEST_LIMIT, async |shared| {
        let Some(helm) = helm::binary() else { return };
        if !Runtime::Containerd22.is_here() {
            return;
        }
        let mut lab = Lab::start(shared.kubelab).await;
        let older = rendered(&lab, helm, "older.yaml", "namespace.create=true,image.tag=0.0.9");
        let newer = rendered(&lab, helm, "newer.yaml", NEWER);
        let apply = |lab: &Lab, file: &str| {
            // Nothing is forced: the fields that agents, servers and controllers write are not in the renderings.
            lab.kubectl(&["apply", "--server-side", "--validate=strict", "-f", file])
        };
        apply(&lab, &older);
        let uids = async |lab: &Lab| {
            let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), NAMESPACE);
            let daemons: Api<DaemonSet> = Api::namespaced(lab.client.clone(), NAMESPACE);
            let server = deployments.get("packhorse-server").await.expect("the servers");
            let agents = daemons.get("packhorse-agent").await.expect("the agents");
            (
                (server.metadata.uid, agents.metadata.uid),
                (server.spec.expect("a spec").selector, agents.spec.expect("a spec").selector),
            )
        };
        let before = uids(&lab).await;
        let node = Node::start(&lab, "gpu-1", Runtime::Containerd22, &[]).await;
        let arguments = agent_arguments(&lab).await;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut agent = Agent::start(&lab, &node, &cards(1), &arguments).await;
        lab.wait_for_ledger(1).await;
        let namespace = lab.namespace("user", json!({})).await;
        let share = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "4Gi"});
        let create = async |lab: &Lab, name: &str| {
            let pod = workload::pod(&node, name, &[], &[workload::container("main", &["sleep"], &share)]);
            let pod = pods::create(&lab.client, &namespace, &pod).await;
            let seen = first_start(&node, &pod, "main").await;
            assert_eq!(seen.visible_devices(), Some(&*uuid(0)), "{name}");
        };
        create(&lab, "runs").await;
        let containers = pods::all_running(&lab.client, &namespace, 1, 60).await;
        let secret = kept(&lab).await;

        for (step, file) in [("upgrade", &newer), ("rollback", &older)] {
            let said = apply(&lab, file);
            assert!(said.contains("deployment.apps/packhorse-server serverside-applied"), "{said}");
            assert_eq!(uids(&lab).await, before, "{step}: workloads are changed, not made anew");
            assert_eq!(kept(&lab).await, secret, "{step}");
            // The pods are replaced: first a server, which reads the new settings, then the agent with its new arguments.
            let maps: Api<ConfigMap> = Api::namespaced(lab.client.clone(), NAMESPACE);
            let config = maps.get("packhorse-server").await.expect("the settings").data.expect("a file");
            let text = &config["config.yaml"];
            assert_eq!(text.contains("share-50"), step == "upgrade", "{text}");
            assert!(lab.stop_server().await.success(), "{step}");
            lab.configure_server(Some(text)).await;
            assert!(agent.stop().await.success(), "{step}");
            let arguments = agent_arguments(&lab).await;
            assert_eq!(arguments.contains(&"--slots=20".to_owned()), step == "upgrade", "{arguments:?}");
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            agent = Agent::start(&lab, &node, &cards(1), &arguments).await;
            lab.wait_for_ledger(1).await;

            let now = pods::running_containers(&lab.client, &namespace).await;
            for (container, id) in &containers {
                assert_eq!(now.get(container), Some(id), "{step}: the container did not notice");
            }
            create(&lab, step).await;
            pods::checked(&lab.client).await;
        }
        let held = pods::api(&lab.client, &namespace).get("runs").await.expect("it runs").metadata.annotations;
        assert_eq!(held.unwrap_or_default()["devices.packhorse.dev/main"], uuid(0));
        assert_eq!(kept(&lab).await, secret);
    });
}
