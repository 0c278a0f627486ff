//! Events: what each is about, and that the loss of one card does not make the agent deaf to the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use packhorse::agent::backend::{Backend as _, Event, EventKind, Subject};

use super::fake::{Fake, discover, event, uuid};
use super::mig::{instance, mig_uuid, with_instances};

fn of_card(index: usize, kind: EventKind) -> Event {
    Event { subject: Subject::Card(uuid(index).into()), kind }
}

#[test]
fn tells_xids_and_memory_errors_of_a_card() {
    let mut fake = Fake::with_cards(2);
    let nvml = fake.backend();
    discover(&nvml);
    // A P-state change is nobody's concern.
    fake.add("event 1 8 79 - -\nevent 0 4 1 - -\nevent 0 2 0 - -\nevent 0 0x100 0 - -");
    assert_eq!(event(&nvml), of_card(1, EventKind::Xid(79)));
    assert_eq!(event(&nvml), of_card(0, EventKind::DoubleBitEcc));
    assert_eq!(event(&nvml), of_card(0, EventKind::Changed));
}

#[test]
fn an_event_before_the_first_wait_is_not_missed() {
    let mut fake = Fake::with_cards(1);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("event 0 8 48 - -");
    assert_eq!(event(&nvml), of_card(0, EventKind::Xid(48)));
}

#[test]
fn an_xid_of_an_instance_leaves_the_rest_of_its_card_alone() {
    let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb"), instance(1, 3, 1, 40_320, "1c.3g.40gb")]);
    let nvml = fake.backend();
    discover(&nvml);
    // GPU instances 3 and 4; the second is a part and not published, and its error is still its own. 9 is unknown.
    fake.add("event 0 8 43 3 0\nevent 0 8 45 3 -\nevent 0 8 94 4 0\nevent 0 8 95 9 0\nevent 0 8 79 - -");
    for (expected, xid) in [(Some(0), 43), (Some(0), 45), (Some(1), 94), (None, 95), (None, 79)] {
        let subject = expected
            .map_or_else(|| Subject::Card(Arc::from(uuid(0))), |index| Subject::Instance(Arc::from(mig_uuid(index))));
        assert_eq!(event(&nvml), Event { subject, kind: EventKind::Xid(xid) });
    }
}

#[test]
fn an_instance_that_cannot_be_told_may_be_any() {
    let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb")]);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("fail nvmlDeviceGetGpuInstanceId 0/0 999\nevent 0 8 43 3 0");
    assert_eq!(event(&nvml), of_card(0, EventKind::Xid(43)));
}

#[test]
fn waits_as_long_as_it_is_told() {
    let fake = Fake::with_cards(1);
    let nvml = fake.backend();
    discover(&nvml);
    for timeout in [Duration::ZERO, Duration::from_millis(700)] {
        let start = Instant::now();
        assert_eq!(nvml.next_event(timeout), Ok(None));
        let waited = start.elapsed();
        assert!(waited >= timeout && waited < timeout + Duration::from_secs(5), "{waited:?} of {timeout:?}");
    }
}

#[test]
fn a_node_whose_cards_send_no_events_waits_quietly() {
    let mut fake = Fake::with_cards(1);
    fake.remove("set 0 events 0x10b");
    let nvml = fake.backend();
    discover(&nvml);
    let start = Instant::now();
    assert_eq!(nvml.next_event(Duration::from_millis(50)), Ok(None));
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn the_loss_of_a_card_is_told_once_and_the_others_are_still_heard() {
    let mut fake = Fake::with_cards(3);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("lost 1");
    assert_eq!(event(&nvml), of_card(1, EventKind::Lost));
    assert_eq!(nvml.next_event(Duration::from_millis(100)), Ok(None));
    for xid in [48, 63] {
        fake.add(&format!("event 2 8 {xid} - -"));
        assert_eq!(event(&nvml), of_card(2, EventKind::Xid(xid)));
        discover(&nvml);
        assert_eq!(nvml.next_event(Duration::from_millis(100)), Ok(None));
    }
}

#[test]
fn a_card_that_is_back_is_heard_again() {
    let mut fake = Fake::with_cards(2);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("lost 1");
    assert_eq!(event(&nvml), of_card(1, EventKind::Lost));
    fake.remove("lost 1");
    discover(&nvml);
    fake.add("event 1 8 48 - -");
    assert_eq!(event(&nvml), of_card(1, EventKind::Xid(48)));
}

#[test]
fn an_error_of_one_cards_registration_leaves_the_others_heard() {
    let mut fake = Fake::with_cards(2);
    fake.add("fail nvmlDeviceRegisterEvents 0 999");
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("event 1 8 48 - -");
    assert_eq!(event(&nvml), of_card(1, EventKind::Xid(48)));
}

#[test]
fn a_failed_wait_names_the_function() {
    for function in ["nvmlEventSetCreate", "nvmlEventSetWait_v2"] {
        let missing = Fake::with_cards(1).without(function);
        let mut failing = Fake::with_cards(1);
        failing.add(&format!("fail {function} - 999"));
        for fake in [missing, failing] {
            let nvml = fake.backend();
            assert_eq!(discover(&nvml).cards.len(), 1);
            let error = nvml.next_event(Duration::from_millis(50)).unwrap_err().to_string();
            assert!(error.contains(function), "{error}");
        }
    }
}
