//! The installation as `docs/install.md` tells it, on a control plane of its own: its commands are run as they stand there. What is
//! missing in the lab is replaced: images by processes with the arguments of the installed objects, GPUs by a topology file.

#[path = "install/upgrade.rs"]
mod upgrade;

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::Api;
use serde_json::json;

use super::agent::{Agent, cards, uuid};
use super::agent_containers::first_start;
use super::lab::{Lab, on_cluster, on_cluster_for};
use super::node::{Node, Runtime, workload};
use super::{helm, http, identity, lab, pods, wait};

const NAMESPACE: &str = "packhorse-system";
/// Everything that the API server knows without anybody's CRDs.
const ALL: &str = "runtimeClass.create=true,webhook.optIn=true,agent.runtimeConfigure.enabled=true,driver.enabled=true,metrics.dashboards.enabled=true,\
                   server.hostNetwork=true,namespace.create=true,agent.fakeTopology.v=1,agent.nvidiaConfig.version=v1,scheduler.qps=500";

/// The arguments of the command of the page that begins like this.
fn documented(beginning: &str) -> Vec<String> {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).expect("the page");
    let line =
        page.lines().find(|line| line.starts_with(beginning)).unwrap_or_else(|| panic!("no {beginning:?} there"));
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn run(lab: &Lab, arguments: &[String]) -> String {
    lab.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The names of a scrape.
fn exposed(exposition: &str) -> BTreeSet<String> {
    let series = exposition.lines().filter(|line| !line.starts_with('#'));
    series.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

/// Every metric of ours that alerts and dashboards ask for.
fn asked_for() -> BTreeSet<String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/helm/packhorse");
    let mut text = std::fs::read_to_string(chart.join("alerts.yaml")).expect("the alerts");
    for entry in std::fs::read_dir(chart.join("dashboards")).expect("the dashboards") {
        text += &std::fs::read_to_string(entry.expect("a file").path()).expect("a dashboard");
    }
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("packhorse_")).map(str::to_owned).collect()
}

#[test]
fn the_documented_commands_install_run_a_pod_and_uninstall() {
    on_cluster_for(lab::TEST_LIMIT, async |shared| {
        if !Runtime::Containerd22.is_here() {
            return;
        }
        let mut lab = Lab::start(shared.kubelab).await;
        run(&lab, &documented("kubectl apply --server-side -f deployments/static"));

        let node = Node::start(&lab, "gpu-1", Runtime::Containerd22, &[]).await;
        let label = documented("kubectl label node NODE");
        let label: Vec<String> =
            label.into_iter().map(|word| if word == "NODE" { "gpu-1".to_owned() } else { word }).collect();
        run(&lab, &label);

        // The controllers make pods of the two workloads, which the API server admits: accounts, priorities, names all exist.
        let deployments: Api<Deployment> = Api::namespaced(lab.client.clone(), NAMESPACE);
        let daemons: Api<DaemonSet> = Api::namespaced(lab.client.clone(), NAMESPACE);
        wait::until("two pods of the servers and one agent", 60, async || {
            let made: Vec<Pod> = pods::list(&lab.client, NAMESPACE).await;
            let of = |part: &str| {
                let labels = made.iter().filter_map(|pod| pod.metadata.labels.as_ref());
                labels.filter(|labels| labels.get("app.kubernetes.io/component").is_some_and(|it| it == part)).count()
            };
            (of("server") == 2 && of("agent") == 1).then_some(())
        })
        .await;
        assert_eq!(
            deployments.get("packhorse-server").await.expect("it is there").metadata.name.as_deref(),
            Some("packhorse-server")
        );

        // Their processes, as the objects have them.
        let maps: Api<ConfigMap> = Api::namespaced(lab.client.clone(), NAMESPACE);
        let config = maps.get("packhorse-server").await.expect("the settings").data.expect("a file");
        lab.configure_server(Some(&config["config.yaml"])).await;
        let daemon = daemons.get("packhorse-agent").await.expect("it is there").spec.expect("a spec");
        let arguments = daemon.template.spec.expect("a pod").containers.remove(0).args.expect("arguments");
        let own = ["--kubelet-dir", "--cdi-dir", "--state-dir", "--metrics-listen", "--containerd-config"];
        let arguments: Vec<&str> = arguments
            .iter()
            .skip(1)
            .map(String::as_str)
            .filter(|argument| !own.iter().any(|flag| argument.starts_with(flag)))
            .collect();
        assert!(!arguments.is_empty());
        // This process stands for one of the host that uses the card.
        let topology = cards(1)
            + &format!(
                "usage:\n- {{device: 0, memoryUsed: 600, utilization: 5, memoryUtilization: 2, temperature: 40, power: 70, powerLimit: 400, \
                 smClock: 1410, processes: [{{pid: {}, memory: 600, utilization: 5}}]}}\n",
                std::process::id()
            );
        let mut agent = Agent::start(&lab, &node, &topology, &arguments).await;
        lab.wait_for_ledger(1).await;

        let namespace = lab.namespace("user", json!({})).await;
        let limits = json!({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "4Gi", "nvidia.com/gpucores": 30});
        let pod = workload::pod(&node, "share", &[], &[workload::container("main", &["sleep"], &limits)]);
        let pod = pods::create(&lab.client, &namespace, &pod).await;
        let seen = first_start(&node, &pod, "main").await;
        assert_eq!(seen.visible_devices(), Some(&*uuid(0)));

        let shown = documented("kubectl get nodes -o custom-columns").join(" ").replace('\'', "");
        let shown = lab.kubectl(&shown.split(' ').collect::<Vec<_>>());
        let of_node: Vec<&str> = shown.lines().nth(1).expect("a node").split_whitespace().collect();
        assert_eq!(of_node, ["gpu-1", "1", "NVIDIA-A100-SXM4-80GB", "81920"]);

        // What alerts and dashboards ask for is there, but for what only trouble brings.
        let (_, of_server) = http::get(lab.metrics_address(), "/metrics").await.expect("metrics");
        // The agent tells of a container once the kubelet has told that it runs.
        let of_agent = wait::until("the agent to tell of the container", 30, async || {
            let (_, text) = http::get(agent.metrics_address, "/metrics").await?;
            text.contains("packhorse_agent_container_processes{").then_some(text)
        })
        .await;
        let there: BTreeSet<String> = exposed(&of_server).union(&exposed(&of_agent)).cloned().collect();
        let missing: BTreeSet<String> = asked_for().difference(&there).cloned().collect();
        let trouble = [
            "packhorse_agent_backend_failures_total",
            "packhorse_agent_start_refusals_total",
            "packhorse_agent_usage_failures_total",
            "packhorse_agent_xid_events_total",
            "packhorse_config_reloads_total",
            "packhorse_extender_nominations_total",
            "packhorse_ledger_damaged_objects_total",
            "packhorse_ledger_watch_restarts_total",
        ];
        let unexplained: Vec<&String> = missing.iter().filter(|name| !trouble.contains(&name.as_str())).collect();
        assert!(unexplained.is_empty(), "asked for and not exposed: {unexplained:?}");

        // And the accounts have every right that was needed.
        for exposition in [&of_server, &of_agent] {
            assert!(http::sum(exposition, "packhorse_api_requests_total", &[]) > 0.0);
            let refused = http::sum(exposition, "packhorse_api_requests_total", &["code=\"403\""]);
            assert_eq!(refused, 0.0, "{exposition}");
        }

        pods::api(&lab.client, &namespace).delete("share", &Default::default()).await.expect("the pod is deleted");
        assert!(agent.stop().await.success());
        run(&lab, &documented("kubectl delete -f deployments/static"));
        let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingadmissionpolicies,\
                     validatingadmissionpolicybindings,namespaces,rolebindings";
        let left = lab.kubectl(&["get", kinds, "-A", "-l", "app.kubernetes.io/name=packhorse", "-o", "name"]);
        assert_eq!(left.trim(), "", "left behind");
    });
}

