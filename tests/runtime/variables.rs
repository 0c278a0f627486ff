//! Flags, and the variables of NVIDIA's toolkit container.

use super::host::{DAEMON, Host, err, failed, succeeded};

#[test]
fn the_variables_of_the_operator_work_and_a_flag_beats_them() {
    let host = Host::new();
    host.program("opt/nvidia-container-runtime", "");
    let toml = host.write("etc/containerd/config.toml", "version = 3\n").display().to_string();
    let other = host.write("other/containerd.toml", "version = 3\n").display().to_string();
    let json = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    let template =
        host.write("var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl", "{{ template \"base\" . }}\n");
    let template = template.display().to_string();
    let program = host.path("opt/nvidia-container-runtime").display().to_string();
    let shown = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = host.command();
        command.args(["--dry-run", "--nvidia-runtime-path", &program]).args(arguments).envs(variables.iter().copied());
        let output = command.output().unwrap();
        succeeded(&output) + &err(&output)
    };
    let head = |file: &str| format!("--- {file}\n");

    let said = shown(&[("CONTAINERD_CONFIG", &toml)], &[]);
    assert!(
        said.contains(&head(&toml)) && said.contains("runtimes.nvidia]") && !said.contains("default_runtime_name"),
        "{said}"
    );
    let said =
        shown(&[("RUNTIME", "containerd"), ("RUNTIME_CONFIG", &toml), ("CONTAINERD_SET_AS_DEFAULT", "true")], &[]);
    assert!(said.contains("+default_runtime_name = \"nvidia\""), "{said}");
    let said = shown(&[("CONTAINERD_CONFIG", &toml), ("CONTAINERD_RUNTIME_CLASS", "nvidia-gpu")], &[]);
    assert!(said.contains("runtimes.nvidia-gpu]"), "{said}");
    let said = shown(
        &[("CONTAINERD_CONFIG", &toml), ("NVIDIA_RUNTIME_NAME", "nv"), ("NVIDIA_RUNTIME_SET_AS_DEFAULT", "1")],
        &[],
    );
    assert!(said.contains("runtimes.nv]") && said.contains("default_runtime_name = \"nv\""), "{said}");
    let said = shown(&[("DOCKER_CONFIG", &json)], &[]);
    assert!(said.contains(&head(&json)), "{said}");
    let said = shown(&[("CONTAINERD_CONFIG", &template)], &["--runtime=containerd"]);
    assert!(said.contains(&head(&template)) && said.contains("{{ if not (index .ExtraRuntimes"), "{said}");
    let drop_in = host.path("conf.d/1.toml").display().to_string();
    let said = shown(&[("CONTAINERD_CONFIG", &toml), ("RUNTIME_DROP_IN_CONFIG", &drop_in)], &[]);
    assert!(said.contains(&format!("+++ {drop_in}\n")), "{said}");

    // A flag beats a variable, and an empty one is none.
    let said = shown(
        &[
            ("CONTAINERD_CONFIG", &toml),
            ("CONTAINERD_SET_AS_DEFAULT", "true"),
            ("CONTAINERD_RUNTIME_CLASS", "x"),
            ("RUNTIME", ""),
        ],
        &["--runtime=containerd", "--config", &other, "--set-as-default=false", "--nvidia-runtime-name=y"],
    );
    assert!(
        said.contains(&head(&other)) && said.contains("runtimes.y]") && !said.contains("default_runtime_name"),
        "{said}"
    );
    // nvidia-ctk's spellings.
    let said = shown(&[], &["--runtime=containerd", "--config", &toml, "--nvidia-set-as-default", "--cdi.enabled"]);
    assert!(said.contains("default_runtime_name"), "{said}");

    // What is not used is said.
    let said = shown(&[("CONTAINERD_CONFIG", &toml)], &["--runtime=docker", "--config", &json]);
    assert!(!said.contains("CONTAINERD_CONFIG"), "a flag beats it: {said}");
    let said = shown(&[("CONTAINERD_CONFIG", &toml), ("DOCKER_CONFIG", &json)], &["--runtime=docker"]);
    assert!(
        said.contains(&format!("note: CONTAINERD_CONFIG={toml} is not used: the container runtime is docker")),
        "{said}"
    );
    let said = shown(&[("DOCKER_CONFIG", "/home/u/.docker"), ("CONTAINERD_CONFIG", &toml)], &[]);
    assert!(said.contains("note: DOCKER_CONFIG=/home/u/.docker is not taken for dockerd's file"), "{said}");
}

#[test]
fn wrong_values_name_their_place() {
    let host = Host::new();
    let json = host.write("etc/docker/daemon.json", DAEMON).display().to_string();
    for (variables, arguments, says) in [
        (
            vec![("RUNTIME", "podman")],
            vec![],
            "RUNTIME=podman: must be one of auto, docker, containerd, crio, k3s, rke2",
        ),
        (
            vec![("CONTAINERD_SET_AS_DEFAULT", "yes")],
            vec!["--runtime=docker"],
            "CONTAINERD_SET_AS_DEFAULT=yes: must be true or false",
        ),
        (
            vec![("RUNTIME_RESTART_MODE", "reboot")],
            vec!["--runtime=docker"],
            "RUNTIME_RESTART_MODE=reboot: must be one of none",
        ),
        (
            vec![("CONTAINERD_RUNTIME_CLASS", "Nvidia_GPU")],
            vec!["--runtime=docker"],
            "CONTAINERD_RUNTIME_CLASS Nvidia_GPU: must be",
        ),
        (vec![], vec!["--runtime=docker", "--nvidia-runtime-name=-x"], "--nvidia-runtime-name -x: must be"),
        (
            vec![],
            vec!["--runtime=docker", "--nvidia-runtime-path=nvidia"],
            "--nvidia-runtime-path nvidia: must be an absolute",
        ),
        (vec![], vec!["--runtime=docker", "--drop-in-config=/x"], "--drop-in-config: docker has no drop-ins"),
        (vec![], vec!["--host-root=/nowhere", "--config=a.json"], "--config a.json: must be an absolute path"),
        (vec![], vec!["--host-root=/nowhere/at/all"], "--host-root /nowhere/at/all: cannot change the root to it"),
        (
            vec![("CONTAINERD_CONFIG", "/a.toml"), ("DOCKER_CONFIG", json.as_str())],
            vec![],
            "name the container runtime with --runtime",
        ),
    ] {
        let output = host.command().args(&arguments).envs(variables.iter().copied()).output().unwrap();
        let said = failed(&output);
        assert!(said.contains(says), "{arguments:?} {variables:?}: {said}");
    }
    // A flag's own words are judged before anything runs.
    let output = host.command().args(["--set-as-default=perhaps"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
