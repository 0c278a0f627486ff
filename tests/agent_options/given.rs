//! Options from a command line, an environment and a file.

use std::collections::HashMap;

use clap::Parser;
use packhorse::agent::options::{Flags, Options};

#[derive(Debug, Parser)]
struct Agent {
    #[command(flatten)]
    flags: Flags,
}

/// What was given where.
#[derive(Debug, Default, Clone)]
pub(super) struct Given {
    pub(super) arguments: Vec<String>,
    pub(super) environment: HashMap<String, String>,
    pub(super) file: Option<String>,
}

impl Given {
    pub(super) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(super) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    /// The options, or the error in words; the file's path is `FILE` in both.
    pub(super) fn options(&self) -> Result<Options, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        let mut arguments = vec!["agent".to_owned()];
        arguments.extend(self.arguments.clone());
        if let Some(text) = &self.file {
            std::fs::write(&path, text).unwrap();
            arguments.push(format!("--config-file={}", path.display()));
        }
        let agent = Agent::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let short = |text: String| text.replace(&*path.to_string_lossy(), "FILE");
        let mut options = Options::resolve(&agent.flags, &|name| self.environment.get(name).cloned())
            .map_err(|error| short(error.to_string()))?;
        for one in &mut options.not_honoured {
            one.key = short(one.key.clone());
        }
        Ok(options)
    }

    /// The places of what is not honoured.
    pub(super) fn reported(&self) -> Vec<String> {
        self.options().unwrap().not_honoured.into_iter().map(|one| one.key).collect()
    }
}

/// `a.b.c` with a value, as a file.
pub(super) fn yaml(path: &str, value: &str) -> String {
    let mut text = "version: v1\n".to_owned();
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let value = if depth + 1 == parts.len() { format!(" {value}") } else { String::new() };
        text += &format!("{}{part}:{value}\n", "  ".repeat(depth));
    }
    text
}
