//! The ledger as the extender meets it: fed with Kubernetes objects, read through snapshots.

mod bookings;
mod build;
mod damage;
mod doubts;
mod nodes;
mod replay;
