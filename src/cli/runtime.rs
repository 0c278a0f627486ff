//! `packhorse runtime configure`: registers NVIDIA's runtime with the node's container runtime, shows or writes the change, asks the
//! runtime whether it understands it, restarts it by choice, and takes everything back where it does not come back.
//!
//! | file | owns |
//! |---|---|
//! | `options` | flags, and the environment variables that users of NVIDIA's toolkit know |
//! | `host` | which runtime this host has, and which files it reads |

mod host;
mod options;

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;

use crate::runtime::check::{Judge, find_program};
use crate::runtime::files::{self, Replaced};
use crate::runtime::restart::{self, Restart};
use crate::runtime::socket::{self, Answer};
use crate::runtime::{Plan, Registration};

use host::Host;
use options::Options;

/// Flags of `packhorse runtime`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Configure(Box<options::Args>),
}

/// Does what the command line says.
///
/// # Errors
/// Names the file with line and column, the flag or the variable to blame. Files are as they were then.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Configure(args) => configure(Options::resolve(*args, &|name| std::env::var(name).ok())?),
    }
}

fn configure(mut options: Options) -> anyhow::Result<()> {
    if let Some(root) = &options.host_root {
        enter(root).with_context(|| format!("--host-root {}", root.display()))?;
    }
    if let Some(program) = host::nvidia_runtime() {
        options.registration.usual = program;
    }
    let host = Host::find(&options)?;
    options.restart = host.restart(&options.restart);
    let plan = host.plan(&options.registration)?;
    host.notes.iter().chain(&options.notes).chain(&plan.notes).for_each(|note| eprintln!("note: {note}"));
    judge_program(&plan, &options.registration)?;
    if plan.edits.is_empty() {
        println!("{} is configured already: nothing to change", host.kind);
        return Ok(());
    }
    if options.dry_run {
        for edit in &plan.edits {
            print!("{}", edit.diff());
        }
        return Ok(());
    }
    let judge = if options.skip_check { None } else { host.judge() };
    carry_out(&host, &plan, &options, judge.as_ref())
}

/// The host's files become this process's, links and all; so do its programs.
fn enter(root: &Path) -> anyhow::Result<()> {
    if root == Path::new("/") {
        return Ok(());
    }
    std::os::unix::fs::chroot(root).context("cannot change the root to it (root and CAP_SYS_CHROOT are needed)")?;
    std::env::set_current_dir("/").context("cannot go to its root")
}

/// A default runtime whose program is missing would keep every container of the node from starting.
fn judge_program(plan: &Plan, wanted: &Registration) -> anyhow::Result<()> {
    if find_program(&plan.program).is_some() || plan.program.contains("{{") {
        return Ok(());
    }
    let what = format!("there is no program {} on this host", plan.program);
    if wanted.default {
        bail!(
            "{what}: as the default runtime it would keep every container from starting; install NVIDIA's container toolkit, name \
             the program with --nvidia-runtime-path, or leave out --set-as-default"
        );
    }
    eprintln!(
        "note: {what}; containers of the runtime {} do not start until NVIDIA's container toolkit is installed",
        wanted.name
    );
    Ok(())
}

fn carry_out(host: &Host, plan: &Plan, options: &Options, judge: Option<&Judge>) -> anyhow::Result<()> {
    // A complaint that was there before is not about the change.
    let judge = judge.filter(|judge| {
        let complaint = host.can_be_judged().then(|| judge.ask().err()).flatten();
        if let Some(complaint) = &complaint {
            eprintln!("note: the configuration was not accepted before the change either, so the change is not checked: {complaint}");
        }
        complaint.is_none()
    });
    let before = match options.restart {
        Restart::Leave => Answer::default(),
        _ => socket::ask(&host.socket).with_context(|| host.socket.display().to_string())?,
    };
    let replaced = files::replace(&plan.edits, jiff::Timestamp::now())?;
    for (file, backup) in replaced.files() {
        match backup {
            Some(backup) => println!("wrote {} (before: {})", file.display(), backup.display()),
            None => println!("wrote {} (new)", file.display()),
        }
    }
    if let Some(judge) = judge {
        if let Err(complaint) = judge.confirm(&options.registration, &plan.program) {
            return Err(anyhow!("{} does not accept the change: {complaint}; {}", host.kind, taken_back(replaced)));
        }
        println!("{} accepts the change", host.kind);
    }
    if options.restart == Restart::Leave {
        println!("{} takes the change when it starts next: {}", host.kind, host.kind.restart_hint());
        return Ok(());
    }
    if let Err(error) = restart::restart(&options.restart, &host.socket, &before, options.patience) {
        let outcome = taken_back(replaced);
        let again = match restart::restart(&options.restart, &host.socket, &before, options.patience) {
            Ok(()) => format!("{} runs again as before", host.kind),
            Err(error) => format!("and it does not run as before either: {error}"),
        };
        bail!("{} did not come back with the change: {error}; {outcome}; {again}", host.kind);
    }
    println!("{} was restarted and answers on {}", host.kind, host.socket.display());
    Ok(())
}

fn taken_back(replaced: Replaced) -> String {
    match replaced.take_back() {
        Ok(()) => "all files are as they were".to_owned(),
        Err(error) => format!("putting the files back failed, the backups are beside them: {error}"),
    }
}
