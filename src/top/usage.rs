//! What one agent tells of its node, taken from its `/metrics`. The names are those of the agent's exporter and are listed in
//! `docs/metrics.md`. Read by [`crate::top::report`]. What the hardware does not tell is absent, never 0.

use std::collections::BTreeMap;

use super::openmetrics::{self, Malformed, Sample};

/// Everything that one agent tells of use.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeUsage {
    /// By UUID, of cards and of MIG instances.
    pub devices: BTreeMap<String, DeviceUsage>,
    /// By container and device.
    pub containers: BTreeMap<Part, ContainerUsage>,
}

/// A container's part of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// The device's UUID.
    pub device: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceUsage {
    /// MiB in use by anybody.
    pub memory_used: Option<u64>,
    /// MiB there are.
    pub memory: Option<u64>,
    /// Percent of the time in which its multiprocessors worked.
    pub utilization: Option<f64>,
    /// Percent of the time in which its memory was read or written.
    pub memory_utilization: Option<f64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Watts it may draw.
    pub power_limit: Option<f64>,
    /// MHz.
    pub sm_clock: Option<f64>,
    /// MiB of processes that belong to no container of ours, by kind: `host`, `pod`, `unknown`.
    pub unattributed: BTreeMap<String, u64>,
}

/// One container on one device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerUsage {
    /// MiB in use by its processes.
    pub memory_used: Option<u64>,
    /// MiB it may use.
    pub memory_limit: Option<u64>,
    /// How far that limit is kept.
    pub enforcement: Option<String>,
    /// Percent of the device's multiprocessors that its processes kept busy.
    pub utilization: Option<f64>,
    /// Percent it may use.
    pub cores_limit: Option<u16>,
    /// Its processes on the device.
    pub processes: Option<u64>,
}

/// Why an agent's answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No `OpenMetrics`.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A series without a label that makes it one of a device.
    #[error("{name} comes without the label {label}")]
    Unlabelled {
        /// The metric.
        name: String,
        /// The label.
        label: &'static str,
    },
    /// Not what can be used of anything.
    #[error("{name} is {value}, which is no amount")]
    NoAmount {
        /// The metric.
        name: String,
        /// Its value.
        value: String,
    },
    /// An agent speaks for its own node alone.
    #[error("its series are those of node {other:?}")]
    OtherNode {
        /// The label `node`.
        other: String,
    },
}

/// Reads the answer of the agent of a node.
///
/// # Errors
/// The first line or series that cannot be what an agent writes.
pub fn read(node: &str, text: &str) -> Result<NodeUsage, Unusable> {
    let mut usage = NodeUsage::default();
    let mut unusable = None;
    openmetrics::read(text, |sample| {
        if unusable.is_none() {
            unusable = usage.take(node, &sample).err();
        }
    })?;
    unusable.map_or(Ok(usage), Err)
}

impl NodeUsage {
    fn take(&mut self, node: &str, sample: &Sample<'_>) -> Result<(), Unusable> {
        // Metrics of other things, and ones that a later agent has beside these.
        let Some(what) = Metric::of(sample.name) else { return Ok(()) };
        let label = |label: &'static str| {
            let value = sample.label(label).map(str::to_owned);
            value.ok_or_else(|| Unusable::Unlabelled { name: sample.name.to_owned(), label })
        };
        let other = label("node")?;
        if other != node {
            return Err(Unusable::OtherNode { other });
        }
        if !sample.value.is_finite() || sample.value < 0.0 {
            return Err(Unusable::NoAmount { name: sample.name.to_owned(), value: sample.value.to_string() });
        }
        let device = label("device")?;
        match what {
            Metric::Unattributed => {
                self.devices.entry(device).or_default().unattributed.insert(label("kind")?, whole(sample.value));
            }
            Metric::Device(set) => set(self.devices.entry(device).or_default(), sample.value),
            Metric::Container(set) => {
                let (namespace, pod, container) = (label("namespace")?, label("pod")?, label("container")?);
                set(self.containers.entry(Part { namespace, pod, container, device }).or_default(), sample.value);
            }
            Metric::Limit => {
                let (namespace, pod, container) = (label("namespace")?, label("pod")?, label("container")?);
                let used = self.containers.entry(Part { namespace, pod, container, device }).or_default();
                (used.memory_limit, used.enforcement) = (Some(whole(sample.value)), Some(label("enforcement")?));
            }
        }
        Ok(())
    }
}

/// What a metric says of what.
enum Metric {
    Device(fn(&mut DeviceUsage, f64)),
    Unattributed,
    Container(fn(&mut ContainerUsage, f64)),
    /// Of a container, with how far it is kept.
    Limit,
}

