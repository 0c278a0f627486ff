//! What the container runtime reads: the files in the CDI directory, by form and strategy, and what becomes of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod disk;
mod forms;
mod host;
mod node;
