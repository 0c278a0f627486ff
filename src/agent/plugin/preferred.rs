//! Which slots the kubelet should take for the container that it is probably admitting, so that PodResources, and whoever reads it
//! (dcgm-exporter), names the card that the container will use. A wrong guess costs a label in a dashboard: who a slot belongs
//! to is settled when the container starts, from what the kubelet wrote down.
//!
//! The kubelet admits one pod at a time and its containers in their order; it writes its checkpoint after every container. So the
//! next one is almost always told by what the checkpoint does not have yet. Where it cannot be read, memory of earlier guesses
//! stands in.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::identity::checkpoint::Checkpoint;
use crate::agent::pods::NodePod;
use crate::agent::slots;
use crate::gpu::request::Phase;
use crate::kubelet_api::device_plugin::ContainerPreferredAllocationRequest;

/// Which device first where nothing is known of the pod; NVIDIA's plugin has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The device with the fewest slots in use.
    #[default]
    Distributed,
    /// The device with the most slots in use.
    Packed,
}

/// What is remembered between the kubelet's calls.
#[derive(Debug)]
pub(super) struct Preference {
    recorded: Recorded,
    guessed: HashSet<Slotted>,
}

/// A container and a resource of it: pod UID, container, resource.
type Slotted = (Arc<str>, Arc<str>, String);

/// One time that the kubelet will ask about a container.
#[derive(Debug, PartialEq, Eq)]
struct Ask<'a> {
    container: &'a Arc<str>,
    size: usize,
    /// How many of them it takes over from init containers that have ended by then.
    reused: usize,
}

/// Who has slots by the kubelet's own record, read again when that has changed.
#[derive(Debug)]
struct Recorded {
    path: PathBuf,
    read: Option<(SystemTime, u64, u64)>,
    entries: Option<HashSet<(String, String, String)>>,
}

impl Preference {
    /// `checkpoint`: the kubelet's `device-plugins/kubelet_internal_checkpoint`.
    pub(super) fn new(checkpoint: PathBuf) -> Self {
        let recorded = Recorded { path: checkpoint, read: None, entries: None };
        Self { recorded, guessed: HashSet::new() }
    }

    /// The devices of the container that is probably being admitted, in the order of its allocation; empty where none is. `pods`: in
    /// the order of their arrival.
    pub(super) fn guess(
        &mut self,
        resource: &str,
        request: &ContainerPreferredAllocationRequest,
        pods: &[Arc<NodePod>],
    ) -> Vec<Arc<str>> {
        let size = usize::try_from(request.allocation_size).unwrap_or(0);
        let reused = request.must_include_device_i_ds.len();
        self.recorded.refresh();
        self.guessed.retain(|(uid, ..)| pods.iter().any(|pod| pod.uid == *uid));
        let mut waiting: Vec<_> =
            pods.iter()
                .filter(|pod| !pod.ended && !pod.deleting)
                .filter_map(|pod| {
                    let allocation = pod.allocation.as_ref()?.as_ref().ok()?;
                    // One that has some of its slots is being admitted right now, for only one is at a time.
                    let begun = pod.slots.iter().any(|(container, resources)| {
                        resources.keys().any(|resource| self.has(pod, container, resource))
                    });
                    let ask = asks(pod, resource).into_iter().find(|ask| !self.has(pod, ask.container, resource))?;
                    (ask.size == size && ask.reused == reused).then_some((!begun, pod, allocation, ask))
                })
                .collect();
        waiting.sort_by_key(|(later, ..)| *later);
        let Some((_, pod, allocation, ask)) = waiting.first() else { return Vec::new() };
        let shares = allocation.containers.iter().find(|container| container.name == *ask.container);
        let devices = shares.map(|container| container.shares.iter().map(|share| Arc::clone(&share.device)).collect());
        let guessed = (Arc::clone(&pod.uid), Arc::clone(ask.container), resource.to_owned());
        self.guessed.insert(guessed);
        devices.unwrap_or_default()
    }

    /// Whether the container has its slots of the resource already.
    fn has(&self, pod: &NodePod, container: &Arc<str>, resource: &str) -> bool {
        match &self.recorded.entries {
            Some(entries) => entries.contains(&(pod.uid.to_string(), container.to_string(), resource.to_owned())),
            None => self.guessed.contains(&(Arc::clone(&pod.uid), Arc::clone(container), resource.to_owned())),
        }
    }
}

