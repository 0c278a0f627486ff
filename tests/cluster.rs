//! Behaviour on a real control plane.
