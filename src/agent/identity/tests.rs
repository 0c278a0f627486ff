//! Evidence as kubelets give it, in the cases where a guess would go wrong.

use super::checkpoint::Entry;
use super::pod_resources::ListedContainer;
use super::*;

const GPU: &str = "nvidia.com/gpu";

fn slots(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn entry(pod: &str, container: &str, ids: &[&str]) -> Entry {
    Entry {
        pod_uid: pod.to_owned(),
        container: container.to_owned(),
        resource: GPU.to_owned(),
        ids: slots(ids),
        device: DeviceName::from_qualified(&format!("packhorse.dev/gpu={pod}{container}")),
    }
}

fn listed(name: &str, containers: &[(&str, &[&str])]) -> ListedPod {
    let containers = containers.iter().map(|(container, ids)| ListedContainer {
        name: (*container).to_owned(),
        resource: GPU.to_owned(),
        ids: slots(ids),
    });
    ListedPod { namespace: "ns".to_owned(), name: name.to_owned(), containers: containers.collect() }
}

fn evidence(entries: &[Entry], pods: &[ListedPod], ids: &[&str]) -> Evidence {
    Evidence::new(&Checkpoint { entries: entries.to_vec() }, pods, GPU, &slots(ids))
}

fn names(candidate: &Candidate) -> Vec<&str> {
    candidate.claimants.iter().map(|claimant| &*claimant.container).collect()
}

const PHASES: [(&str, Phase); 5] = [
    ("init1", Phase::Init),
    ("init2", Phase::Init),
    ("side", Phase::Sidecar),
    ("app", Phase::App),
    ("other", Phase::App),
];

fn confirm(evidence: &Evidence, name: &str) -> Result<(), String> {
    let phases: Vec<_> = PHASES.iter().map(|(name, phase)| (Arc::from(*name), *phase)).collect();
    evidence.confirm(&evidence.candidates[0], ("ns", name), &phases).map_err(|disagreement| disagreement.0)
}

#[test]
fn every_container_that_shares_the_slots_is_a_claimant() {
    let entries = [
        entry("u1", "init1", &["a"]),
        entry("u1", "init2", &["a"]),
        entry("u1", "app", &["a"]),
        entry("u1", "other", &["b"]),
        entry("u2", "app", &["c"]),
    ];
    let pods = [listed("p1", &[("app", &["a"]), ("other", &["b"])]), listed("p2", &[("app", &["c"])])];
    let found = evidence(&entries, &pods, &["a"]);
    assert_eq!(found.candidates.len(), 1);
    assert_eq!(names(&found.candidates[0]), ["app", "init1", "init2"]);
    let devices: BTreeSet<_> = found.candidates[0].claimants.iter().map(|c| c.device.clone()).collect();
    assert_eq!(devices.len(), 3, "each has a name of its own");
    assert_eq!(found.holder(), Ok(Some(("ns", "p1"))));
    assert_eq!(confirm(&found, "p1"), Ok(()));
}

#[test]
fn an_init_container_with_more_slots_is_not_its_app() {
    let entries = [entry("u1", "init1", &["a", "b"]), entry("u1", "app", &["a"]), entry("u1", "other", &["b"])];
    let pods = [listed("p1", &[("app", &["a"]), ("other", &["b"])])];
    for (ids, expected) in [(&["a", "b"][..], "init1"), (&["a"], "app"), (&["b"], "other")] {
        let found = evidence(&entries, &pods, ids);
        assert_eq!(names(&found.candidates[0]), [expected], "{ids:?}");
        assert_eq!(confirm(&found, "p1"), Ok(()), "{ids:?}");
    }
}

#[test]
fn an_init_container_of_its_own_slots_needs_no_confirmation() {
    let found = evidence(&[entry("u1", "init1", &["a"])], &[listed("p1", &[])], &["a"]);
    assert_eq!(found.holder(), Ok(None));
    assert_eq!(confirm(&found, "p1"), Ok(()));
}

#[test]
fn refuses_where_the_two_records_disagree() {
    let other_pod = listed("p2", &[("app", &["a"])]);
    for (case, entries, pods, expected) in [
        ("another pod", vec![entry("u1", "app", &["a"])], vec![other_pod.clone()], "to ns/p2"),
        ("no pod", vec![entry("u1", "app", &["a"])], vec![listed("p1", &[])], "its PodResources does not"),
        (
            "other slots",
            vec![entry("u1", "app", &["a"])],
            vec![listed("p1", &[("app", &["a", "b"])])],
            "its PodResources does not",
        ),
        ("a dead pod", vec![entry("u1", "init1", &["a"])], vec![listed("p2", &[])], "does not list"),
        (
            "an unconfirmed sidecar",
            vec![entry("u1", "side", &["a"]), entry("u1", "app", &["a"])],
            vec![listed("p1", &[("app", &["a"])])],
            "container side",
        ),
        (
            "another container",
            vec![entry("u1", "app", &["a"])],
            vec![listed("p1", &[("app", &["a"]), ("other", &["a"])])],
            "its checkpoint does not",
        ),
        (
            "a container that the pod lacks",
            vec![entry("u1", "ghost", &["a"])],
            vec![listed("p1", &[("ghost", &["a"])])],
            "does not have",
        ),
        ("two pods", vec![entry("u1", "app", &["a"])], vec![listed("p1", &[("app", &["a"])]), other_pod], "two pods"),
        (
            "a part of them is another pod's",
            vec![entry("u1", "app", &["a", "b"])],
            vec![listed("p1", &[("app", &["a", "b"])]), listed("p2", &[("app", &["b"])])],
            "two pods",
        ),
    ] {
        let ids: Vec<&str> = entries[0].ids.iter().map(String::as_str).collect();
        let problem = confirm(&evidence(&entries, &pods, &ids), "p1").expect_err(case);
        assert!(problem.contains(expected), "{case}: {problem}");
    }
}

#[test]
fn another_resource_with_equal_ids_is_not_meant() {
    let mut entries = [entry("u1", "app", &["a"])];
    entries[0].resource = "nvidia.com/mig-1g.10gb".to_owned();
    assert_eq!(evidence(&entries, &[], &["a"]).candidates, []);
}

#[test]
fn a_dead_pod_is_known_by_uid_or_by_name_but_not_by_both() {
    let known = Known {
        uids: ["old".to_owned(), "new".to_owned()].into(),
        live: [("ns".to_owned(), "web-0".to_owned())].into(),
    };
    assert!(known.has("new", "ns", "web-0"));
    assert!(!known.has("gone", "ns", "web-0"), "recreated under the same name");
    assert!(!known.has("old", "ns", "web-1"), "left over in the checkpoint");
}
