//! What a measurement found, one JSON line each, for the report. Appended to the file that `PACKHORSE_FIGURES` names; without it
//! nothing is written. Written by the measuring programs, read by `report`.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::expect_used, reason = "a measurement ends where it fails")]

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::{Value, json};

/// The variable that names the file.
pub const FILE: &str = "PACKHORSE_FIGURES";

/// Notes one figure; `case` tells what it was measured for: `{"names": 5000, "tls": false}`.
pub fn record(figure: &str, value: f64, unit: &str, case: &Value) {
    let Some(path) = std::env::var_os(FILE) else { return };
    let line = json!({"figure": figure, "value": value, "unit": unit, "case": case});
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("the file of figures can be written");
    writeln!(file, "{line}").expect("the file of figures can be written");
}

/// Whether this is `cargo bench`: run as a test, a measurement has nothing to prove.
pub fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}
