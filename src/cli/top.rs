//! `packhorse top`: see [`crate::top`]. Reads nodes and pods, and the agents' metrics through the API server, by a kubeconfig; changes
//! nothing.

mod ask;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};

use super::access::{Access, Reached};
use super::output::{self, Format};
use crate::inspect::{Builder, Cluster};
use crate::kube_api::names::NAMESPACE;
use crate::top::agents::Agents;
use crate::top::report::{self, Answers, PartReport, Report, Silent};

/// Show what pods use of their GPUs now: memory, utilisation, processes, beside their limits.
///
/// Without arguments, or with `pods`: every container's part of a device. `nodes` and `devices` show what is used of each. Needs get and
/// list of nodes and pods, and get of pods/proxy in the namespace of Packhorse: the agents are asked through the API server. An agent
/// that does not answer is named, and its pods are shown as unknown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show [default: pods]
    #[arg(value_name = "pods|nodes|devices", value_enum)]
    what: Vec<View>,
    #[command(flatten)]
    access: Access,
    /// Only pods of this namespace [default: all namespaces]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Pods of all namespaces, which is the default
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only this node; no other agent is asked
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The same as the argument nodes
    #[arg(long)]
    nodes: bool,
    /// The same as the argument devices
    #[arg(long)]
    devices: bool,
    /// What comes first: the greatest use of memory, the greatest utilisation, or the first name; what is unknown comes last
    #[arg(long, value_name = "BY", default_value = "name", value_enum)]
    sort: Sort,
    /// How to print: a table, a table with more columns, or data
    #[arg(long, short, value_name = "FORMAT", default_value = "table", value_enum)]
    output: Format,
    /// Print again, until interrupted
    #[arg(long, short)]
    watch: bool,
    /// With --watch: how often the cluster is read, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "watch")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
    /// How long each agent may take to answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=300))]
    timeout: u32,
    /// Namespace of Packhorse itself, in which the agents are looked for
    #[arg(long, value_name = "NAME", default_value = NAMESPACE)]
    system_namespace: String,
    /// Prefix of the GPU resources, where the server's resourcePrefix is another
    #[arg(long, value_name = "PREFIX", default_value = "nvidia.com")]
    resource_prefix: String,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum View {
    /// Containers and what they use of their devices.
    #[value(alias = "pod", alias = "po")]
    Pods,
    /// Nodes and what is used of all their devices.
    #[value(alias = "node", alias = "no")]
    Nodes,
    /// Devices: use, temperature, power, health.
    #[value(alias = "device")]
    Devices,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By memory in use.
    Memory,
    /// By utilisation of the multiprocessors.
    Utilization,
    /// By namespace, pod and container; by node.
    Name,
}

/// What was read at one moment.
struct Moment {
    cluster: Cluster,
    answers: Answers,
    silent: BTreeMap<String, String>,
}

/// Reads, asks, prints.
///
/// # Errors
/// A cluster that cannot be read, no permission to ask the agents, a node that is not there, no agent that answers.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let reached = args.access.connect().await?;
        let pause = Duration::from_secs(args.interval.into());
        let mut shown = false;
        loop {
            let moment = match read(args, &reached).await {
                Ok(moment) => moment,
                // Whoever watches has a picture already, and the API server comes back.
                Err(error) if shown => {
                    eprintln!("warning: {}; what is shown is old", super::one_line(&error));
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            print(args, &collect(args, &moment)).context("cannot write the result")?;
            if !args.watch {
                if moment.answers.is_empty() && !moment.silent.is_empty() {
                    bail!("no agent has told anything; what is missing is said above");
                }
                return Ok(());
            }
            shown = true;
            tokio::time::sleep(pause).await;
        }
    })
}