impl Metric {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "packhorse_agent_device_memory_mebibytes" => Self::Device(|it, value| it.memory = Some(whole(value))),
            "packhorse_agent_device_memory_used_mebibytes" => {
                Self::Device(|it, value| it.memory_used = Some(whole(value)))
            }
            "packhorse_agent_device_utilization_percent" => Self::Device(|it, value| it.utilization = Some(value)),
            "packhorse_agent_device_memory_utilization_percent" => {
                Self::Device(|it, value| it.memory_utilization = Some(value))
            }
            "packhorse_agent_device_temperature_celsius" => Self::Device(|it, value| it.temperature = Some(value)),
            "packhorse_agent_device_power_watts" => Self::Device(|it, value| it.power = Some(value)),
            "packhorse_agent_device_power_limit_watts" => Self::Device(|it, value| it.power_limit = Some(value)),
            "packhorse_agent_device_sm_clock_megahertz" => Self::Device(|it, value| it.sm_clock = Some(value)),
            "packhorse_agent_unattributed_memory_mebibytes" => Self::Unattributed,
            "packhorse_agent_container_memory_limit_mebibytes" => Self::Limit,
            "packhorse_agent_container_memory_used_mebibytes" => {
                Self::Container(|it, value| it.memory_used = Some(whole(value)))
            }
            "packhorse_agent_container_utilization_percent" => {
                Self::Container(|it, value| it.utilization = Some(value))
            }
            "packhorse_agent_container_cores_limit_percent" => {
                Self::Container(|it, value| it.cores_limit = u16::try_from(whole(value)).ok())
            }
            "packhorse_agent_container_processes" => Self::Container(|it, value| it.processes = Some(whole(value))),
            _ => return None,
        })
    }
}

/// A value that is finite and not negative; beyond 2^64 it is the greatest.
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE packhorse_agent_device_memory_mebibytes gauge
packhorse_agent_device_memory_mebibytes{node="a",device="GPU-1",index="0",model="L4"} 23034
packhorse_agent_device_memory_used_mebibytes{node="a",device="GPU-1",index="0",model="L4"} 812.5
packhorse_agent_device_utilization_percent{node="a",device="GPU-1",index="0",model="L4"} 37
packhorse_agent_device_power_watts{node="a",device="GPU-1",index="0",model="L4"} 41.25
packhorse_agent_device_health{device="GPU-1",health="healthy"} 1
packhorse_agent_device_of_tomorrow{x="y"} -1
packhorse_agent_unattributed_memory_mebibytes{node="a",device="GPU-1",index="0",model="L4",kind="host"} 300
packhorse_agent_container_memory_used_mebibytes{node="a",namespace="n",pod="p",container="c",device="GPU-1"} 512
packhorse_agent_container_memory_limit_mebibytes{node="a",namespace="n",pod="p",container="c",device="GPU-1",enforcement="advisory"} 4096
packhorse_agent_container_processes{node="a",namespace="n",pod="p",container="c",device="GPU-1"} 2
# EOF
"#;

    #[test]
    fn an_agents_answer_is_read_and_what_it_does_not_tell_stays_absent() {
        let usage = read("a", TEXT).unwrap();
        let device = &usage.devices["GPU-1"];
        assert_eq!((device.memory, device.memory_used, device.utilization), (Some(23034), Some(813), Some(37.0)));
        assert_eq!((device.power, device.temperature, device.sm_clock), (Some(41.25), None, None));
        assert_eq!(device.unattributed, BTreeMap::from([("host".to_owned(), 300)]));
        let (part, container) = usage.containers.iter().next().unwrap();
        assert_eq!((&*part.pod, &*part.container, &*part.device), ("p", "c", "GPU-1"));
        assert_eq!(
            (container.memory_used, container.memory_limit, container.processes, container.utilization),
            (Some(512), Some(4096), Some(2), None)
        );
        assert_eq!(container.enforcement.as_deref(), Some("advisory"));
    }

    #[test]
    fn an_answer_that_no_agent_of_the_node_gives_is_not_used() {
        for (text, says) in [
            (TEXT.replace("node=\"a\"", "node=\"b\""), "series are those of node \"b\""),
            (TEXT.replace("device=\"GPU-1\",index", "index"), "memory_mebibytes comes without the label device"),
            (TEXT.replace("} 37", "} NaN"), "utilization_percent is NaN, which is no amount"),
            (TEXT.replace("} 37", "} -1"), "is -1, which is no amount"),
            (TEXT.replace("# EOF\n", ""), "cut off"),
            (TEXT.replace(",enforcement=\"advisory\"", ""), "without the label enforcement"),
        ] {
            let error = read("a", &text).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
