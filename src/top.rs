//! What pods and devices use at this moment, as the agents tell it, beside what the allocations promise.
//!
//! Fed with the JSON of pods ([`agents`]), with what each agent exposes ([`openmetrics`], [`usage`]) and with the cluster that
//! [`crate::inspect`] reads; writes nothing, calls nobody. An agent that said nothing leaves its pods in the report, as unknown
//! ([`report`]): what is missing is always named.

pub mod agents;
pub mod openmetrics;
pub mod report;
pub mod usage;
