//! Listeners, TLS and graceful shutdown for all servers.
