//! Figures as Markdown: one row a case, one column a figure.

use std::collections::{BTreeMap, BTreeSet};

use super::measured::Measured;

/// A number with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            format!("{sign}{text}")
        }
    }
}

/// A number and its unit.
pub(crate) fn quoted(value: f64, unit: &str) -> String {
    let number = number(value);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// With more words than so many that vary, a case is told by what sets it apart from the usual.
const COLUMNS: usize = 5;

/// A table of some figures: the name in the file and the heading of each. Words of the case that are the same in all rows are left
/// out; nothing where nothing was measured.
pub(crate) fn table(all: &[Measured], figures: &[(&str, &str)]) -> Option<String> {
    let mut cases: Vec<&Measured> = Vec::new();
    for measured in all.iter().filter(|it| figures.iter().any(|(figure, _)| it.figure == *figure)) {
        if !cases.iter().any(|known| known.case == measured.case) {
            cases.push(measured);
        }
    }
    if cases.is_empty() {
        return None;
    }
    let (columns, told) = told(&cases);
    let heads = columns.iter().map(String::as_str).chain(figures.iter().map(|(_, head)| *head));
    let rules = columns.iter().map(|_| "---").chain(figures.iter().map(|_| "---:"));
    let (heads, rules): (Vec<_>, Vec<_>) = (heads.collect(), rules.collect());
    let mut text = format!("| {} | runs |\n|{}|---:|\n", heads.join(" | "), rules.join("|"));
    for (case, mut cells) in cases.into_iter().zip(told) {
        let mut runs = 0;
        for (figure, _) in figures {
            let found = all.iter().find(|it| it.figure == *figure && it.case == case.case);
            runs = runs.max(found.map_or(0, Measured::runs));
            cells.push(found.map_or_else(String::new, |it| number(it.median())));
        }
        text += &format!("| {} | {runs} |\n", cells.join(" | "));
    }
    Some(text)
}

/// What tells the cases apart: headings, and the words of each case below them.
fn told(cases: &[&Measured]) -> (Vec<String>, Vec<Vec<String>>) {
    let keys: BTreeSet<&String> = cases.iter().flat_map(|it| it.case.keys()).collect();
    let values = |key: &str| cases.iter().map(|it| it.says(key)).collect::<Vec<_>>();
    let varies = |key: &&String| values(key).into_iter().collect::<BTreeSet<_>>().len() > 1;
    let keys: Vec<&String> = keys.into_iter().filter(varies).collect();
    if keys.len() <= COLUMNS {
        let rows = cases.iter().map(|it| keys.iter().map(|key| it.says(key)).collect()).collect();
        return (keys.into_iter().cloned().collect(), rows);
    }
    let usual: Vec<(&String, String)> = keys.into_iter().map(|key| (key, most_frequent(values(key)))).collect();
    let row = |it: &&Measured| {
        let other = usual.iter().filter(|(key, usual)| it.says(key) != *usual);
        let word = |key: &str| Some(it.says(key)).filter(|it| !it.is_empty()).unwrap_or_else(|| "-".to_owned());
        let words: Vec<String> = other.map(|(key, _)| format!("{key} {}", word(key))).collect();
        vec![if words.is_empty() { "as usual".to_owned() } else { words.join(", ") }]
    };
    let words: Vec<String> = usual.iter().map(|(key, usual)| format!("{key} {usual}")).collect();
    (vec![format!("case; usual: {}", words.join(", "))], cases.iter().map(row).collect())
}

fn most_frequent(values: Vec<String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(value, _)| value)
}
