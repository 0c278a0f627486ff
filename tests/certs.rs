//! Tests of: certs.
