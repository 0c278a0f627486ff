//! HTTP/2 beside HTTP/1.1, to see what it would cost: Packhorse's TLS offers HTTP/1.1 alone.

use std::sync::Arc;

use rustls::ServerConfig;

/// The same configuration, for clients of either.
pub fn both(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}
