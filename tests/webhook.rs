//! Tests of the mutating admission webhook: reviews as an API server sends them, and what comes back. Every pod that is admitted
//! is given back once more, as the API server would store it, and must not be changed again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail as the tests do")]
#![allow(clippy::needless_pass_by_value, reason = "pods and settings read best where they are made")]

mod damaged;
mod ephemeral;
mod http;
mod manifests;
mod mutations;
mod outsiders;
mod policies;
mod random;
mod requests;
pub(crate) mod review;
mod settings;
