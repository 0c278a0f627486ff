//! The generated part of `benches/README.md`: everything between the two markers.

use super::measured::Measured;
use super::{goals, tables};

const BEGIN: &str = "<!-- figures:begin -->";
const END: &str = "<!-- figures:end -->";

/// Sections below the goals: title, and figures with their headings.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "`/filter`",
        &[
            ("filter_p50_us", "filter p50 us"),
            ("filter_p90_us", "p90 us"),
            ("filter_p99_us", "p99 us"),
            ("filter_max_us", "max us"),
            ("prioritize_p50_us", "prioritize p50"),
            ("bind_p50_us", "bind p50"),
            ("bind_p99_us", "bind p99"),
            ("filter_calls_per_second", "calls/s"),
            ("cpu_seconds_per_1000_calls", "CPU ms a call"),
            ("resident_mb", "MB"),
        ],
    ),
    (
        "kube-scheduler",
        &[
            ("pods_per_second", "pods/s"),
            ("scheduling_attempt_mean_us", "attempt, mean us"),
            ("scheduling_attempt_p99_us", "p99 us"),
            ("packhorse_api_writes_per_pod", "API writes a pod"),
        ],
    ),
    (
        "Creation of a pod at the real API server, with and without the webhook",
        &[
            ("pod_creations_per_second", "pods/s"),
            ("pod_creation_in_turn_mean_us", "one after the other, mean us"),
            ("pod_creation_server_cpu_us", "CPU us of the server a pod"),
        ],
    ),
    (
        "Webhook",
        &[
            ("webhook_p50_us", "p50 us"),
            ("webhook_p90_us", "p90 us"),
            ("webhook_p99_us", "p99 us"),
            ("webhook_max_us", "max us"),
            ("webhook_per_second", "calls/s"),
            ("webhook_cpu_us", "CPU us"),
            ("webhook_memory_mib", "MiB"),
        ],
    ),
    (
        "Memory, start, watch, `/metrics`",
        &[
            ("scale_start_ms", "start ms"),
            ("scale_lists_to_ready_ms", "lists to ready ms"),
            ("scale_resident_mb", "resident MB"),
            ("scale_peak_mb", "peak MB"),
            ("scale_events_per_second", "events/s"),
            ("scale_event_cpu_us", "CPU us an event"),
            ("scale_metrics_ms", "/metrics ms"),
            ("scale_first_look_ms", "page, first look ms"),
            ("scale_look_kb", "page kB"),
        ],
    ),
    ("Agent", &[("allocate_p50_us", "Allocate p50 us"), ("allocate_p99_us", "p99 us"), ("agent_memory_mib", "MiB")]),
];

/// The words on pictures that were drawn.
fn picture(name: &str) -> &'static str {
    match name {
        "latency.svg" => "Time of /filter against the names in a request",
        "memory.svg" => "Memory of the server against the pods",
        "throughput.svg" => "Pods that kube-scheduler binds per second",
        _ => "Time of a review",
    }
}

/// What stands between the markers: the machine, the goals, the pictures, all figures.
pub(crate) fn figures(all: &[Measured], pictures: &[&str]) -> String {
    let mut text = String::new();
    for machine in all.iter().filter(|it| it.figure == "machine") {
        let says = |key| machine.says(key);
        text += &format!(
            "- `{}`: {} at {}, {:.0} cores of {}, Linux {}, load average {} at the start, {}\n",
            says("program"),
            says("date"),
            says("commit"),
            machine.median(),
            says("model"),
            says("kernel"),
            says("load"),
            says("build"),
        );
    }
    text += "\n### Goals\n\nMedians of the runs, in brackets their spread; where several cases count, the worst.\n\n";
    text += &goals::table(all);
    for name in pictures {
        text += &format!("\n![{}](plots/{name})\n", picture(name));
    }
    for (title, columns) in SECTIONS {
        if let Some(table) = tables::table(all, columns) {
            text += &format!("\n### {title}\n\n{table}");
        }
    }
    text
}

/// `page` with `figures` between its markers.
///
/// # Errors
/// Where a marker is missing.
pub(crate) fn put(page: &str, figures: &str) -> Result<String, String> {
    let missing = |marker: &str| format!("the page has no line {marker}");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(|| missing(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| missing(END))?;
    Ok(format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))
}
