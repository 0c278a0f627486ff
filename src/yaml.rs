//! What is wrong with a YAML file, in one line for who writes it. Used by every reader of a file that people write.

/// A mistake and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1; `None` where the parser does not know.
    pub line: Option<u64>,
    /// What is wrong, with the line's text: the parser names keys only where one is unknown.
    pub message: String,
}

impl Mistake {
    /// The parser's error on `text`, without what is of use to its callers only.
    pub fn new(error: &serde_saphyr::Error, text: &str) -> Self {
        let plain = error.without_snippet().to_string();
        let Some(location) = error.location() else { return Self { line: None, message: plain } };
        let message = plain.rsplit_once(" at line ").map_or(&*plain, |(message, _)| message);
        // Remedies for callers of the parser, not for who writes the file.
        let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
        let message = message.split("; use from_str_multiple").next().unwrap_or(message);
        let number = location.line();
        let line = usize::try_from(number).ok().and_then(|number| text.lines().nth(number.checked_sub(1)?));
        let message = match line.map(str::trim) {
            Some(line) if !line.is_empty() => format!("{message}, in {line:?}"),
            _ => message.to_owned(),
        };
        Self { line: Some(number), message }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
