use super::*;
use crate::gpu::device::{Device, Enforcement, ForeignPod, Health};
use crate::kube_api::inventory::decode;

fn device(uuid: &str) -> Device {
    Device {
        uuid: uuid.into(),
        index: 0,
        model: "NVIDIA T4".into(),
        memory: 15360,
        cores: 100,
        slots: 10,
        numa: None,
        pci: "0000:07:00.0".into(),
        health: Health::Healthy,
        enforcement: Enforcement::Advisory,
        links: Vec::new(),
        mig: None,
        parent: None,
        foreign: None,
    }
}

fn part(view: NodeView, standing: Standing) -> (Inventory, watch::Sender<Arc<NodeView>>, watch::Sender<Standing>) {
    let (view_sender, view) = watch::channel(Arc::new(view));
    let (standing_sender, standing) = watch::channel(standing);
    (Inventory::new(view, standing, watch::Sender::new(None)), view_sender, standing_sender)
}

fn text(write: Option<Write>) -> String {
    let Some(Write::Merge(patch)) = write else { panic!("a merge patch: {write:?}") };
    patch["metadata"]["annotations"][INVENTORY].as_str().unwrap().to_owned()
}

fn two_cards() -> NodeView {
    NodeView { driver: "580.95.05".to_owned(), devices: vec![device("GPU-1"), device("GPU-2")], ..NodeView::default() }
}

#[test]
fn tells_of_readiness_refused_pods_and_foreign_ones() {
    let refused = Refused { pod: "ns/p".to_owned(), uid: "u".to_owned(), reason: "r".repeat(5000) };
    let foreign = ForeignPod { pod: "ns/f".to_owned(), uid: "f".to_owned() };
    let standing = Standing {
        ready: true,
        refused: [("u".into(), refused)].into(),
        foreign: [("GPU-2".into(), foreign.clone())].into(),
    };
    let (mut part, _view, _standing) = part(two_cards(), standing);
    let read = decode(&text(part.due(&OwnNode::default()))).unwrap().value;
    assert!(read.ready);
    assert_eq!(read.driver, "580.95.05");
    assert_eq!(read.devices[0].foreign, None);
    assert_eq!(read.devices[1].foreign, Some(foreign));
    assert!(read.refused[0].reason.chars().count() <= LONGEST_REASON + 1, "a node's annotations have a limit");
}

#[test]
fn is_written_only_where_the_node_has_another() {
    let (mut part, view, standing) = part(two_cards(), Standing::default());
    let written = text(part.due(&OwnNode::default()));
    let node = OwnNode { inventory: Some(written.clone()), ..OwnNode::default() };
    assert_eq!(part.due(&node), None);
    part.settled();
    let confirmed = part.confirmed.borrow().clone().unwrap();
    assert_eq!((&*confirmed.inventory, confirmed.standing.ready), (&*written, false));

    standing.send_modify(|standing| standing.ready = true);
    let ready = text(part.due(&node));
    assert_ne!(ready, written);
    assert_eq!(*part.confirmed.borrow(), None, "while it is on its way nobody knows which of the two is there");

    let mut failed = two_cards();
    failed.devices[0].health = Health::Unhealthy;
    view.send_replace(Arc::new(failed));
    assert!(text(part.due(&node)).contains("unhealthy"));
}

#[test]
fn before_devices_were_looked_for_what_an_earlier_agent_wrote_stands() {
    let (mut part, view, _standing) = part(NodeView::default(), Standing::default());
    let node = OwnNode { inventory: Some("earlier".to_owned()), ..OwnNode::default() };
    assert_eq!(part.due(&node), None);
    part.settled();
    assert_eq!(*part.confirmed.borrow(), None, "what we have not written is not confirmed");
    view.send_replace(Arc::new(NodeView { trouble: Some("no driver".to_owned()), ..NodeView::default() }));
    assert_eq!(text(part.due(&node)), r#"{"devices":[],"ready":false,"v":1}"#);
}

#[test]
fn the_list_of_refused_pods_has_an_end() {
    let refused = |n: usize| Refused { pod: format!("ns/{n}"), uid: n.to_string(), reason: "x".repeat(400) };
    let refused = (0..1000).map(|n| (Arc::from(n.to_string()), refused(n))).collect();
    let (mut part, _view, _standing) = part(two_cards(), Standing { refused, ..Standing::default() });
    let text = text(part.due(&OwnNode::default()));
    assert_eq!(decode(&text).unwrap().value.refused.len(), MOST_REFUSED);
    assert!(text.len() < 100 << 10, "{}", text.len());
}