/// The kubelet's questions about one pod in their order. A container that finds enough slots of ordinary init containers takes
/// those and no question is asked (`devicesToReuse` of the device manager).
fn asks<'a>(pod: &'a NodePod, resource: &str) -> Vec<Ask<'a>> {
    let mut reusable = 0;
    let mut asks = Vec::new();
    for (container, phase) in &pod.containers {
        let size =
            pod.slots.get(container).and_then(|resources| resources.get(resource)).copied().unwrap_or(0) as usize;
        let reused = size.min(reusable);
        if reused < size {
            asks.push(Ask { container, size, reused });
        }
        match phase {
            Phase::Init => reusable = reusable.max(size),
            Phase::Sidecar | Phase::App => reusable -= reused,
        }
    }
    asks
}

impl Recorded {
    fn refresh(&mut self) {
        use std::os::unix::fs::MetadataExt;

        let Ok(metadata) = std::fs::metadata(&self.path) else {
            (self.read, self.entries) = (None, None);
            return;
        };
        let stamp = metadata.modified().ok().map(|modified| (modified, metadata.ino(), metadata.len()));
        if stamp.is_some() && stamp == self.read {
            return;
        }
        self.read = stamp;
        self.entries = match Checkpoint::read(&self.path) {
            Ok(Checkpoint { entries }) => {
                Some(entries.into_iter().map(|entry| (entry.pod_uid, entry.container, entry.resource)).collect())
            }
            Err(error) => {
                // The check at container start refuses on this, and says so; here only the quality of a guess is at stake.
                tracing::debug!(%error, "the kubelet's checkpoint is of no use to a preference");
                None
            }
        };
    }
}

/// The answer to `GetPreferredAllocation`: what must be in it first, then a slot of each of the guessed devices, then by `spread`.
/// Different devices are taken as long as there are any. `totals`: the devices in their order with their number of slots.
pub(super) fn choose(
    request: &ContainerPreferredAllocationRequest,
    guessed: &[Arc<str>],
    totals: &[(Arc<str>, u16)],
    spread: Spread,
) -> Vec<String> {
    let size = usize::try_from(request.allocation_size).unwrap_or(0);
    let mut chosen: Vec<String> = request.must_include_device_i_ds.clone();
    let mut available: BTreeMap<(usize, &str), Vec<&String>> = BTreeMap::new();
    let position = |device: &str| totals.iter().position(|(uuid, _)| **uuid == *device).unwrap_or(usize::MAX);
    for slot in &request.available_device_i_ds {
        let device = slots::device(slot).unwrap_or(slot);
        if !chosen.contains(slot) {
            available.entry((position(device), device)).or_default().push(slot);
        }
    }
    let used = |key: &(usize, &str), free: usize| {
        totals.get(key.0).map_or(0, |(_, slots)| usize::from(*slots).saturating_sub(free))
    };
    let mut devices: Vec<Device<'_>> = available
        .into_iter()
        .map(|(key, mut free)| {
            // The lowest number last, to be taken first.
            free.sort_by_key(|slot| std::cmp::Reverse((slot.len(), *slot)));
            let taken = chosen.iter().filter(|slot| slots::device(slot) == Some(key.1)).count();
            Device { uuid: key.1, used: used(&key, free.len() + taken), taken, free }
        })
        .collect();
    for uuid in guessed {
        if chosen.len() < size
            && let Some(device) = devices.iter_mut().find(|device| device.uuid == &**uuid && device.taken == 0)
        {
            chosen.extend(device.take());
        }
    }
    while chosen.len() < size {
        let rank = |device: &Device<'_>| match spread {
            Spread::Distributed => (device.taken, device.used),
            Spread::Packed => (device.taken, usize::MAX - device.used),
        };
        // The first of equals: the order is that of the devices, the same on every call.
        let Some(device) =
            devices.iter_mut().filter(|device| !device.free.is_empty()).min_by_key(|device| rank(device))
        else {
            break;
        };
        chosen.extend(device.take());
    }
    chosen
}

struct Device<'a> {
    uuid: &'a str,
    used: usize,
    /// Of this answer.
    taken: usize,
    free: Vec<&'a String>,
}

