//! Roles and their flags, one file each.
//!
//! | file | owns |
//! |---|---|
//! | [`server`] | `packhorse server`: webhook, extender and ledger as one process |
//! | [`agent`] | `packhorse agent`: the devices of one node |
//! | [`demo`] | `packhorse demo`: the parts at work in a simulated cluster |
//! | [`simulate`] | `packhorse simulate`: what placement policies leave unallocated |
//! | [`runtime`] | `packhorse runtime configure`: NVIDIA's runtime in the container runtime's configuration |
//! | [`inspect`] | `packhorse inspect`: nodes, devices, who holds what, and why a pod waits |
//! | [`top`] | `packhorse top`: what pods and devices use now, as the agents tell it |
//! | [`check`] | `packhorse check`: whether a cluster is fit, and an installation in order |
//! | [`cleanup`] | `packhorse cleanup`: takes every trace off the nodes |
//! | [`validate`] | `packhorse validate`: a CUDA sample on the whole path |
//! | [`certs`] | `packhorse certs`: certificate files for the webhook, by hand |
//! | [`import`] | `packhorse config import`: NVIDIA's configuration as values of the chart |
//! | [`pages`] | `packhorse completion` and `packhorse man` |
//! | [`config`] | the server's YAML file |
//! | [`process`], [`logs`], [`admin`], [`api_client`] | what all serving roles are made of |
//! | [`access`], [`output`] | how commands for people reach a cluster, and print |
//!
//! Called as `kubectl-packhorse` the binary is `kubectl packhorse`, with the same commands.
//!
//! Exit status: 0 done, 1 failed (one line `error: …` with its causes on stderr), 2 wrong flags. Only this layer uses `anyhow`:
//! nobody above it tells errors apart.

pub mod access;
pub mod admin;
pub mod agent;
pub mod api_client;
pub mod certs;
pub mod check;
pub mod cleanup;
pub mod config;
pub mod demo;
pub mod import;
pub mod inspect;
pub mod logs;
pub mod output;
pub mod pages;
pub mod process;
pub mod runtime;
pub mod server;
pub mod simulate;
pub mod top;
pub mod validate;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Many pods share the NVIDIA GPUs of a Kubernetes cluster, each getting exactly the devices it was promised.
#[derive(Debug, Parser)]
#[command(name = "packhorse", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve the admission webhook and the scheduler extender.
    Server(Box<server::Args>),
    /// Serve the GPUs of this node: publish them, hand them to containers, watch their health.
    Agent(Box<agent::Args>),
    /// Write certificate files for the webhook: ca.crt, tls.crt, tls.key.
    Certs(certs::Args),
    Inspect(Box<inspect::Args>),
    Top(Box<top::Args>),
    Check(Box<check::Args>),
    Cleanup(Box<cleanup::Args>),
    Validate(Box<validate::Args>),
    Config(import::Args),
    Demo(demo::Args),
    Simulate(Box<simulate::Args>),
    /// Configure this node's container runtime for GPUs.
    Runtime(runtime::Args),
    Completion(pages::Completion),
    Man(pages::Man),
}

/// Runs the role that the command line names.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => {
            // Also `--help` and `--version` end here, with status 0. There is nobody to tell where the stream is closed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    crate::serve::tls::install_provider();
    let done = match cli.role {
        Role::Server(args) => server::run(*args),
        Role::Agent(args) => agent::run(*args),
        Role::Certs(args) => certs::run(args),
        Role::Inspect(args) => inspect::run(&args),
        Role::Top(args) => top::run(&args),
        // Its exit status says more than whether it worked.
        Role::Check(args) => return check::run(&args),
        Role::Cleanup(args) => cleanup::run(&args),
        Role::Validate(args) => validate::run(&args),
        Role::Config(args) => import::run(&args),
        Role::Demo(args) => demo::run(&args),
        Role::Simulate(args) => simulate::run(&args),
        Role::Runtime(args) => runtime::run(args),
        Role::Completion(args) => pages::completion(&args, Cli::command()),
        Role::Man(args) => pages::man(&args, Cli::command()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line. A plugin of kubectl is a program of this name in the path.
fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let called = arguments.first().map(Path::new).and_then(Path::file_stem);
    if called.is_some_and(|name| name == "kubectl-packhorse") {
        command = command.bin_name("kubectl packhorse");
    }
    let matches = command.clone().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// An error with its causes in one line, as log collectors want it.
fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_plugin_of_kubectl_it_calls_itself_so() {
        for (called, usage) in
            [("/usr/bin/kubectl-packhorse", "kubectl packhorse inspect"), ("packhorse", "packhorse inspect")]
        {
            let arguments = [called, "inspect", "--help"].map(OsString::from).to_vec();
            let help = parse(arguments).expect_err("help is told as an error").to_string();
            assert!(help.contains(&format!("Usage: {usage}")), "{help}");
            let arguments = [called, "inspect", "nodes", "-o", "json"].map(OsString::from).to_vec();
            assert!(matches!(parse(arguments).expect("the same commands").role, Role::Inspect(_)));
        }
    }

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_documented() {
        for role in Cli::command().get_subcommands() {
            assert!(role.get_about().is_some(), "{}", role.get_name());
            for flag in role.get_arguments() {
                assert!(
                    flag.get_help().is_some_and(|help| help.to_string().len() > 10),
                    "{} {}",
                    role.get_name(),
                    flag.get_id()
                );
            }
        }
    }

    #[test]
    fn shells_and_manual_pages_know_every_command_and_flag() {
        let directory = tempfile::tempdir().unwrap();
        pages::write_man(directory.path(), Cli::command()).unwrap();
        let completion = pages::completed(clap_complete::Shell::Bash, Cli::command());
        let completion = String::from_utf8(completion).unwrap();
        for role in Cli::command().get_subcommands() {
            let name = role.get_name();
            let page = std::fs::read_to_string(directory.path().join(format!("packhorse-{name}.1"))).unwrap();
            assert!(completion.contains(name), "{name}");
            for flag in role.get_arguments().filter_map(clap::Arg::get_long) {
                // A hyphen is escaped in the language of manual pages.
                assert!(page.contains(&format!("\\-\\-{}", flag.replace('-', "\\-"))), "{name} --{flag}");
                assert!(completion.contains(&format!("--{flag}")), "{name} --{flag}");
            }
        }
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = anyhow::anyhow!("no such\n  file").context("cannot read");
        assert_eq!(one_line(&error), "cannot read: no such; file");
    }
}
