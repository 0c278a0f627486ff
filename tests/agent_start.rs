//! The check at container start as a kubelet meets it: a stand-in for the kubelet's two records, an API server, real files.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod bench;
mod faults;
mod foreign;
mod kubelet;
mod leftovers;
mod random;
mod refusals;
mod shared_slots;
