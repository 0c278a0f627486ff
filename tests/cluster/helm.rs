//! Helm's own rendering of the chart, as a program built from `tests/helm`.
//!
//! Where it cannot be built each test that needs it says so and passes, unless `PACKHORSE_REQUIRE_CLUSTER=1`.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::built::{Module, or_skip};

static HELM: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let module = Module {
        sources: "tests/helm",
        arguments: &["-ldflags", "-s -w", "."],
        static_binary: false,
        program: Some("packhorse-helm"),
        takes: "about two minutes the first time",
    };
    module.find_or_build()
});

/// The program, or nothing after the reason has been told.
pub(crate) fn binary() -> Option<&'static Path> {
    or_skip("rendering of the chart", HELM.as_deref().map_err(String::as_str))
}
