//! Reading a TOML file that is a Go template, as k3s and RKE2 have it: where its tables and keys are, and whether both languages are in
//! order. Only reading: what is changed is spliced into the text by the offsets found here, so that everything else stays as it is.
//!
//! The template's actions are covered by stand-ins of the same length, so that offsets stay true, and what is left is read as TOML: an
//! action inside a text becomes text, one that stands for a value becomes a text, one that stands for a part of a key becomes a key,
//! and control (`if`, `range`, `end` …) becomes space. Tables may occur twice then, as in the branches of an `if`; so the TOML parser's
//! events are used, and not a document.

mod actions;
mod cover;

use toml_parser::parser::{Event, EventKind, parse_document};
use toml_parser::{ParseError, Source};

use super::{File, Place, Refusal};

/// A template that is in order, with what was found in it.
#[derive(Debug)]
pub struct Template {
    text: String,
    /// The text with its actions covered.
    covered: String,
    actions: Vec<actions::Action>,
    tables: Vec<Table>,
}

/// A table header and the keys below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The keys of the header; empty for what comes ahead of the first one.
    pub path: Vec<String>,
    /// The offset behind the header's line.
    pub body: usize,
    /// The keys, in their order.
    pub keys: Vec<Pair>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key; several where it is dotted.
    pub path: Vec<String>,
    /// Where the value is, if it is a single one (no list, no inline table).
    pub value: Option<(usize, usize)>,
}

impl Template {
    /// Reads a template; one that is not there is empty.
    ///
    /// # Errors
    /// [`Refusal::Syntax`] where an action is not closed, a block has no end, or what is between the actions is no TOML.
    pub fn parse(file: &File) -> Result<Self, Refusal> {
        let text = file.text.clone().unwrap_or_default();
        let syntax = |offset: usize, message: String| Refusal::Syntax {
            file: file.path.clone(),
            place: Place::of(&text, offset),
            message,
        };
        let actions = actions::read(&text).map_err(|fault| syntax(fault.offset, fault.message.to_owned()))?;
        let covered = cover::cover(&text, &actions);
        let source = Source::new(&covered);
        let mut events: Vec<Event> = Vec::new();
        let mut fault: Option<ParseError> = None;
        parse_document(&source.lex().into_vec(), &mut events, &mut fault);
        for event in events.iter().filter(|event| event.kind() == EventKind::Scalar) {
            if let Some(raw) = source.get(event) {
                // What kind of scalar it is does not matter, only that it is one.
                let _kind = raw.decode_scalar(&mut (), &mut fault);
            }
        }
        if let Some(fault) = fault {
            let offset = fault.unexpected().or(fault.context()).map_or(0, |span| span.start());
            return Err(syntax(offset, fault.description().to_owned()));
        }
        let tables = tables(&source, &events);
        Ok(Self { text, covered, actions, tables })
    }

    /// The template itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tables, in their order; the first has no header.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The first table with these keys in its header.
    pub fn table(&self, path: &[&str]) -> Option<&Table> {
        self.tables.iter().find(|table| table.path == path)
    }

    /// Whether a key of any table, or a header, leads through this path.
    pub fn mentions(&self, path: &[&str]) -> bool {
        self.tables.iter().any(|table| {
            table.path.iter().map(String::as_str).take(path.len()).eq(path.iter().copied())
                || table.keys.iter().any(|pair| {
                    table.path.iter().chain(&pair.path).map(String::as_str).take(path.len()).eq(path.iter().copied())
                })
        })
    }

    /// Whether an action calls this template.
    pub fn calls(&self, name: &str) -> bool {
        let quoted = [format!("\"{name}\""), format!("`{name}`")];
        self.actions.iter().any(|action| {
            let mut words = action.code(&self.text).split_whitespace();
            words.next() == Some("template") && words.next().is_some_and(|word| quoted.iter().any(|name| name == word))
        })
    }

    /// Whether an action uses this field.
    pub fn uses(&self, field: &str) -> bool {
        self.actions.iter().any(|action| !action.is_comment(&self.text) && action.code(&self.text).contains(field))
    }

    /// The value as it is written, less its quotes; an action where it is one.
    pub fn value(&self, pair: &Pair) -> Option<&str> {
        let (start, end) = pair.value?;
        Some(self.text[start..end].trim_matches(['"', '\'']))
    }

    /// What is left of the text when actions are covered, for messages and tests.
    pub fn covered(&self) -> &str {
        &self.covered
    }
}

