//! MIG instances: which are published, under which profile, and what is told of the others.

use std::fmt::Write as _;

use super::fake::{Fake, discover, uuid};

/// Slices of the GPU instance and of the compute instance, the memory in MiB; and the name's end, empty for none.
pub(crate) fn instance(index: usize, gpu: u32, compute: u32, memory: u32, profile: &str) -> String {
    let mut script = String::new();
    let name =
        if profile.is_empty() { "NVIDIA H100".to_owned() } else { format!("NVIDIA H100 80GB HBM3 MIG {profile}") };
    for (key, value) in [
        ("uuid", mig_uuid(index)),
        ("name", name),
        ("gi", (index + 3).to_string()),
        ("ci", "0".to_owned()),
        ("placement", format!("19 {index} {gpu}")),
        ("attributes", format!("{} 1 2 0 3 4 {gpu} {compute} {memory}", 16 * gpu)),
    ] {
        writeln!(script, "set 0/{index} {key} {value}").unwrap();
    }
    script
}

pub(crate) fn mig_uuid(index: usize) -> String {
    format!("MIG-{index:08}-0000-0000-0000-000000000000")
}

/// Card 0 in MIG mode.
pub(crate) fn with_instances(instances: &[String]) -> Fake {
    let mut fake = Fake::with_cards(2);
    fake.change(&format!("set 0 mig 1\n{}", instances.concat()));
    fake
}

#[test]
fn reads_instances_with_placement_and_attributes() {
    // Index 1 is a hole.
    let fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb"), instance(2, 3, 3, 40_320, "3g.40gb")]);
    let nvml = fake.backend();
    let found = discover(&nvml);
    assert_eq!(found.unreadable, Vec::<String>::new());
    let card = &found.cards[0];
    assert!(card.mig_mode && card.mig_capable && !found.cards[1].mig_mode);
    let [one, three] = &card.instances[..] else { panic!("{card:?}") };
    assert_eq!((&*one.uuid, one.profile.to_string().as_str()), (mig_uuid(0).as_str(), "1g.10gb"));
    assert_eq!((one.memory, one.start, one.size, one.ids), (9_728, 0, 1, Some((3, 0))));
    assert_eq!((three.profile.to_string().as_str(), three.memory, three.start, three.size), ("3g.40gb", 40_320, 2, 3));
    let attributes = three.attributes.unwrap();
    assert_eq!((attributes.multiprocessors, attributes.gpu_slices, attributes.compute_slices), (48, 3, 3));
    assert_eq!((attributes.copy_engines, attributes.decoders, attributes.encoders), (1, 2, 0));
    assert_eq!((attributes.jpegs, attributes.ofas), (3, 4));
}

#[test]
fn a_card_in_mig_mode_without_instances_is_no_whole_card() {
    let fake = with_instances(&[]);
    let nvml = fake.backend();
    let card = &discover(&nvml).cards[0];
    assert!(card.mig_mode && card.instances.is_empty());
}

#[test]
fn profiles_are_named_as_the_driver_names_them_or_as_it_would() {
    for (name, gpu, memory, expected) in [
        ("1g.10gb", 1, 9_728, "1g.10gb"),
        ("1g.10gb+me", 1, 9_728, "1g.10gb+me"),
        ("", 1, 9_728, "1g.10gb"),
        ("", 2, 19_968, "2g.20gb"),
        ("", 7, 80_384, "7g.80gb"),
    ] {
        let fake = with_instances(&[instance(0, gpu, gpu, memory, name)]);
        let nvml = fake.backend();
        let found = discover(&nvml);
        assert_eq!(found.cards[0].instances[0].profile.to_string(), expected, "{name} {gpu}");
    }
}

#[test]
fn media_engines_are_told_by_the_profiles_number_where_the_name_is_silent() {
    let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "")]);
    fake.add("set 0 profile.7 19");
    let nvml = fake.backend();
    assert_eq!(discover(&nvml).cards[0].instances[0].profile.to_string(), "1g.10gb+me");
}

#[test]
fn a_part_of_a_gpu_instance_is_reported_and_not_published() {
    let names = [("1c.3g.40gb", "1c.3g.40gb"), ("", "1c.3g.40gb")];
    for (name, told) in names {
        let fake = with_instances(&[instance(0, 3, 1, 40_320, name), instance(1, 1, 1, 9_728, "1g.10gb")]);
        let nvml = fake.backend();
        let found = discover(&nvml);
        assert_eq!(found.cards[0].instances.iter().map(|i| &*i.uuid).collect::<Vec<_>>(), [mig_uuid(1)]);
        let reason = found.unreadable.concat();
        let named = [told, &mig_uuid(0), &uuid(0)].iter().all(|part| reason.contains(part));
        assert!(named && reason.contains("part of a GPU instance"), "{reason}");
    }
}

#[test]
fn one_bad_instance_is_reported_and_the_others_are_published() {
    for (function, card) in [
        ("nvmlDeviceGetMigDeviceHandleByIndex", false),
        ("nvmlDeviceGetUUID", false),
        ("nvmlDeviceGetName", false),
        ("nvmlDeviceGetAttributes_v2", false),
        ("nvmlDeviceGetGpuInstanceId", false),
        ("nvmlDeviceGetComputeInstanceId", false),
        ("nvmlGpuInstanceGetInfo", false),
        ("nvmlDeviceGetMaxMigDeviceCount", true),
    ] {
        let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb"), instance(1, 1, 1, 9_728, "1g.10gb")]);
        fake.add(&format!("fail {function} {} 4", if card { "0" } else { "0/0" }));
        let nvml = fake.backend();
        let found = discover(&nvml);
        let instances: Vec<String> =
            found.cards.iter().flat_map(|c| &c.instances).map(|i| i.uuid.to_string()).collect();
        assert_eq!(instances, if card { vec![] } else { vec![mig_uuid(1)] }, "{function}");
        let reason = found.unreadable.concat();
        assert!(
            reason.contains(function) && reason.contains("Insufficient Permissions") && reason.contains(&uuid(0)),
            "{reason}"
        );
        assert_eq!(found.cards.len(), if card { 1 } else { 2 }, "{function}");
    }
}

#[test]
fn a_changed_layout_is_found() {
    let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb")]);
    let nvml = fake.backend();
    assert_eq!(discover(&nvml).cards[0].instances.len(), 1);
    fake.change(&instance(1, 2, 2, 19_968, "2g.20gb"));
    assert_eq!(discover(&nvml).cards[0].instances.len(), 2);
}
