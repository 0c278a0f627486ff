//! The files: when they are there, and when they are gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use packhorse::agent::specification::Form;

use super::node::{Node, card, container};

#[test]
fn a_specification_is_readable_by_everybody_and_alone_in_the_directory() {
    let node = Node::new(Form::Env, None);
    let specifications = node.specifications();
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    specifications.write(&one).unwrap();
    specifications.write(&one).unwrap();
    assert_eq!(node.files(), [format!("packhorse.dev-gpu_{}.json", one.name)]);
    assert_eq!(fs::metadata(node.file(&one.name)).unwrap().permissions().mode() & 0o777, 0o644);
    specifications.remove(&one.name).unwrap();
    specifications.remove(&one.name).unwrap();
    assert!(node.files().is_empty());
}

#[test]
fn slots_that_are_used_again_take_their_specifications_along() {
    let node = Node::new(Form::Env, None);
    let devices = [card("GPU-a", 0, 0)];
    let old = container("u1", "main", &["GPU-a::0", "GPU-a::1"], &devices);
    let init = container("u1", "init", &["GPU-a::1"], &devices);
    let other = container("u2", "main", &["GPU-a::2"], &devices);
    let writer = node.specifications();
    for one in [&old, &init, &other] {
        writer.write(one).unwrap();
    }
    drop(writer);

    // Other processes, which know the files alone.
    let recorded = node.specifications().on_disk().unwrap();
    let mut owners: Vec<_> = recorded.iter().map(|one| (&*one.pod_uid, &*one.container, one.slots.len())).collect();
    owners.sort();
    assert_eq!(owners, [("u1", "init", 1), ("u1", "main", 2), ("u2", "main", 1)]);
    let specifications = node.specifications();
    specifications.forget_slots(&["GPU-a::9".to_owned()]).unwrap();
    assert_eq!(node.files().len(), 3);
    specifications.forget_slots(&["GPU-a::1".to_owned()]).unwrap();
    assert_eq!(node.files(), [format!("packhorse.dev-gpu_{}.json", other.name)]);
    specifications.forget_pod("u2").unwrap();
    assert!(node.files().is_empty());
    assert!(specifications.on_disk().unwrap().is_empty());
}

#[test]
fn what_another_agent_writes_or_removes_meanwhile_becomes_known() {
    let node = Node::new(Form::Env, None);
    let (old_agent, new_agent) = (node.specifications(), node.specifications());
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    old_agent.write(&one).unwrap();
    assert_eq!(new_agent.on_disk().unwrap().iter().map(|one| &*one.pod_uid).collect::<Vec<_>>(), ["u1"]);
    old_agent.remove(&one.name).unwrap();
    assert!(new_agent.on_disk().unwrap().is_empty());
}

#[test]
fn damaged_and_abandoned_files_of_ours_go_and_others_stay() {
    let node = Node::new(Form::Env, None);
    fs::create_dir(&node.settings.cdi_dir).unwrap();
    let ours = ["packhorse.dev-gpu_00ff.json", "packhorse.dev-gpu_01ff.json", "packhorse.dev-gpu_.json"];
    for (name, text) in ours.into_iter().zip(["", r#"{"kind":"packhorse.dev/gpu"}"#, "{}"]) {
        fs::write(node.settings.cdi_dir.join(name), text).unwrap();
    }
    let (old, new) = (".packhorse.dev-gpu_aa.1.tmp", ".packhorse.dev-gpu_bb.1.tmp");
    for name in ["other.json", old, new] {
        fs::write(node.settings.cdi_dir.join(name), "half").unwrap();
    }
    let file = fs::File::options().write(true).open(node.settings.cdi_dir.join(old)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    assert!(node.specifications().on_disk().unwrap().is_empty());
    assert_eq!(node.files(), [new, "other.json"]);
}

#[test]
fn nobody_reads_a_half_written_specification() {
    let node = Node::new(Form::Env, None);
    let specifications = node.specifications();
    let devices: Vec<_> = (0..200).map(|n| card(&format!("GPU-{n}"), n, n)).collect();
    let (few, many) = (&devices[..1], &devices[..]);
    let mut one = container("u1", "main", &["GPU-a::0"], few);
    specifications.write(&one).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                // What a runtime would read: everything that ends in .json or .yaml.
                for name in node.files().into_iter().filter(|name| name.ends_with(".json") || name.ends_with(".yaml")) {
                    let text = fs::read_to_string(node.settings.cdi_dir.join(name)).unwrap();
                    serde_json::from_str::<serde_json::Value>(&text).expect("a whole document");
                    reads += 1;
                }
            }
            reads
        });
        for round in 0..200 {
            one.devices = if round % 2 == 0 { many.to_vec() } else { few.to_vec() };
            specifications.write(&one).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn a_directory_that_was_cleaned_away_is_made_again() {
    let node = Node::new(Form::Env, None);
    let specifications = node.specifications();
    fs::remove_dir(&node.settings.cdi_dir).unwrap();
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    specifications.write(&one).unwrap();
    assert!(node.file(&one.name).exists());
}

#[test]
fn a_write_that_fails_names_the_file() {
    let node = Node::new(Form::Env, None);
    let specifications = node.specifications();
    let one = container("u1", "main", &["GPU-a::0"], &[card("GPU-a", 0, 0)]);
    fs::create_dir(node.file(&one.name)).unwrap();
    let error = specifications.write(&one).unwrap_err().to_string();
    assert!(error.contains(&*node.file(&one.name).to_string_lossy()), "{error}");
    assert_eq!(node.files().len(), 1, "nothing half-written is left");
}
