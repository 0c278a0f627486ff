//! The `packhorse` binary: see [`packhorse::cli`].
fn main() {}
