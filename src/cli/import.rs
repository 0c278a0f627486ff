//! `packhorse config import`: NVIDIA's configuration read, ours written to standard output, and told on standard error what does not
//! come along. See [`crate::import`].

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;

use crate::import::{self, Imported};

/// Take over the configuration of another GPU plugin.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Import(Import),
}

/// Turn the configuration file of NVIDIA's device plugin into values of Packhorse's chart.
///
/// The values go to standard output: helm upgrade --install … -f VALUES. Each key that has no counterpart or another meaning is a
/// warning on standard error and a comment in the values. Unknown keys are errors, with path and line.
#[derive(Debug, clap::Args)]
struct Import {
    /// NVIDIA's config.yaml (version: v1), or a `ConfigMap` with one or more of them, as kubectl writes it (-o yaml); - is standard input
    file: PathBuf,
    /// Which configuration of a `ConfigMap`
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// List the names of a `ConfigMap`'s configurations, and do nothing else
    #[arg(long, conflicts_with_all = ["name", "strict"])]
    list: bool,
    /// Fail, and write nothing, where anything has no counterpart or another meaning
    #[arg(long)]
    strict: bool,
}

/// Does what the command line says.
///
/// # Errors
/// The file cannot be read or taken over; or `--strict` and not all of it comes along.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Action::Import(args) = &args.action;
    let text = read(&args.file)?;
    let place = || args.file.display().to_string();
    if args.list {
        let names = import::names(&text).with_context(place)?;
        return write(&names.iter().map(|name| format!("{name}\n")).collect::<String>());
    }
    let imported = Imported::read(&text, args.name.as_deref()).with_context(place)?;
    for note in &imported.notes {
        eprintln!("warning: {note}");
    }
    let number = imported.notes.len();
    if args.strict && number > 0 {
        let keys = if number == 1 { "1 key has" } else { &format!("{number} keys have") };
        bail!("{keys} no counterpart or another meaning, and --strict was given; nothing was written");
    }
    write(&imported.to_yaml().context("cannot write the values")?)
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

fn write(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
