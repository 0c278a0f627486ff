//! The pod under admission, seen as the rules need it: every container of every kind with its place in the object.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::gpu::parse::{Field, Rules};
use crate::gpu::quantity::Quantity;
use crate::kube_api::names;
use crate::kube_api::pod::{ContainerView, EnvView, PodView};
use crate::kube_api::request::is_own_devices;

use super::patch::Pointer;

/// Where a container stands in the pod, as a JSON pointer: `/spec/initContainers/0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// `/spec/` and the name of the list and `/`.
    list: &'static str,
    index: usize,
}

const CONTAINERS: &str = "/spec/containers/";
const INIT_CONTAINERS: &str = "/spec/initContainers/";
const EPHEMERAL_CONTAINERS: &str = "/spec/ephemeralContainers/";

impl Pointer for Place {
    fn write(self, json: &mut Vec<u8>) {
        (self.list, self.index).write(json);
    }
}

/// One container and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Subject<'p, 'a> {
    /// Where it stands.
    pub(super) path: Place,
    /// As read.
    pub(super) view: &'p ContainerView<'a>,
}

impl<'p> Subject<'p, '_> {
    pub(super) fn name(&self) -> &'p str {
        &self.view.name
    }

    pub(super) fn privileged(&self) -> bool {
        self.view.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
    }
}

fn list<'p, 'a>(list: &'static str, views: &'p [ContainerView<'a>]) -> impl Iterator<Item = Subject<'p, 'a>> {
    views.iter().enumerate().map(move |(index, view)| Subject { path: Place { list, index }, view })
}

/// Init containers (native sidecars among them), app containers, ephemeral ones.
pub(super) fn all<'p, 'a>(pod: &'p PodView<'a>) -> impl Iterator<Item = Subject<'p, 'a>> {
    list(INIT_CONTAINERS, &pod.spec.init_containers).chain(list(CONTAINERS, &pod.spec.containers)).chain(ephemeral(pod))
}

/// Ephemeral containers alone.
pub(super) fn ephemeral<'p, 'a>(pod: &'p PodView<'a>) -> impl Iterator<Item = Subject<'p, 'a>> {
    list(EPHEMERAL_CONTAINERS, &pod.spec.ephemeral_containers)
}

/// What a container's `NVIDIA_VISIBLE_DEVICES` gives it where nobody interferes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visible<'p> {
    /// What its image says.
    Absent,
    /// No GPU.
    Nothing,
    /// What was allocated to this very container.
    Ours,
    /// These.
    Value(&'p str),
    /// Something that cannot be read at admission.
    Indirect,
}

/// Whether `value` gives no GPU. `none` gives the driver's files without a device.
pub(super) fn is_void(value: &str) -> bool {
    matches!(value, "" | "void" | "none")
}

/// What one entry of a container's environment says.
pub(super) fn entry<'p>(container: &str, entry: &'p EnvView<'_>) -> Visible<'p> {
    match (&entry.value_from, entry.value.as_deref().unwrap_or_default()) {
        (None, value) if is_void(value) => Visible::Nothing,
        (None, value) => Visible::Value(value),
        (Some(from), "") => match &from.field_ref {
            Some(field) if is_own_devices(&field.field_path, container) => Visible::Ours,
            _ => Visible::Indirect,
        },
        (Some(_), _) => Visible::Indirect,
    }
}

/// What counts where the variable stands more than once: the last entry.
pub(super) fn visible<'p>(subject: &Subject<'p, '_>) -> Visible<'p> {
    let entries = subject.view.env.as_deref().unwrap_or_default();
    match entries.iter().rfind(|variable| &*variable.name == names::VISIBLE_DEVICES) {
        Some(variable) => entry(subject.name(), variable),
        None => Visible::Absent,
    }
}

/// Whether `name` is one of the totals.
pub(super) fn is_total(name: &str) -> bool {
    name == names::GPU_MEMORY || name == names::GPU_CORES
}

/// Whether the pod names a GPU resource with an amount, or a request of ours: then it can be nobody's business but ours.
pub(super) fn names_gpu(rules: &Rules, pod: &PodView<'_>) -> bool {
    pod.metadata.annotations.contains_key(names::REQUEST)
        || pod.spec.init_containers.iter().chain(&pod.spec.containers).any(|container| {
            let amounts = [&container.resources.limits, &container.resources.requests];
            amounts.into_iter().flatten().flatten().any(|(name, amount)| {
                let ours = is_total(name)
                    || matches!(
                        rules.field(name),
                        Some(Field::Count | Field::Memory | Field::MemoryPercent | Field::Cores | Field::Mig(_))
                    );
                // What is no number is a fault of a GPU pod, to be told as such.
                ours && !matches!(Quantity::parse(amount.as_ref()).and_then(Quantity::integer), Ok(0))
            })
        })
}

/// Which optional objects are really there; the pod's view cannot tell an absent object from an empty one, and a patch cannot
/// add a member to an object that is absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Shape {
    metadata: Option<IgnoredAny>,
    spec: SpecShape,
}

#[derive(Debug, Deserialize)]
struct Reviewed {
    request: ReviewedRequest,
}

#[derive(Debug, Deserialize)]
struct ReviewedRequest {
    object: Shape,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SpecShape {
    containers: Option<Vec<ContainerShape>>,
    init_containers: Option<Vec<ContainerShape>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerShape {
    resources: Option<IgnoredAny>,
}

impl Shape {
    /// Reads it from the JSON of the review that carries the pod.
    ///
    /// # Errors
    /// None is known: whoever read the pod's view has met every list here.
    pub(super) fn read(review: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Reviewed>(review).map(|review| review.request.object)
    }

    pub(super) fn has_metadata(&self) -> bool {
        self.metadata.is_some()
    }

    /// Whether the container at `path` has an object `resources`.
    pub(super) fn has_resources(&self, path: Place) -> bool {
        let list = match path.list {
            INIT_CONTAINERS => &self.spec.init_containers,
            CONTAINERS => &self.spec.containers,
            _ => return false,
        };
        list.as_ref().and_then(|list| list.get(path.index)).is_some_and(|c| c.resources.is_some())
    }
}
