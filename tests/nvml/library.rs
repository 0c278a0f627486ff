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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

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

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Handle) -> Answer {
    finish(begin("nvmlDeviceGetHandleByIndex_v2").and_then(|script| {
        if u64::from(index) >= script.number("cards").unwrap() {
            return Err(INVALID_ARGUMENT);
        }
        let card = index as usize;
        about("nvmlDeviceGetHandleByIndex_v2", handle(card, None), false)?;
        write(device, handle(card, None));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> Answer {
    finish(
        about("nvmlDeviceGetUUID", device, true)
            .and_then(|(s, it)| write_text(text, length, &it.property(&s, "uuid")?)),
    )
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetName(device: Handle, text: *mut c_char, length: c_uint) -> Answer {
    finish(
        about("nvmlDeviceGetName", device, true)
            .and_then(|(s, it)| write_text(text, length, &it.property(&s, "name")?)),
    )
}

/// Calls that answer one number.
macro_rules! number {
    ($($call:ident $key:literal $kind:ty;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $call(device: Handle, value: *mut $kind) -> Answer {
            finish(about(stringify!($call), device, false).and_then(|(s, it)| {
                write(value, it.number(&s, $key)? as $kind);
                Ok(())
            }))
        }
    )*};
}

number! {
    nvmlDeviceGetMinorNumber "minor" c_uint;
    nvmlDeviceGetMaxMigDeviceCount "instances" c_uint;
    nvmlDeviceGetGpuInstanceId "gi" c_uint;
    nvmlDeviceGetComputeInstanceId "ci" c_uint;
    nvmlDeviceGetSupportedEventTypes "events" u64;
    nvmlDeviceGetRetiredPagesPendingStatus "retirement" c_uint;
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCudaComputeCapability(device: Handle, major: *mut c_int, minor: *mut c_int) -> Answer {
    finish(about("nvmlDeviceGetCudaComputeCapability", device, false).and_then(|(s, it)| {
        let compute = it.property(&s, "compute")?;
        let (a, b) = compute.split_once('.').unwrap();
        write(major, a.parse().unwrap());
        write(minor, b.parse().unwrap());
        Ok(())
    }))
}

#[repr(C)]
struct MemoryV1 {
    total: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo(device: Handle, memory: *mut MemoryV1) -> Answer {
    finish(about("nvmlDeviceGetMemoryInfo", device, false).and_then(|(s, it)| {
        let total = it.number(&s, "memory")?;
        write(memory, MemoryV1 { total, free: total, used: 0 });
        Ok(())
    }))
}

#[repr(C)]
struct MemoryV2 {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, memory: *mut MemoryV2) -> Answer {
    finish(about("nvmlDeviceGetMemoryInfo_v2", device, false).and_then(|(s, it)| {
        let version = unsafe { (*memory).version };
        if version != 0x0200_0028 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let total = it.number(&s, "memory")?;
        write(memory, MemoryV2 { version, total, reserved: 1 << 28, free: total - (1 << 28), used: 0 });
        Ok(())
    }))
}

#[repr(C)]
struct Pci {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    id: c_uint,
    subsystem: c_uint,
    text: [c_char; 32],
}

/// `domain:bus:device` in hexadecimal.
fn write_pci(place: *mut Pci, text: &str) -> Result<(), Answer> {
    let parts: Vec<u32> = text.split(':').map(|part| u32::from_str_radix(part, 16).unwrap()).collect();
    let (domain, bus, device) = (parts[0], parts[1], parts[2]);
    let mut pci = Pci { legacy: [0; 16], domain, bus, device, id: 0x2330_10de, subsystem: 0, text: [0; 32] };
    write_text(pci.legacy.as_mut_ptr(), 16, &format!("{:04X}:{bus:02X}:{device:02X}.0", domain & 0xffff))?;
    write_text(pci.text.as_mut_ptr(), 32, &format!("{domain:08X}:{bus:02X}:{device:02X}.0"))?;
    write(place, pci);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(device: Handle, pci: *mut Pci) -> Answer {
    finish(about("nvmlDeviceGetPciInfo_v3", device, true).and_then(|(s, it)| write_pci(pci, &it.property(&s, "pci")?)))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTopologyCommonAncestor(one: Handle, other: Handle, level: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetTopologyCommonAncestor", one, false).and_then(|(s, it)| {
        let (_, peer) = about("nvmlDeviceGetTopologyCommonAncestor", other, false)?;
        write(level, it.number(&s, &format!("ancestor.{}", peer.card))? as c_uint);
        Ok(())
    }))
}

/// `set 0 links 18`: so many there are; `set 0 link.3 switch` or a PCI address: where an active one leads.
fn link(call: &str, device: Handle, link: c_uint) -> Result<Option<String>, Answer> {
    let (s, it) = about(call, device, false)?;
    if u64::from(link) >= it.number(&s, "links")? {
        return Err(INVALID_ARGUMENT);
    }
    Ok(it.property(&s, &format!("link.{link}")).ok())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkState(device: Handle, number: c_uint, active: *mut c_uint) -> Answer {
    finish(link("nvmlDeviceGetNvLinkState", device, number).map(|to| write(active, c_uint::from(to.is_some()))))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(device: Handle, number: c_uint, kind: *mut c_uint) -> Answer {
    finish(link("nvmlDeviceGetNvLinkRemoteDeviceType", device, number).and_then(|to| {
        write(kind, if to.ok_or(NOT_SUPPORTED)? == "switch" { 2 } else { 0 });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: Handle, number: c_uint, pci: *mut Pci) -> Answer {
    finish(link("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, number).and_then(|to| match to.as_deref() {
        None => Err(NOT_SUPPORTED),
        Some("switch") => write_pci(pci, "0:c0:0"),
        Some(address) => write_pci(pci, address),
    }))
}

#[repr(C)]
struct Fabric {
    cluster: [u8; 16],
    status: c_uint,
    clique: c_uint,
    state: u8,
}

/// `set 0 fabric <first byte> <clique> <state>`.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuFabricInfo(device: Handle, info: *mut Fabric) -> Answer {
    finish(about("nvmlDeviceGetGpuFabricInfo", device, false).and_then(|(s, it)| {
        let fabric = it.property(&s, "fabric")?;
        let parts: Vec<u32> = fabric.split(' ').map(|part| part.parse().unwrap()).collect();
        let mut cluster = [0; 16];
        cluster[0] = parts[0] as u8;
        write(info, Fabric { cluster, status: OK, clique: parts[1], state: parts[2] as u8 });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetMigMode", device, false).and_then(|(s, it)| {
        let mode = it.number(&s, "mig")? as c_uint;
        write(current, mode);
        write(pending, mode);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(device: Handle, index: c_uint, instance: *mut Handle) -> Answer {
    finish(about("nvmlDeviceGetMigDeviceHandleByIndex", device, false).and_then(|(s, it)| {
        let found = Subject { instance: Some(index as usize), ..it };
        if u64::from(index) >= it.number(&s, "instances")? {
            return Err(INVALID_ARGUMENT);
        }
        found.property(&s, "uuid").map_err(|_| NOT_FOUND)?;
        let place = handle(it.card, found.instance);
        about("nvmlDeviceGetMigDeviceHandleByIndex", place, false)?;
        write(instance, place);
        Ok(())
    }))
}

#[repr(C)]
struct Attributes {
    /// Multiprocessors, copy engines, decoders, encoders, JPEG, OFA, GPU slices, compute slices.
    numbers: [c_uint; 8],
    memory: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetAttributes_v2(device: Handle, attributes: *mut Attributes) -> Answer {
    finish(about("nvmlDeviceGetAttributes_v2", device, false).and_then(|(s, it)| {
        let all = it.property(&s, "attributes")?;
        let all: Vec<u32> = all.split(' ').map(|part| part.parse().unwrap()).collect();
        write(attributes, Attributes { numbers: all[..8].try_into().unwrap(), memory: u64::from(all[8]) });
        Ok(())
    }))
}

/// A GPU instance's handle is the MIG device's.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuInstanceById(device: Handle, id: c_uint, instance: *mut Handle) -> Answer {
    finish(about("nvmlDeviceGetGpuInstanceById", device, false).and_then(|(s, it)| {
        for index in 0..it.number(&s, "instances")? as usize {
            let candidate = Subject { instance: Some(index), ..it };
            if candidate.number(&s, "gi") == Ok(u64::from(id)) {
                write(instance, handle(it.card, Some(index)));
                return Ok(());
            }
        }
        Err(NOT_FOUND)
    }))
}

#[repr(C)]
struct InstanceInfo {
    device: Handle,
    id: c_uint,
    profile: c_uint,
    start: c_uint,
    size: c_uint,
}

/// `set 0/1 placement <profile> <start> <size>`.
#[unsafe(no_mangle)]
extern "C" fn nvmlGpuInstanceGetInfo(instance: Handle, info: *mut InstanceInfo) -> Answer {
    finish(about("nvmlGpuInstanceGetInfo", instance, false).and_then(|(s, it)| {
        let placement = it.property(&s, "placement")?;
        let parts: Vec<u32> = placement.split(' ').map(|part| part.parse().unwrap()).collect();
        let id = it.number(&s, "gi")? as c_uint;
        let device = handle(it.card, None);
        write(info, InstanceInfo { device, id, profile: parts[0], start: parts[1], size: parts[2] });
        Ok(())
    }))
}

#[repr(C)]
struct ProfileInfo {
    numbers: [c_uint; 10],
    memory: u64,
}

/// `set 0 profile.7 20`.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuInstanceProfileInfo(device: Handle, profile: c_uint, info: *mut ProfileInfo) -> Answer {
    finish(about("nvmlDeviceGetGpuInstanceProfileInfo", device, false).and_then(|(s, it)| {
        let mut numbers = [0; 10];
        numbers[0] = it.number(&s, &format!("profile.{profile}"))? as c_uint;
        write(info, ProfileInfo { numbers, memory: 0 });
        Ok(())
    }))
}

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
