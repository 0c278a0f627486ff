//! The binary with Kubernetes in it, built from `tests/lab`.
//!
//! Where it cannot be built the cluster tests are skipped, each saying so on the terminal, past the capture of the test runner.
//! `PACKHORSE_REQUIRE_CLUSTER=1` makes that a failure. `PACKHORSE_KUBELAB=FILE` names a binary built elsewhere.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::built::{Module, answers};
pub(crate) use super::built::{or_skip, say};

/// The Kubernetes that `tests/lab/go.mod` names.
const VERSION: &str = "1.36.3";

static KUBELAB: LazyLock<Result<PathBuf, String>> = LazyLock::new(find_or_build);

/// The binary, or nothing after the reason has been told.
pub(crate) fn binary() -> Option<&'static Path> {
    or_skip("real control plane", KUBELAB.as_deref().map_err(String::as_str))
}

fn find_or_build() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("PACKHORSE_KUBELAB") {
        return Ok(PathBuf::from(given));
    }
    if !cfg!(target_os = "linux") {
        return Err("the lab needs Linux".to_owned());
    }
    for tool in ["setpriv", "sh", "rm"] {
        if !answers(tool) {
            return Err(format!("`{tool}` is missing (on Debian: apt-get install util-linux)"));
        }
    }
    // The versions are linked in: without them kubectl refuses the server's.
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION} -X k8s.io/component-base/version.gitMajor=1 \
         -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/client-go/pkg/version.gitVersion=v{VERSION}"
    );
    let module = Module {
        sources: "tests/lab",
        arguments: &["-ldflags", &flags, "."],
        static_binary: false,
        program: Some("kubelab"),
        takes: "about ten minutes the first time",
    };
    module.find_or_build()
}
