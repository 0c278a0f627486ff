//! What `packhorse top` shows, from agents that answer, and from agents that do not.

use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::proxy::{Answer, Proxied, agent};
use super::{allocation, device, node, share, text};

/// What an agent tells of a card: use in MiB, percent, watts.
fn card(node: &str, uuid: &str, used: u32, busy: u32, power: u32) -> String {
    let labels = format!("{{node=\"{node}\",device=\"{uuid}\",index=\"0\",model=\"NVIDIA A10\"}}");
    [
        ("memory_mebibytes", "24000".to_owned()),
        ("memory_used_mebibytes", used.to_string()),
        ("utilization_percent", busy.to_string()),
        ("temperature_celsius", "51".to_owned()),
        ("power_watts", format!("{power}.25")),
        ("power_limit_watts", "150".to_owned()),
    ]
    .iter()
    .map(|(name, value)| format!("packhorse_agent_device_{name}{labels} {value}\n"))
    .collect()
}

/// And of a container on it, of a pod in `default`.
fn container(node: &str, uuid: &str, pod: &str, used: u32, limit: u32, busy: u32) -> String {
    let labels = format!("node=\"{node}\",namespace=\"default\",pod=\"{pod}\",container=\"main\",device=\"{uuid}\"");
    format!(
        "packhorse_agent_container_memory_used_mebibytes{{{labels}}} {used}\n\
         packhorse_agent_container_memory_limit_mebibytes{{{labels},enforcement=\"advisory\"}} {limit}\n\
         packhorse_agent_container_cores_limit_percent{{{labels}}} 0\n\
         packhorse_agent_container_utilization_percent{{{labels}}} {busy}\n\
         packhorse_agent_container_processes{{{labels}}} 2\n"
    )
}

fn told(parts: &[String]) -> Answer {
    Answer::Text(format!(
        "# TYPE packhorse_build info\npackhorse_build_info{{version=\"0\"}} 1\n{}# EOF\n",
        parts.concat()
    ))
}

/// Two nodes of one card each: `a` with a pod at half of its limit and one that is not told of, `b` with another; and a node without GPUs.
async fn cluster() -> Proxied {
    let proxied = Proxied::start().await;
    let live = &proxied.live;
    live.create("nodes", node("a", &[device("GPU-a", 0, 24_000)]));
    live.create("nodes", node("b", &[device("GPU-b", 0, 24_000)]));
    live.create("nodes", json!({"metadata": {"name": "cpu-only"}, "status": {"allocatable": {"cpu": "4"}}}));
    live.bound("half", "a", "GPU-a", 8_000);
    live.bound("starting", "a", "GPU-a", 4_000);
    live.bound("other", "b", "GPU-b", 24_000);
    let others = "packhorse_agent_unattributed_memory_mebibytes{node=\"a\",device=\"GPU-a\",index=\"0\",model=\"NVIDIA A10\",kind=\"host\"} 300\n";
    // Its processes could not be looked at.
    let starting = container("a", "GPU-a", "starting", 0, 4_000, 0);
    let starting = starting.lines().find(|line| line.contains("memory_limit")).unwrap();
    let half = container("a", "GPU-a", "half", 4_000, 8_000, 35);
    let a = told(&[card("a", "GPU-a", 4_310, 40, 90), half, others.to_owned(), format!("{starting}\n")]);
    proxied.agent("a", a);
    proxied
        .agent("b", told(&[card("b", "GPU-b", 12_000, 97, 149), container("b", "GPU-b", "other", 11_990, 24_000, 97)]));
    proxied
}

