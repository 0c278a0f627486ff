//! Tests of: server.
