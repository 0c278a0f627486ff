//! `packhorse runtime configure`: what it makes of configuration files, and how it writes them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test's own tools a panic is the test's failure")]

#[allow(dead_code, reason = "shared with the cluster tests; each of the two binaries uses a part")]
pub(crate) mod case;
mod configure;
mod host;
mod restarts;
mod rooted;
mod tables;
mod variables;
