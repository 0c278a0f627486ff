use super::*;
use crate::gpu::device::Pcie;

const TWO: &str = "v: 1
driver: \"580.95.05\"
devices:
- {uuid: GPU-b, model: A100, memory: 81920, pci: \"0000:0a:00.0\", numa: 1, minor: 4, compute: \"8.0\"}
- {uuid: GPU-a, model: A100, memory: 81920, pci: \"0000:07:00.0\", numa: -1}
";

const MIG: &str = "v: 1
devices:
- uuid: GPU-a
  model: A100
  memory: 20000
  pci: \"0000:07:00.0\"
  mig:
  - {uuid: MIG-b, profile: 1g.10gb, memory: 9728, start: 0, size: 1}
  - {uuid: MIG-a, profile: 1g.10gb, memory: 9728, start: 1, size: 1}
";

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("topology.yaml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
}

/// The next event within a few seconds.
fn event(fake: &Fake) -> Result<Event, String> {
    match fake.next_event(Duration::from_secs(20)) {
        Ok(event) => Ok(event.expect("an event")),
        Err(error) => Err(error.to_string()),
    }
}

fn on(card: &str, kind: EventKind) -> Event {
    Event { subject: Subject::Card(card.into()), kind }
}

fn changed() -> Event {
    Event { subject: Subject::Node, kind: EventKind::Changed }
}

#[test]
fn the_documented_file_is_one() {
    let topology = Topology::parse(include_str!("../../../../docs/topology.yaml")).unwrap();
    assert_eq!(topology.discovery.cards.len(), 3);
    assert_eq!(topology.discovery.cards[2].instances.len(), 2);
    assert_eq!(topology.script.len(), 2);
    let used =
        topology.usage.iter().map(|card| (card.reading.memory.map(|memory| memory.used), card.processes.is_some()));
    assert_eq!(used.collect::<Vec<_>>(), [(Some(21_504), true), (None, false), (None, true)]);
}

#[test]
fn devices_are_numbered_in_the_order_of_pci() {
    let text = format!("{TWO}links: [{{a: 0, b: 1, nvlink: 12, pcie: same-cpu}}]\n");
    let Topology { discovery, .. } = Topology::parse(&text).unwrap();
    assert_eq!(discovery.driver, "580.95.05");
    let [a, b] = &discovery.cards[..] else { panic!("{discovery:?}") };
    assert_eq!((&*a.uuid, a.index, a.numa, a.minor, a.compute), ("GPU-a", 0, None, 0, (0, 0)));
    assert_eq!((&*b.uuid, b.index, b.numa, b.minor, b.compute), ("GPU-b", 1, Some(1), 4, (8, 0)));
    for (card, peer) in [(a, "GPU-b"), (b, "GPU-a")] {
        let [link] = &card.links[..] else { panic!("{card:?}") };
        assert_eq!((&*link.peer, link.nvlink, link.pcie), (peer, 12, Some(Pcie::SameCpu)));
    }
}

#[test]
fn a_card_with_the_key_mig_is_in_mig_mode() {
    let Topology { discovery, .. } = Topology::parse(MIG).unwrap();
    let card = &discovery.cards[0];
    assert!(card.mig_mode && card.mig_capable);
    let uuids: Vec<_> = card.instances.iter().map(|instance| &*instance.uuid).collect();
    assert_eq!(uuids, ["MIG-a", "MIG-b"], "sorted");
    let empty = "v: 1\ndevices: [{uuid: GPU-a, model: A, memory: 1, pci: '0000:07:00.0', mig: []}]";
    assert!(Topology::parse(empty).unwrap().discovery.cards[0].mig_mode);
}

#[test]
fn mistakes_are_named_with_line_and_key() {
    let two = |line: &str| format!("{TWO}{line}\n");
    let mig = |from: &str, to: &str| {
        assert!(MIG.contains(from), "{from}");
        MIG.replacen(from, to, 1)
    };
    let first = |from: &str, to: &str| {
        assert!(TWO.contains(from), "{from}");
        TWO.replacen(from, to, 1)
    };
    let cases: Vec<(String, u64, &[&str])> = vec![
        (first("v: 1", "v: 2"), 1, &["v: 2", "v: 1"]),
        (first("driver", "drvier"), 2, &["drvier", "driver"]),
        (first("minor: 4", "minr: 4"), 4, &["minr", "minor"]),
        (first("GPU-b", "GPU b"), 4, &["uuid", "GPU b", "letters"]),
        (first("GPU-b", "MIG-b"), 4, &["uuid", "GPU-"]),
        (first("GPU-b", "GPU-a"), 4, &["uuid", "GPU-a", "line 5"]),
        (first("0000:0a:00.0", "0000:07:00.0"), 5, &["pci", "line 4"]),
        (first("0000:0a:00.0", "0000:0A:00.0"), 4, &["pci", "lower case"]),
        (first("minor: 4", "minor: 0"), 4, &["minor", "line 5"]),
        (first("memory: 81920", "memory: 0"), 4, &["memory", "MiB"]),
        (first("memory: 81920", "memory: 80Gi"), 4, &["memory", "80Gi"]),
        (first("numa: 1", "numa: -2"), 4, &["numa", "-1 where unknown"]),
        (first("\"8.0\"", "eight"), 4, &["compute", "\"8.0\""]),
        (two("links: [{a: 0, b: 2}]"), 6, &["b: 2", "0 to 1"]),
        (two("links: [{a: 1, b: 1}]"), 6, &["b: 1", "same device"]),
        (two("links: [{a: 0, b: 1, pcie: near}]"), 6, &["near", "cross-cpu"]),
        (two("links:\n- {a: 0, b: 1}\n- {a: 1, b: 0}"), 8, &["links", "line 7"]),
        (two("events: [{after: 1s, device: 0, kind: exploded}]"), 6, &["exploded", "xid", "recovered"]),
        (two("events: [{after: 1s, device: 7, kind: lost}]"), 6, &["device: 7", "0 to 1"]),
        (two("events: [{after: 1s, device: 0, kind: xid}]"), 6, &["code: missing"]),
        (two("events: [{after: 1s, device: 0, kind: ecc, code: 48}]"), 6, &["code", "remove"]),
        (two("usage: [{device: 2}]"), 6, &["device: 2", "0 to 1"]),
        (two("usage:\n- {device: 1}\n- {device: 1}"), 8, &["device", "line 7"]),
        (two("usage: [{device: 0, memoryUsed: 81921}]"), 6, &["memoryUsed: 81921", "81920"]),
        (two("usage: [{device: 0, utilization: 101}]"), 6, &["utilization: 101", "percentage"]),
        (two("usage: [{device: 0, heat: 1}]"), 6, &["heat", "temperature"]),
        (two("usage: [{device: 0, processes: [{pid: -1}]}]"), 6, &["pid"]),
        (two("usage: [{device: 0, processes: [{pid: 1, instance: MIG-a}]}]"), 6, &["instance: MIG-a", "GPU-a"]),
        (two("events: [{after: 5, device: 0, kind: ecc}]"), 6, &["after: 5", "unit"]),
        (mig("start: 1", "start: 0"), 9, &["start", "MIG-b"]),
        (mig("start: 1, size: 1", "start: 7, size: 2"), 9, &["start: 7", "size 2"]),
        (mig("start: 1, size: 1", "start: 1, size: 0"), 9, &["size"]),
        (mig("1g.10gb, memory: 9728, start: 1", "1g, memory: 9728, start: 1"), 9, &["profile", "1g.10gb"]),
        (mig("memory: 9728, start: 1", "memory: 19728, start: 1"), 9, &["memory", "29456", "20000"]),
        (mig("MIG-a", "MIG-b"), 9, &["uuid", "MIG-b", "line 8"]),
    ];
    for (text, line, parts) in cases {
        let mistake = Topology::parse(&text).unwrap_err();
        assert_eq!(mistake.line, Some(line), "{text}\n{mistake}");
        for part in parts {
            assert!(mistake.message.contains(part), "{mistake} lacks {part:?}\n{text}");
        }
    }
}

#[test]
fn text_that_is_no_topology_is_a_mistake() {
    for text in ["", "v: 1", "[]", "devices: []", "v: 1\ndevices: {", "v: 1\ndevices: []\n---\nv: 1\ndevices: []\n"] {
        assert!(Topology::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(Topology::parse("v: 1\ndevices: []").unwrap().discovery.cards, []);
}

#[test]
fn scripted_events_happen_in_order_and_probes_agree() {
    let file = File::new(&format!(
        "{TWO}events:\n- {{after: 60ms, device: 1, kind: recovered}}\n- {{after: 0s, device: 0, kind: xid, code: 13}}\n\
         - {{after: 20ms, device: 1, kind: xid, code: 79}}\n- {{after: 40ms, device: 0, kind: ecc}}\n"
    ));
    let fake = Fake::new(file.path());
    fake.discover().unwrap();
    assert_eq!(event(&fake).unwrap(), on("GPU-a", EventKind::Xid(13)));
    assert_eq!(fake.probe("GPU-a"), Probe::Well);
    assert_eq!(event(&fake).unwrap(), on("GPU-b", EventKind::Xid(79)));
    assert!(matches!(fake.probe("GPU-b"), Probe::Lost(_)));
    assert_eq!(event(&fake).unwrap(), on("GPU-a", EventKind::DoubleBitEcc));
    assert!(matches!(fake.probe("GPU-a"), Probe::Ill(_)));
    assert_eq!(event(&fake).unwrap(), on("GPU-b", EventKind::Recovered));
    assert_eq!(fake.probe("GPU-b"), Probe::Well);
    assert!(fake.start.elapsed() >= Duration::from_millis(60));
    assert_eq!(fake.next_event(Duration::ZERO).unwrap(), None);
}

#[test]
fn a_change_of_the_file_is_an_event_and_repeats_none() {
    let lost = format!("{TWO}events: [{{after: 0s, device: 0, kind: lost}}]\n");
    let file = File::new(&lost);
    let fake = Fake::new(file.path());
    assert_eq!(fake.discover().unwrap().cards.len(), 2);
    assert_eq!(event(&fake).unwrap(), on("GPU-a", EventKind::Lost));

    file.write(&format!("# the same devices\n{lost}"));
    assert_eq!(event(&fake).unwrap(), changed());
    assert_eq!(fake.next_event(Duration::ZERO).unwrap(), None, "what happened does not happen again");
    assert!(matches!(fake.probe("GPU-a"), Probe::Lost(_)), "nor is it undone");

    file.write(&lost.replace("]\n", ", {after: 0s, device: 0, kind: recovered}]\n"));
    assert_eq!(event(&fake).unwrap(), changed());
    assert_eq!(event(&fake).unwrap(), on("GPU-a", EventKind::Recovered));
}

#[test]
fn what_is_in_use_is_as_the_file_says_now_and_its_change_is_no_event() {
    let file = File::new(&format!("{TWO}usage: [{{device: 1, temperature: 40}}]\n"));
    let fake = Fake::new(file.path());
    fake.discover().unwrap();
    let heat = |fake: &Fake| fake.usage().unwrap().cards[1].reading.temperature;
    assert_eq!(heat(&fake), Some(40));
    file.write(&format!("{TWO}usage: [{{device: 1, temperature: 50}}]\n"));
    assert_eq!(heat(&fake), Some(50));
    assert_eq!(fake.next_event(Duration::ZERO).unwrap(), None);
    file.write("v: 1\n");
    assert_eq!(heat(&fake), Some(50), "what the last good file said stays");
}

#[test]
fn a_card_that_is_taken_out_does_not_answer_and_is_as_new_when_put_in_again() {
    let full = format!("{TWO}events: [{{after: 0s, device: 0, kind: lost}}]\n");
    let file = File::new(&full);
    let fake = Fake::new(file.path());
    fake.discover().unwrap();
    event(&fake).unwrap();
    let without: String = TWO.lines().filter(|line| !line.contains("GPU-a")).map(|line| format!("{line}\n")).collect();
    file.write(&without);
    assert_eq!(event(&fake).unwrap(), changed());
    assert!(matches!(fake.probe("GPU-a"), Probe::Lost(_)));
    assert_eq!(fake.discover().unwrap().cards.len(), 1);
    file.write(TWO);
    assert_eq!(event(&fake).unwrap(), changed());
    assert_eq!(fake.probe("GPU-a"), Probe::Well);
}

#[test]
fn a_damaged_change_is_told_once_by_file_and_line_and_changes_nothing() {
    let file = File::new(TWO);
    let fake = Fake::new(file.path());
    fake.discover().unwrap();
    file.write(&TWO.replace("numa: 1", "nuna: 1"));
    let error = event(&fake).unwrap_err();
    for part in [file.path().to_str().unwrap(), "line 4", "nuna"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert_eq!(fake.next_event(Duration::from_millis(300)).unwrap(), None, "told once");
    assert_eq!(fake.discover().unwrap_err().to_string(), error, "told to everybody who discovers");
    assert_eq!(fake.probe("GPU-b"), Probe::Well, "the last good state is kept");

    std::fs::remove_file(file.path()).unwrap();
    assert!(event(&fake).unwrap_err().contains(file.path().to_str().unwrap()));
    file.write(TWO);
    assert_eq!(event(&fake).unwrap(), changed());
    fake.discover().unwrap();
}

#[test]
fn a_file_beyond_all_measure_is_refused() {
    let file = File::new(&"#".repeat(2 << 20));
    let error = Fake::new(file.path()).discover().unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
