//! No library, no driver, no GPU, another driver: states that come and go while the agent runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use packhorse::agent::backend::nvml::{Nvml, Settings};
use packhorse::agent::backend::{Backend as _, BackendError, DriverPlace, Event, EventKind, Subject};

use super::fake::{Fake, discover, event, uuid};

/// Reason and remedy.
fn absent(nvml: &Nvml) -> (String, String) {
    match nvml.discover() {
        Err(BackendError::Absent { reason, remedy }) => (reason, remedy),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_library_is_a_state_with_a_remedy() {
    let fake = Fake::with_cards(1);
    std::fs::remove_file(fake.library()).unwrap();
    let nvml = fake.backend();
    let (reason, remedy) = absent(&nvml);
    assert!(reason.contains("libnvidia-ml.so.1") && reason.contains("No such file"), "{reason}");
    assert!(remedy.contains("--nvml-library"), "{remedy}");
    assert!(matches!(nvml.next_event(Duration::ZERO), Err(BackendError::Absent { .. })));
    // The driver is installed.
    fake.install();
    assert_eq!(discover(&nvml).cards.len(), 1);
}

#[test]
fn a_file_that_is_no_library_is_a_state_too() {
    let fake = Fake::with_cards(1);
    std::fs::write(fake.library(), "no library").unwrap();
    let (reason, _) = absent(&fake.backend());
    assert!(reason.contains("libnvidia-ml.so.1"), "{reason}");
}

#[test]
fn a_driver_that_is_not_loaded_is_a_state_until_it_is() {
    for (code, word) in [(9, "modprobe nvidia"), (18, "different versions"), (4, "privileged"), (6, "nvidia-smi -L")] {
        let mut fake = Fake::with_cards(1);
        fake.add(&format!("init {code}"));
        let nvml = fake.backend();
        let (reason, remedy) = absent(&nvml);
        assert!(reason.contains("nvmlInit_v2") && remedy.contains(word), "{reason}; {remedy}");
        fake.remove(&format!("init {code}"));
        assert_eq!(discover(&nvml).cards.len(), 1, "{code}");
    }
}

#[test]
fn another_failure_to_initialise_is_a_failed_call() {
    let mut fake = Fake::with_cards(1);
    fake.add("init 999");
    let error = fake.backend().discover().unwrap_err();
    assert!(matches!(&error, BackendError::Failed { call, .. } if call == "nvmlInit_v2"), "{error}");
}

#[test]
fn a_driver_without_gpus_is_a_state() {
    let mut fake = Fake::with_cards(0);
    let nvml = fake.backend();
    assert!(absent(&nvml).0.contains("no GPU"));
    fake.change(&format!("cards 1\n{}", super::fake::card(0)));
    assert_eq!(discover(&nvml).cards.len(), 1);
}

#[test]
fn the_library_is_found_below_the_driver_root() {
    let fake = Fake::with_cards(1);
    let directory = fake.directory().join("root/usr/lib/x86_64-linux-gnu");
    std::fs::create_dir_all(&directory).unwrap();
    for name in ["libnvidia-ml.so.1", "libnvidia-ml.so.1.script"] {
        std::fs::copy(fake.directory().join(name), directory.join(name)).unwrap();
    }
    let settings = Settings { library: None, driver_root: fake.directory().join("root"), ..fake.settings() };
    let found = discover(&Nvml::new(settings));
    assert_eq!((found.cards.len(), found.place), (1, Some(DriverPlace::Host)));
    let nowhere = Settings { library: None, driver_root: PathBuf::from("/nowhere"), ..fake.settings() };
    assert!(absent(&Nvml::new(nowhere)).1.contains("NVIDIA_DRIVER_ROOT"));
}

#[test]
fn a_driver_containers_library_is_used_where_the_hosts_is_missing_or_does_not_fit_the_kernel() {
    let fake = Fake::with_cards(1);
    let install = |root: &str, script: &str| {
        let directory = fake.directory().join(root).join("usr/lib64");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(fake.library(), directory.join("libnvidia-ml.so.1")).unwrap();
        let known = std::fs::read_to_string(fake.directory().join("libnvidia-ml.so.1.script")).unwrap();
        std::fs::write(directory.join("libnvidia-ml.so.1.script"), format!("{script}\n{known}")).unwrap();
    };
    let settings = || Settings { library: None, driver_root: fake.directory().join("host"), ..fake.settings() };
    install("host/run/nvidia/driver", "driver 590.10");
    let found = discover(&Nvml::new(settings()));
    assert_eq!((&*found.driver, found.place), ("590.10", Some(DriverPlace::Container)));

    // A library that an older driver left behind on the host: another version than the kernel's module.
    install("host", "init 18");
    assert_eq!(discover(&Nvml::new(settings())).place, Some(DriverPlace::Container));

    install("host", "driver 570.1");
    let found = discover(&Nvml::new(settings()));
    assert_eq!((&*found.driver, found.place), ("570.1", Some(DriverPlace::Host)), "the host's own first");
}

#[test]
fn a_reloaded_driver_is_noticed_and_loaded_again() {
    let mut fake = Fake::with_cards(1).without("nvmlDeviceGetGpuFabricInfo");
    fake.add("set 0 fabric 171 7 3");
    let nvml = fake.backend();
    assert_eq!(discover(&nvml).cards[0].clique, None);

    // Another driver is installed and loaded, with another library in the place of the old one.
    fake.install();
    fake.change("epoch 2\ndriver 590.10");
    assert_eq!(event(&nvml), Event { subject: Subject::Node, kind: EventKind::Changed });
    let error = nvml.next_event(Duration::from_secs(2)).unwrap_err();
    assert!(error.to_string().contains("version mismatch"), "told once, then an error: {error}");

    let found = discover(&nvml);
    assert_eq!(found.driver, "590.10");
    assert!(found.cards[0].clique.is_some(), "the new library is loaded, not the old one initialised again");
    fake.add("event 0 8 48 - -");
    assert_eq!(event(&nvml), Event { subject: Subject::Card(uuid(0).into()), kind: EventKind::Xid(48) });
}

#[test]
fn a_discovery_alone_notices_a_reloaded_driver() {
    let mut fake = Fake::with_cards(1);
    let nvml = fake.backend();
    discover(&nvml);
    fake.change("epoch 2\ndriver 590.10");
    assert_eq!(discover(&nvml).driver, "590.10");
}

#[test]
fn a_driver_that_went_away_is_told_until_it_is_back() {
    let mut fake = Fake::with_cards(1);
    let nvml = fake.backend();
    discover(&nvml);
    fake.change("epoch 2\ninit 9");
    assert!(absent(&nvml).0.contains("Driver Not Loaded"));
    assert!(matches!(nvml.next_event(Duration::ZERO), Err(BackendError::Absent { .. })));
    assert!(matches!(nvml.probe(&uuid(0)), packhorse::agent::backend::Probe::Lost(_)));
    fake.remove("init 9");
    assert_eq!(discover(&nvml).cards.len(), 1);
}

#[test]
fn a_thread_that_waits_does_not_hold_up_a_reload() {
    let mut fake = Fake::with_cards(1);
    std::fs::create_dir_all(fake.directory().join("proc/driver/nvidia/gpus/0000:07:00.0")).unwrap();
    let nvml = Arc::new(fake.backend());
    discover(&nvml);
    let waiting = std::thread::spawn({
        let nvml = Arc::clone(&nvml);
        move || nvml.next_event(Duration::from_secs(20))
    });
    fake.change(&format!("cards 2\n{}", super::fake::card(1)));
    std::fs::create_dir_all(fake.directory().join("proc/driver/nvidia/gpus/0000:08:00.0")).unwrap();
    let start = Instant::now();
    assert_eq!(discover(&nvml).cards.len(), 2);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The same thread waits in the new session, for the new card too.
    // It may be between two waits when an event happens, hence several.
    while !waiting.is_finished() && start.elapsed() < Duration::from_secs(20) {
        fake.add("event 1 8 48 - -");
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = waiting.join().unwrap();
    assert_eq!(told, Ok(Some(Event { subject: Subject::Card(uuid(1).into()), kind: EventKind::Xid(48) })));
}
