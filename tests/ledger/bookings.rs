//! Bookings and the watch that confirms them, late or otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use packhorse::gpu::reason::Reason;
use packhorse::ledger::BookError;
use serde_json::json;

use super::build::*;

#[test]
fn a_booking_counts_at_once_and_is_confirmed_by_the_watch() {
    let ledger = ledger(&[node("n", &[1])]);
    book(&ledger, "n", "a", 1).unwrap();
    assert_eq!(memory(&ledger, "n", 1), 1000);
    assert_eq!(ledger.unconfirmed(), 1);
    assert!(!ledger.pod("a").unwrap().confirmed);

    apply_pod(&ledger, &bound("a", "n", &share(1)));
    assert_eq!(memory(&ledger, "n", 1), 1000, "counted once");
    assert_eq!(ledger.unconfirmed(), 0);
    assert!(ledger.pod("a").unwrap().confirmed);
    ledger.unbook("a");
    assert_eq!(memory(&ledger, "n", 1), 1000, "a confirmed pod is not taken back");
}

#[test]
fn a_lagging_watch_takes_no_booking_away() {
    let ledger = ledger(&[node("n", &[1])]);
    apply_pod(&ledger, &pending("a"));
    book(&ledger, "n", "a", 1).unwrap();
    let mut later = pending("a");
    later["spec"]["priority"] = json!(7);
    later["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    for version in [pending("a"), later] {
        apply_pod(&ledger, &version);
        assert_eq!(memory(&ledger, "n", 1), 1000);
        assert_eq!(ledger.unconfirmed(), 1);
    }
    assert_eq!(ledger.pod("a").unwrap().priority, 7);
}

#[test]
fn a_pod_bound_elsewhere_counts_where_it_is() {
    let ledger = ledger(&[node("n", &[1]), node("m", &[2])]);
    book(&ledger, "n", "a", 1).unwrap();
    apply_pod(&ledger, &bound("a", "m", &share(2)));
    assert_eq!((memory(&ledger, "n", 1), memory(&ledger, "m", 2)), (0, 1000));
    assert_eq!(ledger.pod("a").unwrap().node.as_deref(), Some("m"));
    assert!(ledger.pods_on("n").is_empty());
    assert_eq!(ledger.unconfirmed(), 0);
}

#[test]
fn a_pod_bound_with_another_allocation_counts_with_its_own() {
    let ledger = ledger(&[node("n", &[1, 2])]);
    book(&ledger, "n", "a", 1).unwrap();
    apply_pod(&ledger, &bound("a", "n", &share(2)));
    assert_eq!((memory(&ledger, "n", 1), memory(&ledger, "n", 2)), (0, 1000));
}

#[test]
fn a_deleted_pod_loses_its_booking() {
    let ledger = ledger(&[node("n", &[1])]);
    book(&ledger, "n", "a", 1).unwrap();
    remove_pod(&ledger, &pending("a"));
    assert_eq!(memory(&ledger, "n", 1), 0);
    assert_eq!(ledger.unconfirmed(), 0);
}

#[test]
fn booking_again_gives_the_same_devices() {
    let ledger = ledger(&[node("n", &[1, 2]), node("m", &[3])]);
    let first = book(&ledger, "n", "a", 1).unwrap();
    assert_eq!(book(&ledger, "n", "a", 2).unwrap(), first);
    assert_eq!(book(&ledger, "m", "a", 3), Err(BookError::BookedElsewhere("n".to_owned())));
    apply_pod(&ledger, &bound("a", "n", &share(1)));
    assert_eq!(book(&ledger, "n", "a", 2).unwrap(), first);
    assert_eq!((memory(&ledger, "n", 1), memory(&ledger, "n", 2)), (1000, 0));
}

#[test]
fn a_failed_choice_books_nothing() {
    let ledger = ledger(&[node("n", &[1]), json!({"metadata": {"name": "plain"}})]);
    let refused = ledger.book("n", &booking("a"), |_| Err(Reason::MemoryExhausted));
    assert_eq!(refused, Err(BookError::NoFit(Reason::MemoryExhausted)));
    assert_eq!(book(&ledger, "nowhere", "a", 1), Err(BookError::UnknownNode("nowhere".to_owned())));
    assert_eq!(book(&ledger, "plain", "a", 1), Err(BookError::NoFit(Reason::NoInventory)));
    assert!(ledger.pod("a").is_none());
    book(&ledger, "n", "a", 1).unwrap();
    ledger.unbook("a");
    assert_eq!(memory(&ledger, "n", 1), 0);
    assert!(ledger.pod("a").is_none());
}

#[test]
fn many_threads_never_oversubscribe_a_node() {
    // 10 pods of 1000 MiB fit each of two devices; forty want to go there, each from its own thread, twice.
    let ledger = Arc::new(ledger(&[node("n", &[1, 2])]));
    let booked = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..80)
        .map(|thread| {
            let (ledger, booked) = (Arc::clone(&ledger), Arc::clone(&booked));
            std::thread::spawn(move || {
                let uid = format!("pod-{}", thread / 2);
                let chosen = ledger.book("n", &booking(&uid), |node| {
                    let free = node.devices.iter().zip(&node.usage).position(|(d, u)| u.memory + 1000 <= d.memory);
                    let number = free.ok_or(Reason::MemoryExhausted)? + 1;
                    booked.fetch_add(1, Ordering::Relaxed);
                    Ok((share(number), holdings(&share(number))))
                });
                if let Ok(allocation) = chosen {
                    apply_pod(&ledger, &bound(&uid, "n", &allocation));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(booked.load(Ordering::Relaxed), 20, "each slot is chosen for one pod");
    assert_eq!((memory(&ledger, "n", 1), memory(&ledger, "n", 2)), (10000, 10000));
    assert_eq!(ledger.pods_on("n").len(), 20);
}
