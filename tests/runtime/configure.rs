//! What the program writes, backs up, refuses and takes back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::host::{DAEMON, Host, err, failed, succeeded};

#[test]
fn a_dry_run_shows_the_change_and_writes_nothing() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON);
    let file = file.display().to_string();
    let shown = succeeded(&host.run(&["--runtime", "docker", "--config", &file, "--set-as-default", "--dry-run"]));
    assert!(shown.starts_with(&format!("--- {file}\n+++ {file}\n@@ -1,3 +1,")), "{shown}");
    for line in ["+  \"default-runtime\": \"nvidia\",\n", "+    \"cdi\": true\n"] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    assert_eq!(host.read("etc/docker/daemon.json"), DAEMON);
    assert_eq!(host.names("etc/docker"), ["daemon.json"]);
}

#[test]
fn writes_with_a_backup_and_only_once() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let file = file.display().to_string();
    let said = succeeded(&host.run(&["--runtime=docker", "--config", &file, "--skip-check"]));
    assert!(said.contains(&format!("wrote {file} (before: {file}.packhorse-")), "{said}");
    assert!(said.contains("`systemctl restart docker`"), "{said}");
    let names = host.names("etc/docker");
    let [_, backup] = &names[..] else { panic!("{names:?}") };
    assert_eq!(host.read(&format!("etc/docker/{backup}")), DAEMON);
    let mode =
        |name: &str| fs::metadata(host.path(&format!("etc/docker/{name}"))).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("daemon.json"), mode(backup)), (0o640, 0o640));
    let written = host.read("etc/docker/daemon.json");
    let parsed: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(parsed["log-driver"], "journald");
    assert_eq!(parsed["features"]["cdi"], true);

    let said = succeeded(&host.run(&["--runtime=docker", "--config", &file, "--skip-check"]));
    assert_eq!(said, "docker is configured already: nothing to change\n");
    assert_eq!(host.names("etc/docker"), names);
    assert_eq!(host.read("etc/docker/daemon.json"), written);
}

#[test]
fn a_link_stays_a_link() {
    let host = Host::new();
    let real = host.write("srv/managed.json", DAEMON);
    fs::create_dir_all(host.path("etc/docker")).unwrap();
    let link = host.path("etc/docker/daemon.json");
    symlink(&real, &link).unwrap();
    succeeded(&host.run(&["--runtime=docker", "--config", link.to_str().unwrap(), "--skip-check"]));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(host.read("srv/managed.json").contains("nvidia"));
}

#[test]
fn in_a_folder_of_drop_ins_nothing_else_is_left() {
    let host = Host::new();
    let main = host.write("etc/crio/crio.conf", "[crio.runtime]\nlog_level = \"info\"\n").display().to_string();
    let drop_in = host.write("etc/crio/crio.conf.d/99-nvidia.toml", "# ours\n").display().to_string();
    succeeded(&host.run(&["--runtime=crio", "--config", &main, "--drop-in-config", &drop_in, "--skip-check"]));
    // CRI-O reads every file of that folder.
    assert_eq!(host.names("etc/crio/crio.conf.d"), ["99-nvidia.toml"]);
    let names = host.names("etc/crio");
    assert!(
        names.iter().any(|name| name.starts_with("99-nvidia.toml.packhorse-") && name.ends_with(".bak")),
        "{names:?}"
    );
}

#[test]
fn a_drop_in_is_imported_and_both_files_are_written() {
    let host = Host::new();
    let main = host.write("etc/containerd/config.toml", "version = 3\nroot = '/data'\n").display().to_string();
    let drop_in = host.path("etc/containerd/conf.d/99-nvidia.toml").display().to_string();
    let arguments = ["--runtime=containerd", "--config", &main, "--drop-in-config", &drop_in, "--skip-check"];
    succeeded(&host.run(&arguments));
    assert_eq!(
        host.read("etc/containerd/config.toml"),
        format!("version = 3\nroot = '/data'\nimports = [\"{drop_in}\"]\n")
    );
    assert!(host.read("etc/containerd/conf.d/99-nvidia.toml").contains("containerd.runtimes.nvidia]"));
    assert!(succeeded(&host.run(&arguments)).contains("nothing to change"));
    // Imported files have the last word: without naming it, the drop-in is where a new path belongs.
    let other =
        ["--runtime=containerd", "--config", &main, "--skip-check", "--dry-run", "--nvidia-runtime-path=/opt/nvidia"];
    let shown = succeeded(&host.command().args(other).output().unwrap());
    assert!(shown.starts_with(&format!("--- {drop_in}\n")) && !shown.contains(&format!("--- {main}")), "{shown}");
}

