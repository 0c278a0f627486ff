//! The program in a pod that has the host's root mounted.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use super::host::{DAEMON, Host, failed, succeeded};

/// As in a pod that has the host's root mounted.
fn rooted(host: &Host, arguments: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    // Also where the tests do not run as root.
    command.args(["--user", "--map-root-user", "--"]).arg(env!("CARGO_BIN_EXE_packhorse"));
    command.args(["runtime", "configure", "--host-root"]).arg(host.folder.path()).args(arguments);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
    command.output().unwrap()
}

#[test]
fn works_on_the_host_s_root_and_finds_its_runtime() {
    for (there, kind, written) in [
        ("etc/docker/daemon.json", "docker", vec!["etc/docker/daemon.json"]),
        ("etc/containerd/config.toml", "containerd", vec!["etc/containerd/config.toml"]),
        ("etc/crio/crio.conf", "CRI-O", vec!["etc/crio/crio.conf.d/99-nvidia.toml"]),
        (
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "k3s",
            vec![
                "var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl",
                "etc/rancher/k3s/config.yaml.d/99-packhorse.yaml",
            ],
        ),
        (
            "var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            "RKE2",
            vec![
                "var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl",
                "etc/rancher/rke2/config.yaml.d/99-packhorse.yaml",
            ],
        ),
    ] {
        let host = Host::new();
        fs::remove_dir_all(host.path("usr/bin")).unwrap();
        host.program("usr/bin/nvidia-container-runtime", "");
        host.write(there, if there.ends_with("json") { DAEMON } else { "version = 3\n" });
        let said = succeeded(&rooted(&host, &["--set-as-default"]));
        assert!(said.contains(&format!("{kind} takes the change when it starts next")), "{said}");
        for file in &written {
            assert!(host.read(file).contains("nvidia"), "{kind}: {file}");
            assert!(said.contains(&format!("wrote /{file} (")), "the host's own paths: {said}");
        }
        assert!(succeeded(&rooted(&host, &["--set-as-default"])).contains("nothing to change"), "{kind}");
    }
}

#[test]
fn a_host_with_two_runtimes_or_none_has_to_be_told() {
    let host = Host::new();
    let said = failed(&rooted(&host, &[]));
    assert!(said.contains("no container runtime was found on this host; name it with --runtime"), "{said}");
    host.write("etc/docker/daemon.json", DAEMON);
    host.write("etc/containerd/config.toml", "version = 3\n");
    let said = failed(&rooted(&host, &[]));
    assert!(
        said.contains("this host has docker and containerd; name the one that Kubernetes uses with --runtime"),
        "{said}"
    );
    succeeded(&rooted(&host, &["--runtime=containerd", "--skip-check"]));
}

#[test]
fn absolute_links_of_the_host_lead_within_it() {
    let host = Host::new();
    host.write("srv/daemon.json", DAEMON);
    fs::create_dir_all(host.path("etc/docker")).unwrap();
    symlink("/srv/daemon.json", host.path("etc/docker/daemon.json")).unwrap();
    succeeded(&rooted(&host, &["--skip-check"]));
    assert!(host.read("srv/daemon.json").contains("nvidia"));
}
