//! The container runtimes of a real node: where their programs come from and how they are configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::super::built::{Module, answers, folder_of};
use super::super::identity::write;
use super::super::kubelab::or_skip;

static DEBIAN: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    folder_of("containerd").ok_or_else(|| "`containerd` is missing (on Debian: apt-get install containerd)".to_owned())
});

static BUILT: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    if let Some(given) = std::env::var_os("PACKHORSE_CONTAINERD") {
        return Ok(PathBuf::from(given));
    }
    let module = Module {
        sources: "tests/lab/containerd",
        arguments: &["-tags", "no_btrfs,no_devmapper,no_zfs", "-ldflags", "-s -w", "tool"],
        static_binary: false,
        program: None,
        takes: "about two minutes the first time",
    };
    module.find_or_build()
});

static PROBE: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let module = Module {
        sources: "tests/lab/probe",
        arguments: &["-ldflags", "-s -w", "."],
        static_binary: true,
        program: Some("probe"),
        takes: "seconds",
    };
    module.find_or_build()
});

/// A version of containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Debian's package: no CDI.
    Containerd16,
    /// The version that `tests/lab/containerd/go.mod` names: CDI.
    Containerd22,
}

/// What is needed to start a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Programs {
    /// The folder with `containerd`, `containerd-shim-runc-v2` and `ctr`.
    pub(super) folder: &'static Path,
    pub(super) probe: &'static Path,
}

impl Runtime {
    /// Whether a node with it can run here. Where it cannot, the reason has been told, or the test fails because it must not be
    /// skipped.
    pub(crate) fn is_here(self) -> bool {
        or_skip("real kubelet", self.programs().as_ref().map_err(String::as_str)).is_some()
    }

    /// The program alone, where it is here; else why not. It needs no root.
    pub(crate) fn containerd(self) -> Result<PathBuf, &'static str> {
        let folder = match self {
            Self::Containerd16 => &*DEBIAN,
            Self::Containerd22 => &*BUILT,
        };
        folder.as_ref().map(|folder| folder.join("containerd")).map_err(String::as_str)
    }

    pub(super) fn programs(self) -> Result<Programs, String> {
        let own = fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"))?;
        if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
            return Err("a kubelet needs root".to_owned());
        }
        for tool in ["runc", "unshare", "nsenter", "mount"] {
            if !answers(tool) {
                return Err(format!("`{tool}` is missing (on Debian: apt-get install runc util-linux mount)"));
            }
        }
        let folder = match self {
            Self::Containerd16 => &*DEBIAN,
            Self::Containerd22 => &*BUILT,
        };
        Ok(Programs {
            folder: folder.as_deref().map_err(Clone::clone)?,
            probe: PROBE.as_deref().map_err(Clone::clone)?,
        })
    }

    /// Writes containerd's configuration. Sockets and everything else that has a fixed place are the node's own because
    /// `/run/containerd` is.
    pub(super) fn configure(self, directory: &Path, cdi: &Path) -> PathBuf {
        let root = directory.join("containerd");
        let cni = directory.join("cni");
        fs::create_dir_all(&cni).expect("a folder for CNI");
        // The kubelet is not ready without a network; pods of the tests use the host's, so that no plugin is ever called.
        write(
            &cni.join("10-none.conflist"),
            r#"{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "loopback"}]}"#,
        );
        let (root, cni, cdi) = (root.display(), cni.display(), cdi.display());
        let text = match self {
            // restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox may lower its score.
            Self::Containerd16 => format!(
                r#"
                version = 2
                root = "{root}"
                state = "/run/containerd/state"
                disabled_plugins = ["io.containerd.internal.v1.opt"]
                [plugins."io.containerd.grpc.v1.cri"]
                sandbox_image = "registry.example/pause:1"
                restrict_oom_score_adj = true
                [plugins."io.containerd.grpc.v1.cri".cni]
                bin_dir = "{cni}"
                conf_dir = "{cni}"
                "#
            ),
            Self::Containerd22 => format!(
                r#"
                version = 3
                root = "{root}"
                state = "/run/containerd/state"
                disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
                [plugins."io.containerd.cri.v1.images".pinned_images]
                sandbox = "registry.example/pause:1"
                [plugins."io.containerd.cri.v1.runtime"]
                restrict_oom_score_adj = true
                enable_cdi = true
                cdi_spec_dirs = ["{cdi}"]
                [plugins."io.containerd.cri.v1.runtime".cni]
                bin_dirs = ["{cni}"]
                conf_dir = "{cni}"
                # A container that is being created when the kubelet ends is removed again, if its creation ends within this time. By default
                # that is 5 s, which creations take where many start on few processors; what is then forgotten keeps its cgroup, and costs
                # every later start of the kubelet 6 s.
                [timeouts]
                "io.containerd.timeout.shim.cleanup" = "2m"
                "#
            ),
        };
        let path = directory.join("containerd.toml");
        write(&path, &text);
        path
    }
}