fn cells(said: &str, start: &str) -> Vec<String> {
    let line = said.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {said}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_shown_with_what_they_use_beside_their_limits() {
    let proxied = cluster().await;
    let said = proxied.live.said(&["top"]).await;
    let row = |pod: &str| cells(&said, &format!("default     {pod} "));
    assert_eq!(row("half"), ["default", "half", "main", "a", "0", "4000/8000", "50", "35", "-", "2"], "{said}");
    assert_eq!(row("other"), ["default", "other", "main", "b", "0", "11990/24000", "50", "97", "-", "2"]);
    assert_eq!(
        row("starting"),
        ["default", "starting", "main", "a", "0", "unknown/4000", "unknown", "unknown", "-", "unknown"],
        "who holds a device is shown, told of or not"
    );
    assert!(said.contains("1 of these hold a device of which their agent does not tell"), "{said}");
    let wide = proxied.live.said(&["top", "pods", "-o", "wide"]).await;
    let half = cells(&wide, "default     half ");
    assert!(half.ends_with(&["GPU-a".to_owned()]) && half.contains(&"advisory".to_owned()), "{wide}");
    let plain = proxied.live.said(&["top", "-A"]).await;
    assert_eq!(plain, said);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_nodes_are_shown_with_use_temperature_power_and_health() {
    let proxied = cluster().await;
    let said = proxied.live.said(&["top", "devices"]).await;
    let a = cells(&said, "a ");
    assert_eq!(
        a,
        ["a", "0", "NVIDIA", "A10", "4310/24000", "12000", "40", "51", "90/150", "healthy", "2", "host", "300"],
        "{said}"
    );
    assert_eq!(said, proxied.live.said(&["top", "--devices"]).await);
    let said = proxied.live.said(&["top", "nodes"]).await;
    assert_eq!(cells(&said, "b "), ["b", "1", "12000/24000", "24000", "97", "51", "149", "1"], "{said}");
    assert!(!said.contains("cpu-only"), "{said}");
    assert_eq!(said, proxied.live.said(&["top", "--nodes"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_says_the_same_as_tables_and_yaml_the_same_as_json() {
    let proxied = cluster().await;
    let live = &proxied.live;
    let report = live.json(&["top", "pods", "nodes", "devices"]).await;
    assert_eq!(report["v"], 1);
    let half = &report["pods"][0];
    for (field, value) in [
        ("pod", json!("half")),
        ("device", json!("GPU-a")),
        ("state", json!("reported")),
        ("memoryUsed", json!(4_000)),
        ("memoryLimit", json!(8_000)),
        ("memoryPercent", json!(50.0)),
        ("utilization", json!(35.0)),
        ("processes", json!(2)),
        ("enforcement", json!("advisory")),
        ("model", json!("NVIDIA A10")),
    ] {
        assert_eq!(half[field], value, "{field} of {half}");
    }
    assert!(half.get("coresLimit").is_none(), "no limit is no number: {half}");
    assert_eq!(report["pods"][2]["state"], "unreported");
    assert!(report["pods"][2].get("memoryUsed").is_none(), "what is not known is not 0");
    assert_eq!(report["devices"][0]["unattributed"], json!({"host": 300}));
    assert_eq!((&report["nodes"][0]["power"], &report["nodes"][0]["memoryUsed"]), (&json!(90.25), &json!(4_310)));
    assert_eq!(report["silent"], json!([]));
    let yaml: Value =
        serde_saphyr::from_str(&live.said(&["top", "pods", "nodes", "devices", "-o", "yaml"]).await).unwrap();
    assert_eq!(yaml, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_answer_is_named_with_a_remedy_and_its_pods_stay() {
    let cases = [
        (
            Answer::Status(503, "error trying to reach service: connection refused"),
            "connection refused; is port 9482 open",
        ),
        (Answer::Status(404, "pods \"packhorse-agent-b\" not found"), "not found; is port 9482 open"),
        (Answer::Other(404), "does not answer: HTTP status 404"),
        (Answer::Silence, "no answer within 1 s; --timeout allows more"),
        (Answer::Text("<!doctype html>\n".to_owned()), "cannot be used: no OpenMetrics text: line 1"),
        (Answer::Text("# TYPE packhorse_build info\n".to_owned()), "it was cut off; is it of another version?"),
        (told(&[card("a", "GPU-b", 1, 1, 1)]), "its series are those of node \"a\""),
        (told(&[]), "tells of no use: it is of an earlier version"),
    ];
    let proxied = cluster().await;
    for (answer, why) in cases {
        proxied.answer("b", answer);
        let said = proxied.live.said(&["top", "--timeout", "1"]).await;
        let line = said.lines().find(|line| line.starts_with("node b: ")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(why), "{why}: {line}");
        assert_eq!(cells(&said, "default     other ")[5..8], ["unknown/24000", "unknown", "unknown"], "{said}");
        assert_eq!(cells(&said, "default     half ")[5], "4000/8000", "the others go on: {said}");
        let report = proxied.live.json(&["top", "devices", "nodes", "--timeout", "1"]).await;
        assert_eq!((&report["silent"][0]["node"], &report["devices"][1]["state"]), (&json!("b"), &json!("unknown")));
        assert_eq!(report["nodes"][1]["state"], "unknown");
        assert!(report["nodes"][1].get("power").is_none(), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_agent_that_can_be_asked_is_named() {
    let objects = |proxied: &Proxied, change: &dyn Fn(&mut Value)| {
        let objects = proxied.live.api.objects();
        objects.delete("pods", "packhorse-system", "packhorse-agent-b", Some(0)).unwrap();
        let mut pod = agent("b");
        change(&mut pod);
        objects.create("pods", pod).unwrap();
    };
    let proxied = cluster().await;
    let line = async || {
        let said = proxied.live.said(&["top"]).await;
        said.lines().find(|line| line.starts_with("node b: ")).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    objects(&proxied, &|pod| pod["status"]["phase"] = json!("Pending"));
    assert!(line().await.contains("is Pending: kubectl -n packhorse-system describe pod packhorse-agent-b"));
    objects(&proxied, &|pod| pod["spec"]["containers"][0]["ports"][0]["name"] = json!("other"));
    assert!(line().await.contains("no container port named metrics"));
    objects(&proxied, &|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] = json!("server"));
    assert!(line().await.contains("no agent's pod"));

    let said = proxied.live.run(&["top", "--system-namespace", "gpu-system"]).await;
    let out = text(&said.stdout);
    assert!(out.contains("there are such in packhorse-system; give --system-namespace"), "{out}");
    assert_eq!(said.status.code(), Some(1), "no agent told anything");
    assert!(text(&said.stderr).contains("no agent has told anything"), "{}", text(&said.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_the_error_names_verb_and_resource() {
    let proxied = cluster().await;
    let message = "pods \"packhorse-agent-a:9482\" is forbidden: User \"dev\" cannot get resource \"pods/proxy\"";
    proxied.answer("a", Answer::Status(403, message));
    let output = proxied.live.run(&["top"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(message) && said.contains("allow get of pods/proxy in namespace packhorse-system"), "{said}");
    assert!(output.stdout.is_empty(), "no table that looks as if nothing were used");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_is_read_and_shown() {
    let proxied = cluster().await;
    let live = &proxied.live;
    proxied.answer("b", Answer::Silence);
    let said = live.said(&["top", "--node", "a"]).await;
    assert!(!said.contains("other") && !said.contains("node b"), "{said}");
    let output = live.run(&["top", "--node", "nobody"]).await;
    assert!(text(&output.stderr).contains("--node nobody: there is no such node"), "{}", text(&output.stderr));

    live.create("namespaces", json!({"metadata": {"name": "team"}}));
    let mut pod = share("theirs", 2_000);
    pod["metadata"]["namespace"] = "team".into();
    live.create("pods", pod);
    let annotations = json!({"packhorse.dev/allocation": allocation("GPU-a", 2_000)});
    live.api.objects().bind("team", "theirs", "", "a", &annotations).unwrap();
    let said = live.said(&["top", "-n", "team", "--node", "a"]).await;
    assert!(said.contains("theirs") && !said.contains("half"), "{said}");
    let output = live.run(&["top", "-n", "team", "-A"]).await;
    assert_eq!(output.status.code(), Some(2), "either one namespace or all");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_use_comes_first_where_asked() {
    let proxied = cluster().await;
    let order = async |by: &str| {
        let report = proxied.live.json(&["top", "--sort", by]).await;
        let pods = report["pods"].as_array().unwrap().iter();
        pods.map(|row| row["pod"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(order("name").await, ["half", "other", "starting"]);
    assert_eq!(order("memory").await, ["other", "half", "starting"]);
    assert_eq!(order("utilization").await, ["other", "half", "starting"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_that_have_ended_are_not_missed_and_ended_pods_are_told() {
    let proxied = cluster().await;
    let live = &proxied.live;
    let mut pod = share("phased", 3_000);
    pod["spec"]["initContainers"] = pod["spec"]["containers"].clone();
    pod["spec"]["initContainers"][0]["name"] = json!("prepare");
    live.create("pods", pod);
    let part = json!([{"device": "GPU-b", "memory": 3_000, "cores": 0, "enforcement": "advisory"}]);
    let both = json!({"v": 1, "containers": {"prepare": part, "main": part}}).to_string();
    live.api.objects().bind("default", "phased", "", "b", &json!({"packhorse.dev/allocation": both})).unwrap();
    let gone = container("b", "GPU-b", "gone", 700, 1_000, 1);
    let phased = container("b", "GPU-b", "phased", 100, 3_000, 1);
    proxied.answer("b", told(&[card("b", "GPU-b", 800, 1, 40), gone, phased]));
    let report = live.json(&["top", "--node", "b"]).await;
    let rows: Vec<_> =
        report["pods"].as_array().unwrap().iter().map(|row| (&row["pod"], &row["container"], &row["state"])).collect();
    let expected = [("gone", "main", "unbooked"), ("other", "main", "unreported"), ("phased", "main", "reported")];
    assert_eq!(json!(rows), json!(expected));
    proxied.answer("b", Answer::Other(500));
    let said = live.run(&["top", "--node", "b"]).await;
    assert!(text(&said.stdout).contains("prepare"), "where no agent tells, all that hold are shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_are_asked_side_by_side_but_not_all_at_once() {
    let proxied = Proxied::start().await;
    for number in 0..100 {
        let (name, uuid) = (format!("n{number:03}"), format!("GPU-{number:03}"));
        proxied.live.create("nodes", node(&name, &[device(&uuid, 0, 24_000)]));
        let silent = number % 10 == 0;
        proxied.agent(&name, if silent { Answer::Silence } else { told(&[card(&name, &uuid, number, 1, 1)]) });
    }
    let began = std::time::Instant::now();
    let report = proxied.live.json(&["top", "nodes", "--timeout", "2"]).await;
    // Ten silent ones would take 20 s one after the other.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(report["nodes"].as_array().unwrap().len(), 100);
    assert_eq!(report["silent"].as_array().unwrap().len(), 10);
    assert!((2..=32).contains(&proxied.most()), "{} at once", proxied.most());
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_prints_new_numbers() {
    let proxied = cluster().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_packhorse"))
        .args(["top", "-o", "json", "--watch", "--interval", "1"])
        .env("KUBECONFIG", proxied.live.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let until = |used: u32| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::time::Instant::now() < deadline {
            let line = lines.recv_timeout(Duration::from_secs(20)).expect("a report");
            let report: Value = serde_json::from_str(&line).unwrap();
            if report["pods"][0]["memoryUsed"] == json!(used) {
                return;
            }
        }
        panic!("never {used}");
    };
    until(4_000);
    proxied.answer("a", Answer::Status(403, "pods/proxy is forbidden"));
    // An agent that is asked twice has been refused once at least.
    let asked = proxied.asked();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while proxied.asked() < asked + 3 && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    proxied.answer("a", told(&[card("a", "GPU-a", 5_000, 1, 1), container("a", "GPU-a", "half", 4_800, 8_000, 1)]));
    until(4_800);
    child.kill().unwrap();
    child.wait().unwrap();
}
