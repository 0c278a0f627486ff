//! The extender as kube-scheduler meets it: HTTP in, HTTP out, with a ledger fed by hand.

mod bind;
mod filter;
mod full_nodes;
mod http;
mod preempt;
mod ranking;
mod world;
