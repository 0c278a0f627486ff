//! The figures of the runs: one row each as it ends, and the ratios at the end.

use std::collections::BTreeMap;

use serde_json::json;

use super::figures::record;
use super::run::Outcome;
use super::settings::{Asked, Case};

/// All rates, for the ratios.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rates: Vec<(Case, f64)>,
}

/// The columns of the rows.
pub(crate) fn head() {
    println!(
        "{:<11} {:<8} {:<12} {:>5} {:>7} {:>8} {:>7}  {:>10} {:>9}  CPUs used",
        "mix", "sampling", "extender", "round", "bound", "pods/s", "s", "ms/attempt", "p99 ms"
    );
}

impl Table {
    /// Prints and records one run.
    pub(crate) fn add(&mut self, case: &Case, outcome: &Outcome) {
        let attempt =
            outcome.scheduler.histogram("scheduler_scheduling_attempt_duration_seconds", &["result=\"scheduled\""]);
        let cpu: Vec<String> = outcome.cpu.iter().map(|(name, share)| format!("{name} {share:.2}")).collect();
        println!(
            "{:<11} {:<8} {:<12} {:>5} {:>7} {:>8.1} {:>7.1}  {:>10.2} {:>9.2}  {}",
            case.mix,
            case.sampling.name(),
            case.asked.title(),
            case.round,
            outcome.bound,
            outcome.pods_per_second,
            outcome.seconds,
            attempt.mean_us() / 1e3,
            attempt.quantile_us(0.99) / 1e3,
            cpu.join(", "),
        );
        self.rates.push((case.clone(), outcome.pods_per_second));
        record_all(case, outcome);
    }

    /// The medians of the rounds, and what they are to the extender that returns one name, and to none.
    pub(crate) fn summary(&self) {
        println!("\nmedians of the rounds, pods/s");
        println!(
            "{:<11} {:<8} {:<12} {:>8} {:>13} {:>9}",
            "mix", "sampling", "extender", "pods/s", "to one name", "to none"
        );
        let mut groups: BTreeMap<(String, &str), Vec<&(Case, f64)>> = BTreeMap::new();
        for entry in &self.rates {
            groups.entry((entry.0.mix.clone(), entry.0.sampling.name())).or_default().push(entry);
        }
        for ((mix, sampling), entries) in groups {
            let of =
                |asked: Asked| median(entries.iter().filter(|(case, _)| case.asked == asked).map(|(_, rate)| *rate));
            for asked in super::settings::ASKED {
                let Some(rate) = of(asked) else { continue };
                let ratio = |to: Asked, name: &str| {
                    let ratio = rate / of(to)?;
                    let mut case = entries[0].0.clone();
                    case.asked = asked;
                    let mut case = case.json();
                    case["to"] = json!(name);
                    case["round"] = json!("median");
                    record("throughput_ratio", ratio, "", &case);
                    Some(ratio)
                };
                println!(
                    "{mix:<11} {sampling:<8} {:<12} {rate:>8.1} {:>13} {:>9}",
                    asked.title(),
                    shown(ratio(Asked::OneName, "one_name")),
                    shown(ratio(Asked::Nobody, "none")),
                );
            }
        }
    }
}

fn record_all(case: &Case, outcome: &Outcome) {
    let of = case.json();
    let with = |key: &str, value: &str| {
        let mut case = of.clone();
        case[key] = json!(value);
        case
    };
    let pods = outcome.bound as f64;
    record("pods_per_second", outcome.pods_per_second, "pods/s", &of);
    record("bound_pods", pods, "pods", &of);
    record("seconds_to_last_bind", outcome.seconds, "s", &of);
    for (process, share) in &outcome.cpu {
        record("cpu_ms_per_pod", share / outcome.pods_per_second * 1e3, "ms", &with("process", process));
    }
    for (call, count) in &outcome.api_writes {
        record("api_writes_per_pod", count / pods, "requests", &with("call", call));
    }

    let told = &outcome.scheduler;
    for result in told.values("scheduler_schedule_attempts_total", "result") {
        let count = told.sum("scheduler_schedule_attempts_total", &[&format!("result=\"{result}\"")]);
        record("scheduler_attempts_per_pod", count / pods, "attempts", &with("result", &result));
    }
    let calls = told.sum("rest_client_requests_total", &["method=\"POST\""])
        + told.sum("rest_client_requests_total", &["method=\"PATCH\""])
        + told.sum("rest_client_requests_total", &["method=\"PUT\""]);
    record("scheduler_api_writes_per_pod", calls / pods, "requests", &of);
    for (figure, name) in [
        ("scheduling_attempt", "scheduler_scheduling_attempt_duration_seconds"),
        ("scheduling_algorithm", "scheduler_scheduling_algorithm_duration_seconds"),
        ("pod_scheduling_sli", "scheduler_pod_scheduling_sli_duration_seconds"),
    ] {
        let histogram = told.histogram(name, &[]);
        if histogram.count > 0.0 {
            record(&format!("{figure}_mean_us"), histogram.mean_us(), "us", &of);
            record(&format!("{figure}_p99_us"), histogram.quantile_us(0.99), "us", &of);
        }
    }
    let points = "scheduler_framework_extension_point_duration_seconds";
    for point in told.values(&format!("{points}_count"), "extension_point") {
        let histogram = told.histogram(points, &[&format!("extension_point=\"{point}\"")]);
        record("extension_point_mean_us", histogram.mean_us(), "us", &with("point", &point));
    }

    if let Some(told) = &outcome.packhorse {
        // Of those that it was asked about: pods without a GPU never meet it.
        let pods = outcome.allocated.map_or(pods, |allocated| allocated as f64);
        for verb in ["filter", "prioritize", "bind", "bind_own"] {
            let histogram = told.histogram(&format!("packhorse_extender_{verb}_seconds"), &[]);
            record("extender_mean_us", histogram.mean_us(), "us", &with("verb", verb));
            record("extender_p99_us", histogram.quantile_us(0.99), "us", &with("verb", verb));
            record("extender_calls_per_pod", histogram.count / pods, "calls", &with("verb", verb));
        }
        // Its certificate and the webhook's CA, which are written at its start, are not for a pod.
        let about_pods = ["resource=\"pods", "resource=\"events"];
        let writes = ["create", "update", "patch", "delete"].iter().flat_map(|verb| {
            let verb = format!("verb=\"{verb}\"");
            about_pods.map(|resource| told.sum("packhorse_api_requests_total", &[&verb, resource]))
        });
        let writes: f64 = writes.sum();
        record("packhorse_api_writes_per_pod", writes / pods, "requests", &of);
        record("bind_conflicts", told.sum("packhorse_extender_bind_conflicts_total", &[]), "binds", &of);
    }
    if let Some(allocated) = outcome.allocated {
        // The run would have ended with an error otherwise.
        record("oversubscribed_devices", 0.0, "devices", &of);
        record("allocated_pods", allocated as f64, "pods", &of);
    }
}

fn shown(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
