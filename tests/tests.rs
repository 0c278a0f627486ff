//! Behaviour that needs no cluster, one module per subject. What needs a real control plane is in `cluster.rs`.

mod agent_devices;
mod agent_options;
mod agent_plugin;
mod agent_publish;
mod agent_specification;
mod agent_start;
mod agent_usage;
mod certs;
mod chart;
mod dashboard;
mod demo;
mod documentation;
mod extender;
mod hami;
mod import;
mod inspect;
mod ledger;
mod nvml;
mod protos;
mod report;
mod requests;
mod runtime;
mod server;
mod simulate;
mod webhook;
