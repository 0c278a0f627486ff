//! The report as text for people: columns as wide as they need to be, and of many nodes that say the same only the first.

use std::collections::BTreeMap;

use crate::cli::output::Table;
use crate::inspect::report::{Booked, DeviceReport, NodeReport, PodReport, Report, WaitReport};

/// So many nodes are told one by one of a waiting pod, unless all are wanted.
const NEAREST: usize = 20;

/// The whole report. `overview`: the pods in it are those that wait; `named`: they were named one by one.
pub(super) fn text(report: &Report, overview: bool, named: bool, wide: bool) -> String {
    let mut parts = Vec::new();
    if let Some(found) = &report.nodes {
        parts.push(nodes(found, wide));
    }
    if let Some(found) = &report.devices {
        parts.push(devices(found, wide));
    }
    if let Some(found) = &report.pods {
        let (explained, listed): (Vec<_>, Vec<_>) = found.iter().partition(|pod| pod.waits.is_some() || named);
        if overview && listed.is_empty() && explained.is_empty() {
            parts.push("no GPU pod waits\n".to_owned());
        } else if !listed.is_empty() {
            parts.push(pods(&listed, wide));
        }
        parts.extend(explained.into_iter().map(|found| pod(found, wide)));
        if overview && !found.is_empty() {
            parts.push("packhorse inspect NAMESPACE/POD says why a pod waits\n".to_owned());
        }
    }
    parts.join("\n")
}

fn booked(amount: Booked) -> String {
    format!("{}/{}", amount.booked, amount.total)
}

fn gib(amount: Booked) -> String {
    format!("{:.1}/{:.1} Gi", amount.booked as f64 / (1_u64 << 30) as f64, amount.total as f64 / (1_u64 << 30) as f64)
}

fn nodes(nodes: &[NodeReport], wide: bool) -> String {
    let mut header = vec!["NODE", "STATE", "GPUS", "GPU MEMORY MiB", "CORES %", "PODS"];
    if wide {
        header.extend(["CPU m", "HOST MEMORY", "DRIVER"]);
    }
    let mut table = Table::new(&header);
    let without = |node: &&NodeReport| node.state == "no-inventory";
    for node in nodes.iter().filter(|node| wide || nodes.len() == 1 || !without(node)) {
        let gpus = if node.usable == node.devices {
            node.devices.to_string()
        } else {
            format!("{} of {}", node.usable, node.devices)
        };
        let mut row = vec![
            node.name.clone(),
            node.state.to_owned(),
            gpus,
            booked(node.memory),
            booked(node.cores),
            node.gpu_pods.to_string(),
        ];
        if wide {
            row.extend([booked(node.cpu), gib(node.host_memory), node.driver.clone()]);
        }
        table.row(row);
    }
    let mut out = String::new();
    table.write(&mut out);
    let left_out = nodes.iter().filter(without).count();
    if left_out > 0 && !wide && nodes.len() > 1 {
        out.push_str(&format!("and {left_out} without a GPU inventory\n"));
    }
    for node in nodes {
        for refused in &node.refused {
            out.push_str(&format!("{}: the agent refuses pod {}: {}\n", node.name, refused.pod, refused.reason));
        }
    }
    out
}

fn devices(devices: &[DeviceReport], wide: bool) -> String {
    let mut header = vec!["NODE", "GPU", "MODEL", "MEMORY MiB", "CORES %", "SLOTS", "HEALTH", "PODS"];
    if wide {
        header.insert(2, "UUID");
        header.insert(7, "LIMITS");
    }
    let mut table = Table::new(&header);
    for device in devices {
        let profile = device.profile.as_ref().map(|profile| format!(" MIG {profile}")).unwrap_or_default();
        let health = if device.cordoned { format!("{}, cordoned", device.health) } else { device.health.to_owned() };
        let mut holders: Vec<String> = device
            .holders
            .iter()
            .map(|holder| {
                let amount = if holder.exclusive { "whole".to_owned() } else { format!("{} MiB", holder.memory) };
                format!("{} ({amount})", holder.pod)
            })
            .collect();
        holders.extend(device.foreign.iter().map(|pod| format!("{pod} (foreign)")));
        let mut row = vec![
            device.node.clone(),
            device.index.to_string(),
            format!("{}{profile}", device.model),
            booked(device.memory),
            booked(device.cores),
            booked(device.slots),
            health,
            holders.join(", "),
        ];
        if wide {
            row.insert(2, device.uuid.clone());
            row.insert(7, device.enforcement.to_owned());
        }
        table.row(row);
    }
    let mut out = String::new();
    table.write(&mut out);
    out
}

