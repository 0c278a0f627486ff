//! What a pod demands of its devices by annotation, in our words and in HAMi's.
//!
//! Written by users on pods, read once by the request parser. Where both vocabularies say something different, ours wins and the
//! user is warned; a value that means nothing is denied, so that no constraint is ever dropped in silence.

use super::device::Enforcement;
use super::parse::visible::is_uuid;
use super::parse::{Denial, Findings, RawPod, hami, shown};
use super::request::{Constraints, ContainerRequest, GpuPolicy, NodePolicy};

/// One demand as written: by our name, by HAMi's.
#[derive(Debug, Clone, Copy)]
struct Written<'a> {
    ours: (&'static str, Option<&'a str>),
    hami: (&'static str, Option<&'a str>),
}

impl Written<'_> {
    const fn new(ours: &'static str, hami: &'static str) -> Self {
        Self { ours: (ours, None), hami: (hami, None) }
    }
}

const OURS: &str = "packhorse.dev/";
/// Keys of ours that are no constraints.
const OTHER_KEYS: [&str; 2] = ["packhorse.dev/request", "packhorse.dev/allocation"];

/// Reads the constraints of a pod whose containers ask for `containers`. A pod that asks for no GPU has none; that it names some
/// is worth a warning, no more.
pub(super) fn read(pod: &RawPod<'_>, containers: &[ContainerRequest], found: &mut Findings) -> Constraints {
    let mut written = [
        Written::new("packhorse.dev/gpu-model", "nvidia.com/use-gputype"),
        Written::new("packhorse.dev/gpu-model-exclude", "nvidia.com/nouse-gputype"),
        Written::new("packhorse.dev/gpu-uuid", "nvidia.com/use-gpuuuid"),
        Written::new("packhorse.dev/gpu-uuid-exclude", "nvidia.com/nouse-gpuuuid"),
        Written::new("packhorse.dev/node-policy", "hami.io/node-scheduler-policy"),
        Written::new("packhorse.dev/gpu-policy", "hami.io/gpu-scheduler-policy"),
        Written::new("packhorse.dev/numa-bind", "nvidia.com/numa-bind"),
        Written::new("packhorse.dev/require-enforcement", "nvidia.com/vgpu-mode"),
    ];
    let idle = containers.is_empty() && found.denied() == 0;
    for (key, value) in &pod.annotations {
        let ours = key.starts_with(OURS);
        if !ours && !key.starts_with("nvidia.com/") && !key.starts_with("hami.io/") {
            // A pod without GPUs of ours may well be about theirs.
            if let Some(row) = hami::find(hami::Place::Vendor, key).filter(|_| !idle) {
                found.answer(None, row, key, value);
            }
            continue;
        }
        let slot = written.iter_mut().find_map(|w| {
            if w.ours.0 == *key { Some(&mut w.ours.1) } else { (w.hami.0 == *key).then_some(&mut w.hami.1) }
        });
        if let Some(slot) = slot {
            *slot = Some(value);
            if idle {
                found.warn(None, format_args!("annotation {key} has no effect: the pod asks for no GPU"));
            }
        } else if ours {
            if !OTHER_KEYS.contains(key) {
                found.warn(None, format_args!("annotation {} is not one of Packhorse's and has no effect", shown(key)));
            }
        } else if idle {
            // Somebody else's pod, as far as we are concerned.
        } else if let Some(row) = hami::find(hami::Place::Annotation, key) {
            found.answer(None, row, key, value);
        } else if key.starts_with("hami.io/") {
            found.warn(None, format_args!("annotation {} is HAMi's and has no meaning here", shown(key)));
        }
    }
    if idle {
        return Constraints::default();
    }
    let [model, model_exclude, uuid, uuid_exclude, node_policy, gpu_policy, numa, enforcement] = written;
    let constraints = Constraints {
        model: both(model, found, models, models).unwrap_or_default(),
        model_exclude: both(model_exclude, found, models, models).unwrap_or_default(),
        uuid: both(uuid, found, uuids, uuids).unwrap_or_default(),
        uuid_exclude: both(uuid_exclude, found, uuids, uuids).unwrap_or_default(),
        node_policy: both(node_policy, found, node_order, node_order),
        gpu_policy: both(gpu_policy, found, gpu_order, hami_gpu_order),
        numa_bind: both(numa, found, switch, switch).unwrap_or(false),
        require_enforcement: both(enforcement, found, level, vgpu_mode).flatten(),
    };
    possible(&constraints, uuid, containers, found);
    constraints
}

