//! How reviews are sent: each after the answer to the one before, or so many a second whatever the answers do.

use std::time::{Duration, Instant};

use axum::body::Bytes;

use super::client::{Connection, Dialer};

/// New pods per second of the steady stream.
pub const RATE: u32 = 100;
/// The thread spins for this long before a call is due: the kernel wakes a sleeper up to 60 us late.
const SPIN: Duration = Duration::from_micros(300);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// `calls` reviews one after the other on each of `connections` connections; with `fresh`, a new connection for each, whose making
/// counts.
pub fn in_turn(dialer: &Dialer, fresh: bool, connections: usize, calls: usize, bodies: &[Bytes]) -> Vec<Duration> {
    let one = async |lane: usize| {
        let mut kept: Option<Connection> = None;
        let mut times = Vec::with_capacity(calls / connections);
        for n in (lane..calls).step_by(connections) {
            let start = Instant::now();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => dialer.dial().await,
            };
            connection.call(&bodies[n % bodies.len()]).await;
            times.push(start.elapsed());
            kept = (!fresh).then_some(connection);
        }
        times
    };
    runtime().block_on(async {
        let lanes: Vec<_> = (0..connections).map(one).collect();
        futures::future::join_all(lanes).await.concat()
    })
}

/// [`RATE`] reviews a second in turn over `connections` connections for `length`. Times count from when a call was due: a slow
/// answer delays what waits behind it, and that is seen.
pub fn at_rate(dialer: &Dialer, connections: usize, length: Duration, bodies: &[Bytes]) -> Vec<Duration> {
    let calls = (length.as_secs_f64() * f64::from(RATE)) as usize;
    let start = Instant::now() + Duration::from_millis(200);
    let lane = |lane: usize| {
        let runtime = runtime();
        let mut connection = runtime.block_on(dialer.dial());
        let mut times = Vec::with_capacity(calls / connections + 1);
        for n in (lane..calls).step_by(connections) {
            let due = start + n as u32 * Duration::from_secs(1) / RATE;
            std::thread::sleep((due - SPIN).saturating_duration_since(Instant::now()));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            runtime.block_on(connection.call(&bodies[n % bodies.len()]));
            times.push(due.elapsed());
        }
        times
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..connections).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("its times")).collect()
    })
}
