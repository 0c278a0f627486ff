//! Reads `OpenMetrics` text 1.0, as strictly as its grammar is for what an agent sends: an answer that was cut off, or that comes from
//! another program, must not pass for a node where nothing is used. Written for this one use: a sample at a time, borrowed from the
//! text. Called for every agent by [`crate::top::usage`].

use std::borrow::Cow;
use std::collections::BTreeSet;

/// One line with a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name, with its suffix.
    pub name: &'a str,
    /// In the order of the line; no name comes twice.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// May be infinite or no number.
    pub value: f64,
}

/// A text that is no `OpenMetrics`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no OpenMetrics text: line {line}: {what}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

const TYPES: [&str; 8] = ["counter", "gauge", "gaugehistogram", "histogram", "info", "stateset", "summary", "unknown"];

impl<'a> Sample<'a> {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| &**value)
    }
}

/// Gives every sample to `each`, in order.
///
/// # Errors
/// The first line that breaks the format; samples before it were given already.
pub fn read<'a>(text: &'a str, mut each: impl FnMut(Sample<'a>)) -> Result<(), Malformed> {
    let mut typed = BTreeSet::new();
    let mut ended = false;
    let mut line = 0;
    for content in text.split_inclusive('\n') {
        line += 1;
        let wrong = |what| Malformed { line, what };
        if ended {
            return Err(wrong("something follows # EOF"));
        }
        // Only the last line may do without its end.
        let content = content.strip_suffix('\n').unwrap_or(content);
        if content == "# EOF" {
            ended = true;
        } else if let Some(comment) = content.strip_prefix("# ") {
            describe(comment, &mut typed).map_err(wrong)?;
        } else {
            each(sample(content).map_err(wrong)?);
        }
    }
    if ended { Ok(()) } else { Err(Malformed { line, what: "the text ends without # EOF: it was cut off" }) }
}

/// `HELP`, `TYPE`, `UNIT`.
fn describe<'a>(comment: &'a str, typed: &mut BTreeSet<&'a str>) -> Result<(), &'static str> {
    let mut words = comment.splitn(3, ' ');
    let (kind, name, rest) = (words.next(), words.next(), words.next());
    let name = name.filter(|name| is_name(name, true)).ok_or("a comment without the name of a metric")?;
    match (kind, rest) {
        (Some("TYPE"), Some(rest)) if !TYPES.contains(&rest) => Err("an unknown type of metric"),
        (Some("TYPE"), Some(_)) if !typed.insert(name) => Err("a metric is declared twice"),
        (Some("TYPE" | "HELP" | "UNIT"), Some(_)) => Ok(()),
        _ => Err("a comment that is none of # HELP, # TYPE, # UNIT, # EOF"),
    }
}

fn is_name(text: &str, colons: bool) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a metric");
    }
    let mut labels: Vec<(&str, Cow<'_, str>)> = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            if labels.is_empty()
                && let Some(after) = inside.strip_prefix('}')
            {
                rest = after;
                break;
            }
            let (label, after) = inside.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(label, false) {
                return Err("no name of a label");
            }
            if labels.iter().any(|(known, _)| *known == label) {
                return Err("a label comes twice");
            }
            let (value, after) = quoted(after)?;
            labels.push((label, value));
            if let Some(after) = after.strip_prefix('}') {
                rest = after;
                break;
            }
            inside = after.strip_prefix(',').ok_or("neither , nor } after a label")?;
        }
    }
    // A timestamp may follow, and an exemplar behind " # ".
    let rest = rest.strip_prefix(' ').ok_or("no value")?;
    let rest = rest.split_once(" # ").map_or(rest, |(before, _)| before);
    let mut numbers = rest.split(' ');
    let value = number(numbers.next().unwrap_or_default())?;
    if let Some(time) = numbers.next() {
        number(time)?;
    }
    if numbers.next().is_some() {
        return Err("more than a value and a time");
    }
    Ok(Sample { name, labels, value })
}

/// Up to the closing quote, and what is behind it.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let end = text.find(['"', '\\']).ok_or("a label's value has no end")?;
    if text[end..].starts_with('"') {
        return Ok((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = text[..end].to_owned();
    let mut letters = text[end..].char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Cow::Owned(value), &text[end + at + 1..])),
            '\\' => value.push(match letters.next().map(|(_, escaped)| escaped) {
                Some('n') => '\n',
                Some(escaped @ ('"' | '\\')) => escaped,
                _ => return Err("an unknown escape in a label's value"),
            }),
            letter => value.push(letter),
        }
    }
    Err("a label's value has no end")
}

