//! What Packhorse is to reach, and whether it does: one row each, the worst case where several count.

use super::measured::Measured;
use super::tables::{number, quoted};

/// A case by some of its words; others may be anything.
type Case = &'static [(&'static str, &'static str)];

/// What is asked of a number.
#[derive(Debug, Clone, Copy)]
enum Asked {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing: it is told.
    Told,
}

/// Where the number comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A figure as it is.
    Figure(&'static str, Case),
    /// A figure by the same of another case, all other words alike.
    Ratio(&'static str, Case, Case),
}

/// One goal.
struct Goal {
    what: &'static str,
    source: Source,
    asked: Asked,
    unit: &'static str,
    /// Whether a reference server, which does nothing, was measured beside.
    floored: bool,
}

const fn goal(what: &'static str, figure: &'static str, case: Case, asked: Asked, unit: &'static str) -> Goal {
    Goal { what, source: Source::Figure(figure, case), asked, unit, floored: false }
}

const fn floored(what: &'static str, figure: &'static str, case: Case, asked: Asked, unit: &'static str) -> Goal {
    Goal { what, source: Source::Figure(figure, case), asked, unit, floored: true }
}

const fn ratio(what: &'static str, to: Case, of: Case, asked: Asked) -> Goal {
    Goal { what, source: Source::Ratio("pods_per_second", of, to), asked, unit: "", floored: false }
}

use Asked::{AtLeast, AtMost, Told};

const WEBHOOK: Case = &[("server", "webhook"), ("protocol", "http1"), ("load", "kept"), ("connections", "1")];
/// The words in which two runs of kube-scheduler agree that are compared.
const WORKLOAD: [&str; 4] = ["mix", "sampling", "pods", "nodes"];
/// The words in which a case and its floor agree; what the floor's server does not look at may differ.
const TRANSPORT: [&str; 7] = ["names", "name_length", "protocol", "tls", "connections", "cycle_ms", "load"];
const STOCK: Case = &[("extender", "packhorse"), ("sampling", "stock"), ("best_nodes", "1"), ("nodes", "5000")];
const ALL: Case = &[("extender", "packhorse"), ("sampling", "100"), ("best_nodes", "1"), ("nodes", "5000")];
const ONE_NAME: Case = &[("extender", "one_name")];
const NOBODY: Case = &[("extender", "none")];

const GOALS: &[Goal] = &[
    floored("filter, known shape, p50", "filter_p50_us", KNOWN, AtMost(150.0), "us"),
    floored("filter, new shape that the watch has shown, p50", "filter_p50_us", ANNOUNCED, AtMost(400.0), "us"),
    floored("filter, new shape never seen, p50", "filter_p50_us", NEW, AtMost(400.0), "us"),
    floored("filter, known shape, p99", "filter_p99_us", KNOWN, AtMost(1_000.0), "us"),
    floored("filter, known shape, TLS, p50", "filter_p50_us", TLS, AtMost(250.0), "us"),
    goal("bind without the API call, p99", "bind_own_p99_us", KNOWN, AtMost(200.0), "us"),
    goal("API calls that write, per bound pod", "packhorse_api_writes_per_pod", &[("nodes", "5000")], AtMost(1.0), ""),
    ratio("pods/s, stock sampling, to a no-op extender", ONE_NAME, STOCK, AtLeast(0.9)),
    ratio("pods/s, all nodes, to a no-op extender", ONE_NAME, ALL, AtLeast(0.9)),
    ratio("pods/s, all nodes, to no extender", NOBODY, ALL, AtLeast(1.0)),
    ratio("pods/s, stock sampling, to no extender", NOBODY, STOCK, Told),
    goal("devices with more than they have", "oversubscribed_devices", &[], AtMost(0.0), ""),
    floored("webhook, TLS, kept connection, p50", "webhook_p50_us", WEBHOOK, AtMost(150.0), "us"),
    floored("webhook, TLS, kept connection, p99", "webhook_p99_us", WEBHOOK, AtMost(1_000.0), "us"),
    floored("webhook, processor time a request", "webhook_cpu_us", WEBHOOK, AtMost(60.0), "us"),
    goal("server memory, 5,000 nodes, 10,000 GPU pods", "scale_resident_mb", PODS_10, AtMost(60.0), "MB"),
    goal("server memory, 5,000 nodes, 100,000 GPU pods", "scale_resident_mb", PODS_100, AtMost(150.0), "MB"),
    goal("process start to complete ledger", "scale_start_ms", PODS_10, AtMost(2_000.0), "ms"),
    goal("`/metrics` scrape, 5,000 nodes", "scale_metrics_ms", PODS_10, AtMost(100.0), "ms"),
    goal("agent memory", "agent_memory_mib", &[], AtMost(25.0), "MiB"),
];

/// The line of the goals: names of 40 characters, nodes half full, 150 shapes, 100 pod events a second.
macro_rules! filter {
    ($kind:literal, $tls:literal) => {
        &[
            ("server", "packhorse"),
            ("names", "5000"),
            ("name_length", "40"),
            ("fill", "half"),
            ("shapes", "150"),
            ("events", "100"),
            ("connections", "1"),
            ("protocol", "http1"),
            ("cycle_ms", "0"),
            ("binds", "true"),
            ("learns", "true"),
            ("tls", $tls),
            ("kind", $kind),
        ]
    };
}
const KNOWN: Case = filter!("known", "false");
const ANNOUNCED: Case = filter!("announced", "false");
const NEW: Case = filter!("new", "false");
const TLS: Case = filter!("known", "true");
const PODS_10: Case = &[("nodes", "5000"), ("pods", "10000")];
const PODS_100: Case = &[("nodes", "5000"), ("pods", "100000")];

/// A number that was found, and what it is of.
struct Found<'a> {
    value: f64,
    least: f64,
    most: f64,
    runs: usize,
    of: &'a Measured,
}

