//! Stand-ins for a template's actions, of the same length, so that what is left reads as TOML.

use super::actions::{Action, Kind};

/// Where in TOML a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Comment,
    /// A text, with the marks that end it.
    Text(&'static str),
}

/// The text with its actions covered. Blocks that begin and end on one line are taken to be not chosen, as they hold parts of values:
/// `{{ if $i }}, {{ end }}`.
pub(super) fn cover(text: &str, actions: &[Action]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut hidden = vec![false; actions.len()];
    for action in actions {
        if let Kind::Open(end) = action.kind
            && !text[action.start..actions[end].end].contains('\n')
        {
            hide_block(text, actions, action, end, &mut bytes, &mut hidden);
        }
    }
    let mut at = 0;
    let mut inside = Inside::Nothing;
    let mut value = false;
    let mut depth = 0_usize;
    let mut next = 0;
    while at < bytes.len() {
        while next < actions.len() && (hidden[next] || actions[next].end <= at) {
            next += 1;
        }
        if let Some(action) = actions.get(next).filter(|action| action.start == at) {
            let prints = action.kind == Kind::Print && !alone(text, actions, next);
            let filling = match inside {
                Inside::Nothing if !prints => b' ',
                _ => b'x',
            };
            // An action over several lines keeps them.
            bytes[at..action.end]
                .iter_mut()
                .filter(|byte| **byte != b'\n' && **byte != b'\r')
                .for_each(|byte| *byte = filling);
            if inside == Inside::Nothing && prints && (value || depth > 0) {
                bytes[at] = b'"';
                bytes[action.end - 1] = b'"';
            }
            at = action.end;
            continue;
        }
        let rest = &bytes[at..];
        let mut step = 1;
        match inside {
            Inside::Comment => {
                if rest[0] == b'\n' {
                    inside = Inside::Nothing;
                    value = false;
                }
            }
            Inside::Text(end) => {
                if rest.starts_with(end.as_bytes()) {
                    inside = Inside::Nothing;
                    step = end.len();
                } else if rest[0] == b'\n' && end.len() == 1 {
                    // Not closed on its line: the TOML parser will say so.
                    inside = Inside::Nothing;
                    value = false;
                } else if rest[0] == b'\\' && end.starts_with('"') {
                    step = 2;
                }
            }
            Inside::Nothing => match rest[0] {
                b'#' => inside = Inside::Comment,
                b'"' | b'\'' => {
                    let (single, triple) = if rest[0] == b'"' { ("\"", "\"\"\"") } else { ("'", "'''") };
                    let end = if rest.starts_with(triple.as_bytes()) { triple } else { single };
                    step = end.len();
                    inside = Inside::Text(end);
                }
                b'=' => value = true,
                b'[' | b'{' if value => depth += 1,
                b']' | b'}' if value => depth = depth.saturating_sub(1),
                b'\n' if depth == 0 => value = false,
                _ => {}
            },
        }
        at += step;
    }
    // Only bytes of whole actions were replaced, and by ASCII; so this is never lossy.
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hide_block(text: &str, actions: &[Action], opener: &Action, end: usize, bytes: &mut [u8], hidden: &mut [bool]) {
    let Some(first) = actions.iter().position(|action| action == opener) else { return };
    let is_range = opener.code(text).starts_with("range");
    let last_else = (first..end).rev().find(|place| actions[*place].kind == Kind::Else(first)).filter(|_| !is_range);
    // The branch behind the last `else` stays.
    let hide_to = last_else.map_or(actions[end].end, |place| actions[place].end);
    bytes[opener.start..hide_to].fill(b' ');
    bytes[actions[end].start..actions[end].end].fill(b' ');
    for (place, action) in actions.iter().enumerate().take(end + 1).skip(first) {
        if action.start < hide_to || place == end {
            hidden[place] = true;
        }
    }
}

/// Whether nothing but actions stands on the lines of an action: it prints whole lines then.
fn alone(text: &str, actions: &[Action], place: usize) -> bool {
    let line_start = text[..actions[place].start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[actions[place].end..].find('\n').map_or(text.len(), |at| actions[place].end + at);
    let mut at = line_start;
    for action in actions.iter().filter(|action| action.end > line_start && action.start < line_end) {
        if !text[at..action.start.max(at)].trim().is_empty() {
            return false;
        }
        at = action.end;
    }
    text.get(at..line_end).is_none_or(|rest| rest.trim().is_empty())
}
