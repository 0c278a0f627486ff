use proptest::prelude::*;

use super::*;

const FULL: &str = r#"{"v":1,"ready":true,"driver":"580.95.05","devices":[
 {"uuid":"GPU-01","index":0,"model":"NVIDIA A100-SXM4-80GB","memory":81920,"cores":100,"slots":10,"numa":0,
  "pci":"0000:07:00.0","health":"healthy","enforcement":"advisory","links":{"GPU-02":{"nvlink":12,"pcie":"same-cpu"}}},
 {"uuid":"MIG-1","index":1,"parent":"GPU-02","model":"NVIDIA A100-SXM4-80GB","memory":9728,"cores":100,"slots":1,"numa":-1,
  "pci":"0000:0a:00.0","health":"suspect","enforcement":"mig","mig":{"profile":"1g.10gb","start":0,"size":1},
  "foreign":{"pod":"ns/other","uid":"u-9"}}],
 "refused":[{"pod":"ns/name","uid":"u-1","reason":"other devices"}]}"#;

/// `FULL` with one piece of text replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from} is not in the example");
    FULL.replacen(from, to, 1)
}

#[test]
fn reads_every_field_of_the_published_form() {
    let decoded = decode(FULL).unwrap();
    assert!(decoded.unknown.is_empty(), "{:?}", decoded.unknown);
    let inventory = decoded.value;
    assert!(inventory.ready);
    assert_eq!(inventory.driver, "580.95.05");
    let [card, instance] = &inventory.devices[..] else { panic!("two devices") };
    assert_eq!((&*card.uuid, card.index, card.memory, card.cores, card.slots), ("GPU-01", 0, 81920, 100, 10));
    assert_eq!((card.numa, card.health, card.enforcement), (Some(0), Health::Healthy, Enforcement::Advisory));
    assert_eq!(card.links, [Link { peer: "GPU-02".into(), nvlink: 12, pcie: Some(Pcie::SameCpu) }]);
    assert_eq!((instance.numa, instance.health, instance.enforcement), (None, Health::Suspect, Enforcement::Mig));
    assert_eq!(instance.mig, Some(MigInstance { profile: MigProfile("1g.10gb".into()), start: 0, size: 1 }));
    assert_eq!(instance.parent.as_deref(), Some("GPU-02"));
    assert_eq!(instance.foreign, Some(ForeignPod { pod: "ns/other".to_owned(), uid: "u-9".to_owned() }));
    assert_eq!(inventory.refused[0].reason, "other devices");
}

#[test]
fn sorts_by_pci_then_uuid_both_ways() {
    let mut inventory = decode(FULL).unwrap().value;
    inventory.devices.reverse();
    let text = encode(&inventory);
    assert!(text.find("GPU-01").unwrap() < text.find("MIG-1").unwrap(), "{text}");
    let swapped = changed("0000:07:00.0", "0000:0b:00.0");
    assert_eq!(&*decode(&swapped).unwrap().value.devices[0].uuid, "MIG-1");
}

