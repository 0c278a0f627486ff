//! Events, and what probes ask.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_uint};
use std::time::{Duration, Instant};

use super::*;

#[repr(C)]
struct Field {
    id: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency: i64,
    kind: c_uint,
    answer: c_uint,
    value: u32,
    rest: u32,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetFieldValues(device: Handle, count: c_int, fields: *mut Field) -> Answer {
    finish(about("nvmlDeviceGetFieldValues", device, false).map(|(s, it)| {
        for index in 0..count as usize {
            let field = unsafe { &mut *fields.add(index) };
            // The upper half is left as it was, as the original may.
            match it.number(&s, &format!("field.{}", field.id)) {
                Ok(value) => (field.answer, field.kind, field.value) = (OK, 1, value as u32),
                Err(code) => field.answer = code,
            }
        }
    }))
}

/// `set 0 rows <pending> <failed>`.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetRemappedRows(
    device: Handle,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> Answer {
    finish(about("nvmlDeviceGetRemappedRows", device, false).and_then(|(s, it)| {
        let rows = it.property(&s, "rows")?;
        let (a, b) = rows.split_once(' ').unwrap();
        write(corrected, 0);
        write(uncorrected, 0);
        write(pending, a.parse().unwrap());
        write(failed, b.parse().unwrap());
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetCreate(set: *mut usize) -> Answer {
    finish(begin("nvmlEventSetCreate").map(|_| {
        let mut state = state();
        let number = state.next_set;
        state.next_set += 1;
        state.sets.insert(number, BTreeMap::new());
        write(set, number);
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: usize) -> Answer {
    if state().sets.remove(&set).is_none() {
        complain("nvmlEventSetFree: no such event set");
        return INVALID_ARGUMENT;
    }
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(device: Handle, kinds: u64, set: usize) -> Answer {
    finish(about("nvmlDeviceRegisterEvents", device, false).and_then(|(s, it)| {
        if kinds & !it.number(&s, "events")? != 0 {
            return Err(INVALID_ARGUMENT);
        }
        match state().sets.get_mut(&set) {
            Some(cards) => cards.insert(it.card, (kinds, s.lines("event").count())),
            None => return Err(INVALID_ARGUMENT),
        };
        Ok(())
    }))
}

#[repr(C)]
struct EventData {
    device: Handle,
    kind: u64,
    data: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetWait_v2(set: usize, event: *mut EventData, milliseconds: c_uint) -> Answer {
    let deadline = Instant::now() + Duration::from_millis(u64::from(milliseconds));
    loop {
        let script = match begin("nvmlEventSetWait_v2") {
            Ok(script) => script,
            Err(code) => return code,
        };
        let Some(cards) = state().sets.get(&set).cloned() else {
            complain("nvmlEventSetWait_v2: no such event set");
            return INVALID_ARGUMENT;
        };
        if cards.is_empty() {
            complain("nvmlEventSetWait_v2: nobody is registered");
        }
        if let Some(data) = next_event(&script, &cards) {
            write(event, data);
            return OK;
        }
        let lost: BTreeSet<_> = cards.keys().filter(|card| script.is_lost(**card)).collect();
        if !lost.is_empty() {
            return GPU_IS_LOST;
        }
        if Instant::now() >= deadline {
            return TIMEOUT;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The next event of the script for which a card was registered when it happened; others are over unheard.
fn next_event(script: &Script, cards: &BTreeMap<usize, (u64, usize)>) -> Option<EventData> {
    let events: Vec<&str> = script.lines("event").collect();
    let mut told = state().told;
    let mut found = None;
    while told < events.len() && found.is_none() {
        let parts: Vec<&str> = events[told].split(' ').collect();
        told += 1;
        let (card, kind) = (parts[0].parse().unwrap(), number(parts[1]).unwrap());
        if cards.get(&card).is_some_and(|(kinds, before)| kinds & kind != 0 && told > *before) {
            let id = |text: &str| text.parse().unwrap_or(c_uint::MAX);
            found = Some(EventData {
                device: handle(card, None),
                kind,
                data: number(parts[2]).unwrap(),
                gpu_instance: id(parts[3]),
                compute_instance: id(parts[4]),
            });
        }
    }
    state().told = told;
    found
}
