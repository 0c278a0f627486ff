//! Probes: what no event tells.

use packhorse::agent::backend::{Backend as _, Probe};

use super::fake::{Fake, discover, uuid};

fn probe(script: &str, without: &[&str]) -> Probe {
    let mut fake = without.iter().fold(Fake::with_cards(2), |fake, function| fake.without(function));
    let nvml = fake.backend();
    discover(&nvml);
    fake.change(script);
    assert_eq!(nvml.probe(&uuid(1)), Probe::Well, "{script}: the other card");
    nvml.probe(&uuid(0))
}

#[test]
fn a_card_that_answers_is_well_whatever_it_lacks() {
    let lacks = ["nvmlDeviceGetRemappedRows", "nvmlDeviceGetFieldValues", "nvmlDeviceGetRetiredPagesPendingStatus"];
    assert_eq!(probe("", &[]), Probe::Well);
    assert_eq!(probe("", &lacks), Probe::Well);
    assert_eq!(probe("set 0 field.230 0", &[]), Probe::Well);
}

#[test]
fn a_card_that_needs_care_is_ill() {
    for (script, word) in [
        ("set 0 rows 1 0", "reset"),
        ("set 0 retirement 1", "reset"),
        ("set 0 rows 0 1\nset 0 field.230 0", "exchanged"),
        ("set 0 field.230 1", "reset the card"),
        ("set 0 field.230 2", "reboot the node"),
        ("set 0 field.230 99", "action 99"),
        ("fail nvmlDeviceGetMemoryInfo_v2 0 999", "nvmlDeviceGetMemoryInfo_v2"),
        ("fail nvmlDeviceGetRemappedRows 0 16", "nvmlDeviceGetRemappedRows"),
    ] {
        let Probe::Ill(reason) = probe(script, &[]) else { panic!("{script}") };
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn a_replaced_row_does_not_matter_where_the_driver_asks_for_nothing() {
    assert_eq!(probe("set 0 rows 1 0\nset 0 field.230 0", &[]), Probe::Well);
}

#[test]
fn a_lost_card_does_not_answer() {
    let Probe::Lost(reason) = probe("lost 0", &[]) else { panic!("not lost") };
    assert!(reason.contains("GPU is lost"), "{reason}");
}

#[test]
fn a_card_recovers() {
    let mut fake = Fake::with_cards(1);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("lost 0");
    assert!(matches!(nvml.probe(&uuid(0)), Probe::Lost(_)));
    fake.remove("lost 0");
    assert_eq!(nvml.probe(&uuid(0)), Probe::Well);
}

#[test]
fn an_unknown_card_is_lost() {
    let fake = Fake::with_cards(1);
    let nvml = fake.backend();
    assert!(matches!(nvml.probe(&uuid(0)), Probe::Lost(_)), "before the first discovery");
    discover(&nvml);
    assert!(matches!(nvml.probe("GPU-other"), Probe::Lost(_)));
}
