//! A container must run with the devices that its pod's allocation gives it: judged when it starts, from the pod as the API has it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Checker, text};

/// Containers that started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Started {
    /// With the devices of an allocation, or with some that they ought not to have.
    pub with_devices: u64,
    /// Of these, with other devices than their own.
    pub wrong: u64,
    /// Without any, as it should be.
    pub without: u64,
}

impl Checker {
    /// Takes in that a container runs now and which devices it finds.
    pub fn container_started(&mut self, pod: &Value, container: &str, devices: &BTreeSet<String>) {
        let annotations = &pod["metadata"]["annotations"];
        let allocation: Value =
            serde_json::from_str(text(&annotations["packhorse.dev/allocation"])).unwrap_or_default();
        let given = allocation["containers"][container].as_array().into_iter().flatten();
        let own: BTreeSet<String> = given.map(|share| text(&share["device"]).to_owned()).collect();
        if own.is_empty() && devices.is_empty() {
            self.started.without += 1;
            return;
        }
        self.started.with_devices += 1;
        if own != *devices {
            self.started.wrong += 1;
            let name = format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
            let node = text(&pod["spec"]["nodeName"]);
            self.violations.push(format!(
                "{name} on {node}, container {container}: runs with {devices:?}, and its allocation gives it {own:?}"
            ));
        }
    }

    /// How many containers started so far.
    pub fn started(&self) -> Started {
        self.started
    }
}
