//! `packhorse simulate`: see [`crate::simulate`].

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use prometheus_client::registry::Registry;

use super::api_client;
use crate::metrics::api_requests::ApiRequests;
use crate::simulate::choose::Ties;
use crate::simulate::churn::Lifetimes;
use crate::simulate::mirror::stock_sample;
use crate::simulate::policy::PolicyName;
use crate::simulate::report::{Now, Report, Table};
use crate::simulate::trace::{Cluster, Trace};
use crate::simulate::{self, Churning, Options, Progress, Workload, from_cluster, openb, picture};

/// More runs than anybody waits for.
const MOST_SEEDS: u64 = 100_000;
const PODS_HELP: &str = "Pods, a CSV with the columns name,cpu_milli,memory_mib,num_gpu,gpu_milli and, if known, \
    gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time";
/// How often somebody who waits is told how far it is.
const NEWS: Duration = Duration::from_secs(2);

/// Say what placement policies would leave unallocated: replay a trace of pods, or those of a live cluster, against the nodes.
///
/// The pods come in random order, made up or cut down to 130 % of all GPUs, and none leaves; the policy packhorse is the server's own
/// code. The result is the share of GPUs left unallocated when the pods that came ask for 100 % of them, and at the end.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "FILE", help = "Nodes, a CSV with the columns sn,cpu_milli,memory_mib,gpu,model")]
    #[arg(required_unless_present = "from_cluster", conflicts_with = "from_cluster")]
    nodes: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = PODS_HELP)]
    #[arg(required_unless_present = "from_cluster", conflicts_with = "from_cluster")]
    pods: Option<PathBuf>,
    /// Replay the nodes and pods of a live cluster instead: its GPU pods, and the others on GPU nodes, come once each to the empty
    /// nodes, in the order of their creation. Changes nothing there; needs get and list of nodes and pods.
    #[arg(long, conflicts_with_all = ["departures"])]
    from_cluster: bool,
    /// With a live cluster: how to reach it. Without it, what every pod is given.
    #[arg(long, value_name = "FILE", requires = "from_cluster")]
    kubeconfig: Option<PathBuf>,
    /// Policies to compare, several times or separated by commas; all for all of them.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "packhorse", value_parser = policies())]
    policy: Vec<String>,
    /// Who breaks ties between equally good nodes: chance, as kube-scheduler does, or the node's name, as in the published experiments.
    #[arg(long, value_name = "HOW", default_value = "random", value_enum)]
    ties: Ties,
    /// Seeds of the runs, both included; without it 42..51, ten runs. Of a live cluster the first run keeps the order of creation, and
    /// further ones shuffle it; without it one run.
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Seeds>,
    /// Where packhorse has its target workload from: the pods that came so far, or the whole trace beforehand. The policies fgd and
    /// fgd-bestfit always have the latter.
    #[arg(long, value_name = "FROM", default_value = "learned", value_enum)]
    workload: Workload,
    /// Decide among so many percent of the nodes, a window that moves on with each pod, as kube-scheduler samples nodes.
    /// Without it all nodes; with --mirror-scheduler as many percent as kube-scheduler takes by default.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    sample: Option<u8>,
    /// Go the way of kube-scheduler and the extender together: nodes as kube-scheduler finds them by CPU, memory and the GPU totals, pods
    /// without GPUs anywhere among them, GPU pods to the extender's best, or to the best of the cluster if none of these fits. Who
    /// gets no node waits for others to leave. --ties changes nothing then: the extender has one best, the first by name.
    #[arg(long)]
    mirror_scheduler: bool,
    /// Pods come and go: tells the share averaged over time, and how many pods got no node. Nobody waits or tries again, but with
    /// --mirror-scheduler.
    #[arg(long)]
    departures: bool,
    /// With departures: GPU asked for on the mean over time, as a part of all GPUs.
    #[arg(long, value_name = "L", default_value_t = 1.0, value_parser = load, requires = "departures")]
    load: f64,
    /// With departures: how long pods stay. Without it as in the trace where it tells, else exponential.
    #[arg(long, value_name = "FROM", value_enum, requires = "departures")]
    lifetimes: Option<Lifetimes>,
    /// With departures: how many pods come. The first half is warm-up.
    #[arg(long, value_name = "N", default_value_t = 60_000, requires = "departures")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    arrivals: u32,
    /// Also write a picture of what is allocated over arrivals, an SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How to print the result: a table for people, or JSON (an object; for several policies an array of them).
    #[arg(long, value_name = "FORMAT", default_value = "table", value_enum)]
    format: Format,
}

