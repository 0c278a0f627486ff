//! What `/proc/PID/cgroup` says of a process: the pods and containers that its groups are named after. Pure.
//!
//! Both versions of cgroups are read, and the names that the kubelet and the container runtimes give their groups:
//!
//! | | pod | container |
//! |---|---|---|
//! | cgroupfs | `…/pod<uid>` | `<id>`, CRI-O `crio-<id>` |
//! | systemd | `…-pod<uid>.slice`, the UID with `_` for `-` | `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope` |
//! | systemd at the kubelet, cgroupfs at containerd | `…-pod<uid>.slice:cri-containerd:<id>`, one name for both | |
//! | a kubelet with `cgroupsPerQOS: false` | none | `k8s.io/<id>` |
//!
//! Sources: `pkg/kubelet/cm` of Kubernetes; containerd `internal/cri/server/helpers.go`; CRI-O `internal/config/cgmgr`. A pod's groups may
//! lie below anything (kind, a node within a pod), and a container's have groups of its own below, even a whole cluster: so a path can name
//! several pods, and only who knows the pods of its node can say which is meant. Where the reader is in a cgroup namespace the path
//! begins with `/../`.

/// What a process's groups are named after, the outermost first, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// UIDs of pods, with hyphens, as the API server writes them.
    pub pods: Vec<String>,
    /// Ids of containers, as `status.containerStatuses[].containerID` has them after `://`. Not all are Kubernetes'.
    pub containers: Vec<String>,
}

/// Reads the whole file, a line for each hierarchy: `<number>:<controllers>:<path>`. Some hierarchies of version 1 stop at the pod.
pub fn names(text: &str) -> Names {
    let mut found = Names::default();
    for name in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/')) {
        let (uid, rest) = pod(name).unzip();
        note(&mut found.pods, uid);
        note(&mut found.containers, container(rest.flatten().unwrap_or(name)));
    }
    found
}

fn note(known: &mut Vec<String>, name: Option<String>) {
    known.extend(name.filter(|name| !known.contains(name)));
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

    fn named(pods: &[&str], containers: &[&str]) -> Names {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Names { pods: owned(pods), containers: owned(containers) }
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
            // Seen from within a cgroup namespace.
            format!("/../../besteffort/pod{UID}/{ID}"),
            format!("/../../kubepods-besteffort-pod{SNAKE}.slice/cri-containerd-{ID}.scope"),
        ];
        for path in paths {
            // Whatever else has such a name: the node of kind, what runs within the container.
            let containers: &[&str] = match (path.find(OTHER), path.find(ID)) {
                (None, _) => &[ID],
                (Some(other), Some(id)) if other < id => &[OTHER, ID],
                (Some(_), _) => &[ID, OTHER],
            };
            let expected = named(&[UID], containers);
            assert_eq!(names(&format!("0::{path}\n")), expected, "version 2: {path}");
            let first = format!(
                "12:pids:{path}\n11:rdma:/\n10:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/system.slice/containerd.service\n"
            );
            assert_eq!(names(&first), expected, "version 1: {path}");
        }
    }

    #[test]
    fn a_container_is_told_by_the_hierarchy_that_has_it() {
        let text = format!(
            "5:rdma:/\n4:misc:/kubepods/burstable/pod{UID}\n3:memory:/kubepods/burstable/pod{UID}/{ID}\n0::/\n"
        );
        assert_eq!(names(&text), named(&[UID], &[ID]));
    }

    #[test]
    fn of_a_cluster_within_a_pod_both_pods_are_named() {
        let inner = "00000000-0000-0000-0000-000000000000";
        let expected = named(&[UID, inner], &[ID, OTHER]);
        assert_eq!(names(&format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{inner}/{OTHER}\n")), expected);
        let slices = format!(
            "0::/kubepods.slice/kubepods-pod{SNAKE}.slice/cri-containerd-{ID}.scope/kubelet/kubepods/pod{inner}/{OTHER}\n"
        );
        assert_eq!(names(&slices), expected);
    }

    #[test]
    fn a_process_of_a_pod_and_of_none_of_its_containers_is_the_pods() {
        let pod = named(&[UID], &[]);
        for path in [
            format!("/kubepods/burstable/pod{UID}"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SNAKE}.slice"),
            format!("/kubepods.slice/kubepods-pod{SNAKE}.slice/crio-conmon-{ID}.scope"),
            format!("/kubepods/burstable/pod{UID}/kata_overhead"),
        ] {
            assert_eq!(names(&format!("0::{path}\n")), pod, "{path}");
        }
        // What the kubelet reads from a file has a hash for a UID.
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(names(&format!("0::/kubepods/burstable/pod{hash}/{ID}")), named(&[hash], &[ID]));
    }

    #[test]
    fn a_container_may_be_named_without_its_pod() {
        // The kubelet's `cgroupsPerQOS: false`; containers of the host look the same, and are in no pod's status.
        for path in [
            format!("/k8s.io/{ID}"),
            format!("/system.slice/containerd.service/k8s.io/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/kubepods/podcast/{ID}"),
            format!("/machine.slice/machine-pod{SNAKE}.slice/libpod-{ID}.scope"),
        ] {
            assert_eq!(names(&format!("0::{path}\n")), named(&[], &[ID]), "{path}");
        }
    }

    #[test]
    fn everything_else_names_nothing() {
        for text in [
            "",
            "0::/\n",
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/system.slice/nvidia-persistenced.service\n",
            "0::/user.slice/podman-1234.scope\n",
            "0::/kubepods/burstable/pod8dbc5577\n",
            "garbage",
            "1:memory",
            "\u{0}\u{fffd}:::",
        ] {
            assert_eq!(names(text), Names::default(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*") {
            names(&text);
        }
    }
}
