use proptest::prelude::*;

use super::*;
use crate::agent::backend::EventKind;

const SETTINGS: Settings = Settings {
    probes: 3,
    strikes: 3,
    quiet: Duration::from_secs(30),
    quiet_after_fatal: Duration::from_secs(300),
    observation: Duration::from_secs(10),
};

fn ill() -> Probe {
    Probe::Ill("a row remapping is pending".to_owned())
}

fn lost() -> Probe {
    Probe::Lost("GPU is lost".to_owned())
}

/// A device that was told of and probed at given seconds.
struct Watched {
    condition: Condition,
    start: Instant,
}

impl Watched {
    fn new() -> Self {
        Self { condition: Condition::default(), start: Instant::now() }
    }

    fn probe(&mut self, second: u64, probe: &Probe) -> Health {
        self.condition.probed(probe, self.start + Duration::from_secs(second), &SETTINGS);
        self.condition.health()
    }

    fn fault(&mut self, second: u64, severity: Severity) -> Health {
        self.condition.fault(severity, "Xid", self.start + Duration::from_secs(second), &SETTINGS);
        self.condition.health()
    }

    fn recovered(&mut self, second: u64) -> Health {
        self.condition.recovered(self.start + Duration::from_secs(second));
        self.condition.health()
    }
}

#[test]
fn bad_probes_make_suspect_then_unhealthy_and_good_ones_lead_back() {
    let mut device = Watched::new();
    assert_eq!(device.probe(0, &ill()), Health::Suspect);
    assert_eq!(device.probe(1, &ill()), Health::Suspect);
    assert_eq!(device.probe(2, &ill()), Health::Unhealthy);
    assert_eq!(device.condition.cause().map(|cause| &**cause), Some("a row remapping is pending"));
    assert_eq!(device.probe(31, &Probe::Well), Health::Unhealthy, "not quiet for long enough");
    assert_eq!(device.probe(32, &Probe::Well), Health::Recovering);
    assert_eq!(device.probe(41, &Probe::Well), Health::Recovering, "still under observation");
    assert_eq!(device.probe(42, &Probe::Well), Health::Healthy);
    assert_eq!(device.condition, Condition::default(), "nothing is held against it");
}

#[test]
fn a_good_probe_between_two_bad_ones_is_no_row() {
    let mut device = Watched::new();
    for second in [0, 2, 4, 6] {
        assert_eq!(device.probe(second, &ill()), Health::Suspect);
        assert_eq!(device.probe(second + 1, &Probe::Well), Health::Suspect, "and no way back either");
    }
}

#[test]
fn a_lost_card_is_given_up_at_once() {
    assert_eq!(Watched::new().probe(0, &lost()), Health::Unhealthy);
}

#[test]
fn what_only_an_event_told_of_is_believed_longer_than_what_a_probe_saw_end() {
    let mut unseen = Watched::new();
    assert_eq!(unseen.fault(0, Severity::Fatal), Health::Unhealthy);
    assert_eq!(unseen.probe(299, &Probe::Well), Health::Unhealthy);
    assert_eq!(unseen.probe(300, &Probe::Well), Health::Recovering);

    let mut seen = Watched::new();
    seen.fault(0, Severity::Fatal);
    seen.probe(1, &lost());
    assert_eq!(seen.probe(31, &Probe::Well), Health::Recovering);
}

#[test]
fn lesser_faults_make_suspect_and_too_many_of_them_unhealthy() {
    let mut device = Watched::new();
    assert_eq!(device.fault(0, Severity::Suspect), Health::Suspect);
    assert_eq!(device.fault(1, Severity::Suspect), Health::Suspect);
    assert_eq!(device.fault(2, Severity::Suspect), Health::Unhealthy);

    let mut device = Watched::new();
    for round in 0..5 {
        assert_eq!(device.fault(round * 100, Severity::Suspect), Health::Suspect, "forgiven in between");
        device.probe(round * 100 + 30, &Probe::Well);
        assert_eq!(device.probe(round * 100 + 40, &Probe::Well), Health::Healthy);
    }
}

#[test]
fn a_lesser_fault_does_not_shorten_the_wait_after_a_fatal_one() {
    let mut device = Watched::new();
    device.fault(0, Severity::Fatal);
    assert_eq!(device.fault(10, Severity::Suspect), Health::Unhealthy);
    assert_eq!(device.probe(60, &Probe::Well), Health::Unhealthy);
}

#[test]
fn a_device_said_to_be_recovered_is_healthy_after_one_good_probe() {
    let mut device = Watched::new();
    device.fault(0, Severity::Fatal);
    assert_eq!(device.recovered(1), Health::Recovering);
    assert_eq!(device.probe(1, &Probe::Well), Health::Healthy);

    let mut device = Watched::new();
    device.fault(0, Severity::Fatal);
    device.recovered(1);
    assert_eq!(device.probe(1, &lost()), Health::Unhealthy, "words do not help a card that is not there");
    assert_eq!(Watched::new().recovered(0), Health::Healthy);
}

#[test]
fn a_relapse_starts_the_way_back_again() {
    let mut device = Watched::new();
    device.probe(0, &lost());
    device.probe(30, &Probe::Well);
    assert_eq!(device.fault(35, Severity::Suspect), Health::Suspect);
    assert_eq!(device.probe(60, &Probe::Well), Health::Suspect);
    assert_eq!(device.probe(65, &Probe::Well), Health::Recovering);
}

