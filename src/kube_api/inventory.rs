//! The node annotations: inventory and cordon.