impl Device<'_> {
    fn take(&mut self) -> Option<String> {
        let slot = self.free.pop()?.clone();
        self.taken += 1;
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pods::Origin;
    use crate::gpu::allocation::{Allocation, ContainerAllocation, Share};
    use crate::gpu::device::Enforcement;
    use crate::gpu::request::PodRequest;

    const GPU: &str = "nvidia.com/gpu";

    /// Containers as (name, phase, devices); an empty list asks for no slots.
    fn pod(uid: &str, created: &str, containers: &[(&str, Phase, &[&str])]) -> NodePod {
        let share = |device: &&str| Share {
            device: (*device).into(),
            memory: 1000,
            cores: 0,
            exclusive: false,
            enforcement: Enforcement::Advisory,
        };
        let with_devices = || containers.iter().filter(|(.., devices)| !devices.is_empty());
        NodePod {
            uid: uid.into(),
            namespace: "team".into(),
            name: uid.into(),
            node: "node".into(),
            ended: false,
            deleting: false,
            created: created.to_owned(),
            containers: containers.iter().map(|(name, phase, _)| ((*name).into(), *phase)).collect(),
            running: Vec::new(),
            origin: Origin::Packhorse,
            request: Ok(PodRequest::default()),
            allocation: Some(Ok(Allocation {
                containers: with_devices()
                    .map(|(name, _, devices)| ContainerAllocation {
                        name: (*name).into(),
                        shares: devices.iter().map(share).collect(),
                    })
                    .collect(),
            })),
            totals: (0, 0),
            slots: with_devices()
                .map(|(name, _, devices)| ((*name).into(), BTreeMap::from([(GPU.to_owned(), devices.len() as u32)])))
                .collect(),
        }
    }

    fn request(available: &[&str], must: &[&str], size: i32) -> ContainerPreferredAllocationRequest {
        let strings = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        ContainerPreferredAllocationRequest {
            available_device_i_ds: strings(available),
            must_include_device_i_ds: strings(must),
            allocation_size: size,
        }
    }

    fn asked(must: usize, size: i32) -> ContainerPreferredAllocationRequest {
        let must: Vec<_> = (0..must).map(|number| format!("GPU-x::{number}")).collect();
        request(&[], &must.iter().map(|id| &**id).collect::<Vec<_>>(), size)
    }

    fn pods(pods: Vec<NodePod>) -> Vec<Arc<NodePod>> {
        pods.into_iter().map(Arc::new).collect()
    }

    /// Writes a checkpoint that has the given containers.
    fn write(path: &std::path::Path, entries: &[(&str, &str)]) {
        let entry = |(uid, container): &(&str, &str)| {
            serde_json::json!({"PodUID": uid, "ContainerName": container, "ResourceName": GPU,
                "DeviceIDs": {"-1": ["GPU-1::0"]}, "AllocResp": "Cg=="})
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let file = serde_json::json!({"Data": {"PodDeviceEntries": entries, "RegisteredDevices": {}}, "Checksum": 1});
        // By a new file, as the kubelet does: its inode tells that it has changed.
        let new = path.with_extension("new");
        std::fs::write(&new, file.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn guess(preference: &mut Preference, must: usize, size: i32, pods: &[Arc<NodePod>]) -> Vec<String> {
        preference.guess(GPU, &asked(must, size), pods).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_next_container_is_the_first_that_the_checkpoint_does_not_have() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubelet_internal_checkpoint");
        let mut preference = Preference::new(path.clone());
        let all = pods(vec![
            pod("old", "2026-01-01T00:00:00Z", &[("main", Phase::App, &["GPU-9"])]),
            pod("a", "2026-01-01T00:00:01Z", &[("one", Phase::App, &["GPU-1"]), ("two", Phase::App, &["GPU-2"])]),
            pod("b", "2026-01-01T00:00:02Z", &[("one", Phase::App, &["GPU-3"]), ("two", Phase::App, &["GPU-4"])]),
            pod("c", "2026-01-01T00:00:03Z", &[("wide", Phase::App, &["GPU-5", "GPU-6"])]),
        ]);
        for (has, size, expected) in [
            (&[("old", "main")][..], 1, &["GPU-1"][..]),
            (&[("old", "main"), ("a", "one")], 1, &["GPU-2"]),
            // Admitted out of order: who has begun is next.
            (&[("old", "main"), ("b", "one")], 1, &["GPU-4"]),
            (&[("old", "main"), ("a", "one"), ("a", "two")], 1, &["GPU-3"]),
            (&[("old", "main")], 2, &["GPU-5", "GPU-6"]),
            (&[("old", "main")], 3, &[]),
        ] {
            write(&path, has);
            assert_eq!(guess(&mut preference, 0, size, &all), expected, "{has:?} {size}");
        }
    }

    #[test]
    fn without_the_checkpoint_earlier_guesses_are_remembered() {
        let mut preference = Preference::new("/nowhere/kubelet_internal_checkpoint".into());
        let all = pods(vec![
            pod("b", "2026-01-01T00:00:02Z", &[("one", Phase::App, &["GPU-2"])]),
            pod("a", "2026-01-01T00:00:01Z", &[("one", Phase::App, &["GPU-1"])]),
        ]);
        assert_eq!(guess(&mut preference, 0, 1, &all), ["GPU-2"], "first come, first served");
        assert_eq!(guess(&mut preference, 0, 1, &all), ["GPU-1"]);
        assert!(guess(&mut preference, 0, 1, &all).is_empty());
    }

    #[test]
    fn slots_of_init_containers_are_reused_without_a_question() {
        let mut preference = Preference::new("/nowhere/kubelet_internal_checkpoint".into());
        let all = pods(vec![
            pod("a", "1", &[("init", Phase::Init, &["GPU-1"]), ("main", Phase::App, &["GPU-1"])]),
            pod("b", "2", &[("init", Phase::Init, &["GPU-2"]), ("main", Phase::App, &["GPU-2", "GPU-3"])]),
            pod("c", "3", &[("side", Phase::Sidecar, &["GPU-4"]), ("main", Phase::App, &["GPU-5"])]),
        ]);
        for (must, size, expected) in [
            (0, 1, &["GPU-1"][..]),
            (0, 1, &["GPU-2"]),
            (1, 2, &["GPU-2", "GPU-3"]),
            (0, 1, &["GPU-4"]),
            (0, 1, &["GPU-5"]),
            (0, 1, &[]),
        ] {
            assert_eq!(guess(&mut preference, must, size, &all), expected);
        }
    }

    #[test]
    fn nothing_is_guessed_for_pods_that_are_not_admitted_any_more() {
        let mut preference = Preference::new("/nowhere/kubelet_internal_checkpoint".into());
        let pod = || pod("a", "1", &[("main", Phase::App, &["GPU-1"])]);
        let all = pods(vec![
            NodePod { ended: true, ..pod() },
            NodePod { deleting: true, ..pod() },
            NodePod { allocation: None, ..pod() },
            NodePod { allocation: Some(Err("damaged".to_owned())), ..pod() },
        ]);
        assert!(guess(&mut preference, 0, 1, &all).is_empty());
    }

    #[test]
    fn the_choice_honours_what_must_be_in_it_then_the_guess_then_the_policy() {
        let totals: Vec<(Arc<str>, u16)> = vec![("GPU-1".into(), 3), ("GPU-2".into(), 3), ("GPU-3".into(), 3)];
        // In use: none of GPU-1, one of GPU-2, two of GPU-3.
        let free = ["GPU-3::2", "GPU-2::2", "GPU-2::1", "GPU-1::2", "GPU-1::1", "GPU-1::0"];
        let guess: &[&str] = &["GPU-3"];
        for (must, guessed, size, spread, expected) in [
            (&[][..], &[][..], 1, Spread::Distributed, &["GPU-1::0"][..]),
            (&[], &[], 1, Spread::Packed, &["GPU-3::2"]),
            (&[], &[], 3, Spread::Distributed, &["GPU-1::0", "GPU-2::1", "GPU-3::2"]),
            (&[], &[], 3, Spread::Packed, &["GPU-3::2", "GPU-2::1", "GPU-1::0"]),
            (&[], &[], 5, Spread::Packed, &["GPU-3::2", "GPU-2::1", "GPU-1::0", "GPU-2::2", "GPU-1::1"]),
            (&[], guess, 1, Spread::Distributed, &["GPU-3::2"]),
            (&[], guess, 2, Spread::Distributed, &["GPU-3::2", "GPU-1::0"]),
            (&["GPU-2::2"], guess, 2, Spread::Distributed, &["GPU-2::2", "GPU-3::2"]),
            (&["GPU-3::2"], guess, 2, Spread::Distributed, &["GPU-3::2", "GPU-1::0"]),
            (&["GPU-2::2"], guess, 1, Spread::Distributed, &["GPU-2::2"]),
            (&[], &["GPU-gone"], 1, Spread::Distributed, &["GPU-1::0"]),
            (
                &[],
                &[],
                9,
                Spread::Distributed,
                &["GPU-1::0", "GPU-2::1", "GPU-3::2", "GPU-1::1", "GPU-2::2", "GPU-1::2"],
            ),
            (&[], &[], 0, Spread::Distributed, &[]),
        ] {
            let guessed: Vec<Arc<str>> = guessed.iter().map(|uuid| Arc::from(*uuid)).collect();
            let chosen = choose(&request(&free, must, size), &guessed, &totals, spread);
            assert_eq!(chosen, expected, "{must:?} {guessed:?} {size} {spread:?}");
        }
    }
}
