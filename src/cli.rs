//! Roles and their flags.
