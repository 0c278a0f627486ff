//! `packhorse inspect`: see [`crate::inspect`]. Reads nodes and pods through a kubeconfig, changes nothing.

mod table;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, bail};

use super::access::{Access, Reached};
use super::output::{self, Format};
use crate::inspect::report::{self, Report};
use crate::inspect::{Builder, Cluster, Seen};

/// Show nodes, devices and who holds them, and why a pod waits: node by node, with the smallest change that would help.
///
/// Without arguments: the nodes, and the pods that wait. `nodes`, `devices`, `pods` show all of a kind; a name, or `node/NAME`,
/// `pod/NAME`, `NAMESPACE/NAME`, shows one node with its devices, or one pod. A waiting pod is held against every node by the code that
/// schedules it. Needs get and list of nodes and pods; no server of Packhorse.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// nodes, devices, pods, or names of nodes and pods
    #[arg(value_name = "nodes|devices|pods|NAME")]
    what: Vec<String>,
    #[command(flatten)]
    access: Access,
    /// Namespace of pods that are named without one [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print: a table, a table with more columns and all nodes, or data
    #[arg(long, short, value_name = "FORMAT", default_value = "table", value_enum)]
    output: Format,
    /// Print again whenever something has changed, until interrupted
    #[arg(long, short)]
    watch: bool,
    /// With --watch: how often the cluster is read, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "watch")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
    /// Prefix of the GPU resources, where the server's resourcePrefix is another
    #[arg(long, value_name = "PREFIX", default_value = "nvidia.com")]
    resource_prefix: String,
}

/// What is asked for, names resolved.
#[derive(Debug, Default)]
struct Wanted {
    nodes: bool,
    devices: bool,
    pods: bool,
    /// Without arguments.
    overview: bool,
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    text: String,
    kind: Option<&'static str>,
    namespace: Option<String>,
    name: String,
}

/// Reads, and prints.
///
/// # Errors
/// A cluster that cannot be read, a name that nothing has.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let wanted = wanted(&args.what);
        let reached = args.access.connect().await?;
        let mut last = None;
        loop {
            let pause = Duration::from_secs(args.interval.into());
            let cluster = match read(&reached, &args.resource_prefix).await {
                Ok(cluster) => cluster,
                // Whoever watches has a picture already, and the API server comes back.
                Err(error) if last.is_some() => {
                    eprintln!("warning: {}; what is shown is old", super::one_line(&error));
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let report = collect(&cluster, &wanted, args.namespace.as_deref(), &reached.namespace)?;
            if last.as_ref() != Some(&report) {
                print(args, &wanted, &report).context("cannot write the result")?;
                last = Some(report);
            }
            if !args.watch {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
        }
    })
}

async fn read(reached: &Reached, prefix: &str) -> anyhow::Result<Cluster> {
    let mut builder = Builder::new(prefix);
    reached.list("nodes", "/api/v1/nodes").await?.iter().for_each(|node| builder.node(node));
    reached.list("pods", "/api/v1/pods").await?.iter().for_each(|pod| builder.pod(pod));
    Ok(builder.finish())
}

fn wanted(what: &[String]) -> Wanted {
    let mut wanted = Wanted { overview: what.is_empty(), ..Wanted::default() };
    for text in what {
        match text.as_str() {
            "node" | "nodes" | "no" => wanted.nodes = true,
            "device" | "devices" => wanted.devices = true,
            "pod" | "pods" | "po" => wanted.pods = true,
            _ => wanted.named.push(named(text)),
        }
    }
    wanted
}

fn named(text: &str) -> Named {
    let (before, name) = text.split_once('/').map_or((None, text), |(before, name)| (Some(before), name));
    let (kind, namespace) = match before {
        Some("node" | "nodes" | "no") => (Some("node"), None),
        Some("pod" | "pods" | "po") => (Some("pod"), None),
        Some(namespace) => (Some("pod"), Some(namespace.to_owned())),
        None => (None, None),
    };
    Named { text: text.to_owned(), kind, namespace, name: name.to_owned() }
}

