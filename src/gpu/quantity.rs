//! Kubernetes quantities, as far as GPU requests need them.
