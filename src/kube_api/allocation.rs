//! The pod annotations that carry an allocation.