/// A value that means nothing: the problem and the remedy.
type Refusal = (String, &'static str);
/// A value, perhaps with a warning.
type Meaning<T> = Result<(T, Option<&'static str>), Refusal>;

/// Reads a demand in both vocabularies; ours wins.
fn both<T: PartialEq>(
    written: Written<'_>,
    found: &mut Findings,
    ours: fn(&str) -> Meaning<T>,
    hami: fn(&str) -> Meaning<T>,
) -> Option<T> {
    let mut one = |(key, value): (&'static str, Option<&str>), read: fn(&str) -> Meaning<T>| {
        let value = value?;
        match read(value.trim()) {
            Ok((meaning, warning)) => {
                if let Some(warning) = warning {
                    found.warn(None, format_args!("annotation {key}: {:?}: {warning}", shown(value)));
                }
                Some(meaning)
            }
            Err((problem, remedy)) => {
                found.deny(Denial::new(None, key, value, problem, remedy));
                None
            }
        }
    };
    let (mine, theirs) = (one(written.ours, ours), one(written.hami, hami));
    if let (Some(mine), Some(theirs)) = (&mine, &theirs)
        && mine != theirs
    {
        found
            .warn(None, format_args!("annotation {} has no effect: {} says otherwise", written.hami.0, written.ours.0));
    }
    mine.or(theirs)
}

/// Denies what can never run: more devices than are accepted.
fn possible(constraints: &Constraints, uuid: Written<'_>, containers: &[ContainerRequest], found: &mut Findings) {
    if constraints.uuid.is_empty() {
        return;
    }
    let (key, value) = if uuid.ours.1.is_some() { uuid.ours } else { uuid.hami };
    let left = constraints.uuid.iter().filter(|uuid| !constraints.uuid_exclude.contains(uuid)).count();
    let most = containers.iter().max_by_key(|container| container.count);
    if let Some(container) = most.filter(|container| usize::try_from(container.count).is_ok_and(|count| count > left)) {
        found.deny(Denial::new(
            None,
            key,
            value.unwrap_or_default(),
            format!("accepts {left} devices, but container {:?} asks for {}", shown(&container.name), container.count),
            "accept at least as many devices as the container asks for",
        ));
    }
}

/// A list without doubles and empty items. Its length is bounded because it is searched for every device.
fn list(text: &str, problem: fn(&str) -> Option<String>, remedy: &'static str) -> Meaning<Vec<String>> {
    const MOST: usize = 256;
    let mut list: Vec<String> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        if let Some(problem) = problem(item) {
            return Err((problem, remedy));
        }
        if list.len() == MOST {
            return Err((format!("more than {MOST} items"), remedy));
        }
        if !list.iter().any(|other| other == item) {
            list.push(item.to_owned());
        }
    }
    let warning = list.is_empty().then_some("the list is empty, which accepts every GPU; name some, or remove it");
    Ok((list, warning))
}

fn models(text: &str) -> Meaning<Vec<String>> {
    let problem = |item: &str| {
        (!item.bytes().any(|b| b.is_ascii_alphanumeric())).then(|| format!("{:?} is no model", shown(item)))
    };
    list(text, problem, "write models such as A100 or H100, separated by commas")
}

fn uuids(text: &str) -> Meaning<Vec<String>> {
    let problem =
        |item: &str| (!is_uuid(item)).then(|| format!("{:?} is not the UUID of a GPU or MIG instance", shown(item)));
    list(text, problem, "write UUIDs such as GPU-… or MIG-…, separated by commas")
}

fn node_order(text: &str) -> Meaning<NodePolicy> {
    match text {
        "binpack" => Ok((NodePolicy::Binpack, None)),
        "spread" => Ok((NodePolicy::Spread, None)),
        _ => Err(("not an order of nodes".to_owned(), "write binpack or spread")),
    }
}

fn gpu_order(text: &str) -> Meaning<GpuPolicy> {
    match text {
        "binpack" => Ok((GpuPolicy::Binpack, None)),
        "spread" => Ok((GpuPolicy::Spread, None)),
        "topology" => Ok((GpuPolicy::Topology, None)),
        _ => Err(("not an order of GPUs".to_owned(), "write binpack, spread or topology")),
    }
}

/// HAMi's order, perhaps a chain: the first link that names an order decides. `mutex` and `topology-aware` filter there, whatever
/// their place in the chain.
fn hami_gpu_order(text: &str) -> Meaning<GpuPolicy> {
    let (mut order, mut mutex, mut links, mut topology) = (None, false, 0, false);
    for link in text.split(',').map(str::trim) {
        links += 1;
        let this = match link {
            "binpack" => GpuPolicy::Binpack,
            "spread" => GpuPolicy::Spread,
            "numa" => GpuPolicy::Topology,
            "topology-aware" => {
                topology = true;
                continue;
            }
            "mutex" => {
                mutex = true;
                continue;
            }
            _ => {
                let remedy =
                    "write binpack, spread, topology-aware, numa, mutex or a chain of them such as binpack,numa";
                return Err((format!("{:?} is not an order of GPUs", shown(link)), remedy));
            }
        };
        order = order.or(Some(this));
    }
    let order = if topology { GpuPolicy::Topology } else { order.unwrap_or(GpuPolicy::Spread) };
    let warning = if mutex {
        Some("mutex takes the emptiest GPUs but keeps nobody away from them; ask for whole GPUs with gpucores: 100")
    } else if links > 1 {
        Some("only the first order of the chain is followed")
    } else {
        None
    };
    Ok((order, warning))
}

fn switch(text: &str) -> Meaning<bool> {
    match text {
        "true" => Ok((true, None)),
        "false" => Ok((false, None)),
        _ => Err(("neither true nor false".to_owned(), "write \"true\" or \"false\"")),
    }
}

fn level(text: &str) -> Meaning<Option<Enforcement>> {
    match text.parse() {
        Ok(Enforcement::Advisory) | Err(()) => {
            Err(("not a level of enforcement".to_owned(), "write mig, cgroup, mps or watched, or remove it"))
        }
        Ok(level) => Ok((Some(level), None)),
    }
}

fn vgpu_mode(text: &str) -> Meaning<Option<Enforcement>> {
    match text {
        "mig" => Ok((Some(Enforcement::Mig), None)),
        "mps" => Ok((Some(Enforcement::Mps), None)),
        "hami-core" => Ok((
            None,
            Some(
                "HAMi's library does not exist here; write packhorse.dev/require-enforcement to demand that limits are kept",
            ),
        )),
        _ => Err(("not a mode of HAMi's".to_owned(), "write mig, mps or hami-core")),
    }
}
