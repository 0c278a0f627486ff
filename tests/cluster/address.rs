//! A loopback address of one's own. With it every component has its usual port, no port has to be searched for, and two labs on
//! one machine never meet.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An address of 127.0.0.0/8 that nobody else holds, as long as this lives.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    _claim: TcpListener,
}

impl Address {
    /// Begins at an address derived from the process; the claim is a listener on its port 1.
    pub(crate) fn claim() -> Self {
        for _ in 0..1000 {
            let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let [_, b, c, d] = number.to_be_bytes();
            let ip = Ipv4Addr::new(127, 64 + b % 128, c, d.clamp(1, 254));
            // Port 1 is privileged in places: a lab that is not root claims 10001.
            for port in [1, 10001] {
                match TcpListener::bind((ip, port)) {
                    Ok(claim) => return Self { ip, _claim: claim },
                    Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                    Err(_) => break,
                }
            }
        }
        panic!("no free loopback address among 1000");
    }
}
