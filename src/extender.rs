//! The scheduler extender.
