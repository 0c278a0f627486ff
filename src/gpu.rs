//! What a GPU is, what a container asks of it, and whether the two fit.
//!
//! This layer is pure: no I/O, no async, no Kubernetes types, no clock. The same inputs give the same answer, so a verdict of
//! the filter and the choice at bind can never disagree for any other reason than a changed ledger.
//!
//! Units everywhere: memory in MiB, cores in percent of one card.

pub mod allocation;
pub mod card;
pub mod constraint;
pub mod device;
pub mod fit;
pub mod matching;
pub mod node;
pub mod parse;
pub mod quantity;
pub mod reason;
pub mod request;
pub mod score;
pub mod target;
pub mod topology;
pub mod workload;
