//! Whose process it is, by the text of `/proc/PID/cgroup`. Pure.
//!
//! Both versions of cgroups are read, and the names that the kubelet and the container runtimes give their groups:
//!
//! | | pod | container |
//! |---|---|---|
//! | cgroupfs | `…/pod<uid>` | `<id>`, CRI-O `crio-<id>` |
//! | systemd | `…-pod<uid>.slice`, the UID with `_` for `-` | `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope` |
//! | systemd at the kubelet, cgroupfs at containerd | `…-pod<uid>.slice:cri-containerd:<id>`, one name for both | |
//!
//! Sources: `pkg/kubelet/cm` of Kubernetes; containerd `internal/cri/server/helpers.go`; CRI-O `internal/config/cgmgr`. A pod's groups may
//! lie below anything (kind, nested kubelets), and a container's below any group of its own: the outermost pod is this cluster's,
//! and its container is the next name. Where the reader is in a cgroup namespace the path begins with `/../`.

/// Whose a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Of no pod.
    Host,
    /// Of a pod, and of the container with that id, where it is in one.
    Pod {
        /// With hyphens, as the API server writes it.
        uid: String,
        /// As `status.containerStatuses[].containerID` has it after `://`.
        container: Option<String>,
    },
}

/// Reads the whole file: a line for each hierarchy, `<number>:<controllers>:<path>`.
pub fn place(text: &str) -> Place {
    let mut found = Place::Host;
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        match of_path(path) {
            whole @ Some(Place::Pod { container: Some(_), .. }) => return whole.unwrap_or(found),
            // Some hierarchies of version 1 stop at the pod.
            Some(pod) if found == Place::Host => found = pod,
            _ => {}
        }
    }
    found
}

fn of_path(path: &str) -> Option<Place> {
    let mut names = path.split('/');
    let (uid, rest) = names.by_ref().find_map(pod)?;
    let container = match rest {
        Some(rest) => container(rest),
        None => names.find_map(container),
    };
    Some(Place::Pod { uid, container })
}

/// The UID in a pod's group, and what stands behind it in the same name.
fn pod(name: &str) -> Option<(String, Option<&str>)> {
    let (group, rest) = match name.split_once(':') {
        Some((group, rest)) => (group, Some(rest)),
        None => (name, None),
    };
    let uid = match group.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(before, uid)| (before.contains("kubepods"), uid)),
        None => group.strip_prefix("pod").map(|uid| (true, uid)),
    };
    let (_, uid) = uid.filter(|(kubelets, _)| *kubelets)?;
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some((uid, rest))
}

/// A UUID; a hash of 32 digits for what the kubelet read from a file.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let hyphens: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    digits == 32 && digits + hyphens.len() == text.len() && (hyphens.is_empty() || hyphens == [8, 13, 18, 23])
}