async fn read(args: &Args, reached: &Reached) -> anyhow::Result<Moment> {
    let mut builder = Builder::new(&args.resource_prefix);
    let mut agents = Agents::default();
    reached.list("nodes", "/api/v1/nodes").await?.iter().for_each(|node| builder.node(node));
    for pod in reached.list("pods", "/api/v1/pods").await? {
        builder.pod(&pod);
        agents.pod(&pod, &args.system_namespace);
    }
    let cluster = builder.finish();
    if let Some(node) = args.node.as_deref().filter(|node| !cluster.nodes.contains_key(*node)) {
        bail!("--node {node}: there is no such node; packhorse inspect nodes -o wide lists all");
    }
    let concerned: Vec<&str> = cluster
        .nodes
        .iter()
        .filter(|(name, _)| args.node.as_deref().is_none_or(|node| node == &***name))
        .filter(|(name, site)| site.inventory.is_some() || !cluster.ledger.pods_on(name).is_empty())
        .map(|(name, _)| &**name)
        .collect();
    let timeout = Duration::from_secs(args.timeout.into());
    let (mut answers, mut silent) = (Answers::new(), BTreeMap::new());
    for (node, answer) in ask::all(reached, &agents, &concerned, &args.system_namespace, timeout).await? {
        match answer {
            Ok(usage) => drop(answers.insert(node, usage)),
            Err(why) => drop(silent.insert(node, why)),
        }
    }
    Ok(Moment { answers, silent, cluster })
}

fn collect(args: &Args, moment: &Moment) -> Report {
    let Moment { cluster, answers, silent } = moment;
    let wanted = |view: View, flag: bool| flag || args.what.contains(&view);
    let (nodes, devices) = (wanted(View::Nodes, args.nodes), wanted(View::Devices, args.devices));
    let pods = wanted(View::Pods, !nodes && !devices);
    let mut names: Vec<&str> = answers.keys().chain(silent.keys()).map(String::as_str).collect();
    names.sort_unstable();
    let mut report = Report { v: 1, warnings: cluster.warnings.clone(), ..Report::default() };
    if pods {
        let rows = names.iter().flat_map(|name| report::parts(cluster, name, answers.get(*name)));
        let here = |row: &PartReport| args.namespace.as_ref().is_none_or(|namespace| *namespace == row.namespace);
        let mut rows: Vec<_> = rows.filter(here).collect();
        rows.sort_by(|a, b| {
            let key = |row: &PartReport| (row.namespace.clone(), row.pod.clone(), row.container.clone(), row.index);
            key(a).cmp(&key(b))
        });
        order(args.sort, &mut rows, |row| row.memory_used, |row| row.utilization);
        report.pods = Some(rows);
    }
    if nodes {
        let mut rows: Vec<_> = names.iter().map(|name| report::node(cluster, name, answers.get(*name))).collect();
        order(args.sort, &mut rows, |row| row.memory_used, |row| row.utilization);
        report.nodes = Some(rows);
    }
    if devices {
        let rows = names.iter().flat_map(|name| report::devices(cluster, name, answers.get(*name)));
        let mut rows: Vec<_> = rows.collect();
        order(args.sort, &mut rows, |row| row.memory_used, |row| row.utilization);
        report.devices = Some(rows);
    }
    report.silent = silent.iter().map(|(node, why)| Silent { node: node.clone(), why: why.clone() }).collect();
    report
}

/// Greatest first, unknown last, else as it was.
fn order<R>(sort: Sort, rows: &mut [R], memory: fn(&R) -> Option<u64>, utilization: fn(&R) -> Option<f64>) {
    match sort {
        Sort::Name => {}
        Sort::Memory => rows.sort_by_key(|row| std::cmp::Reverse(memory(row))),
        // -1 is below every percentage.
        Sort::Utilization => {
            rows.sort_by(|a, b| utilization(b).unwrap_or(-1.0).total_cmp(&utilization(a).unwrap_or(-1.0)))
        }
    }
}

fn print(args: &Args, report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(data) = output::data(args.output, report, args.watch)? {
        write!(out, "{data}")?;
    } else {
        if args.watch {
            writeln!(out, "{}", jiff::Timestamp::now().strftime("%H:%M:%S UTC"))?;
        }
        write!(out, "{}", table::text(report, args.output == Format::Wide))?;
    }
    out.flush()?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_comes_first_and_the_unknown_last() {
        let rows =
            [("a", Some(5), None), ("b", None, Some(3.0)), ("c", Some(9), Some(70.5)), ("d", Some(5), Some(0.0))];
        for (sort, expected) in [(Sort::Name, "abcd"), (Sort::Memory, "cadb"), (Sort::Utilization, "cbda")] {
            let mut rows = rows;
            order(sort, &mut rows, |row| row.1, |row| row.2);
            assert_eq!(rows.map(|row| row.0).concat(), expected, "{sort:?}");
        }
    }
}
