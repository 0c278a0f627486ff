//! NVIDIA's configuration file.

use std::collections::BTreeMap;

use super::given::Given;

/// As NVIDIA's documentation shows a file, with everything in it.
const ALL: &str = "
version: v1
flags:
  migStrategy: mixed
  failOnInitError: false
  nvidiaDriverRoot: /run/nvidia/driver
  gdsEnabled: false
  mofedEnabled: false
  plugin:
    passDeviceSpecs: true
    deviceListStrategy: [envvar, cdi-cri]
    deviceIDStrategy: index
    cdiAnnotationPrefix: nvidia.cdi.k8s.io/
  gfd: null
sharing:
  timeSlicing:
    renameByDefault: false
    failRequestsGreaterThanOne: false
    resources:
    - name: nvidia.com/gpu
      devices: all
      replicas: 4
    - name: mig-1g.10gb
      replicas: 2
    - name: nvidia.com/mig-1g.10gb.me
      replicas: 3
";

#[test]
fn a_file_for_nvidias_plugin_is_read_as_it_is() {
    let options = Given::default().file(ALL).options().unwrap();
    assert_eq!(options.not_honoured, []);
    assert_eq!((options.mig_strategy.as_str(), options.fail_on_init_error), ("mixed", false));
    assert_eq!((options.slots, options.pass_device_specs), (Some(4), true));
    assert_eq!(options.mig_slots, BTreeMap::from([("1g.10gb".to_owned(), 2), ("1g.10gb+me".to_owned(), 3)]));
}

#[test]
fn a_file_may_say_nothing() {
    for text in ["", "version: v1", "flags:\nsharing:\nresources:\nimex:\n"] {
        assert_eq!(Given::default().file(text).options().unwrap(), Given::default().options().unwrap(), "{text:?}");
    }
}

#[test]
fn what_nobody_knows_or_does_is_reported_and_no_error() {
    let text = "
flags: {migStrtegy: mixed, plugin: {passDeviceSpec: true}}
sharing: {timeSlicing: {resources: [
  {name: nvidia.com/gpu, replicas: 4, rename: nvidia.com/shared, devices: [0, 1], repplicas: 5},
  {name: nvidia.com/other, replicas: 2}]}}
health: {}
";
    let given = Given::default().file(text);
    let entry = "sharing.timeSlicing.resources";
    let mut reported = given.reported();
    reported.sort();
    let mut expected = [
        "flags.migStrtegy in FILE".to_owned(),
        "flags.plugin.passDeviceSpec in FILE".to_owned(),
        format!("{entry}[0].rename in FILE"),
        format!("{entry}[0].devices in FILE"),
        format!("{entry}[0].repplicas in FILE"),
        format!("{entry}[1].name in FILE"),
        "health in FILE".to_owned(),
    ];
    expected.sort();
    assert_eq!(reported, expected);
    assert_eq!(given.options().unwrap().slots, Some(4));
}

#[test]
fn a_wrong_file_is_an_error_with_file_key_value_and_remedy() {
    let sharing = |entries: &str| format!("sharing: {{timeSlicing: {{resources: {entries}}}}}");
    let cases: [(&str, &[&str]); 14] = [
        ("version: v2", &["version in FILE", "\"v2\"", "must be v1"]),
        ("- a", &["FILE", "map"]),
        ("flags: [", &["FILE", "line"]),
        ("flags: {migStrategy: none}\nflags: {}", &["FILE", "line 2", "duplicate"]),
        ("flags: yes please", &["flags in FILE", "yes please", "a map"]),
        ("flags: {migStrategy: both}", &["flags.migStrategy in FILE", "\"both\"", "none, single, mixed"]),
        ("flags: {failOnInitError: 'false'}", &["flags.failOnInitError in FILE", "\"false\"", "without quotes"]),
        ("flags: {plugin: {deviceListStrategy: [envvar, 3]}}", &["flags.plugin.deviceListStrategy", "3", "cdi-cri"]),
        ("flags: {gdsEnabled: 1}", &["flags.gdsEnabled", "1", "true or false"]),
        (&sharing("{}"), &["sharing.timeSlicing.resources in FILE", "a list"]),
        (&sharing("[{name: nvidia.com/gpu}]"), &["resources[0]", "name and replicas"]),
        (&sharing("[{name: gpu, replicas: 0}]"), &["resources[0].replicas in FILE", "0", "1 to 65535"]),
        (&sharing("[{name: gpu, replicas: 4.5}]"), &["resources[0].replicas", "4.5"]),
        (
            &sharing("[{name: gpu, replicas: 2}, {name: nvidia.com/gpu, replicas: 3}]"),
            &["resources[1].name", "no other"],
        ),
    ];
    for (text, parts) in cases {
        let error = Given::default().file(text).options().unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n') && !error.contains("DuplicateKeyPolicy"), "{error}");
    }
}
