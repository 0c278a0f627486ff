//! A stand-in for `libnvidia-ml.so.1`, compiled by the tests with `rustc --crate-type cdylib`; no part of the test binary.
//!
//! It answers from `<this library's file>.script`, read anew at each call, so that a test changes the hardware by writing a
//! file. It is as strict as the original: nothing works before `nvmlInit_v2`, handles die with their session, buffers that are
//! too small and structures of an unknown version are refused, what a card lacks is "not supported". Misuse which the original
//! would answer with a crash is written to `<file>.complaints`.
//!
//! ```text
//! init 9                                  nvmlInit_v2 answers 9
//! epoch 2                                 another driver: sessions of another epoch are over
//! driver 580.95.05
//! cuda 13000
//! cards 2
//! set 0 name NVIDIA H100 80GB HBM3        a property of card 0; one that is not set is not supported
//! set 0/1 uuid MIG-…                      a property of its second MIG device
//! lost 1                                  card 1 has fallen off the bus
//! fail nvmlDeviceGetName 0 999            that call of that card answers 999
//! event 0 8 79 - -                        type, data, GPU instance, compute instance
//! ```
#![allow(non_snake_case)]
#![deny(warnings)]

#[path = "library/cards.rs"]
mod cards;
#[path = "library/health.rs"]
mod health;
#[path = "library/links.rs"]
mod links;
#[path = "library/mig.rs"]
mod mig;
#[path = "library/usage.rs"]
mod usage;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

type Answer = c_uint;
type Handle = usize;

const OK: Answer = 0;
const UNINITIALIZED: Answer = 1;
const INVALID_ARGUMENT: Answer = 2;
const NOT_SUPPORTED: Answer = 3;
const NOT_FOUND: Answer = 6;
const INSUFFICIENT_SIZE: Answer = 7;
const TIMEOUT: Answer = 10;
const GPU_IS_LOST: Answer = 15;
const LIB_RM_VERSION_MISMATCH: Answer = 18;
const ARGUMENT_VERSION_MISMATCH: Answer = 25;

static STATE: Mutex<State> =
    Mutex::new(State { initialised: 0, session: 0, epoch: String::new(), told: 0, sets: BTreeMap::new(), next_set: 1 });

struct State {
    initialised: u32,
    session: usize,
    epoch: String,
    /// Events of the script that are over.
    told: usize,
    /// Of each event set: cards with the types they are registered for, and the events that had happened before.
    sets: BTreeMap<usize, BTreeMap<usize, (u64, usize)>>,
    next_set: usize,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap()
}

/// Beside the library itself.
fn file(extension: &str) -> PathBuf {
    #[repr(C)]
    struct Symbol {
        file: *const c_char,
        base: *mut c_void,
        name: *const c_char,
        address: *mut c_void,
    }
    unsafe extern "C" {
        fn dladdr(address: *const c_void, symbol: *mut Symbol) -> c_int;
    }
    let null = std::ptr::null_mut();
    let mut symbol = Symbol { file: null, base: null.cast(), name: null, address: null.cast() };
    let found = unsafe { dladdr((&raw const STATE).cast(), &raw mut symbol) };
    assert!(found != 0, "the library does not know where it is");
    let path = unsafe { CStr::from_ptr(symbol.file) }.to_str().unwrap();
    format!("{path}.{extension}").into()
}

fn complain(text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file("complaints")).unwrap();
    writeln!(file, "{text}").unwrap();
}

struct Script(String);

impl Script {
    fn read() -> Self {
        Self(std::fs::read_to_string(file("script")).unwrap())
    }

    fn lines(&self, start: &str) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(start)?.strip_prefix(' '))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.lines(key).next()
    }

    fn number(&self, key: &str) -> Option<u64> {
        number(self.value(key)?)
    }

    fn is_lost(&self, card: usize) -> bool {
        self.lines("lost").any(|lost| lost == card.to_string())
    }

    /// What a call is scripted to answer instead.
    fn failure(&self, call: &str, subject: &str) -> Option<Answer> {
        let failure = self.value(&format!("fail {call} {subject}")).or_else(|| self.value(&format!("fail {call} *")));
        failure.map(|code| code.parse().unwrap())
    }
}

