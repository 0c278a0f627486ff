//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

/// Asks until the answer is there. Panics, naming what it waited for, after `seconds`.
pub(crate) async fn until<T>(what: &str, seconds: u64, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(seconds), "waited {seconds} s in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Asks until it is so; whether it became so within `seconds`.
pub(crate) async fn becomes(seconds: u64, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds().await {
            return true;
        }
        if started.elapsed() >= Duration::from_secs(seconds) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Holds for the whole time, else panics.
pub(crate) async fn throughout(what: &str, seconds: u64, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        assert!(holds().await, "did not hold for {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