fn tables(source: &Source<'_>, events: &[Event]) -> Vec<Table> {
    let mut tables = vec![Table::default()];
    let mut path = Vec::new();
    let mut depth = 0_usize;
    let mut header = false;
    let mut value_follows = false;
    for event in events {
        let span = event.span();
        match event.kind() {
            EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                header = true;
                path.clear();
            }
            EventKind::StdTableClose | EventKind::ArrayTableClose => {
                let rest = &source.input()[span.end()..];
                let body = span.end() + rest.find('\n').map_or(rest.len(), |at| at + 1);
                tables.push(Table { path: std::mem::take(&mut path), body, keys: Vec::new() });
                header = false;
            }
            EventKind::SimpleKey if depth == 0 => {
                if let Some(raw) = source.get(event) {
                    let mut key = String::new();
                    raw.decode_key(&mut key, &mut ());
                    path.push(key);
                }
            }
            EventKind::KeyValSep if depth == 0 => value_follows = true,
            EventKind::Scalar if depth == 0 && value_follows => {
                close(&mut tables, &mut path, Some((span.start(), span.end())));
                value_follows = false;
            }
            EventKind::ArrayOpen | EventKind::InlineTableOpen => depth += 1,
            EventKind::ArrayClose | EventKind::InlineTableClose => {
                depth = depth.saturating_sub(1);
                if depth == 0 && value_follows && !header {
                    close(&mut tables, &mut path, None);
                    value_follows = false;
                }
            }
            _ => {}
        }
    }
    tables
}

fn close(tables: &mut [Table], path: &mut Vec<String>, value: Option<(usize, usize)>) {
    if let Some(table) = tables.last_mut() {
        table.keys.push(Pair { path: std::mem::take(path), value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Template, Refusal> {
        Template::parse(&File::new("/t.tmpl", text))
    }

    #[test]
    fn finds_tables_and_keys_between_actions() {
        let text = r#"
{{ template "base" . }}
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  snapshotter = "{{ .NodeConfig.AgentConfig.Snapshotter }}"
  {{ if .X }}default_runtime_name = "{{ .X }}"{{ end }}
  enable = {{ .NodeConfig.SELinux }}
  ports = [{{ range $i, $e := .Ends }}{{ if $i }}, {{ end }}{{ printf "%q" $e }}{{ end }}]
{{- range $k, $v := .ExtraRuntimes }}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."{{ $k }}"]
  runtime_type = "{{ $v.RuntimeType }}"
{{ end }}
[hosts.{{ .Name }}]
{{ .Key }} = 5 # five
"#;
        let template = parsed(text).expect("in order");
        let table = template.table(&["plugins", "io.containerd.cri.v1.runtime", "containerd"]).expect("the table");
        let keys: Vec<_> = table.keys.iter().map(|pair| (pair.path.join("."), template.value(pair))).collect();
        assert_eq!(
            keys,
            [
                ("snapshotter".to_owned(), Some("{{ .NodeConfig.AgentConfig.Snapshotter }}")),
                ("enable".to_owned(), Some("{{ .NodeConfig.SELinux }}")),
                ("ports".to_owned(), None),
            ]
        );
        assert_eq!(template.tables().len(), 4);
        assert!(template.calls("base") && !template.calls("other"));
        assert!(template.uses(".ExtraRuntimes") && !template.uses(".Absent"));
        assert_eq!(template.covered().len(), text.len());
    }

    #[test]
    fn names_the_place_of_what_is_wrong() {
        for (text, line, column, says) in [
            ("a = 1\nb = {{ .X\n", 2, 5, "not closed"),
            ("{{ if .X }}\na = 1\n", 1, 1, "no {{ end }}"),
            ("a = 1\n  {{ end }}\n", 2, 3, "nothing to end"),
            ("{{ else }}", 1, 1, "nothing it belongs to"),
            ("a = \"x\n", 1, 7, ""),
            ("[plugins\na = 1\n", 1, 9, ""),
            ("a = tru\n", 1, 5, ""),
            ("{{ template \"base\" . }}\na\n", 2, 2, ""),
            ("a = {{ printf \"%q }}\n", 1, 5, "not closed"),
            ("{{/* a comment }}\n", 1, 1, "not closed"),
        ] {
            let error = parsed(text).expect_err(text);
            let Refusal::Syntax { place, message, .. } = &error else { panic!("{error}") };
            assert_eq!(*place, Place { line, column }, "{text}: {message}");
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn braces_that_are_no_action_are_left_alone() {
        for text in ["a = { b = { c = 1 } }\n", "a = { b = {} }\n", "# }} \na = 1\n", "a = \"}}\"\n"] {
            parsed(text).expect(text);
        }
    }
}
