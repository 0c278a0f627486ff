//! `packhorse completion` and `packhorse man`: what a shell and `man` want to know, made from the flags themselves.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

/// Write a shell's completion of commands and flags to standard output.
///
/// For bash: `packhorse completion bash >/etc/bash_completion.d/packhorse`.
#[derive(Debug, clap::Args)]
pub struct Completion {
    /// The shell that completes.
    shell: Shell,
}

/// Write manual pages, one for each command.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Where they are written, for example /usr/local/share/man/man1; made where it is missing.
    directory: PathBuf,
}

/// Writes the completion of `command`.
///
/// # Errors
/// Standard output is closed.
pub fn completion(args: &Completion, command: Command) -> anyhow::Result<()> {
    std::io::stdout().write_all(&completed(args.shell, command)).context("cannot write to standard output")
}

/// The completion of `command`, as the shell reads it.
pub(super) fn completed(shell: Shell, mut command: Command) -> Vec<u8> {
    let mut text = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}

/// Writes the pages of `command` and all below it.
///
/// # Errors
/// The directory cannot be made or written to.
pub fn man(args: &Man, command: Command) -> anyhow::Result<()> {
    write_man(&args.directory, command)
}

pub(super) fn write_man(directory: &Path, command: Command) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(command, directory).with_context(|| format!("cannot write to {}", directory.display()))
}
