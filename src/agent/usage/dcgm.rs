//! The same measurement under the names and labels of NVIDIA's dcgm-exporter, for the dashboards that people have: off unless asked for.
//! The spelling is that of its releases 3.x to 4.5 (`Hostname`). Profiling fields (`DCGM_FI_PROF_*`) need DCGM itself and are not here.
//!
//! As there, a MIG instance repeats what only its card has (heat, power, clocks), under the card's UUID with `GPU_I_ID` and
//! `GPU_I_PROFILE`.

use super::families::{Families, float, labels};
use super::measure::{DeviceKind, DeviceRow, Measured};
use crate::agent::backend::Reading;

/// Name, help, and what of a device it is.
type Field = (&'static str, &'static str, fn(&Reading) -> Option<f64>);

const FIELDS: [Field; 9] = [
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz)", |reading| reading.sm_clock.map(f64::from)),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz)", |reading| reading.memory_clock.map(f64::from)),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)", |reading| reading.temperature.map(f64::from)),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)", |reading| {
        reading.power.map(|milliwatts| f64::from(milliwatts) / 1000.0)
    }),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy since the driver was loaded (in mJ)", |reading| {
        reading.energy.map(float)
    }),
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)", |reading| reading.utilization.map(f64::from)),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %)", |reading| reading.memory_utilization.map(f64::from)),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)", |reading| {
        reading.memory.map(|memory| float(memory.free))
    }),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)", |reading| {
        reading.memory.map(|memory| float(memory.used))
    }),
];

/// Everything under dcgm-exporter's names. `last_xid`: the last one of a card, by its UUID.
pub(super) fn write(measured: &Measured, node: &str, last_xid: impl Fn(&str) -> u64, out: &mut Families) {
    let rows: Vec<(&DeviceRow, Reading)> = measured
        .devices
        .iter()
        .filter(|row| is_shown(measured, row))
        .map(|row| (row, reading(measured, row)))
        .collect();
    for (name, help, value) in FIELDS {
        let series = rows.iter().map(|(row, reading)| (*row, value(reading)));
        out.gauges(name, help, series, |out, row| of_device(out, measured, node, row));
    }
    let xids = rows.iter().map(|(row, _)| (*row, Some(float(last_xid(&row.card)))));
    out.gauges("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered", xids, |out, row| {
        of_device(out, measured, node, row);
    });
}

/// A card in MIG mode is shown by its instances, where it has some.
fn is_shown(measured: &Measured, row: &DeviceRow) -> bool {
    row.kind != DeviceKind::CutCard
        || !measured
            .devices
            .iter()
            .any(|other| other.card == row.card && matches!(other.kind, DeviceKind::Instance(..)))
}

fn reading(measured: &Measured, row: &DeviceRow) -> Reading {
    let card = measured.devices.iter().find(|card| card.uuid == row.card).map(|card| card.reading);
    Reading { memory: row.reading.memory, ..card.unwrap_or_default() }
}

fn of_device(out: &mut String, measured: &Measured, node: &str, row: &DeviceRow) {
    let (index, minor) = (row.index.to_string(), format!("nvidia{}", row.minor));
    let instance = match &row.kind {
        DeviceKind::Instance(profile, number) => Some((profile, number.map(|id| id.to_string()).unwrap_or_default())),
        DeviceKind::Card | DeviceKind::CutCard => None,
    };
    // DCGM writes the domain with eight digits and capitals.
    let pci = row.pci.to_uppercase();
    let pci =
        format!("{:0>8}:{}", pci.split(':').next().unwrap_or_default(), pci.split_once(':').map_or("", |it| it.1));
    let mut all = vec![
        ("gpu", &*index),
        ("UUID", &*row.card),
        ("pci_bus_id", &*pci),
        ("device", &*minor),
        ("modelName", &*row.model),
    ];
    if let Some((profile, id)) = &instance {
        all.extend([("GPU_I_PROFILE", &***profile), ("GPU_I_ID", &**id)]);
    }
    all.push(("Hostname", node));
    if !measured.driver.is_empty() {
        all.push(("DCGM_FI_DRIVER_VERSION", &*measured.driver));
    }
    if let Some(holder) = measured.sole_holder(&row.uuid) {
        all.extend([("namespace", &*holder.namespace), ("pod", &*holder.pod), ("container", &*holder.container)]);
    }
    labels(out, &all);
}
