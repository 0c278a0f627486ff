//! The series of one measurement, as OpenMetrics text. What is not known has no series.

use std::fmt::Write as _;
use std::sync::Arc;

use super::measure::{ContainerRow, DeviceRow, Doing, Given, Kind, Measured};
use super::owner::ContainerName;
use crate::agent::backend::Reading;
use crate::metrics::exposition::label;

/// Text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Families(String);

impl Families {
    /// A family of gauges: name, help, and the series with a value. `write` writes the labels, without braces.
    pub(super) fn gauges<T>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (T, Option<f64>)>,
        write: impl Fn(&mut String, T),
    ) {
        let mut headed = false;
        for (item, value) in series {
            let Some(value) = value else { continue };
            let out = &mut self.0;
            if !std::mem::replace(&mut headed, true) {
                // Into a string, which takes all.
                let _ = write!(out, "# HELP {name} {help}.\n# TYPE {name} gauge\n");
            }
            out.push_str(name);
            out.push('{');
            write(out, item);
            let _ = writeln!(out, "}} {value}");
        }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// Everything under Packhorse's own names.
pub(super) fn write(measured: &Measured, node: &str, out: &mut Families) {
    devices(measured, node, out);
    unattributed(measured, node, out);
    containers(measured, node, out);
}

/// Name, help, and what of a device it is.
type OfDevice = (&'static str, &'static str, fn(&DeviceRow) -> Option<f64>);

fn devices(measured: &Measured, node: &str, out: &mut Families) {
    fn number(value: Option<u32>) -> Option<f64> {
        value.map(f64::from)
    }
    fn watts(milliwatts: Option<u32>) -> Option<f64> {
        milliwatts.map(|milliwatts| f64::from(milliwatts) / 1000.0)
    }
    fn used(Reading { memory, .. }: &Reading) -> Option<f64> {
        memory.map(|memory| float(memory.used))
    }
    let families: [OfDevice; 8] = [
        ("packhorse_agent_device_memory_mebibytes", "Memory of a device", |row| number(row.memory)),
        ("packhorse_agent_device_memory_used_mebibytes", "Memory in use on a device, by whomever", |row| {
            // What a card that is cut uses is that of its instances.
            row.memory.and_then(|_| used(&row.reading))
        }),
        (
            "packhorse_agent_device_utilization_percent",
            "Share of the last moments in which a kernel ran on the card",
            |row| number(row.reading.utilization),
        ),
        (
            "packhorse_agent_device_memory_utilization_percent",
            "Share of the last moments in which the memory of the card was read or written",
            |row| number(row.reading.memory_utilization),
        ),
        ("packhorse_agent_device_temperature_celsius", "Temperature of the card", |row| {
            number(row.reading.temperature)
        }),
        ("packhorse_agent_device_power_watts", "Power that the card draws", |row| watts(row.reading.power)),
        ("packhorse_agent_device_power_limit_watts", "Power that the card may draw", |row| {
            watts(row.reading.power_limit)
        }),
        ("packhorse_agent_device_sm_clock_megahertz", "Clock of the multiprocessors", |row| {
            number(row.reading.sm_clock)
        }),
    ];
    for (name, help, value) in families {
        let series = measured.devices.iter().map(|row| (row, value(row)));
        out.gauges(name, help, series, |out, row| of_device(out, node, row));
    }
}

fn unattributed(measured: &Measured, node: &str, out: &mut Families) {
    let series = measured
        .devices
        .iter()
        .flat_map(|row| Kind::ALL.map(|(kind, name)| ((row, name), row.unattributed[kind as usize].map(float))));
    out.gauges(
        "packhorse_agent_unattributed_memory_mebibytes",
        "Memory used by processes that belong to no container with a device of Packhorse's",
        series,
        |out, (row, kind)| {
            of_device(out, node, row);
            out.push(',');
            label(out, "kind", kind);
        },
    );
}

/// Name, help, and what of a container on a device it is.
type OfContainer = (&'static str, &'static str, fn(&ContainerRow) -> Option<f64>);

fn containers(measured: &Measured, node: &str, out: &mut Families) {
    type Row<'a> = (&'a (ContainerName, Arc<str>), &'a ContainerRow);
    let limited = measured.containers.iter().filter_map(|(key, row)| Some((key, row.given?)));
    out.gauges(
        "packhorse_agent_container_memory_limit_mebibytes",
        "Memory that a running container was given of a device, and how far that is kept",
        limited.map(|(key, given)| ((key, given), Some(f64::from(given.memory)))),
        |out, (key, given)| {
            of_container(out, node, key);
            out.push(',');
            label(out, "enforcement", given.enforcement.as_str());
        },
    );
    let families: [OfContainer; 4] = [
        (
            "packhorse_agent_container_cores_limit_percent",
            "Cores that a running container was given of a device; absent without a limit",
            |row| match row.given? {
                Given { cores: 0, .. } => None,
                Given { cores, .. } => Some(f64::from(cores)),
            },
        ),
        ("packhorse_agent_container_memory_used_mebibytes", "Memory in use by a container on a device", |row| {
            row.doing?.memory.map(float)
        }),
        (
            "packhorse_agent_container_utilization_percent",
            "Share of the last moments in which kernels of a container ran on a card",
            |row| row.doing?.utilization.map(f64::from),
        ),
        ("packhorse_agent_container_processes", "Processes of a container on a device", |row| {
            let Doing { processes, .. } = row.doing?;
            Some(f64::from(processes))
        }),
    ];
    for (name, help, value) in families {
        let series = measured.containers.iter().map(|(key, row): Row<'_>| (key, value(row)));
        out.gauges(name, help, series, |out, key| of_container(out, node, key));
    }
}

fn of_device(out: &mut String, node: &str, row: &DeviceRow) {
    labels(out, &[("node", node), ("device", &row.uuid), ("index", &row.index.to_string()), ("model", &row.model)]);
}

fn of_container(out: &mut String, node: &str, (name, device): &(ContainerName, Arc<str>)) {
    let ContainerName { namespace, pod, container } = name;
    labels(
        out,
        &[("node", node), ("namespace", namespace), ("pod", pod), ("container", container), ("device", device)],
    );
}

/// Writes `key="value"`, separated by commas.
pub(super) fn labels(out: &mut String, labels: &[(&str, &str)]) {
    for (place, (key, value)) in labels.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        label(out, key, value);
    }
}

/// MiB and millijoules are far from where a float loses units.
#[expect(clippy::cast_precision_loss, reason = "2^52 MiB are 4 ZiB")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}
