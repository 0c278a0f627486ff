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

fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What we read of a Pod. Deserialised from a byte slice it borrows from it.
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
}
