//! A cluster in one process: an API server, GPU nodes and a scheduling loop that exist only in memory, around the real webhook,
//! ledger and extender.

pub mod api_server;
pub(crate) mod random;
