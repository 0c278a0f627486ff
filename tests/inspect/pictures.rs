//! What the commands print, as it looks in a terminal, light and dark. `PACKHORSE_SCREENSHOTS=1` renews the pictures in `docs/images`.

use base64::Engine as _;
use serde_json::{Value, json};

use super::proxy::{Answer, Proxied};
use super::{allocation, device, node, share, text};
use crate::dashboard::devtools::{Browser, Window, keep};

const A100: &str = "NVIDIA A100-SXM4-80GB";
const L4: &str = "NVIDIA L4";

/// Who uses what: namespace, pod, node, card, MiB that it may use, percent of the cores, MiB and percent in use.
type Use = (&'static str, &'static str, &'static str, usize, u32, u32, u32, u32);

const PODS: [Use; 9] = [
    ("llm", "chat-7b-0", "a100-1", 0, 40_960, 50, 36_412, 47),
    ("llm", "embed-6d5f9", "a100-1", 0, 20_480, 30, 9_820, 12),
    ("research", "nb-anna", "a100-1", 1, 24_576, 0, 1_204, 0),
    ("speech", "asr-0", "a100-1", 1, 16_384, 20, 15_990, 21),
    ("batch", "finetune-3", "a100-2", 0, 81_920, 100, 77_311, 99),
    ("vision", "detect-7f9c", "l4-1", 0, 8_192, 40, 7_104, 38),
    ("vision", "track-22", "l4-1", 0, 6_144, 25, 4_980, 22),
    ("vision", "edge-4", "l4-1", 1, 12_288, 0, 6_612, 31),
    ("speech", "tts-1", "l4-2", 0, 16_000, 50, 0, 0),
];

fn uuid(node: &str, card: usize) -> String {
    format!("GPU-{node}-{card}-5e2d7c90")
}

fn cards(name: &str, model: &str, memory: u32) -> Value {
    let of = |index: usize| {
        let mut card = device(&uuid(name, index), index, memory);
        card["model"] = json!(model);
        card
    };
    node(name, &[of(0), of(1)])
}

/// What a node's agent tells.
fn metrics(name: &str, model: &str, memory: u32) -> String {
    let mut text = String::new();
    for card in 0..2 {
        let on: Vec<_> = PODS.iter().filter(|pod| pod.2 == name && pod.3 == card).collect();
        let (used, busy) = on.iter().fold((412, 0), |(used, busy), pod| (used + pod.6, busy + pod.7));
        let device = uuid(name, card);
        let labels = format!("node=\"{name}\",device=\"{device}\",index=\"{card}\",model=\"{model}\"");
        let (top, idle) = if memory > 50_000 { (400, 62) } else { (72, 14) };
        for (what, value) in [
            ("memory_mebibytes", memory),
            ("memory_used_mebibytes", used),
            ("utilization_percent", busy),
            ("temperature_celsius", 34 + busy / 3),
            ("power_watts", idle + (top - idle) * busy / 100),
            ("power_limit_watts", top),
        ] {
            text += &format!("packhorse_agent_device_{what}{{{labels}}} {value}\n");
        }
        text += &format!("packhorse_agent_unattributed_memory_mebibytes{{{labels},kind=\"host\"}} 412\n");
        for (namespace, pod, _, _, limit, cores, used, busy) in on {
            let labels = format!(
                "node=\"{name}\",namespace=\"{namespace}\",pod=\"{pod}\",container=\"main\",device=\"{device}\""
            );
            text += &format!(
                "packhorse_agent_container_memory_limit_mebibytes{{{labels},enforcement=\"advisory\"}} {limit}\n"
            );
            text += &format!("packhorse_agent_container_cores_limit_percent{{{labels}}} {cores}\n");
            for (what, value) in [("memory_used_mebibytes", used), ("utilization_percent", busy), ("processes", &1)] {
                text += &format!("packhorse_agent_container_{what}{{{labels}}} {value}\n");
            }
        }
    }
    text + "# EOF\n"
}

/// Four nodes; the agent of one of them does not answer, and one pod waits.
async fn cluster() -> Proxied {
    let proxied = Proxied::start().await;
    let live = &proxied.live;
    for (name, model, memory) in
        [("a100-1", A100, 81_920), ("a100-2", A100, 81_920), ("l4-1", L4, 23_034), ("l4-2", L4, 23_034)]
    {
        let mut object = cards(name, model, memory);
        if name == "a100-2" {
            object["metadata"]["annotations"]["packhorse.dev/cordon"] = json!(uuid(name, 1));
        }
        live.create("nodes", object);
        let unreachable =
            Answer::Status(503, "error trying to reach service: dial tcp 10.42.3.17:9482: connect: connection refused");
        proxied.agent(name, if name == "l4-2" { unreachable } else { Answer::Text(metrics(name, model, memory)) });
    }
    for namespace in ["llm", "research", "speech", "batch", "vision"] {
        live.create("namespaces", json!({"metadata": {"name": namespace}}));
    }
    for (namespace, name, node, card, memory, cores, ..) in PODS {
        let mut pod = share(name, memory);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["status"] = json!({"phase": "Running"});
        live.create("pods", pod);
        let mut held: Value = serde_json::from_str(&allocation(&uuid(node, card), memory)).unwrap();
        held["containers"]["main"][0]["cores"] = json!(cores);
        let held = json!({"packhorse.dev/allocation": held.to_string()});
        live.api.objects().bind(namespace, name, "", node, &held).unwrap();
    }
    let mut waits = share("chat-70b-0", 48_000);
    waits["metadata"]["namespace"] = json!("llm");
    waits["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/4 nodes are available: 2 Insufficient packhorse.dev/gpu-memory, 1 GPU cores exhausted, 1 GPU memory exhausted."}]});
    live.create("pods", waits);
    proxied
}

