//! NVIDIA's flags, variables and configuration file, as who comes from NVIDIA's plugin brings them along.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod file;
mod given;
mod precedence;
mod schema;
