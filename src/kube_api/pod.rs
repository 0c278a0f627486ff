//! The part of a Pod that Packhorse reads, borrowed from the request's bytes or owned.
//!
//! The webhook, the extender and the ledger read pods by the same types, so that none of them can see a field the others
//! do not. Unknown fields are skipped, never rejected: a newer API server may send more than we know.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A string that borrows from the input where JSON allows it (no escapes).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<'a>(pub Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(v)))
            }

            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }

            fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(v)))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A Kubernetes quantity as written: API servers send strings, people also write plain numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RawQuantity<'a>(pub Cow<'a, str>);

impl AsRef<str> for RawQuantity<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawQuantity<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuantityVisitor;
        impl<'de> Visitor<'de> for QuantityVisitor {
            type Value = RawQuantity<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }

            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(RawQuantity(Cow::Borrowed(v)))
            }

            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(RawQuantity(Cow::Owned(v.to_owned())))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(RawQuantity(Cow::Owned(v.to_string())))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(RawQuantity(Cow::Owned(v.to_string())))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(RawQuantity(Cow::Owned(v.to_string())))
            }
        }
        deserializer.deserialize_any(QuantityVisitor)
    }
}

/// The default where the field is `null`, as Go writes empty lists and maps.
pub(super) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What we read of a Pod. Deserialised from a byte slice it borrows from it.
///
/// A watch needs types that own what they keep. Such a type reads a view, takes what it wants, and lets the rest go; because it can
/// do so for every lifetime of the input, it is `DeserializeOwned`:
///
/// ```
/// use packhorse::kube_api::pod::PodView;
/// use serde::{Deserialize, Deserializer, de::DeserializeOwned};
///
/// struct Seen {
///     uid: Option<String>,
/// }
///
/// impl<'de> Deserialize<'de> for Seen {
///     fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
///         let pod = PodView::deserialize(deserializer)?;
///         Ok(Self { uid: pod.metadata.uid.map(|uid| uid.0.into_owned()) })
///     }
/// }
///
/// fn watched<T: DeserializeOwned>(event: &str) -> Result<T, serde_json::Error> {
///     serde_json::from_str(event)
/// }
/// let seen: Seen = watched(r#"{"metadata":{"uid":"0b5a"}}"#)?;
/// assert_eq!(seen.uid.as_deref(), Some("0b5a"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct PodView<'a> {
    /// Who the pod is.
    #[serde(borrow, deserialize_with = "null_default")]
    pub metadata: PodMeta<'a>,
    /// What it asks.
    #[serde(borrow, deserialize_with = "null_default")]
    pub spec: PodSpecView<'a>,
    /// How far it is.
    #[serde(borrow, deserialize_with = "null_default")]
    pub status: PodStatusView<'a>,
}

/// Who a pod is.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodMeta<'a> {
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    #[serde(borrow)]
    pub generate_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub namespace: Option<Text<'a>>,
    #[serde(borrow)]
    pub uid: Option<Text<'a>>,
    #[serde(borrow)]
    pub resource_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub annotations: BTreeMap<Text<'a>, Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub labels: BTreeMap<Text<'a>, Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub owner_references: Vec<OwnerView<'a>>,
}

/// Who owns a pod.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct OwnerView<'a> {
    #[serde(borrow)]
    pub kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    pub controller: Option<bool>,
}

/// What a pod asks.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodSpecView<'a> {
    #[serde(borrow)]
    pub node_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub scheduler_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub runtime_class_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub service_account_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub priority_class_name: Option<Text<'a>>,
    pub priority: Option<i32>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub node_selector: BTreeMap<Text<'a>, Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub overhead: BTreeMap<Text<'a>, RawQuantity<'a>>,
    #[serde(borrow)]
    pub resources: Option<ResourcesView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub containers: Vec<ContainerView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub init_containers: Vec<ContainerView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub ephemeral_containers: Vec<ContainerView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub tolerations: Vec<TolerationView<'a>>,
    pub affinity: Option<AffinityView>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub topology_spread_constraints: Vec<SpreadView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub volumes: Vec<VolumeView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub scheduling_gates: Vec<GateView<'a>>,
}

/// One container of any kind.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ContainerView<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub restart_policy: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub resources: ResourcesView<'a>,
    /// `None` where the field is absent: a patch must then create the list.
    #[serde(borrow)]
    pub env: Option<Vec<EnvView<'a>>>,
    pub security_context: Option<SecurityView>,
}

/// Resource names with their quantities.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ResourcesView<'a> {
    #[serde(borrow)]
    pub limits: Option<BTreeMap<Text<'a>, RawQuantity<'a>>>,
    #[serde(borrow)]
    pub requests: Option<BTreeMap<Text<'a>, RawQuantity<'a>>>,
}

/// One environment variable.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct EnvView<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub value: Option<Text<'a>>,
    #[serde(borrow)]
    pub value_from: Option<ValueFromView<'a>>,
}

/// Where a variable's value comes from; sources other than `fieldRef` are only known to be there.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ValueFromView<'a> {
    #[serde(borrow)]
    pub field_ref: Option<FieldRefView<'a>>,
}

/// A field of the pod itself.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct FieldRefView<'a> {
    #[serde(borrow)]
    pub field_path: Text<'a>,
}

/// Of a container's security context only what opens the host's devices.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct SecurityView {
    pub privileged: Option<bool>,
}