#[test]
fn names_the_damaged_field() {
    for (from, to, field) in [
        (r#""v":1,"#, r#""v":2,"#, "v"),
        (r#""v":1,"#, r#""v":"1","#, "v"),
        (r#""v":1,"#, "", "v"),
        (r#""ready":true,"#, "", "ready"),
        (r#""ready":true"#, r#""ready":"yes""#, "ready"),
        (r#""driver":"580.95.05""#, r#""driver":580"#, "driver"),
        (r#""uuid":"GPU-01""#, r#""uuid":"""#, "devices[0].uuid"),
        (r#""uuid":"MIG-1""#, r#""uuid":"GPU-01""#, "devices[1].uuid"),
        (r#""uuid":"MIG-1""#, r#""uuid":"GPU-02""#, "devices[1].parent"),
        (r#""memory":81920"#, r#""memory":-1"#, "devices[0].memory"),
        (r#""memory":81920"#, r#""memory":81920.5"#, "devices[0].memory"),
        (r#""memory":9728"#, r#""memory":0"#, "devices[1].memory"),
        (r#""memory":9728"#, r#""memory":99999999999"#, "devices[1].memory"),
        (r#""cores":100"#, r#""cores":101"#, "devices[0].cores"),
        (r#""slots":10"#, r#""slots":0"#, "devices[0].slots"),
        (r#""numa":0"#, r#""numa":-2"#, "devices[0].numa"),
        (r#""pci":"0000:0a:00.0""#, r#""pci":"0000:0A:00.0""#, "devices[1].pci"),
        (r#""health":"suspect""#, r#""health":"fine""#, "devices[1].health"),
        (r#""enforcement":"mig""#, r#""enforcement":"none""#, "devices[1].enforcement"),
        (r#""nvlink":12"#, r#""nvlink":256"#, "devices[0].links.GPU-02.nvlink"),
        (r#""pcie":"same-cpu""#, r#""pcie":"near""#, "devices[0].links.GPU-02.pcie"),
        (r#""parent":"GPU-02","#, "", "devices[1].parent"),
        (r#""profile":"1g.10gb","#, "", "devices[1].mig.profile"),
        (r#""uid":"u-1","#, "", "refused[0].uid"),
        (r#""refused":["#, r#""refused":[7,"#, "refused[0]"),
    ] {
        let error = decode(&changed(from, to)).expect_err(to);
        assert_eq!(error.field, field, "{error}");
        assert!(error.to_string().starts_with("packhorse.dev/inventory: "), "{error}");
    }
    for text in ["", "{", "[]", "null", "7", r#"{"v":1}"#, r#"{"v":1,"ready":true,"devices":{}}"#] {
        decode(text).expect_err(text);
    }
}

#[test]
fn notes_unknown_fields_and_uses_the_rest() {
    let text = changed(r#""nvlink":12"#, r#""nvlink":12,"width":16"#).replacen("\"v\":1", "\"v\":1,\"later\":{}", 1);
    let decoded = decode(&text).unwrap();
    assert_eq!(decoded.unknown, ["later", "devices[0].links.GPU-02.width"]);
    assert_eq!(decoded.value, decode(FULL).unwrap().value);
}

#[test]
fn cordon_allows_spaces_and_empty_entries() {
    assert_eq!(cordon(" GPU-1 ,, GPU-2,").collect::<Vec<_>>(), ["GPU-1", "GPU-2"]);
    assert_eq!(cordon("").count(), 0);
}

fn device() -> impl Strategy<Value = Device> {
    let name = "[A-Za-z0-9 \"\\\\é-]{1,12}";
    let numbers = (any::<u32>(), 1..=u32::MAX, 1..=100_u16, 1..=u16::MAX, proptest::option::of(any::<u16>()));
    let links = proptest::collection::btree_map(
        name,
        (any::<u8>(), proptest::option::of(proptest::sample::select(PCIE.map(|(pcie, _)| pcie).to_vec()))),
        0..4,
    );
    let levels = proptest::sample::select(Enforcement::ALL.map(|(level, _)| level).to_vec());
    let health = proptest::sample::select(HEALTH.map(|(health, _)| health).to_vec());
    let mig = proptest::option::of(("[1-7]g\\.[0-9]{1,2}gb", any::<u8>(), 1..=u8::MAX));
    let foreign = proptest::option::of((name, name));
    (name, numbers, name, "[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\\.[0-7]", links, levels, health, mig, foreign).prop_map(
        |(uuid, (index, memory, cores, slots, numa), model, pci, links, enforcement, health, mig, foreign)| Device {
            uuid: format!("GPU-{uuid}").into(),
            index,
            model: model.into(),
            memory,
            cores,
            slots,
            numa,
            pci: pci.into(),
            health,
            enforcement,
            links: links.into_iter().map(|(peer, (nvlink, pcie))| Link { peer: peer.into(), nvlink, pcie }).collect(),
            parent: mig.is_some().then(|| "card".into()),
            mig: mig.map(|(profile, start, size)| MigInstance { profile: MigProfile(profile.into()), start, size }),
            foreign: foreign.map(|(pod, uid)| ForeignPod { pod, uid }),
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        ready: bool,
        driver in "[0-9.]{0,9}",
        mut devices in proptest::collection::vec(device(), 0..5),
        refused in proptest::collection::vec(("[a-z/]{1,9}", "[a-z]{1,9}", ".{0,20}"), 0..3),
    ) {
        devices.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
        let mut seen = HashSet::new();
        devices.retain(|device| seen.insert(Arc::clone(&device.uuid)));
        let refused = refused.into_iter().map(|(pod, uid, reason)| Refused { pod, uid, reason }).collect();
        let inventory = Inventory { ready, driver, devices, refused };
        let decoded = decode(&encode(&inventory)).unwrap();
        prop_assert_eq!(decoded.value, inventory);
        prop_assert!(decoded.unknown.is_empty());
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", cut in 0..FULL.len()) {
        // The result does not matter here, only that there is one.
        let _ = decode(&text);
        if FULL.is_char_boundary(cut) {
            prop_assert!(decode(&FULL[..cut]).is_err());
        }
    }
}