/// First and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seeds(u64, u64);

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Tells those who wait how far it is.
struct News {
    last: Instant,
    runs: usize,
    /// Runs begun.
    run: usize,
}

/// Stands for every policy.
const ALL: &str = "all";

fn policies() -> PossibleValuesParser {
    PossibleValuesParser::new(PolicyName::ALL.iter().map(|(_, name)| *name).chain([ALL]))
}

fn seeds(text: &str) -> anyhow::Result<Seeds> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().ok().context("write two numbers such as 42..51, both included");
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        bail!("the last comes before the first, write {last}..{first}");
    }
    if last - first >= MOST_SEEDS {
        bail!("more than {MOST_SEEDS} runs");
    }
    Ok(Seeds(first, last))
}

fn load(text: &str) -> anyhow::Result<f64> {
    let load: f64 = text.parse().ok().context("write a number such as 0.9")?;
    if !(0.01..=10.0).contains(&load) {
        bail!("must be from 0.01 to 10");
    }
    Ok(load)
}

/// Replays and prints.
///
/// # Errors
/// Where the files cannot be read or mean nothing, and where the result cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (cluster, trace, now) = input(args)?;
    // Before the work, lest it be for nothing.
    let unwritable = |path: &PathBuf| format!("cannot write {}", path.display());
    let picture =
        args.svg.as_ref().map(|path| File::create(path).with_context(|| unwritable(path)).map(|file| (file, path)));
    let picture = picture.transpose()?;
    let options = options(args, cluster.machines.len());
    let mut news = News { last: Instant::now(), runs: options.policies.len() * options.seeds.len(), run: 0 };
    let mut reports = simulate::run(&cluster, &trace, &options, &mut |progress| news.tell(progress))?;
    reports.iter_mut().for_each(|report| report.cluster = now);
    print(args.format, &reports).context("cannot write the result")?;
    if let Some((mut file, path)) = picture {
        file.write_all(picture::svg(&reports).as_bytes()).with_context(|| unwritable(path))?;
    }
    Ok(())
}

/// What is replayed, and what the cluster has now if it is a live one. Warnings go to stderr.
fn input(args: &Args) -> anyhow::Result<(Cluster, Trace, Option<Now>)> {
    if let (Some(nodes), Some(pods)) = (&args.nodes, &args.pods) {
        return Ok((openb::nodes(nodes)?, openb::pods(pods)?, None));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let snapshot = runtime.block_on(async {
        let calls = ApiRequests::new(&mut Registry::default());
        let client = api_client::connect(args.kubeconfig.as_deref(), &calls).await?;
        anyhow::Ok(from_cluster::read(&client).await?)
    })?;
    for warning in &snapshot.warnings {
        eprintln!("warning: {warning}");
    }
    Ok((snapshot.cluster, snapshot.trace, Some(snapshot.now)))
}

fn options(args: &Args, nodes: usize) -> Options {
    let mut policies: Vec<PolicyName> = Vec::new();
    for name in &args.policy {
        let named = PolicyName::ALL.iter().filter(|(_, known)| name == ALL || name == known).map(|(policy, _)| *policy);
        let new: Vec<_> = named.filter(|policy| !policies.contains(policy)).collect();
        policies.extend(new);
    }
    let usual = if args.from_cluster { Seeds(42, 42) } else { Seeds(42, 51) };
    let seeds = args.seeds.unwrap_or(usual);
    let stock = if args.mirror_scheduler { stock_sample(nodes) } else { 100 };
    let sample = args.sample.unwrap_or(stock);
    let churning = Churning { load: args.load, arrivals: args.arrivals as usize, lifetimes: args.lifetimes };
    Options {
        policies,
        ties: args.ties,
        workload: args.workload,
        sample,
        seeds: (seeds.0..=seeds.1).collect(),
        departures: args.departures.then_some(churning),
        mirror_scheduler: args.mirror_scheduler,
    }
}

fn print(format: Format, reports: &[Report]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match (format, reports) {
        (Format::Table, _) => writeln!(out, "{}", Table(reports))?,
        (Format::Json, [report]) => writeln!(out, "{}", serde_json::to_string(report)?)?,
        (Format::Json, _) => writeln!(out, "{}", serde_json::to_string(reports)?)?,
    }
    out.flush()
}

impl News {
    fn tell(&mut self, progress: Progress) {
        self.run += usize::from(progress.done == 0);
        if self.last.elapsed() < NEWS {
            return;
        }
        self.last = Instant::now();
        let Progress { policy, seed, done, of } = progress;
        eprintln!("run {} of {}: {policy}, seed {seed}: {done} of {of} pods", self.run, self.runs);
    }
}
