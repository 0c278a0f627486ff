//! The actions of a Go template, `{{ … }}`, and whether its blocks are in order: <https://pkg.go.dev/text/template>. What an action does
//! is for Go to judge.

/// One action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    /// The offset of its `{{`.
    pub(super) start: usize,
    /// The offset behind its `}}`.
    pub(super) end: usize,
    pub(super) kind: Kind,
}

/// What an action is to the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Opens a block; the number is the place of the action that ends it.
    Open(usize),
    /// Another branch of the block that the action at this place opened.
    Else(usize),
    /// Ends the block that the action at this place opened.
    End(usize),
    /// Prints nothing at its own place: comments, variables, `break`; or whole lines: `template`.
    Silent,
    /// Prints a value.
    Print,
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) message: &'static str,
}

impl Action {
    /// What is between the braces and trim marks.
    pub(super) fn code<'a>(&self, text: &'a str) -> &'a str {
        let inner = text[self.start..self.end]
            .strip_prefix("{{")
            .and_then(|inner| inner.strip_suffix("}}"))
            .unwrap_or_default();
        inner
            .strip_prefix('-')
            .unwrap_or(inner)
            .strip_suffix('-')
            .unwrap_or(inner.strip_prefix('-').unwrap_or(inner))
            .trim()
    }

    pub(super) fn is_comment(&self, text: &str) -> bool {
        self.code(text).starts_with("/*")
    }
}

/// Reads all actions.
pub(super) fn read(text: &str) -> Result<Vec<Action>, Fault> {
    let mut actions: Vec<Action> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find("{{") {
        let start = from + found;
        let end =
            end_of(text, start).ok_or(Fault { offset: start, message: "the action that begins here is not closed" })?;
        let mut action = Action { start, end, kind: Kind::Print };
        let code = action.code(text);
        let word = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        let place = actions.len();
        action.kind = match word {
            "if" | "range" | "with" | "define" | "block" => {
                open.push(place);
                Kind::Open(place)
            }
            "else" => match open.last() {
                Some(opener) => Kind::Else(*opener),
                None => return Err(Fault { offset: start, message: "`else` has nothing it belongs to" }),
            },
            "end" => match open.pop() {
                Some(opener) => {
                    actions[opener].kind = Kind::Open(place);
                    Kind::End(opener)
                }
                None => return Err(Fault { offset: start, message: "there is nothing to end here" }),
            },
            "template" | "break" | "continue" => Kind::Silent,
            _ if code.starts_with("/*") || is_assignment(code) => Kind::Silent,
            _ => Kind::Print,
        };
        actions.push(action);
        from = end;
    }
    match open.first() {
        Some(opener) => {
            Err(Fault { offset: actions[*opener].start, message: "the block that begins here has no {{ end }}" })
        }
        None => Ok(actions),
    }
}

/// `$x := …` or `$x = …`.
fn is_assignment(code: &str) -> bool {
    let Some(rest) = code.strip_prefix('$') else { return false };
    let rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
    rest.starts_with(":=") || rest.starts_with('=') && !rest.starts_with("==")
}

/// The offset behind the `}}` of the action at `start`; texts and comments may hold braces.
fn end_of(text: &str, start: usize) -> Option<usize> {
    let inner = &text[start + 2..];
    let after_trim = inner.strip_prefix("- ").map_or(inner, str::trim_start);
    if after_trim.starts_with("/*") {
        let comment = text.len() - after_trim.len();
        let closed = comment + text[comment..].find("*/")? + 2;
        let rest = &text[closed..];
        let mark = rest.trim_start().strip_prefix('-').unwrap_or(rest);
        return mark.starts_with("}}").then(|| text.len() - mark.len() + 2);
    }
    let bytes = text.as_bytes();
    let mut at = start + 2;
    while at < bytes.len() {
        match bytes[at] {
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at + 2),
            b'`' => at += 1 + text[at + 1..].find('`')?,
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    // A text ends on its line.
                    if bytes[at] == b'\n' {
                        return None;
                    }
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}
