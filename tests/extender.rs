//! The extender as kube-scheduler meets it: HTTP in, HTTP out, with a ledger fed by hand.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking; the lint spares only the test functions themselves"
)]

mod bind;
mod filter;
mod full_nodes;
mod http;
mod policies;
mod preempt;
mod ranking;
mod world;
