//! `packhorse check`: see [`crate::check`]. Changes nothing: the one pod it creates is a dry run.

mod read;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;

use super::access::{Access, Reached};
use crate::check::{Finding, Level, nodes, others, permissions, quotas, runtime, scheduler, status, version, webhook};
use crate::kube_api::names::NAMESPACE;

/// Where NVIDIA's runtime is configured.
const NVIDIA_RUNTIME: &str = "/etc/nvidia-container-runtime/config.toml";

/// Check that a cluster is fit for Packhorse and an installation in order: one line each, with the remedy.
///
/// Looks at API version, permissions, webhook and certificate, scheduler profile, agents and inventories, slots and totals, container
/// runtimes, other GPU plugins, quotas. Exit status 0: in order; 1: something is wrong; 2: something could not be looked at.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Only what matters before installing: version, runtimes of GPU nodes, other plugins, quotas
    #[arg(long)]
    before_install: bool,
    /// Namespace in which a GPU pod is created for trial, as a dry run [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Namespace of Packhorse itself
    #[arg(long, value_name = "NAME", default_value = NAMESPACE)]
    system_namespace: String,
    /// Configuration of kube-scheduler to judge [default: the one in config map packhorse-kube-scheduler]
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// NVIDIA's runtime configuration of a node [default: /etc/nvidia-container-runtime/config.toml where it exists]
    #[arg(long, value_name = "FILE")]
    nvidia_runtime_config: Option<PathBuf>,
    /// Prefix of the GPU resources, where the server's resourcePrefix is another
    #[arg(long, value_name = "PREFIX", default_value = "nvidia.com")]
    resource_prefix: String,
    /// How to print the findings: lines for people, or JSON
    #[arg(long, short, value_name = "FORMAT", default_value = "table", value_enum)]
    output: Format,
    /// Print only what is not in order
    #[arg(long, short)]
    quiet: bool,
}

/// How the findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Looks and prints; the exit status.
pub fn run(args: &Args) -> ExitCode {
    match look(args).and_then(|findings| print(args, &findings).map(|()| status(&findings))) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {}", super::one_line(&error));
            ExitCode::from(2)
        }
    }
}

fn look(args: &Args) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let reached = args.access.connect().await?;
        let mut findings = vec![version::judge(&read::version(&reached).await?)];
        let objects = |what: &'static str, path: &'static str| read::objects(&reached, what, path);
        let nodes = keep(objects("nodes", "/api/v1/nodes").await, "nodes", &mut findings);
        let pods = keep(objects("pods", "/api/v1/pods").await, "pods", &mut findings);
        if !args.before_install {
            findings.extend(permissions::judge(&read::permissions(&reached, &args.system_namespace).await));
            findings.extend(webhook_findings(args, &reached).await);
            findings.extend(scheduler_findings(args, &reached).await?);
        }
        if let Some(nodes) = &nodes {
            findings.extend(if args.before_install {
                nodes::before(nodes)
            } else {
                nodes::judge(nodes, &args.resource_prefix)
            });
            findings.extend(pods.map(|pods| others::judge(nodes, &pods)).unwrap_or_default());
        }
        let quotas = keep(objects("resourcequotas", "/api/v1/resourcequotas").await, "quotas", &mut findings);
        findings.extend(quotas.map(|quotas| quotas::judge(&quotas, &args.resource_prefix)).unwrap_or_default());
        findings.push(image_environment(args)?);
        Ok(findings)
    })
}

/// A list, or a finding that it did not come.
fn keep<T>(result: anyhow::Result<T>, check: &'static str, findings: &mut Vec<Finding>) -> Option<T> {
    let problem = |error: anyhow::Error| {
        let remedy = "run this with an account that may, when the API server answers";
        findings.push(Finding::unknown(check, super::one_line(&error), remedy));
    };
    result.map_err(problem).ok()
}

async fn webhook_findings(args: &Args, reached: &Reached) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(configuration) = keep(read::registration(reached).await, "webhook registration", &mut findings) else {
        return findings;
    };
    findings.extend(webhook::registration(configuration.as_ref()));
    let Some(configuration) = configuration else { return findings };
    match read::authority(reached, &args.system_namespace).await {
        Ok(authority) => {
            findings.extend(webhook::certificate(&configuration, authority.as_deref(), SystemTime::now()));
        }
        Err(error) => {
            findings.extend(webhook::certificate(&configuration, None, SystemTime::now()));
            findings.push(Finding::note(
                "webhook certificate",
                format!("not compared with the server's CA: {}", super::one_line(&error)),
                "run this with an account that may get Secret packhorse-webhook-ca",
            ));
        }
    }
    let namespace = args.namespace.as_deref().unwrap_or(&reached.namespace);
    findings.push(webhook::trial(&read::trial(reached, namespace, &args.resource_prefix).await, namespace));
    findings
}

async fn scheduler_findings(args: &Args, reached: &Reached) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(path) = &args.scheduler_config {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("--scheduler-config: cannot read {place}"))?;
        findings.extend(scheduler::judge(&text, &place));
    } else if let Some(text) =
        keep(read::profile(reached, &args.system_namespace).await, "scheduler profile", &mut findings)
    {
        let place = "ConfigMap packhorse-kube-scheduler";
        findings.extend(match text {
            Some(text) => scheduler::judge(&text, place),
            None => vec![Finding::wrong(
                "scheduler profile",
                format!("there is no {place} in namespace {}", args.system_namespace),
                "apply deployments/scheduler, or give --scheduler-config FILE",
            )],
        });
    }
    if let Some(lease) = keep(read::lease(reached, &args.system_namespace).await, "scheduler", &mut findings) {
        findings.push(scheduler::lease(lease.as_ref(), jiff::Timestamp::now()));
    }
    Ok(findings)
}

fn image_environment(args: &Args) -> anyhow::Result<Finding> {
    let given = args.nvidia_runtime_config.as_deref();
    let path = given.unwrap_or(Path::new(NVIDIA_RUNTIME));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(runtime::judge(&text, &path.display().to_string())),
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(runtime::not_here()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn print(args: &Args, findings: &[Finding]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let shown = || findings.iter().filter(|finding| !args.quiet || finding.level > Level::Ok);
    match args.output {
        Format::Json => {
            let findings: Vec<&Finding> = shown().collect();
            writeln!(out, "{}", serde_json::json!({"v": 1, "findings": findings}))?;
        }
        Format::Table => {
            for Finding { level, check, found, remedy } in shown() {
                let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
                let remedy = remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
                writeln!(out, "{:<8}{check}: {found}{remedy}", level.as_str())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
