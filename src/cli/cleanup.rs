//! `packhorse cleanup`: see [`crate::cleanup`]. Says each thing that goes, asks before it does anything, and leaves nodes alone that are
//! still in use.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::access::{Access, Reached};
use crate::cleanup::files::{self, Directories};
use crate::cleanup::{Step, Write, obstacles, steps};
use crate::kube_api::names::NAMESPACE;

/// Take every trace of Packhorse off the nodes: totals, annotations, labels, start-up taint; with --files what lies on this machine.
///
/// Take the agents away first (kubectl -n packhorse-system delete daemonset packhorse-agent), or they write everything anew. A node on
/// which GPU pods still run is left alone. Run it on the node with --files to remove CDI specifications, sockets and state there.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    access: Access,
    /// Only these nodes; repeatable [default: every node with a trace]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Say what would go, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove without asking first
    #[arg(long, short)]
    yes: bool,
    /// Also nodes on which GPU pods or an agent still run
    #[arg(long)]
    force: bool,
    /// Remove what the agent left on this machine's disk; without --node nothing else is done
    #[arg(long)]
    files: bool,
    /// Namespace of Packhorse itself
    #[arg(long, value_name = "NAME", default_value = NAMESPACE)]
    system_namespace: String,
    /// With --files: the kubelet's directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet", requires = "files")]
    kubelet_dir: PathBuf,
    /// With --files: where CDI specifications were written
    #[arg(long, value_name = "DIR", default_value = "/var/run/cdi", requires = "files")]
    cdi_dir: PathBuf,
    /// With --files: where verified allocations were kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/packhorse", requires = "files")]
    state_dir: PathBuf,
}

/// What goes where.
#[derive(Debug, Default)]
struct Plan {
    nodes: Vec<(String, Vec<Step>)>,
    /// Nodes left alone, with the reason.
    blocked: Vec<String>,
    files: Vec<PathBuf>,
}

/// Finds, tells, asks, removes.
///
/// # Errors
/// A node that is still in use, a name that no node has, whatever could not be removed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let directories =
            Directories { cdi: args.cdi_dir.clone(), kubelet: args.kubelet_dir.clone(), state: args.state_dir.clone() };
        let mut plan = Plan::default();
        if args.files {
            plan.files = files::find(&directories)?;
        }
        let mut reached = None;
        if !args.files || !args.nodes.is_empty() {
            let there = args.access.connect().await?;
            look(args, &there, &mut plan).await?;
            reached = Some(there);
        }
        tell(&plan);
        if plan.nodes.is_empty() && plan.files.is_empty() {
            if plan.blocked.is_empty() {
                println!("no trace is left");
                return Ok(());
            }
            bail!("nothing was removed: {} nodes are still in use; --force removes all the same", plan.blocked.len());
        }
        if args.dry_run {
            println!("nothing was changed (--dry-run)");
            return Ok(());
        }
        if !args.yes && !confirmed()? {
            bail!("nothing was changed");
        }
        if let Some(reached) = &reached {
            for (node, steps) in &plan.nodes {
                clean(reached, node, steps).await?;
                println!("node {node}: done");
            }
        }
        if args.files {
            files::remove(&directories, &plan.files)?;
            println!("this machine: done");
        }
        if plan.blocked.is_empty() {
            return Ok(());
        }
        bail!("{} nodes are still in use and were left alone; --force removes all the same", plan.blocked.len())
    })
}

/// What is to be done on which node.
async fn look(args: &Args, reached: &Reached, plan: &mut Plan) -> anyhow::Result<()> {
    let read = |objects: Vec<String>| -> anyhow::Result<Vec<Value>> {
        Ok(objects.iter().map(|object| serde_json::from_str(object)).collect::<Result<_, _>>()?)
    };
    let nodes = read(reached.list("nodes", "/api/v1/nodes").await?)?;
    let pods = read(reached.list("pods", "/api/v1/pods").await?)?;
    let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(unknown) = args.nodes.iter().find(|wanted| !nodes.iter().any(|node| name(node) == **wanted)) {
        bail!("--node {unknown}: there is no such node");
    }
    for node in nodes.iter().filter(|node| args.nodes.is_empty() || args.nodes.contains(&name(node))) {
        let (name, steps) = (name(node), steps(node));
        if steps.is_empty() {
            continue;
        }
        let in_the_way = if args.force { Vec::new() } else { obstacles(&name, &pods, &args.system_namespace) };
        if in_the_way.is_empty() {
            plan.nodes.push((name, steps));
        } else {
            plan.blocked.push(format!("node {name} is left alone: {}", in_the_way.join("; ")));
        }
    }
    Ok(())
}

fn tell(plan: &Plan) {
    for (node, steps) in &plan.nodes {
        for step in steps {
            println!("node {node}: {}", step.what);
        }
    }
    for path in &plan.files {
        println!("this machine: {}", path.display());
    }
    for blocked in &plan.blocked {
        println!("{blocked}");
    }
}

fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here; give --yes to remove all this, or --dry-run to see it only");
    }
    print!("remove all this? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn clean(reached: &Reached, node: &str, steps: &[Step]) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(reached.client.clone());
    for step in steps {
        let params = PatchParams { field_manager: step.write.manager().map(str::to_owned), ..PatchParams::default() };
        let written = match &step.write {
            Write::Merge(patch) => nodes.patch(node, &params, &Patch::Merge(patch)).await,
            Write::Status(patch) => nodes.patch_status(node, &params, &Patch::Merge(patch)).await,
            Write::Apply(_, patch) => nodes.patch(node, &params, &Patch::Apply(patch)).await,
            Write::Json(patch) => {
                let patch = serde_json::from_value(patch.clone()).context("cannot write the patch of the taints")?;
                nodes.patch(node, &params, &Patch::Json::<()>(patch)).await
            }
        };
        written.with_context(|| format!("node {node}: cannot remove {}", step.what))?;
    }
    Ok(())
}
