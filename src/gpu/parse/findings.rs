//! What the parser has to say to a user: denials, warnings, and how long either may be.

use std::fmt;

use super::hami;

/// A request that can never run, in words a user can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The container, where one is to blame.
    pub container: Option<String>,
    /// The field: a resource name, an annotation key, a variable.
    pub field: String,
    /// Its value as written, cut where it is very long.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl Denial {
    /// A denial. Container, field and value are cut to what fits a message; `problem` has to quote with the same care.
    pub fn new(
        container: Option<&str>,
        field: impl Into<String>,
        value: impl AsRef<str>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            container: container.map(shown),
            field: shown(&field.into()),
            value: shown(value.as_ref()),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container:?}: ")?;
        }
        write!(f, "{}: {:?}: {}; {}", self.field, self.value, self.problem, self.remedy)
    }
}

/// What was found wrong or noteworthy so far. Of each kind the first [`Findings::MOST`] are told: an answer to an admission
/// request must stay small whatever the pod.
#[derive(Debug, Default)]
pub(in crate::gpu) struct Findings {
    denials: Vec<Denial>,
    denied: usize,
    warnings: Vec<String>,
    warned: usize,
}

impl Findings {
    const MOST: usize = 50;

    pub(in crate::gpu) fn deny(&mut self, denial: Denial) {
        self.denied += 1;
        if self.denied <= Self::MOST {
            self.denials.push(denial);
        }
    }

    /// How many denials so far, told or not.
    pub(in crate::gpu) fn denied(&self) -> usize {
        self.denied
    }

    pub(in crate::gpu) fn warn(&mut self, container: Option<&str>, text: impl fmt::Display) {
        self.warned += 1;
        if self.warned <= Self::MOST {
            self.warnings.push(match container {
                Some(container) => format!("container {:?}: {text}", shown(container)),
                None => text.to_string(),
            });
        }
    }

    pub(in crate::gpu) fn into_denials(self) -> Vec<Denial> {
        self.denials
    }

    pub(in crate::gpu) fn into_warnings(mut self) -> Vec<String> {
        if self.warned > self.warnings.len() {
            self.warnings.push(format!("{} more warnings are left out", self.warned - self.warnings.len()));
        }
        self.warnings
    }

    /// Answers a name of HAMi's that nothing else reads.
    pub(in crate::gpu) fn answer(&mut self, container: Option<&str>, row: &hami::Row, name: &str, value: &str) {
        match row.answer {
            hami::Answer::Honoured => {}
            hami::Answer::Warned => self.warn(container, format_args!("{}: {}", shown(name), row.note)),
            hami::Answer::Refused => {
                self.deny(Denial::new(container, name, value, "not accepted on a pod that asks for GPUs", row.note));
            }
        }
    }
}

/// What a user wrote, as a message shows it.
pub(crate) fn shown(value: &str) -> String {
    cut(value, 120)
}

/// The first `longest` bytes or a little less, between characters.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shown("short"), "short");
        let long = "ä".repeat(1_000);
        assert!(shown(&long).len() < 130, "{}", shown(&long));
    }
}