#[test]
fn errors_of_programs_say_nothing_about_the_card() {
    let checks = Checks::default();
    for code in [13, 31, 43, 45, 68, 109] {
        assert_eq!(checks.severity(EventKind::Xid(code)), None, "{code}");
    }
    for (code, expected) in [
        (79, Severity::Fatal),
        (48, Severity::Fatal),
        (94, Severity::Suspect),
        (63, Severity::Suspect),
        (9999, Severity::Fatal),
    ] {
        assert_eq!(checks.severity(EventKind::Xid(code)), Some(expected), "{code}");
    }
}

#[test]
fn the_two_variables_decide_what_counts() {
    let xid = |code| EventKind::Xid(code);
    let cases: [(&str, &str, EventKind, bool); 17] = [
        ("", "", EventKind::DoubleBitEcc, true),
        ("all", "", xid(79), false),
        ("ALL", "", EventKind::Lost, false),
        ("all", "79", xid(79), true),
        ("all", "79", xid(48), false),
        ("all", "all", xid(79), true),
        ("all", "all", EventKind::Lost, true),
        ("all", "xids", xid(79), true),
        ("all", "xids", EventKind::Lost, false),
        ("xids", "", xid(79), false),
        ("xids", "", EventKind::DoubleBitEcc, true),
        ("79, 48", "", xid(48), false),
        ("79,48,", "", xid(74), true),
        ("79", "79", xid(79), true),
        ("", "13", xid(13), true),
        ("", "all", xid(13), false),
        ("xids,48", "xids", xid(48), false),
    ];
    for (disable, enable, kind, expected) in cases {
        let checks = Checks::parse(disable, enable).unwrap();
        assert_eq!(checks.severity(kind).is_some(), expected, "{disable:?} {enable:?} {kind:?}");
    }
    assert!(!Checks::parse("all", "").unwrap().probes());
    assert!(Checks::parse("xids", "").unwrap().probes());
}

#[test]
fn nonsense_in_a_variable_is_named_with_what_may_stand_there() {
    for (disable, enable, parts) in [
        ("xid", "", ["DP_DISABLE_HEALTHCHECKS", "\"xid\""]),
        ("13 31", "", ["DP_DISABLE_HEALTHCHECKS", "\"13 31\""]),
        ("", "-1", ["DP_ENABLE_HEALTHCHECKS", "\"-1\""]),
        ("", "0", ["DP_ENABLE_HEALTHCHECKS", "\"0\""]),
    ] {
        let error = Checks::parse(disable, enable).unwrap_err().to_string();
        for part in parts.into_iter().chain(["`all`", "`xids`"]) {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}

#[derive(Debug, Clone)]
enum Sign {
    Suspect,
    Fatal,
    Well,
    Ill,
    Lost,
    Recovered,
}

fn signs() -> impl Strategy<Value = Vec<(u64, Sign)>> {
    use Sign::{Fatal, Ill, Lost, Recovered, Suspect, Well};
    let sign = prop_oneof![4 => Just(Well), 1 => Just(Suspect), 1 => Just(Fatal), 2 => Just(Ill), 1 => Just(Lost), 1 => Just(Recovered)];
    proptest::collection::vec((0..120_u64, sign), 0..60)
}

proptest! {
    #[test]
    fn no_history_keeps_a_device_from_becoming_healthy_and_each_step_is_allowed(history in signs()) {
        let mut now = Instant::now();
        let mut condition = Condition::default();
        for (pause, sign) in history {
            now += Duration::from_secs(pause);
            let before = condition.health();
            let step = match sign {
                Sign::Suspect => condition.fault(Severity::Suspect, "Xid 94", now, &SETTINGS),
                Sign::Fatal => condition.fault(Severity::Fatal, "Xid 79", now, &SETTINGS),
                Sign::Well => condition.probed(&Probe::Well, now, &SETTINGS),
                Sign::Ill => condition.probed(&ill(), now, &SETTINGS),
                Sign::Lost => condition.probed(&lost(), now, &SETTINGS),
                Sign::Recovered => condition.recovered(now),
            };
            let after = condition.health();
            prop_assert_eq!(step, (before != after).then_some(Transition { from: before, to: after }));
            prop_assert_eq!(condition.cause().is_none(), after == Health::Healthy, "who is not well has a reason");
            match sign {
                Sign::Fatal | Sign::Lost => prop_assert_eq!(after, Health::Unhealthy),
                Sign::Suspect | Sign::Ill => prop_assert!(matches!(after, Health::Suspect | Health::Unhealthy)),
                Sign::Well => prop_assert!(
                    after == before || after == Health::Recovering || (before, after) == (Health::Recovering, Health::Healthy),
                    "a good probe made {:?} of {:?}", after, before
                ),
                Sign::Recovered => prop_assert!(matches!(after, Health::Recovering | Health::Healthy)),
            }
            if before == Health::Unhealthy {
                prop_assert!(after != Health::Suspect && after != Health::Healthy, "{:?} too early", after);
            }
        }
        let longest = SETTINGS.quiet_after_fatal + SETTINGS.observation + Duration::from_secs(30);
        let end = now + longest;
        while now < end {
            now += Duration::from_secs(10);
            condition.probed(&Probe::Well, now, &SETTINGS);
        }
        prop_assert_eq!(condition.health(), Health::Healthy, "stuck");
        prop_assert_eq!(condition, Condition::default());
    }

    #[test]
    fn with_all_checks_disabled_nothing_counts(code in 1..2000_u64) {
        let checks = Checks::parse("all", "").unwrap();
        for kind in [EventKind::Xid(code), EventKind::DoubleBitEcc, EventKind::Lost] {
            prop_assert_eq!(checks.severity(kind), None);
        }
    }
}