#[test]
fn the_api_server_takes_every_rendering_of_the_chart_field_by_field() {
    on_cluster(async |lab| {
        let Some(helm) = helm::binary() else { return };
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/helm/packhorse");
        let values = |name: &str| ["-f".to_owned(), chart.join(name).display().to_string()];
        let renderings = [
            values("values-k3s.yaml"),
            values("values-gpu-operator.yaml"),
            values("values-gpu-operator-node-by-node.yaml"),
            values("values-driver-container.yaml"),
            values("values-driver-installed.yaml"),
            ["--set".to_owned(), ALL.to_owned()],
        ];
        let file = lab.directory.join("rendered.yaml").display().to_string();
        let strict = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"];
        let taken = |lab: &Lab| {
            let applied = lab.kubectl(&[&["apply"], &strict[..], &["-f", &file]].concat());
            applied.lines().filter(|line| line.ends_with("serverside-applied (server dry run)")).count()
        };
        for flags in renderings {
            let output = std::process::Command::new(helm)
                .arg("template")
                .arg(&chart)
                .args(&flags)
                .output()
                .expect("packhorse-helm runs");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let objects = text.lines().filter(|line| line.starts_with("kind: ")).count();
            assert!(objects > 30, "{flags:?}: {objects} objects");
            identity::write(Path::new(&file), &text);
            assert_eq!(taken(lab), objects, "{flags:?}");
        }
        let mut customised = documented("kubectl apply --server-side -k");
        customised.extend(strict[1..].iter().map(|&flag| flag.to_owned()));
        assert!(run(lab, &customised).contains("deployment.apps/packhorse-server serverside-applied"));

        // And it would have said so: a field that is not there is no silent loss.
        let text = std::fs::read_to_string(&file).expect("the last rendering");
        identity::write(Path::new(&file), &text.replace("  revisionHistoryLimit: 3", "  revisionHistoryLimits: 3"));
        let refused =
            lab.try_kubectl(&[&["apply"], &strict[..], &["-f", &file]].concat()).expect_err("a misspelt field");
        assert!(refused.contains("revisionHistoryLimits"), "{refused}");
    });
}
