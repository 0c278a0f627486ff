//! The page in a real browser. `PACKHORSE_SCREENSHOTS=1` renews the pictures in `docs/images`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use packhorse::gpu::reason::Reason;

use super::devtools::{Browser, DESK, Window, keep};
use super::world::{World, a100s, card, node, pending, running, uuid};

/// A small cluster with something of everything.
fn fleet() -> (Vec<Value>, Vec<Value>) {
    let cards = |name: &str, count: usize, model: &str, memory: u32| -> Vec<Value> {
        (0..count).map(|index| card(name, index, model, memory)).collect()
    };
    let mut sick = cards("l4-2", 4, "NVIDIA L4", 23_034);
    sick[3]["health"] = json!("unhealthy");
    let mut cordoned = node("h100-1", &cards("h100-1", 8, "NVIDIA H100 80GB HBM3", 81_559));
    cordoned["metadata"]["annotations"]["packhorse.dev/cordon"] = json!(uuid("h100-1", 7));
    let sizes = [("3g.40gb", 40_192), ("2g.20gb", 19_968), ("1g.10gb", 9728), ("1g.10gb", 9728)];
    let instances = sizes.iter().enumerate().map(|(at, (profile, memory))| {
        let mut instance = card("mig-1", 0, "NVIDIA A100-SXM4-80GB", *memory);
        instance["uuid"] = json!(format!("MIG-{at}"));
        instance["slots"] = json!(1);
        instance["enforcement"] = json!("mig");
        instance["parent"] = json!("GPU-parent");
        instance["mig"] = json!({"profile": profile, "start": at, "size": 1});
        instance
    });
    let instances: Vec<Value> = instances.collect();
    let nodes = vec![
        a100s("a100-1", 4),
        cordoned,
        node("l4-1", &cards("l4-1", 4, "NVIDIA L4", 23_034)),
        node("l4-2", &sick),
        node("mig-1", &instances),
    ];
    let mut pods = Vec::new();
    let mut on = |namespace: &str, name: &str, node: &str, device: String, memory: u32, cores: u32| {
        pods.push(running(namespace, name, node, &device, memory, cores));
    };
    for (at, (namespace, name, memory, cores)) in [
        ("vision", "detect-7f9c", 24_576, 40),
        ("speech", "asr-0", 16_384, 20),
        ("llm", "chat-small-1", 40_960, 50),
        ("vision", "track-22", 8192, 25),
        ("llm", "embed-3", 30_720, 30),
        ("research", "nb-anna", 12_288, 0),
        ("research", "nb-juri", 20_480, 10),
    ]
    .into_iter()
    .enumerate()
    {
        on(namespace, name, "a100-1", uuid("a100-1", at % 4), memory, cores);
    }
    for index in 0..4 {
        on("llm", &format!("serve-70b-{index}"), "h100-1", uuid("h100-1", index), 81_559, 100);
    }
    on("batch", "finetune-2", "h100-1", uuid("h100-1", 4), 48_000, 60);
    on("speech", "tts-1", "h100-1", uuid("h100-1", 4), 20_000, 30);
    on("batch", "finetune-3", "h100-1", uuid("h100-1", 5), 64_000, 80);
    for index in 0..6 {
        on(
            "vision",
            &format!("edge-{index}"),
            "l4-1",
            uuid("l4-1", index % 3),
            7000 + 900 * u32::try_from(index).unwrap(),
            30,
        );
    }
    on("speech", "asr-1", "l4-2", uuid("l4-2", 0), 16_000, 50);
    on("research", "nb-li", "l4-2", uuid("l4-2", 1), 6000, 0);
    on("research", "slice", "mig-1", "MIG-0".to_owned(), 40_192, 100);
    on("vision", "slice-2", "mig-1", "MIG-2".to_owned(), 9728, 100);
    let mut huge = pending("llm", "serve-405b-0", 81_000);
    huge["spec"]["containers"][0]["resources"]["limits"] = json!({"nvidia.com/gpu": "8"});
    huge["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/5 nodes are available: 3 no GPU free for exclusive use, 2 fewer GPUs than requested."}]);
    pods.push(huge);
    let mut strict = pending("research", "nb-strict", 8192);
    strict["metadata"]["annotations"]["packhorse.dev/require-enforcement"] = json!("cgroup");
    strict["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    pods.push(strict);
    (nodes, pods)
}

async fn full() -> World {
    let (nodes, pods) = fleet();
    let world = World::start(&nodes, &pods).await;
    let refuse =
        |uid: &str, reasons: &[Reason]| world.dashboard.note_refusal(uid, reasons.iter().map(|reason| Some(*reason)));
    refuse(
        "uid-llm-serve-405b-0",
        &[
            Reason::DeviceExclusive,
            Reason::DeviceExclusive,
            Reason::DeviceExclusive,
            Reason::TooFewDevices,
            Reason::TooFewDevices,
        ],
    );
    refuse("uid-research-nb-strict", &[Reason::EnforcementTooWeak; 5]);
    world
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}

