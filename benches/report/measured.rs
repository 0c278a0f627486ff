//! Figures as the measuring programs wrote them, runs of the same case together.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Parts of a case that tell runs apart, not cases.
const RUNS: [&str; 2] = ["round", "run"];

/// What one thing measured for one case.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) figure: String,
    pub(crate) case: Map<String, Value>,
    /// One a run, ascending.
    values: Vec<f64>,
}

impl Measured {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.values.len() / 2;
        if self.values.len().is_multiple_of(2) {
            f64::midpoint(self.values[middle - 1], self.values[middle])
        } else {
            self.values[middle]
        }
    }

    pub(crate) fn least(&self) -> f64 {
        self.values[0]
    }

    pub(crate) fn most(&self) -> f64 {
        self.values[self.values.len() - 1]
    }

    pub(crate) fn runs(&self) -> usize {
        self.values.len()
    }

    /// What the case says of `key`, as text; empty where nothing.
    pub(crate) fn says(&self, key: &str) -> String {
        match self.case.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Whether the case says all of this. The value `""` is of a key that is absent.
    pub(crate) fn is(&self, figure: &str, case: &[(&str, &str)]) -> bool {
        self.figure == figure && case.iter().all(|(key, value)| self.says(key) == *value)
    }

    /// A number that the case gives.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.case.get(key).and_then(Value::as_f64)
    }
}

/// All figures of a file's text, in the order in which they were first seen.
///
/// # Errors
/// Names the line that is no figure.
pub(crate) fn read(text: &str) -> Result<Vec<Measured>, String> {
    let mut order: Vec<Measured> = Vec::new();
    let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| format!("line {}: {what}: {line}", number + 1);
        let line: Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let figure = line["figure"].as_str().map(str::to_owned).ok_or_else(|| wrong("no text \"figure\""))?;
        let value = line["value"].as_f64().ok_or_else(|| wrong("no number \"value\""))?;
        let mut case = line["case"].as_object().cloned().unwrap_or_default();
        case.retain(|key, _| !RUNS.contains(&key.as_str()));
        let key = (figure.clone(), Value::Object(case.clone()).to_string());
        let at = *known.entry(key).or_insert(order.len());
        if at == order.len() {
            order.push(Measured { figure, case, values: Vec::new() });
        }
        order[at].values.push(value);
    }
    order.iter_mut().for_each(|measured| measured.values.sort_by(f64::total_cmp));
    Ok(order)
}