/// The id in a container's group: 64 hexadecimal digits behind whatever the runtime puts before.
fn container(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit(['-', ':']).next()?;
    // The process that watches a container of CRI-O is none of its processes.
    let watcher = name.starts_with("crio-conmon-");
    (!watcher && id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
    const SNAKE: &str = "8dbc5577_d0e2_4706_8787_57d52c03ddf2";
    const ID: &str = "14d4a2d2b1a2c9e0d1e0b7a6f5c4938271605f4e3d2c1b0a9f8e7d6c5b4a3921";
    const OTHER: &str = "ffffffffb1a2c9e0d1e0b7a6f5c4938271605f4e3d2c1b0a9f8e7d6c5b4a3921";

    fn whole() -> Place {
        Place::Pod { uid: UID.to_owned(), container: Some(ID.to_owned()) }
    }

    #[test]
    fn finds_pod_and_container_in_every_layout() {
        let paths = [
            // cgroupfs: burstable, best effort, guaranteed.
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!("/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            format!("/kubepods/besteffort/pod{UID}/crio-{ID}"),
            // systemd.
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SNAKE}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SNAKE}.slice/crio-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/crio-{ID}.scope/container"),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/docker-{ID}.scope"),
            // systemd at the kubelet alone.
            format!("/kubepods-besteffort-pod{SNAKE}.slice:cri-containerd:{ID}"),
            format!("/system.slice/containerd.service/kubepods-burstable-pod{SNAKE}.slice:cri-containerd:{ID}"),
            // A program in the container has groups of its own, even another container runtime.
            format!("/kubepods/burstable/pod{UID}/{ID}/init.scope"),
            format!("/kubepods/burstable/pod{UID}/{ID}/docker/{OTHER}"),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/cri-containerd-{ID}.scope/user.slice/x-{OTHER}.scope"),
            // A kubelet with a root of its own; kind, whose nodes are containers of docker.
            format!("/kubelet/kubepods/burstable/pod{UID}/{ID}"),
            format!(
                "/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SNAKE}.slice/cri-containerd-{ID}.scope"
            ),
            // A cluster in a pod of this cluster.
            format!("/kubepods/pod{UID}/{ID}/kubepods/pod00000000-0000-0000-0000-000000000000/{OTHER}"),
            // Seen from within a cgroup namespace.
            format!("/../../besteffort/pod{UID}/{ID}"),
            format!("/../../kubepods-besteffort-pod{SNAKE}.slice/cri-containerd-{ID}.scope"),
        ];
        for path in paths {
            assert_eq!(place(&format!("0::{path}\n")), whole(), "version 2: {path}");
            let first = format!(
                "12:pids:{path}\n11:rdma:/\n10:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/system.slice/containerd.service\n"
            );
            assert_eq!(place(&first), whole(), "version 1: {path}");
        }
    }

    #[test]
    fn a_container_is_told_by_the_hierarchy_that_has_it() {
        let text = format!(
            "5:rdma:/\n4:misc:/kubepods/burstable/pod{UID}\n3:memory:/kubepods/burstable/pod{UID}/{ID}\n0::/\n"
        );
        assert_eq!(place(&text), whole());
    }

    #[test]
    fn a_process_of_a_pod_and_of_none_of_its_containers_is_the_pods() {
        let pod = Place::Pod { uid: UID.to_owned(), container: None };
        for path in [
            format!("/kubepods/burstable/pod{UID}"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SNAKE}.slice"),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/crio-conmon-{ID}.scope"),
            format!("/kubepods/burstable/pod{UID}/kata_overhead"),
        ] {
            assert_eq!(place(&format!("0::{path}\n")), pod, "{path}");
        }
        // What the kubelet reads from a file has a hash for a UID.
        let hash = "0123456789abcdef0123456789abcdef";
        let from_file = Place::Pod { uid: hash.to_owned(), container: Some(ID.to_owned()) };
        assert_eq!(place(&format!("0::/kubepods/burstable/pod{hash}/{ID}")), from_file);
    }

    #[test]
    fn everything_else_is_the_hosts() {
        for text in [
            String::new(),
            "0::/\n".to_owned(),
            "0::/init.scope\n".to_owned(),
            "0::/user.slice/user-1000.slice/session-3.scope\n".to_owned(),
            "0::/system.slice/nvidia-persistenced.service\n".to_owned(),
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("0::/machine.slice/libpod-{ID}.scope\n"),
            format!("0::/docker/{ID}\n"),
            "0::/user.slice/podman-1234.scope\n".to_owned(),
            format!("0::/kubepods/podcast/{ID}\n"),
            format!("0::/machine.slice/machine-pod{SNAKE}.slice/libpod-{ID}.scope\n"),
            "garbage".to_owned(),
            "1:memory".to_owned(),
            "\u{0}\u{fffd}:::".to_owned(),
        ] {
            assert_eq!(place(&text), Place::Host, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let _ = place(&text);
        }
    }
}
