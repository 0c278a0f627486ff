//! The NVML backend against a stand-in for NVIDIA's library (`nvml/library.rs`), loaded as the real one is. No GPU is needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic as the tests do")]

mod discovery;
mod events;
mod fake;
mod hardware;
mod lifecycle;
mod links;
mod mig;
mod probes;
mod usage;
