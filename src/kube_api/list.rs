//! Cuts the JSON of a list into its objects while it arrives, so that a page is never in memory as a whole: a page of 500 nodes has
//! 9 MB. Pure. What is no JSON, or ends too early, is found when the rest is read at the end, or when the object is.

/// The parts of one list.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// The list without its objects.
    frame: Vec<u8>,
    /// The beginning of an object whose end has not come yet.
    object: Vec<u8>,
    /// How many brackets are open.
    depth: usize,
    /// Inside the array of objects.
    among_objects: bool,
    in_string: bool,
    after_backslash: bool,
    /// Where the last string of the frame began, and where it ended.
    string: (usize, usize),
}

/// The list's own brackets.
const FRAME: usize = 1;
/// And that of the array of objects.
const ARRAY: usize = 2;

impl Cutter {
    /// Takes the next bytes; `each` gets every object that is complete.
    pub(super) fn push(&mut self, data: &[u8], mut each: impl FnMut(&[u8])) {
        // Where the object that is being read begins in `data`; one that began earlier begins in `object`.
        let mut start = 0;
        let mut at = 0;
        while let Some(byte) = data.get(at).copied() {
            let here = at;
            at += 1;
            let inside = self.among_objects && self.depth > ARRAY;
            if self.in_string {
                if self.after_backslash {
                    self.after_backslash = false;
                } else if byte == b'\\' {
                    self.after_backslash = true;
                } else if byte == b'"' {
                    self.in_string = false;
                } else {
                    at += plain(&data[at..]);
                }
                if !inside {
                    self.frame.extend_from_slice(&data[here..at]);
                    self.string.1 = self.frame.len();
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.string.0 = self.frame.len();
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.among_objects && self.depth == ARRAY + 1 {
                        start = here;
                    } else if self.depth == ARRAY && byte == b'[' && self.follows_items() {
                        self.among_objects = true;
                        self.frame.push(byte);
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.among_objects && self.depth == ARRAY {
                        if self.object.is_empty() {
                            each(&data[start..at]);
                        } else {
                            self.object.extend_from_slice(&data[..at]);
                            each(&self.object);
                            self.object.clear();
                        }
                        continue;
                    }
                    if self.depth == FRAME {
                        self.among_objects = false;
                    }
                }
                _ => {}
            }
            // Between the objects only what does not belong there is kept, so that it is found.
            let between = self.among_objects && self.depth == ARRAY;
            if !self.among_objects || (between && !matches!(byte, b'[' | b',' | b' ' | b'\t' | b'\r' | b'\n')) {
                self.frame.push(byte);
            }
        }
        if self.among_objects && self.depth > ARRAY {
            let from = if self.object.is_empty() { start } else { 0 };
            self.object.extend_from_slice(&data[from..]);
        }
    }

    /// The list without its objects, once all has come.
    pub(super) fn rest(&self) -> &[u8] {
        &self.frame
    }

    /// Whether the array that begins here is the list's `items`.
    fn follows_items(&self) -> bool {
        let (start, end) = self.string;
        self.frame.get(start..end) == Some(b"\"items\"")
    }
}

/// How many bytes of a string follow that mean nothing.
fn plain(data: &[u8]) -> usize {
    data.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, size: usize) -> (Vec<String>, String) {
        let (mut cutter, mut objects) = (Cutter::default(), Vec::new());
        for chunk in text.as_bytes().chunks(size) {
            cutter.push(chunk, |object| objects.push(String::from_utf8(object.to_vec()).unwrap()));
        }
        (objects, String::from_utf8(cutter.rest().to_vec()).unwrap())
    }

    #[test]
    fn objects_are_cut_out_wherever_the_frames_are() {
        let a = r#"{"metadata":{"name":"a","x":"}]\"{\\"},"items":[1,{"b":[]}]}"#;
        let b = r#"{"é":"items"}"#;
        let list =
            |items: &str| format!(r#"{{"kind":"PodList","metadata":{{"items":["no"]}},"items":{items},"x":[{{}}]}}"#);
        for (items, objects) in [
            (format!("[{a},{b} , {a}]"), vec![a, b, a]),
            (format!("\n [ {b}\n]"), vec![b]),
            ("[]".to_owned(), vec![]),
            ("null".to_owned(), vec![]),
        ] {
            let text = list(&items);
            for size in 1..=text.len() {
                let (found, rest) = cut(&text, size);
                assert_eq!(found, objects, "frames of {size} bytes");
                let rest: serde_json::Value = serde_json::from_str(&rest).unwrap();
                let left = if items == "null" { serde_json::Value::Null } else { serde_json::json!([]) };
                assert_eq!(
                    rest,
                    serde_json::json!({"kind": "PodList", "metadata": {"items": ["no"]}, "items": left, "x": [{}]}),
                );
            }
        }
    }

    #[test]
    fn what_ends_early_or_is_no_list_leaves_no_json() {
        let text = r#"{"metadata":{},"items":[{"a":1},{"b":{"c":2}}]}"#;
        for end in 0..text.len() {
            let (_, rest) = cut(&text[..end], 7);
            assert!(serde_json::from_str::<serde_json::Value>(&rest).is_err(), "{rest:?} of {:?}", &text[..end]);
        }
        for text in ["}}}}", "[[[]]]]", r#"{"items":[}]"#, r#"{"items":["x]}"#, "<html>"] {
            let (_, rest) = cut(text, 3);
            assert!(serde_json::from_str::<serde_json::Value>(&rest).is_err(), "{rest:?}");
        }
        for (text, left) in [(r#"{"items":[1]}"#, "1"), (r#"{"items":[{}, "x"]}"#, r#""x""#)] {
            assert_eq!(cut(text, 2).1, format!(r#"{{"items":[{left}]}}"#), "what is no object is kept");
        }
    }
}