/// A toleration.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct TolerationView<'a> {
    #[serde(borrow)]
    pub key: Option<Text<'a>>,
    #[serde(borrow)]
    pub operator: Option<Text<'a>>,
    #[serde(borrow)]
    pub value: Option<Text<'a>>,
    #[serde(borrow)]
    pub effect: Option<Text<'a>>,
}

/// Of a pod's affinity only whether it states preferences.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct AffinityView {
    pub node_affinity: Option<PreferenceView>,
    pub pod_affinity: Option<PreferenceView>,
    pub pod_anti_affinity: Option<PreferenceView>,
}

/// The preferred terms of one kind of affinity; only their number matters.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PreferenceView {
    #[serde(deserialize_with = "null_default")]
    pub preferred_during_scheduling_ignored_during_execution: Vec<serde::de::IgnoredAny>,
}

/// A topology spread constraint; soft where `whenUnsatisfiable` is `ScheduleAnyway`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct SpreadView<'a> {
    #[serde(borrow)]
    pub when_unsatisfiable: Option<Text<'a>>,
}

/// Of a volume only whether it has to be provisioned or bound first.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct VolumeView<'a> {
    #[serde(borrow)]
    pub persistent_volume_claim: Option<ClaimView<'a>>,
    pub ephemeral: Option<serde::de::IgnoredAny>,
}

/// A claim's name.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ClaimView<'a> {
    #[serde(borrow)]
    pub claim_name: Text<'a>,
}

/// A scheduling gate.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct GateView<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
}

/// How far a pod is.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodStatusView<'a> {
    #[serde(borrow)]
    pub phase: Option<Text<'a>>,
    #[serde(borrow)]
    pub nominated_node_name: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub conditions: Vec<PodConditionView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub container_statuses: Vec<ContainerStatusView<'a>>,
    #[serde(borrow, deserialize_with = "null_default")]
    pub init_container_statuses: Vec<ContainerStatusView<'a>>,
}

/// How one container is.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ContainerStatusView<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    #[serde(borrow, rename = "containerID")]
    pub container_id: Option<Text<'a>>,
    #[serde(deserialize_with = "null_default")]
    pub state: ContainerStateView,
}

/// What a container does.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct ContainerStateView {
    pub running: Option<serde::de::IgnoredAny>,
}

/// A condition.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the Kubernetes API")]
pub struct PodConditionView<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub status: Text<'a>,
    #[serde(borrow)]
    pub last_transition_time: Option<Text<'a>>,
    #[serde(borrow)]
    pub reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub message: Option<Text<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"apiVersion":"v1","unknown":{"a":[1]},
        "metadata":{"name":"a\u0062c","annotations":null,"labels":{"k":"v\n"},"newField":1},
        "spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":2,"memory":"1Gi","x/y":1e3},"requests":null},
            "env":[{"name":"A","value":"b"},{"name":"C","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}],
            "initContainers":null,"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{},{}]}}},
        "status":null}"#;

    fn check(pod: &PodView<'_>) {
        assert_eq!(pod.metadata.name.as_deref(), Some("abc"));
        assert!(pod.metadata.annotations.is_empty() && pod.spec.init_containers.is_empty());
        assert_eq!(pod.metadata.labels.get("k").map(AsRef::as_ref), Some("v\n"));
        let container = &pod.spec.containers[0];
        let limits = container.resources.limits.as_ref().unwrap();
        assert_eq!(["cpu", "memory", "x/y"].map(|name| limits[name].as_ref()), ["2", "1Gi", "1000"]);
        assert!(container.resources.requests.is_none());
        let env = container.env.as_ref().unwrap();
        assert_eq!(env[0].value.as_deref(), Some("b"));
        let field = env[1].value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
        assert_eq!(&*field.field_path, "metadata.name");
        let preferred = pod.spec.affinity.as_ref().unwrap().node_affinity.as_ref().unwrap();
        assert_eq!(preferred.preferred_during_scheduling_ignored_during_execution.len(), 2);
    }

    #[test]
    fn reads_a_pod_from_bytes_a_reader_and_a_value() {
        struct Checked;
        impl<'de> Deserialize<'de> for Checked {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                PodView::deserialize(deserializer).map(|pod| check(&pod)).map(|()| Self)
            }
        }
        let Checked = serde_json::from_slice(POD.as_bytes()).unwrap();
        let Checked = serde_json::from_reader(POD.as_bytes()).unwrap();
        let Checked = serde_json::from_value(serde_json::from_str(POD).unwrap()).unwrap();
    }

    #[test]
    fn reads_a_pod_that_a_watch_event_buffers() {
        // The object before its type: serde has to keep it until it knows what it is.
        #[derive(serde::Deserialize)]
        #[serde(tag = "type", content = "object")]
        enum Event<'a> {
            #[serde(borrow)]
            Added(PodView<'a>),
        }
        let text = format!(r#"{{"object":{POD},"type":"Added"}}"#);
        let Event::Added(pod) = serde_json::from_str(&text).unwrap();
        check(&pod);
    }

    #[test]
    fn borrows_what_has_no_escapes() {
        let pod: PodView<'_> = serde_json::from_slice(POD.as_bytes()).unwrap();
        assert!(matches!(pod.spec.containers[0].name.0, Cow::Borrowed("main")));
        assert!(matches!(pod.metadata.name, Some(Text(Cow::Owned(_)))));
    }
}