fn number(text: &str) -> Option<u64> {
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}

/// A session that is in order, with the script of the moment.
fn begin(call: &str) -> Result<Script, Answer> {
    let (initialised, epoch) = {
        let state = state();
        (state.initialised, state.epoch.clone())
    };
    if initialised == 0 {
        return Err(UNINITIALIZED);
    }
    let script = Script::read();
    if script.value("epoch").unwrap_or("1") != epoch {
        return Err(LIB_RM_VERSION_MISMATCH);
    }
    match script.failure(call, "-") {
        Some(code) => Err(code),
        None => Ok(script),
    }
}

/// A handle: session, card + 1, MIG device + 1 or 0.
fn handle(card: usize, instance: Option<usize>) -> Handle {
    let session = state().session;
    (session << 32) | ((card + 1) << 16) | instance.map_or(0, |instance| instance + 1)
}

#[derive(Clone, Copy)]
struct Subject {
    card: usize,
    instance: Option<usize>,
}

impl Subject {
    fn name(self) -> String {
        self.instance.map_or_else(|| self.card.to_string(), |instance| format!("{}/{instance}", self.card))
    }

    fn property(self, script: &Script, key: &str) -> Result<String, Answer> {
        script.value(&format!("set {} {key}", self.name())).map(str::to_owned).ok_or(NOT_SUPPORTED)
    }

    fn number(self, script: &Script, key: &str) -> Result<u64, Answer> {
        self.property(script, key).map(|value| number(&value).unwrap())
    }
}

/// What a call is about, unless the script has it fail. `cached`: answered from memory even when the card is gone.
fn about(call: &str, handle: Handle, cached: bool) -> Result<(Script, Subject), Answer> {
    let script = begin(call)?;
    if handle >> 32 != state().session || handle & 0xffff_0000 == 0 {
        complain(&format!("{call}: a handle of another session"));
        return Err(INVALID_ARGUMENT);
    }
    let subject = Subject { card: (handle >> 16 & 0xffff) - 1, instance: (handle & 0xffff).checked_sub(1) };
    if let Some(code) = script.failure(call, &subject.name()) {
        return Err(code);
    }
    if script.is_lost(subject.card) && !cached {
        return Err(GPU_IS_LOST);
    }
    Ok((script, subject))
}

fn finish(result: Result<(), Answer>) -> Answer {
    result.err().unwrap_or(OK)
}

fn write<T>(place: *mut T, value: T) {
    unsafe { place.write(value) }
}

fn write_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), Answer> {
    if text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Answer {
    let script = Script::read();
    if let Some(code) = script.number("init") {
        return code as Answer;
    }
    let mut state = state();
    if state.initialised == 0 {
        // Any number that no earlier load of this file used.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        state.session = (now.subsec_nanos() as usize) | 1;
        state.epoch = script.value("epoch").unwrap_or("1").to_owned();
    }
    state.initialised += 1;
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Answer {
    let mut state = state();
    if state.initialised == 0 {
        return UNINITIALIZED;
    }
    state.initialised -= 1;
    let leaked = !state.sets.is_empty();
    drop(state);
    if leaked {
        complain("nvmlShutdown: an event set was not freed");
    }
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: Answer) -> *const c_char {
    let text = match code {
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        4 => c"Insufficient Permissions",
        NOT_FOUND => c"Not Found",
        9 => c"Driver Not Loaded",
        GPU_IS_LOST => c"GPU is lost",
        LIB_RM_VERSION_MISMATCH => c"Driver/library version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint) -> Answer {
    finish(
        begin("nvmlSystemGetDriverVersion")
            .and_then(|script| write_text(text, length, script.value("driver").unwrap())),
    )
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Answer {
    finish(begin("nvmlSystemGetCudaDriverVersion_v2").and_then(|script| {
        let cuda = script.number("cuda").ok_or(12_u32)?;
        write(version, cuda as c_int);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Answer {
    finish(begin("nvmlDeviceGetCount_v2").map(|script| write(count, script.number("cards").unwrap() as c_uint)))
}
