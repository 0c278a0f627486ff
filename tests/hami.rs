//! Tests of: hami.
