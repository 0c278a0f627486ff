//! The ledger as the extender meets it: fed with Kubernetes objects, read through snapshots.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod bookings;
mod build;
mod damage;
mod doubts;
mod learning;
mod memory;
mod metrics;
mod nodes;
mod replay;
mod watch;