#[test]
fn what_does_not_parse_is_refused_with_its_place() {
    let host = Host::new();
    for (runtime, path, text, place) in [
        ("docker", "etc/docker/daemon.json", "{\n  \"a\": 1,\n}\n", "line 3, column 1"),
        ("containerd", "etc/containerd/config.toml", "version = 2\n[plugins\n", "line 2, column 9"),
        ("crio", "etc/crio/crio.conf", "[crio]\nroot = /x\n", "line 2, column 8"),
        ("k3s", "k3s/config-v3.toml.tmpl", "{{ template \"base\" . }}\n{{ if .X }}\n", "line 2, column 1"),
    ] {
        let file = host.write(path, text).display().to_string();
        let said = failed(&host.run(&["--runtime", runtime, "--config", &file]));
        assert!(said.starts_with(&format!("error: {file}: {place}: ")), "{said}");
        assert_eq!(host.read(path), text);
    }
    let file = host.write("etc/docker/daemon.json", "");
    fs::write(&file, b"{\n \"a\": \"\xff\"}").unwrap();
    let said = failed(&host.run(&["--runtime=docker", "--config", file.to_str().unwrap()]));
    assert!(said.contains("line 2, column 8: this is not UTF-8"), "{said}");
}

#[test]
fn a_missing_program_is_noted_and_never_the_default() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    let arguments = ["--runtime=docker", "--config", &file, "--skip-check", "--nvidia-runtime-path=/nowhere/nvidia"];
    let said = failed(&host.command().args(arguments).arg("--set-as-default").output().unwrap());
    assert!(
        said.contains("there is no program /nowhere/nvidia on this host: as the default runtime it would keep"),
        "{said}"
    );
    assert_eq!(host.read("etc/docker/daemon.json"), DAEMON);
    let output = host.command().args(arguments).output().unwrap();
    succeeded(&output);
    assert!(
        err(&output)
            .contains("note: there is no program /nowhere/nvidia on this host; containers of the runtime nvidia")
    );
}

#[test]
fn what_the_runtime_does_not_accept_is_taken_back() {
    let host = Host::new();
    let file = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    host.program(
        "usr/bin/dockerd",
        &format!("if grep -q nvidia {file}; then echo unable to configure: no nvidia >&2; exit 1; fi"),
    );
    let said = failed(&host.run(&["--runtime=docker", "--config", &file]));
    assert!(
        said.contains("docker does not accept the change") && said.contains("unable to configure: no nvidia"),
        "{said}"
    );
    assert!(said.contains("all files are as they were"), "{said}");
    assert_eq!(host.read("etc/docker/daemon.json"), DAEMON);
    assert_eq!(host.names("etc/docker"), ["daemon.json"]);
    // A file that it did not accept before either says nothing about the change.
    host.program("usr/bin/dockerd", "echo always >&2; exit 1");
    let output = host.run(&["--runtime=docker", "--config", &file]);
    succeeded(&output);
    assert!(err(&output).contains("was not accepted before the change either") && err(&output).contains("always"));
}

#[test]
fn containerd_must_show_what_was_written() {
    let host = Host::new();
    let file = host.write("etc/containerd/config.toml", "version = 3\n").display().to_string();
    let dump = |text: &str| {
        host.program(
            "usr/bin/containerd",
            &format!("case $1 in --version) echo containerd x v2.2.1 y;; *) cat <<'END'\n{text}\nEND\n;; esac"),
        );
    };
    dump("version = 3");
    let said = failed(&host.run(&["--runtime=containerd", "--config", &file]));
    assert!(said.contains("`containerd config dump` does not show the runtime nvidia"), "{said}");
    assert_eq!(host.read("etc/containerd/config.toml"), "version = 3\n");
    let shown = host.path("usr/bin/nvidia-container-runtime");
    dump(&format!(
        "[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'runc'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]\nBinaryName = '{}'",
        shown.display()
    ));
    let said = failed(&host.run(&["--runtime=containerd", "--config", &file, "--set-as-default"]));
    assert!(said.contains("shows \"runc\" as the default runtime instead of nvidia"), "{said}");
    succeeded(&host.run(&["--runtime=containerd", "--config", &file]));
}

#[test]
fn drop_ins_that_cannot_be_listed_stop_the_change() {
    let host = Host::new();
    let main = host.write("etc/crio/crio.conf", "").display().to_string();
    let folder = host.write("etc/crio/crio.conf.d", "a file").display().to_string();
    let said = failed(&host.run(&["--runtime=crio", "--config", &main, "--skip-check"]));
    assert!(said.contains(&format!("cannot list {folder}: ")), "{said}");
    assert_eq!(host.names("etc/crio"), ["crio.conf", "crio.conf.d"]);
}
