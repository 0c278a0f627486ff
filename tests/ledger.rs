//! Tests of: ledger.