fn collect(cluster: &Cluster, wanted: &Wanted, namespace: Option<&str>, default: &str) -> anyhow::Result<Report> {
    let mut report = Report { v: 1, warnings: cluster.warnings.clone(), ..Report::default() };
    let gpu = |seen: &&Seen| seen.gpu && namespace.is_none_or(|namespace| *seen.namespace == *namespace);
    if wanted.nodes || wanted.overview {
        let nodes = cluster.nodes.iter().map(|(name, site)| report::node(cluster, name, site));
        report.nodes = Some(nodes.collect());
    }
    if wanted.devices {
        report.devices = Some(cluster.nodes.keys().flat_map(|name| report::devices_of(cluster, name)).collect());
    }
    if wanted.pods {
        report.pods = Some(cluster.pods.values().filter(gpu).map(|seen| report::pod(cluster, seen, false)).collect());
    } else if wanted.overview {
        let waiting = cluster.pods.values().filter(gpu).filter(|seen| seen.waiting.is_some());
        report.pods = Some(waiting.map(|seen| report::pod(cluster, seen, false)).collect());
    }
    for one in &wanted.named {
        let mut found = false;
        if one.kind != Some("pod")
            && let Some(site) = cluster.nodes.get(one.name.as_str())
        {
            report.nodes.get_or_insert_default().push(report::node(cluster, &one.name, site));
            report.devices.get_or_insert_default().extend(report::devices_of(cluster, &one.name));
            found = true;
        }
        if one.kind != Some("node")
            && let Some(seen) = find(cluster, one, namespace, default)?
        {
            report.pods.get_or_insert_default().push(report::pod(cluster, seen, true));
            found = true;
        }
        if !found {
            bail!(
                "{}: neither a node nor a live pod of that name; packhorse inspect pods lists the GPU pods",
                one.text
            );
        }
    }
    Ok(report)
}

/// A pod by its name: in the namespace given, else in the context's, else wherever the only one of that name is.
fn find<'a>(
    cluster: &'a Cluster,
    named: &Named,
    namespace: Option<&str>,
    default: &str,
) -> anyhow::Result<Option<&'a Seen>> {
    let mut all: Vec<&Seen> = cluster.pods.values().filter(|seen| *seen.name == *named.name).collect();
    let here = all.iter().copied().find(|seen| *seen.namespace == *default);
    match (named.namespace.as_deref().or(namespace), here) {
        (Some(namespace), _) => all.retain(|seen| *seen.namespace == *namespace),
        (None, Some(here)) => all = vec![here],
        (None, None) => {}
    }
    match all.as_slice() {
        [] => Ok(None),
        [seen] => Ok(Some(*seen)),
        several => {
            let names: Vec<String> = several.iter().map(|seen| seen.full_name()).collect();
            bail!("{}: several pods have that name: {}", named.text, names.join(", "))
        }
    }
}

fn print(args: &Args, wanted: &Wanted, report: &Report) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Some(data) = output::data(args.output, report, args.watch)? {
        write!(out, "{data}")?;
    } else {
        let wide = args.output == Format::Wide;
        let named = !wanted.pods && !wanted.overview;
        if args.watch {
            writeln!(out, "{}", jiff::Timestamp::now().strftime("%H:%M:%S UTC"))?;
        }
        write!(out, "{}", table::text(report, wanted.overview, named, wide))?;
        for warning in &report.warnings {
            eprintln!("warning: {warning}");
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_kubectl_reads_them() {
        for (text, kind, namespace, name) in [
            ("a", None, None, "a"),
            ("node/a", Some("node"), None, "a"),
            ("pod/a", Some("pod"), None, "a"),
            ("ml/a", Some("pod"), Some("ml"), "a"),
        ] {
            let read = named(text);
            assert_eq!((read.kind, read.namespace.as_deref(), &*read.name), (kind, namespace, name), "{text}");
        }
    }
}
