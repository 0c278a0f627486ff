//! Packhorse: many pods share the NVIDIA GPUs of a Kubernetes cluster.
//!
//! The layers, upper may use lower, never the reverse:
//!
//! | layer | owns |
//! |---|---|
//! | [`cli`] | roles and their flags, one file each |
//! | [`webhook`], [`extender`], [`agent`], [`dashboard`] | the serving parts; none knows another |
//! | [`check`], [`validate`], [`cleanup`] | judgement of an installation, and how to take it off a node; pure |
//! | [`inspect`] | why a pod waits and what would help; uses the extender's verdict |
//! | [`import`] | NVIDIA's configuration as values of the chart: text in, text out; reads the agent's names only |
//! | [`top`] | what pods and devices use now, beside what is booked; uses [`inspect`] |
//! | [`simulate`] | replays of traces by placement policies; uses [`gpu`] only |
//! | [`runtime`] | the configuration of a node's container runtime; uses nothing else |
//! | [`plot`] | pictures, for [`simulate`] and the measurements |
//! | [`ledger`] | cluster state in memory, fed by watches, sharded by node |
//! | [`kube_api`], [`kubelet_api`] | names, annotation codecs, wire types, the few API calls |
//! | [`gpu`] | quantities, requests, devices, fit: pure |
//!
//! `ARCHITECTURE.md` tells why.

pub mod agent;
pub mod certs;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod dashboard;
pub mod demo;
pub mod extender;
pub mod gpu;
pub mod import;
pub mod inspect;
pub mod kube_api;
pub mod kubelet_api;
pub mod ledger;
pub mod metrics;
pub mod plot;
mod random;
pub mod runtime;
pub mod serve;
pub mod simulate;
pub mod top;
pub mod validate;
pub mod webhook;
pub mod yaml;