/// Has the browser work on a thread of its own, so that the server goes on answering.
async fn browse<R: Send + 'static>(work: impl FnOnce(&mut Browser) -> R + Send + 'static) -> Option<R> {
    tokio::task::spawn_blocking(move || Browser::start().map(|mut browser| work(&mut browser))).await.unwrap()
}

const DRAWN: &str = "document.querySelectorAll('.card').length > 0";

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_every_node_as_a_rack_of_devices_with_their_pods_and_the_pods_that_wait() {
    let world = full().await;
    let address = world.address;
    browse(move |browser| {
        browser.open(&url(address), DESK);
        browser.wait("the racks", DRAWN);
        assert_eq!(
            browser.eval("[...document.querySelectorAll('.rack h3')].map((title) => title.textContent)"),
            json!(["a100-1", "h100-1", "l4-1", "l4-2", "mig-1"])
        );
        assert_eq!(browser.eval("document.querySelectorAll('.card').length"), 4 + 8 + 4 + 4 + 4);
        // 7 + 7 + 6 + 2 + 2 pods, each one segment of a memory bar.
        assert_eq!(browser.eval("document.querySelectorAll('.fill.memory span').length"), 24);
        browser.wait(
            "the segments as wide as what they hold",
            "(() => {
            const bar = document.querySelector('.card[data-uuid=\"GPU-a100-1-3\"] .fill.memory');
            return Math.abs(bar.querySelector('span').offsetWidth / bar.offsetWidth - 8192 / 81920) < 0.02;
        })()",
        );
        let label =
            browser.eval("document.querySelector('.card[data-uuid=\"GPU-a100-1-0\"]').getAttribute('aria-label')");
        let label = label.as_str().unwrap();
        for part in [
            "a100-1 GPU 0",
            "A100-SXM4-80GB",
            "54 of 80 GiB booked",
            "cores 70 percent",
            "healthy",
            "vision/detect-7f9c",
        ] {
            assert!(label.contains(part), "{label:?} lacks {part:?}");
        }
        assert_eq!(
            browser.eval(
                "[...document.querySelectorAll('.chip')].filter((chip) => !chip.hidden).map((chip) => chip.textContent)"
            ),
            json!(["cordoned", "unhealthy"])
        );
        let waiting = browser.eval("document.getElementById('pending').innerText");
        let waiting = waiting.as_str().unwrap();
        for part in [
            "Pending pods (2)",
            "llm/serve-405b-0",
            "main: 8 × whole",
            "no GPU free for exclusive use (3 nodes)",
            "memory limits not enforced as required (5 nodes)",
        ] {
            assert!(waiting.contains(part), "{waiting:?} lacks {part:?}");
        }
        assert_eq!(browser.eval("document.getElementById('state').textContent"), "live");
        assert_eq!(browser.eval("document.getElementById('map').hidden"), true, "a small cluster needs no map");
        assert_eq!(browser.complaints(), [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_and_goes_is_seen_without_a_reload() {
    let world = World::start(&[a100s("a", 2)], &[]).await;
    let address = world.address;
    let (sender, steps) = std::sync::mpsc::channel::<&str>();
    let browsing = tokio::spawn(browse(move |browser| {
        browser.open(&url(address), DESK);
        browser.wait("the empty device", DRAWN);
        assert_eq!(browser.eval("document.querySelectorAll('.fill.memory span').length"), 0);
        assert_eq!(
            browser.eval("document.getElementById('pendingQuiet').textContent"),
            "Every pod that asks for GPUs has its devices."
        );
        sender.send("pending").unwrap();
        browser.wait("the pod waits", "document.querySelector('.pending li .who')?.textContent === 'team/train'");
        sender.send("bound").unwrap();
        browser.wait(
            "its segment",
            "document.querySelector('.card[data-uuid=\"GPU-a-1\"] .fill.memory span')?.textContent === 'train'",
        );
        browser.wait("it waits no more", "document.querySelectorAll('.pending li').length === 0");
        assert_eq!(browser.eval("document.getElementById('sumMemory').textContent"), "25 %");
        sender.send("gone").unwrap();
        browser.wait("its segment has left", "document.querySelectorAll('.fill.memory span').length === 0");
        assert_eq!(browser.eval("document.getElementById('sumMemory').textContent"), "0 %");
        assert_eq!(browser.complaints(), [""; 0]);
    }));
    let world = tokio::task::spawn_blocking(move || {
        for step in steps {
            match step {
                "pending" => world.apply(&pending("team", "train", 40_960)),
                "bound" => world.apply(&running("team", "train", "a", &uuid("a", 1), 40_960, 10)),
                _ => world.remove(&running("team", "train", "a", &uuid("a", 1), 40_960, 10)),
            }
        }
        world
    });
    browsing.await.unwrap();
    world.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_reached_by_keyboard() {
    let world = full().await;
    let address = world.address;
    browse(move |browser| {
        let focus = "document.activeElement.dataset.uuid || document.activeElement.id || document.activeElement.tagName";
        browser.open(&url(address), DESK);
        browser.wait("the racks", DRAWN);
        browser.press("ArrowDown");
        assert_eq!(browser.eval(focus), "GPU-a100-1-0");
        browser.press("ArrowDown");
        assert_eq!(browser.eval(focus), "GPU-a100-1-1");
        browser.press("ArrowRight");
        let beside = browser.eval("document.activeElement.dataset.node");
        assert!(beside != "a100-1" && beside.is_string(), "{beside}");
        browser.press("ArrowLeft");
        assert_eq!(browser.eval("document.activeElement.dataset.node"), "a100-1");
        assert_eq!(browser.eval("document.querySelectorAll('.card[tabindex=\"0\"]').length"), 1, "one stop for Tab");
        assert_ne!(browser.eval("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is seen");

        browser.press("Enter");
        browser.wait("the details", "document.getElementById('details').open");
        let text = browser.eval("document.getElementById('details').innerText");
        let text = text.as_str().unwrap();
        for part in ["GPU-a100-1-", "NVIDIA A100-SXM4-80GB", "advisory", "0000:0", "main: "] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        browser.press("Escape");
        browser.wait("the details closed", "!document.getElementById('details').open");
        assert_eq!(browser.eval("document.activeElement.dataset.node"), "a100-1", "the focus is back");

        browser.press("/");
        assert_eq!(browser.eval(focus), "search");
        browser.write("vision/edge");
        browser.wait("only the node of that pod", "[...document.querySelectorAll('.rack h3')].map((title) => title.textContent).join() === 'l4-1'");
        assert_eq!(browser.eval("document.getElementById('range').textContent"), "1 node found");
        browser.press("Escape");
        browser.wait("all nodes again", "document.querySelectorAll('.rack').length === 5");
        assert_eq!(browser.eval("document.getElementById('search').value"), "");

        let theme = "getComputedStyle(document.body).backgroundColor";
        let light = browser.eval(theme);
        browser.media("dark", "no-preference");
        let dark = browser.eval(theme);
        assert_ne!(light, dark, "dark where the system is");
        browser.eval("document.getElementById('theme').click()");
        assert_eq!((browser.eval("document.getElementById('theme').textContent"), browser.eval(theme)), (json!("Theme: light"), light));
        browser.eval("document.getElementById('theme').click()");
        browser.media("light", "reduce");
        assert_eq!(browser.eval(theme), dark, "dark by choice");
        assert_eq!(browser.eval("getComputedStyle(document.querySelector('.fill span')).transitionDuration"), "0s");
        let unnamed = "[...document.querySelectorAll('button, input, [role=img], section, aside')].filter((element) => {
            const label = element.getAttribute('aria-label') || element.getAttribute('aria-labelledby') || element.textContent || element.labels?.length;
            return !label && element.checkVisibility();
        }).map((element) => element.outerHTML.slice(0, 80))";
        assert_eq!(browser.eval(unnamed), json!([]));
        assert_eq!(browser.complaints(), [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_text_whatever_they_look_like() {
    let name = "<img src=x onerror=document.title='broken'><b>bold</b>";
    let pods = [
        running("<i>team</i>", name, "<u>n</u>", &uuid("<u>n</u>", 0), 40_960, 10),
        pending("</script><script>", name, 1000),
    ];
    let world = World::start(&[a100s("<u>n</u>", 1)], &pods).await;
    let address = world.address;
    browse(move |browser| {
        browser.open(&url(address), DESK);
        browser.wait("the rack", DRAWN);
        assert_eq!(browser.eval("document.querySelector('.rack h3').textContent"), "<u>n</u>");
        assert_eq!(browser.eval("document.querySelector('.fill.memory span b').textContent"), name);
        browser.eval("document.querySelector('.card').click()");
        browser.wait("the details", "document.getElementById('details').innerText.includes('<i>team</i>/<img')");
        assert_eq!(browser.eval("document.querySelectorAll('main img, main u, dialog img, dialog b').length"), 0);
        assert_eq!(browser.eval("document.title"), "Packhorse");
        assert_eq!(browser.complaints(), [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_said_and_mended() {
    let world = World::start(&[a100s("a", 1)], &[]).await;
    let address = world.address;
    let (sender, steps) = std::sync::mpsc::channel::<()>();
    let browsing = tokio::spawn(browse(move |browser| {
        browser.open(&url(address), DESK);
        browser.wait("the rack", DRAWN);
        assert_eq!(browser.eval("document.getElementById('lost').hidden"), true);
        sender.send(()).unwrap();
        browser.wait("it says so", "!document.getElementById('lost').hidden");
        let text = browser.eval("document.getElementById('lost').innerText");
        assert!(text.as_str().unwrap().contains("What you see is from"), "{text}");
        assert_eq!(browser.eval("document.getElementById('state').textContent"), "connection lost");
        assert_eq!(browser.eval("document.querySelectorAll('.rack').length"), 1, "what was known stays");
        sender.send(()).unwrap();
        browser.wait(
            "it is back",
            "document.getElementById('lost').hidden && document.querySelectorAll('.rack').length === 2",
        );
        assert_eq!(browser.eval("document.getElementById('state').textContent"), "live");
    }));
    let handle = tokio::runtime::Handle::current();
    let worlds = tokio::task::spawn_blocking(move || {
        if steps.recv().is_ok() {
            handle.block_on(world.end());
            if steps.recv().is_ok() {
                let nodes = [a100s("a", 1), a100s("b", 1)];
                return Some(handle.block_on(World::start_at(address, &nodes, &[])));
            }
        }
        None
    });
    browsing.await.unwrap();
    worlds.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_nodes_are_a_map_and_a_page_of_racks() {
    let nodes: Vec<Value> = (1..=5_000).map(|number| a100s(&format!("node-{number}"), 8)).collect();
    let mut pods = Vec::new();
    for number in 1..=5_000_usize {
        let name = format!("node-{number}");
        for index in 0..(number * 7) % 9 {
            pods.push(running("team", &format!("p-{number}-{index}"), &name, &uuid(&name, index % 8), 70_000, 50));
        }
    }
    let world = World::start(&nodes, &pods).await;
    let address = world.address;
    browse(move |browser| {
        browser.open(&url(address), DESK);
        browser.wait("the racks", DRAWN);
        assert_eq!(
            browser.eval("[document.querySelectorAll('.rack').length, document.querySelectorAll('#cells i').length]"),
            json!([48, 5_000])
        );
        assert_eq!(browser.eval("document.getElementById('range').textContent"), "Nodes 1 to 48 of 5,000 nodes");
        keep("page-5000-nodes", &browser.picture());
        browser.press("]");
        browser.wait("the next page", "document.querySelector('.rack h3').textContent === 'node-49'");
        browser.eval("document.querySelectorAll('#cells i')[4999].click()");
        browser.wait("the last page", "[...document.querySelectorAll('.rack h3')].at(-1)?.textContent === 'node-5000'");
        // Drawing all that is shown anew takes less than what a reader would notice, on a slow machine too.
        let worst = browser.eval(
            "new Promise((done) => {
            const began = performance.now();
            requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
        })",
        );
        assert!(worst.as_f64().unwrap() < 2_000.0, "two frames take {worst} ms");
        assert_eq!(browser.complaints(), [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_readable_on_a_phone_and_pictures_show_it_light_and_dark() {
    let world = full().await;
    let address = world.address;
    browse(move |browser| {
        let settled = "document.getAnimations().length === 0";
        let phone = Window { width: 320, height: 640, scheme: "light", phone: true };
        for (name, window) in [
            ("page-light", DESK),
            ("page-dark", Window { scheme: "dark", ..DESK }),
            ("page-phone", phone),
            ("page-phone-dark", Window { scheme: "dark", ..phone }),
        ] {
            browser.open(&url(address), window);
            browser.wait("the racks", DRAWN);
            browser.wait("calm", settled);
            let width = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(width <= u64::from(window.width), "{name}: {width} px wide");
            let small = "[...document.querySelectorAll('body *')].filter((element) => element.checkVisibility() && element.childElementCount === 0 &&
                element.textContent.trim() && parseFloat(getComputedStyle(element).fontSize) < 12).map((element) => element.textContent)";
            assert_eq!(browser.eval(small), json!([]), "{name}: text below 12 px");
            keep(name, &browser.picture());
        }
        browser.eval("document.querySelector('.card[data-uuid=\"GPU-a100-1-0\"]').click()");
        browser.wait("the details", "document.getElementById('details').open");
        browser.wait("calm", settled);
        let fits = browser.eval("document.getElementById('details').getBoundingClientRect().right <= innerWidth");
        assert_eq!(fits, true);
        browser.open(&url(address), Window { scheme: "dark", ..DESK });
        browser.wait("the racks", DRAWN);
        browser.eval("document.querySelector('.card[data-uuid=\"GPU-a100-1-0\"]').click()");
        browser.wait("calm", settled);
        keep("page-details", &browser.picture());
        assert_eq!(browser.complaints(), [""; 0]);
    })
    .await;
}