fn number(text: &str) -> Result<f64, &'static str> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    if plain || matches!(text, "NaN" | "+Inf" | "-Inf") {
        return text.parse().map_err(|_| "a value that is no number");
    }
    Err("a value that is no number")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::exemplar::HistogramWithExemplars;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Result<Vec<Sample<'_>>, Malformed> {
        let mut samples = Vec::new();
        read(text, |sample| samples.push(sample)).map(|()| samples)
    }

    #[test]
    fn values_and_labels_are_read_as_they_are_written() {
        for (line, name, labels, value) in [
            ("a 1", "a", &[][..], 1.0),
            ("a{} 1", "a", &[], 1.0),
            ("a_total{b=\"c\"} 1.5e3", "a_total", &[("b", "c")], 1500.0),
            ("a{b=\"\",c=\"x,y}z\"} -2", "a", &[("b", ""), ("c", "x,y}z")], -2.0),
            ("a{b=\"q\\\"\\\\n\\n.\"} 0", "a", &[("b", "q\"\\n\n.")], 0.0),
            ("a{b=\"λ # 1\"} 4 1700000000.5", "a", &[("b", "λ # 1")], 4.0),
            ("a_bucket{le=\"+Inf\"} 7 # {trace=\"x\"} 0.5 1.0", "a_bucket", &[("le", "+Inf")], 7.0),
            ("a +Inf", "a", &[], f64::INFINITY),
        ] {
            let text = format!("# TYPE a unknown\n{line}\n# EOF\n");
            let labels = labels.iter().map(|(name, value)| (*name, Cow::Borrowed(*value))).collect();
            assert_eq!(all(&text), Ok(vec![Sample { name, labels, value }]), "{line}");
        }
        assert!(all("a NaN\n# EOF").unwrap()[0].value.is_nan());
    }

    #[test]
    fn what_is_no_exposition_is_refused_by_its_line() {
        for (text, line, what) in [
            ("", 0, "cut off"),
            ("a 1\n", 1, "cut off"),
            ("a 1\nb{c=\"d", 2, "has no end"),
            ("# EOF\na 1\n", 2, "follows # EOF"),
            ("<html>\n# EOF\n", 1, "no value"),
            ("<html lang=en>\n# EOF\n", 1, "no name of a metric"),
            ("\n# EOF\n", 1, "no value"),
            ("a\n# EOF\n", 1, "no value"),
            ("a{b=\"c\"}1\n# EOF\n", 1, "no value"),
            ("a one\n# EOF\n", 1, "no number"),
            ("a inf\n# EOF\n", 1, "no number"),
            ("a 1 2 3\n# EOF\n", 1, "more than"),
            ("a{b=c} 1\n# EOF\n", 1, "without a value"),
            ("a{1=\"c\"} 1\n# EOF\n", 1, "name of a label"),
            ("a{b=\"c\",b=\"d\"} 1\n# EOF\n", 1, "twice"),
            ("a{b=\"c\";d=\"e\"} 1\n# EOF\n", 1, "neither"),
            ("a{b=\"\\t\"} 1\n# EOF\n", 1, "escape"),
            ("#EOF\n", 1, "no value"),
            ("# a comment\n# EOF\n", 1, "none of"),
            ("# TYPE a thing\n# EOF\n", 1, "unknown type"),
            ("# TYPE a gauge\n# TYPE a gauge\n# EOF\n", 2, "declared twice"),
        ] {
            let error = all(text).expect_err(text);
            assert!(error.line == line && error.what.contains(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_our_own_registry_writes_is_read() {
        let mut registry = Registry::default();
        let gauge = Family::<[(&str, String); 1], Gauge>::default();
        gauge.get_or_create(&[("name", "a\"b\\c\nd".to_owned())]).set(7);
        registry.register("gauges", "Of a \"kind\"", gauge);
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        registry.register("counted", "It", counter);
        let histogram = HistogramWithExemplars::<[(&str, String); 1]>::new([0.1, 1.0].into_iter());
        histogram.observe(0.5, Some([("trace", "x".to_owned())]), None);
        registry.register("seconds", "Time", histogram);
        crate::metrics::register(&mut registry);
        let text = crate::metrics::exposition(&registry).unwrap();
        let samples = all(&text).unwrap();
        let value = |name: &str| samples.iter().find(|sample| sample.name == name).map(|sample| sample.value);
        assert_eq!(
            (value("gauges"), value("counted_total"), value("seconds_count")),
            (Some(7.0), Some(3.0), Some(1.0))
        );
        let gauge = samples.iter().find(|sample| sample.name == "gauges").unwrap();
        assert_eq!(gauge.label("name"), Some("a\"b\\c\nd"));
        let bulk = crate::metrics::exposition::Exposition::new(Registry::default()).with(Arc::new(None));
        assert_eq!(all(&bulk.pieces().unwrap().collect::<String>()), Ok(Vec::new()));
    }

    /// No bulk.
    impl crate::metrics::exposition::Bulk for Option<()> {
        fn pieces(&self) -> Box<dyn Iterator<Item = String> + Send> {
            Box::new(std::iter::empty())
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fall_over(text in "[a-z# {}\"\\\\=,0-9.\n]{0,80}") {
            // Whatever it answers.
            drop(all(&text));
            drop(all(&format!("{text}\n# EOF\n")));
        }

        #[test]
        fn every_label_value_survives(value in "\\PC{0,20}|[\"\\\\\n,}{ #]{0,10}") {
            let mut line = "a{".to_owned();
            crate::metrics::exposition::label(&mut line, "b", &value);
            line.push_str("} 1\n# EOF\n");
            let samples = all(&line).unwrap();
            prop_assert_eq!(samples[0].label("b").unwrap(), value);
        }
    }
}
