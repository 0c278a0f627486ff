//! The webhook's certificates.
