//! Tests of: requests.