impl Asked {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::Told => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", quoted(most, unit)),
            Self::AtLeast(least) => format!(">= {}", quoted(least, unit)),
            Self::Told => "reported".to_owned(),
        }
    }
}

impl Goal {
    fn found<'a>(&self, all: &'a [Measured]) -> Vec<Found<'a>> {
        let of = |figure, case| all.iter().filter(move |it| it.is(figure, case));
        match self.source {
            Source::Figure(figure, case) => of(figure, case)
                .map(|of| Found { value: of.median(), least: of.least(), most: of.most(), runs: of.runs(), of })
                .collect(),
            Source::Ratio(figure, case, to) => of(figure, case)
                .filter_map(|it| {
                    let other = of(figure, to).find(|other| agree(it, other, &WORKLOAD))?;
                    let (by, runs) = (other.median(), it.runs().min(other.runs()));
                    Some(Found { value: it.median() / by, least: it.least() / by, most: it.most() / by, runs, of: it })
                })
                .collect(),
        }
    }

    /// The one that is furthest from the goal.
    fn worst<'a>(&self, found: Vec<Found<'a>>) -> Option<Found<'a>> {
        let low = matches!(self.asked, AtLeast(_) | Told);
        found.into_iter().max_by(|a, b| if low { b.value.total_cmp(&a.value) } else { a.value.total_cmp(&b.value) })
    }

    fn row(&self, all: &[Measured]) -> String {
        let (what, asked) = (self.what, self.asked.text(self.unit));
        let Some(worst) = self.worst(self.found(all)) else {
            return format!("| {what} | {asked} | | not measured | | |");
        };
        let floor = all
            .iter()
            .filter(|_| self.floored)
            .find(|it| it.is(&worst.of.figure, &[("server", "reference")]) && agree(worst.of, it, &TRANSPORT))
            .map(Measured::median);
        let spread = match worst.runs {
            1 => "1 run".to_owned(),
            runs => format!("{} to {}, {runs} runs", number(worst.least), number(worst.most)),
        };
        let met = match self.asked.met(worst.value) {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        format!(
            "| {what} | {asked} | {} | {} ({spread}) | {} | {met} |",
            floor.map_or_else(String::new, |floor| quoted(floor, self.unit)),
            quoted(worst.value, self.unit),
            floor.filter(|floor| *floor > 0.0).map_or_else(String::new, |floor| format!("{:.1}", worst.value / floor)),
        )
    }
}

/// Whether two cases say the same of all of these.
fn agree(a: &Measured, b: &Measured, keys: &[&str]) -> bool {
    keys.iter().all(|key| a.says(key) == b.says(key))
}

/// The table of all goals. Where several cases count, the worst is told.
pub(crate) fn table(all: &[Measured]) -> String {
    let head = "| what | goal | floor | measured | to the floor | met |\n|---|---:|---:|---:|---:|---|\n";
    let rows: Vec<String> = GOALS.iter().map(|goal| goal.row(all)).collect();
    format!("{head}{}\n", rows.join("\n"))
}
