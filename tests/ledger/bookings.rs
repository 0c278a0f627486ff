//! Bookings and the watch that confirms them, late or otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use packhorse::gpu::fit::{Policies, place};
use packhorse::gpu::reason::Reason;
use packhorse::gpu::request::{Ask, ContainerRequest, Memory, Phase, PodRequest};
use packhorse::ledger::{BookError, Ledger, NodeState};
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
    // Of each kind as many as fit: 1000 MiB and 10 cores (10 a card), 4000 MiB without cores, whole cards. Every pod comes twice at
    // once, and leaves again now and then.
    let asks = [
        Ask::Share { memory: Memory::Mib(1000), cores: 10 },
        Ask::Share { memory: Memory::Mib(4000), cores: 0 },
        Ask::Exclusive,
        Ask::Share { memory: Memory::Percent(30), cores: 60 },
    ];
    let ledger = Arc::new(ledger(&[node("n", &[1, 2, 3]), node("m", &[4])]));
    let booked = Arc::new(AtomicUsize::new(0));
    let watcher = {
        let (ledger, booked) = (Arc::clone(&ledger), Arc::clone(&booked));
        std::thread::spawn(move || {
            while booked.load(Ordering::Relaxed) < usize::MAX / 2 {
                within_limits(&ledger);
            }
        })
    };
    let threads: Vec<_> = (0..8_usize)
        .map(|thread| {
            let (ledger, booked, asks) = (Arc::clone(&ledger), Arc::clone(&booked), asks.clone());
            std::thread::spawn(move || {
                for round in 0..60_usize {
                    let number = (thread / 2) * 1000 + round;
                    let uid = format!("pod-{number}");
                    let ask = asks[number % asks.len()].clone();
                    let container = ContainerRequest {
                        name: "main".into(),
                        phase: Phase::App,
                        count: 1,
                        ask,
                        index: vec![],
                        uuid: vec![],
                    };
                    let request = PodRequest { containers: vec![container], ..PodRequest::default() };
                    let at = if number.is_multiple_of(3) { "m" } else { "n" };
                    let chosen = ledger.book(at, &booking(&uid), |node| {
                        let placement = place(node, &request, Policies::default())?;
                        Ok((placement.allocation, placement.holdings))
                    });
                    let Ok(allocation) = chosen else { continue };
                    booked.fetch_add(1, Ordering::Relaxed);
                    match number % 5 {
                        0 => ledger.unbook(&uid),
                        1 => apply_pod(&ledger, &bound(&uid, at, &allocation)),
                        2 => remove_pod(&ledger, &pending(&uid)),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(booked.swap(usize::MAX, Ordering::Relaxed) > 20, "pods were placed at all");
    watcher.join().unwrap();
    within_limits(&ledger);
    assert!(memory(&ledger, "n", 1) > 0);
}

/// No device is beyond its memory, cores or slots, or shared beside an exclusive holder; and each carries what its pods hold.
fn within_limits(ledger: &Ledger) {
    for entry in ledger.nodes() {
        let NodeState::Usable(node) = &entry.snapshot().state else { panic!("usable") };
        for (device, usage) in node.devices.iter().zip(&node.usage) {
            assert!(usage.memory <= device.memory, "{usage:?} on {}", device.uuid);
            assert!(usage.cores <= u32::from(device.cores), "{usage:?} on {}", device.uuid);
            assert!(usage.slots <= u32::from(device.slots), "{usage:?} on {}", device.uuid);
            assert!(usage.exclusive == 0 || usage.slots == 1, "{usage:?} on {}", device.uuid);
        }
    }
}