fn pods(pods: &[&PodReport], wide: bool) -> String {
    let mut table = Table::new(&["NAMESPACE", "POD", "PHASE", "NODE", "GPUS", "NOTES"]);
    for pod in pods {
        let asks = pod.asks.values().cloned();
        let shares = pod.holds.values().flatten().map(|share| {
            let name = if wide { share.device.as_str() } else { share.device.get(..12).unwrap_or(&share.device) };
            if share.exclusive { format!("{name} whole") } else { format!("{name} {} MiB", share.memory) }
        });
        table.row(vec![
            pod.namespace.clone(),
            pod.name.clone(),
            pod.phase.clone(),
            pod.node.clone().unwrap_or_else(|| "waits".to_owned()),
            asks.chain(shares).collect::<Vec<_>>().join("; "),
            pod.notes.join("; "),
        ]);
    }
    let mut out = String::new();
    table.write(&mut out);
    out
}

/// One pod with all that is known of it.
fn pod(pod: &PodReport, wide: bool) -> String {
    let mut out = format!("pod {}/{}, {}", pod.namespace, pod.name, pod.phase);
    match &pod.node {
        Some(node) => out.push_str(&format!(", on node {node}\n")),
        None => out.push_str(", without a node\n"),
    }
    for (container, asks) in &pod.asks {
        out.push_str(&format!("  container {container} asks for {asks}\n"));
    }
    for (container, shares) in &pod.holds {
        for share in shares {
            let cores = if share.cores == 0 { "no core limit".to_owned() } else { format!("{} % cores", share.cores) };
            let whole = if share.exclusive { ", alone" } else { "" };
            let limit = share.enforcement;
            out.push_str(&format!(
                "  container {container} has {} MiB of {} ({cores}{whole}), limit kept: {limit}\n",
                share.memory, share.device
            ));
        }
    }
    for note in &pod.notes {
        out.push_str(&format!("  {note}\n"));
    }
    if let Some(waits) = &pod.waits {
        explained(waits, wide, &mut out);
    }
    out
}

fn explained(waits: &WaitReport, wide: bool, out: &mut String) {
    if let Some(says) = &waits.scheduler_says {
        out.push_str(&format!("  kube-scheduler: {says}\n"));
    }
    if !waits.nodes.is_empty() {
        out.push('\n');
        let mut table = Table::new(&["NODE", "FITS", "WHY NOT"]);
        let shown = if wide { usize::MAX } else { NEAREST };
        for answer in waits.nodes.iter().take(shown) {
            let fits = if answer.fits { "yes" } else { "no" };
            table.row(vec![answer.node.clone(), fits.to_owned(), answer.reasons.join("; ")]);
        }
        table.write(out);
        let mut rest: BTreeMap<String, usize> = BTreeMap::new();
        for answer in waits.nodes.iter().skip(shown) {
            let why = if answer.fits { "yes".to_owned() } else { answer.reasons.join("; ") };
            *rest.entry(why).or_default() += 1;
        }
        for (why, count) in rest {
            out.push_str(&format!("and {count} more: {why}\n"));
        }
    }
    let fits = waits.nodes.iter().any(|answer| answer.fits);
    match waits.changes.as_slice() {
        [] if fits || waits.nodes.is_empty() => {}
        [] => out.push_str("\nno single change of a cordon, a limit or a pod would let it onto any node\n"),
        [smallest, others @ ..] => {
            out.push_str(&format!("\nsmallest change: {}\n", smallest.change));
            for other in others {
                out.push_str(&format!("             or: {}\n", other.change));
            }
        }
    }
}