/// A window of a terminal with what was typed and what was answered.
fn page(arguments: &[&str], said: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let style = "
        :root { color-scheme: light dark; }
        body { margin: 0; background: light-dark(#ffffff, #0d1117); width: max-content; }
        main { margin: 16px; border: 1px solid light-dark(#d0d7de, #30363d); border-radius: 8px; overflow: hidden; width: max-content;
            background: light-dark(#f6f8fa, #161b22); }
        header { display: flex; gap: 6px; padding: 10px 12px; border-bottom: 1px solid light-dark(#d0d7de, #30363d); }
        header i { width: 11px; height: 11px; border-radius: 50%; background: light-dark(#c4cbd3, #484f58); }
        pre { margin: 0; padding: 12px 16px 16px; font: 13px/1.45 'DejaVu Sans Mono', monospace; color: light-dark(#1f2328, #e6edf3);
            white-space: pre-wrap; max-width: 153ch; }
        b { color: light-dark(#1a7f37, #3fb950); }";
    format!(
        "<!doctype html><meta charset=utf-8><title>terminal</title><style>{style}</style><main><header><i></i><i></i><i></i></header>\
         <pre><b>$</b> packhorse {}\n{}</pre></main>",
        arguments.join(" "),
        escape(said.trim_end())
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_commands_print_is_readable_in_a_terminal() {
    let proxied = cluster().await;
    let mut pages = Vec::new();
    for (name, arguments) in [
        ("inspect", &["inspect"][..]),
        ("inspect-devices", &["inspect", "devices"]),
        ("inspect-pod", &["inspect", "llm/chat-70b-0"]),
        ("top", &["top"]),
        ("top-devices", &["top", "devices"]),
    ] {
        let output = proxied.live.run(arguments).await;
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(said.lines().count() > 2, "{arguments:?}: {said}");
        pages.push((name, page(arguments, &said)));
    }
    // Of a whole installation, as `cluster/inspect.rs` sees it.
    let check = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inspect/check.txt")).unwrap();
    pages.push(("check", page(&["check"], &check)));
    let shown = tokio::task::spawn_blocking(move || {
        let Some(mut browser) = Browser::start() else { return };
        for (name, page) in pages {
            let url =
                format!("data:text/html;base64,{}", base64::engine::general_purpose::STANDARD.encode(page.as_bytes()));
            for scheme in ["light", "dark"] {
                browser.open(&url, Window { width: 2000, height: 900, scheme, phone: false });
                let size = |browser: &mut Browser, what: &str| {
                    let expression =
                        format!("Math.ceil(document.querySelector('main').getBoundingClientRect().{what}) + 16");
                    u32::try_from(browser.eval(&expression).as_u64().unwrap()).unwrap()
                };
                let (width, height) = (size(&mut browser, "right"), size(&mut browser, "bottom"));
                assert!(width < 1280, "{name}: {width} px are more than a page of documentation shows");
                browser.open(&url, Window { width, height, scheme, phone: false });
                let seen = browser.eval("document.querySelector('pre').innerText");
                assert!(seen.as_str().unwrap().starts_with("$ packhorse "), "{seen}");
                keep(&format!("terminal-{name}-{scheme}"), &browser.picture());
            }
        }
        assert_eq!(browser.complaints(), [""; 0]);
    });
    shown.await.unwrap();
}
