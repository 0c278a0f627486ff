//! What is read of cards, and what happens where something cannot be read.

use packhorse::agent::backend::{Backend as _, BackendError};

use super::fake::{Fake, card, discover, uuid};

#[test]
fn reads_driver_and_cards() {
    let mut fake = Fake::with_cards(2);
    fake.change("set 0 pci 1:c1:1f\nset 0 fabric 171 7 3");
    let numa = fake.directory().join("sys/bus/pci/devices/0000:08:00.0");
    std::fs::create_dir_all(&numa).unwrap();
    std::fs::write(numa.join("numa_node"), "1\n").unwrap();
    let nvml = fake.backend();

    let found = discover(&nvml);
    assert_eq!((found.driver.as_str(), found.cuda), ("580.95.05", Some((13, 0))));
    assert_eq!(found.unreadable, Vec::<String>::new());
    // Sorted by pci: the card with index 0 sits in another domain.
    let [one, zero] = &found.cards[..] else { panic!("{found:?}") };
    assert_eq!((&*one.uuid, one.index, one.minor), (uuid(1).as_str(), 1, 1));
    assert_eq!((&*one.pci, one.numa), ("0000:08:00.0", Some(1)));
    assert_eq!((&*one.model, one.memory, one.compute), ("NVIDIA H100 80GB HBM3", 81_559, (9, 0)));
    assert_eq!((one.mig_capable, one.mig_mode, one.instances.len()), (true, false, 0));
    assert_eq!(one.clique, None);
    assert_eq!((&*zero.pci, zero.numa), ("0001:c1:1f.0", None));
    assert_eq!(zero.clique.as_deref(), Some("ab000000-0000-0000-0000-000000000000.7"));
}

#[test]
fn a_consumer_card_lacks_much_and_is_read_all_the_same() {
    let mut fake = Fake::with_cards(1);
    for line in ["set 0 mig 0", "set 0 instances 7", "set 0 rows 0 0", "set 0 events 0x10b"] {
        fake.remove(line);
    }
    let nvml = fake.backend();
    let found = discover(&nvml);
    assert_eq!(found.unreadable, Vec::<String>::new());
    assert!(!found.cards[0].mig_capable);
}

#[test]
fn a_name_longer_than_promised_is_read_whole() {
    let name = "NVIDIA ".to_owned() + &"X".repeat(200);
    let mut fake = Fake::with_cards(1);
    fake.change(&format!("set 0 name {name}"));
    assert_eq!(*discover(&fake.backend()).cards[0].model, name);
}

#[test]
fn an_old_driver_without_optional_functions_is_read() {
    let mut fake = Fake::with_cards(2);
    for function in [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetGpuFabricInfo",
        "nvmlDeviceGetNvLinkRemoteDeviceType",
        "nvmlDeviceGetMigMode",
        "nvmlSystemGetCudaDriverVersion_v2",
        "nvmlErrorString",
    ] {
        fake = fake.without(function);
    }
    let nvml = fake.backend();
    let found = discover(&nvml);
    assert_eq!(found.unreadable, Vec::<String>::new());
    assert_eq!(found.cuda, None);
    assert_eq!(found.cards.iter().map(|card| card.memory).collect::<Vec<_>>(), [81_559, 81_559]);
}

#[test]
fn a_function_that_is_needed_and_missing_is_named() {
    for (function, cards) in
        [("nvmlDeviceGetPciInfo_v3", true), ("nvmlDeviceGetCount_v2", false), ("nvmlInit_v2", false)]
    {
        let fake = Fake::with_cards(1).without(function);
        let nvml = fake.backend();
        let told = match nvml.discover() {
            Ok(found) if cards => found.unreadable.concat(),
            Err(error @ BackendError::Failed { .. }) if !cards => error.to_string(),
            other => panic!("{function}: {other:?}"),
        };
        assert!(told.contains(function) && told.contains("does not have it"), "{told}");
    }
}

#[test]
fn one_bad_card_is_reported_and_the_others_are_published() {
    for function in [
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetMinorNumber",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetMigMode",
    ] {
        let mut fake = Fake::with_cards(3);
        fake.add(&format!("fail {function} 1 999"));
        let nvml = fake.backend();
        let found = discover(&nvml);
        assert_eq!(found.cards.iter().map(|card| card.index).collect::<Vec<_>>(), [0, 2], "{function}");
        let [reason] = &found.unreadable[..] else { panic!("{function}: {found:?}") };
        let named = reason.contains(function)
            && reason.contains("Unknown Error (NVML error 999)")
            && reason.contains("index 1");
        assert!(named, "{reason}");
    }
}

#[test]
fn a_lost_card_is_reported_by_its_uuid() {
    let mut fake = Fake::with_cards(2);
    let nvml = fake.backend();
    discover(&nvml);
    fake.add("lost 0");
    let found = discover(&nvml);
    assert_eq!(found.cards.iter().map(|card| &*card.uuid).collect::<Vec<_>>(), [uuid(1)]);
    let reason = found.unreadable.concat();
    assert!(reason.starts_with(&uuid(0)) && reason.contains("GPU is lost"), "{reason}");
}

#[test]
fn a_failed_call_for_the_node_is_an_error_that_names_it() {
    for function in ["nvmlSystemGetDriverVersion", "nvmlDeviceGetCount_v2"] {
        let mut fake = Fake::with_cards(1);
        fake.add(&format!("fail {function} - 999"));
        let error = fake.backend().discover().unwrap_err();
        assert!(matches!(&error, BackendError::Failed { call, .. } if call == function), "{error}");
    }
}

#[test]
fn a_card_plugged_in_is_found() {
    let mut fake = Fake::with_cards(1);
    let cards = fake.directory().join("proc/driver/nvidia/gpus");
    std::fs::create_dir_all(cards.join("0000:07:00.0")).unwrap();
    let nvml = fake.backend();
    assert_eq!(discover(&nvml).cards.len(), 1);
    // The original lists the cards of its initialisation only; the kernel's list tells that there is another.
    fake.change(&format!("epoch 1\ncards 2\n{}", card(1)));
    std::fs::create_dir_all(cards.join("0000:08:00.0")).unwrap();
    assert_eq!(discover(&nvml).cards.len(), 2);
}
