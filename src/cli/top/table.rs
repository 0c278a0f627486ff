//! The report as text for people. `unknown`: the agent did not say; `-`: the hardware does not tell, or there is none.

use crate::cli::output::Table;
use crate::top::report::{DeviceReport, NodeReport, PartReport, Report, State};

/// So much of a UUID tells devices apart, for people.
const SHORT: usize = 12;

/// The whole report.
pub(super) fn text(report: &Report, wide: bool) -> String {
    let mut parts = Vec::new();
    if let Some(rows) = &report.nodes {
        parts.push(nodes(rows));
    }
    if let Some(rows) = &report.devices {
        parts.push(devices(rows, wide));
    }
    if let Some(rows) = &report.pods {
        parts.push(pods(rows, wide));
    }
    if !report.silent.is_empty() {
        parts.push(report.silent.iter().map(|silent| format!("node {}: {}\n", silent.node, silent.why)).collect());
    }
    parts.join("\n")
}

/// A number; else whether nobody said, or there is none.
fn cell(state: State, value: Option<String>) -> String {
    value.unwrap_or_else(|| if state == State::Unknown { "unknown" } else { "-" }.to_owned())
}

fn whole(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.0}"))
}

fn of(state: State, used: Option<u64>, total: Option<u64>) -> String {
    let used = cell(state, used.map(|used| used.to_string()));
    total.map_or(used.clone(), |total| format!("{used}/{total}"))
}

fn gpu(index: u32, profile: Option<&str>) -> String {
    profile.map_or_else(|| index.to_string(), |profile| format!("{index} MIG {profile}"))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn pods(rows: &[PartReport], wide: bool) -> String {
    if rows.is_empty() {
        return "no pod holds a GPU\n".to_owned();
    }
    let mut header =
        vec!["NAMESPACE", "POD", "CONTAINER", "NODE", "GPU", "MEMORY MiB", "MEMORY %", "SM %", "CORES %", "PROCESSES"];
    if wide {
        header.extend(["LIMIT KEPT", "STATE", "MODEL", "UUID"]);
    }
    let mut table = Table::new(&header);
    for row in rows {
        // Without what was booked there is nothing to say, whoever answers.
        let state = if row.state == State::Unreported { State::Unknown } else { row.state };
        let device = row.index.map_or_else(
            || or_dash(row.device.get(..SHORT).unwrap_or(&row.device)),
            |index| gpu(index, row.profile.as_deref()),
        );
        let mut cells = vec![
            row.namespace.clone(),
            row.pod.clone(),
            or_dash(&row.container),
            row.node.clone(),
            device,
            of(state, row.memory_used, row.memory_limit),
            cell(state, whole(row.memory_percent)),
            cell(state, whole(row.utilization)),
            row.cores_limit.map_or_else(|| "-".to_owned(), |cores| cores.to_string()),
            cell(state, row.processes.map(|processes| processes.to_string())),
        ];
        if wide {
            let words = match row.state {
                State::Reported => "reported",
                State::Unreported => "unreported",
                State::Unknown => "unknown",
                State::Unbooked => "unbooked",
            };
            cells.extend([
                row.enforcement.clone().unwrap_or_else(|| "-".to_owned()),
                words.to_owned(),
                row.model.clone().unwrap_or_else(|| "-".to_owned()),
                or_dash(&row.device),
            ]);
        }
        table.row(cells);
    }
    let mut out = String::new();
    table.write(&mut out);
    let unreported = rows.iter().filter(|row| row.state == State::Unreported).count();
    if unreported > 0 {
        out.push_str(&format!(
            "{unreported} of these hold a device of which their agent does not tell: not started yet, or it cannot look at their \
             processes (packhorse_agent_usage_failures_total)\n"
        ));
    }
    out
}

fn devices(rows: &[DeviceReport], wide: bool) -> String {
    let mut header = vec![
        "NODE",
        "GPU",
        "MODEL",
        "MEMORY MiB",
        "BOOKED MiB",
        "SM %",
        "TEMP °C",
        "POWER W",
        "HEALTH",
        "PODS",
        "OTHERS MiB",
    ];
    if wide {
        header.extend(["MEMORY BUSY %", "SM MHz", "UUID"]);
    }
    let mut table = Table::new(&header);
    for row in rows {
        let state = row.state;
        let power = match (row.power, row.power_limit) {
            (Some(power), Some(limit)) => Some(format!("{power:.0}/{limit:.0}")),
            (power, _) => whole(power),
        };
        let others: Vec<String> = row.unattributed.iter().map(|(kind, mib)| format!("{kind} {mib}")).collect();
        let health = if row.cordoned { format!("{}, cordoned", row.health) } else { row.health.to_owned() };
        let mut cells = vec![
            row.node.clone(),
            gpu(row.index, row.profile.as_deref()),
            row.model.clone(),
            of(state, row.memory_used, Some(row.memory)),
            row.memory_booked.to_string(),
            cell(state, whole(row.utilization)),
            cell(state, whole(row.temperature)),
            cell(state, power),
            health,
            row.pods.to_string(),
            cell(state, (!others.is_empty()).then(|| others.join(", "))),
        ];
        if wide {
            cells.extend([
                cell(state, whole(row.memory_utilization)),
                cell(state, whole(row.sm_clock)),
                row.uuid.clone(),
            ]);
        }
        table.row(cells);
    }
    let mut out = String::new();
    table.write(&mut out);
    out
}

fn nodes(rows: &[NodeReport]) -> String {
    let mut table = Table::new(&["NODE", "GPUS", "MEMORY MiB", "BOOKED MiB", "SM %", "HOTTEST °C", "POWER W", "PODS"]);
    for row in rows {
        table.row(vec![
            row.name.clone(),
            row.devices.to_string(),
            of(row.state, row.memory_used, Some(row.memory)),
            row.memory_booked.to_string(),
            cell(row.state, whole(row.utilization)),
            cell(row.state, whole(row.temperature)),
            cell(row.state, whole(row.power)),
            row.pods.to_string(),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out);
    out
}
