//! The command line's part, made from the schema. Nothing is judged here: a flag, a variable and the file are judged alike.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::schema::{CONFIG_FILE, Fate, KEYS, Key};
use super::value::Kind;

/// What was given on the command line; `#[command(flatten)]` it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<&'static str, Vec<String>>);

impl Flags {
    /// The texts of a flag by its first name, in the order given; empty where it was not.
    pub(super) fn given(&self, flag: &str) -> &[String] {
        self.0.get(flag).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        keys().fold(command, |command, key| command.args(argument(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for flag in keys().filter_map(|key| key.flags.first()) {
            if let Some(values) = matches.get_many::<String>(flag) {
                self.0.insert(flag, values.cloned().collect());
            }
        }
        Ok(())
    }
}

fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain([&CONFIG_FILE])
}

/// `None` for an option that the file alone has.
fn argument(key: &Key) -> Option<Arg> {
    let (first, others) = key.flags.split_first()?;
    let help = match key.fate {
        Fate::Honoured => key.help.to_owned(),
        Fate::Reported { reason, .. } => format!("Not honoured: {reason}"),
    };
    let argument = Arg::new(*first)
        .long(*first)
        .visible_aliases(others.iter().copied())
        .action(ArgAction::Append)
        .value_name(value_name(key.kind))
        .help(format!("{help} [env: {}]", key.environment.join(", ")))
        .help_heading("NVIDIA's device plugin");
    // As in NVIDIA's plugin, a switch needs no value, and takes one after `=` only.
    let switch = key.kind == Kind::Bool;
    Some(if switch { argument.num_args(0..=1).require_equals(true).default_missing_value("true") } else { argument })
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "BOOL",
        Kind::Path => "DIR",
        Kind::Choices(_) | Kind::Numbers => "LIST",
        Kind::Duration => "DURATION",
        Kind::Text | Kind::Choice(_) | Kind::Maps => "VALUE",
    }
}
