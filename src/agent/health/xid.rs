//! What NVIDIA's error codes (Xid) say about the card, after <https://docs.nvidia.com/deploy/xid-errors/>.
//!
//! A code that is not in the table counts as fatal, as in NVIDIA's device plugin: a code of a newer driver is better taken
//! seriously than overlooked, and the way back is open.

use super::Severity;

/// What one code means for the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The fault of a program; the card is in order.
    Application,
    /// The fault of the card, this bad.
    Card(Severity),
}

/// The codes that NVIDIA's device plugin ignores: errors of the program, not of the card.
pub const APPLICATION: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// Codes after which the card may go on working: the driver dealt with it, or a program may be at fault.
const LESSER: [(u64, &str); 9] = [
    (32, "corrupted push buffer"),
    (63, "a memory row or page was retired"),
    (65, "video processor exception"),
    (69, "graphics engine class error"),
    (73, "video encoder exception"),
    (92, "many corrected memory errors"),
    (94, "contained memory error"),
    (121, "corrected error on the link to the CPU"),
    (137, "access violation over NVLink"),
];

/// Codes after which the card must be reset or replaced; for their names only.
const FATAL: [(u64, &str); 14] = [
    (48, "uncorrectable memory error"),
    (54, "auxiliary power is not connected"),
    (61, "microcontroller halted for a breakpoint"),
    (62, "microcontroller halted"),
    (64, "a memory row or page could not be retired"),
    (74, "NVLink error"),
    (79, "the GPU has fallen off the bus"),
    (95, "uncontained memory error"),
    (119, "the GSP does not answer"),
    (120, "error in the GSP"),
    (140, "unrecovered memory error"),
    (143, "initialisation failed"),
    (154, "the driver asks for a recovery action"),
    (158, "fatal timeout"),
];

/// What `code` means for the card.
pub fn class(code: u64) -> Class {
    if APPLICATION.contains(&code) {
        Class::Application
    } else if LESSER.iter().any(|(lesser, _)| *lesser == code) {
        Class::Card(Severity::Suspect)
    } else {
        Class::Card(Severity::Fatal)
    }
}

/// The code with its meaning where the table has it: `Xid 79 (the GPU has fallen off the bus)`.
pub fn describe(code: u64) -> String {
    match LESSER.iter().chain(&FATAL).find(|(known, _)| *known == code) {
        Some((_, meaning)) => format!("Xid {code} ({meaning})"),
        None => format!("Xid {code}"),
    }
}
