//! Tests of: extender.
