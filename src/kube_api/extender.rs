//! The wire types of kube-scheduler's extender calls, borrowed from the request's bytes.
//!
//! The Go structs behind them carry no JSON tags: Go writes their names in `PascalCase`, reads them in any case, and sends `null`
//! for whatever is not set. So do we: field names are matched without case, `null` is the empty value, unknown fields are
//! skipped, the last of two equal fields wins, and everything is written in `PascalCase`. Read and written by the extender
//! only. Input of a wrong type is an error that names the field.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use serde_json::value::RawValue;

use super::pod::{PodView, Text};

/// Defines an object as Go decodes it: names in any case, `null` as the empty value, unknown names skipped.
macro_rules! go_object {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ObjectVisitor<'a>(std::marker::PhantomData<&'a ()>);
                impl<'de: 'a, 'a> Visitor<'de> for ObjectVisitor<'a> {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("an object (", stringify!($name), ")"))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<Text<'_>>()? {
                            $(if key.eq_ignore_ascii_case($key) {
                                object.$field = map
                                    .next_value::<Option<$type>>()
                                    .map_err(|e| A::Error::custom(format_args!("{}: {e}", $key)))?
                                    .unwrap_or_default();
                                continue;
                            })*
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(ObjectVisitor(std::marker::PhantomData))
            }
        }
    };
}

go_object! {
    /// What kube-scheduler sends to `/filter` and `/prioritize`.
    Args {
        /// The pod to place; kube-scheduler always sends one.
        pod: Option<Box<PodView<'a>>> = "Pod",
        /// Full nodes, where the scheduler's configuration says `nodeCacheCapable: false`.
        nodes: Option<NodeList<'a>> = "Nodes",
        /// Names only, where it says `nodeCacheCapable: true`.
        node_names: Option<Vec<Text<'a>>> = "NodeNames",
    }
}

go_object! {
    /// A list of full nodes, each as it came, so that it can be sent back unharmed.
    NodeList {
        /// The nodes' JSON.
        items: Vec<&'a RawValue> = "items",
    }
}

go_object! {
    /// What kube-scheduler sends to `/bind`. There is no pod object.
    BindingArgs {
        /// The pod's name.
        pod_name: Text<'a> = "PodName",
        /// Its namespace.
        pod_namespace: Text<'a> = "PodNamespace",
        /// Its UID.
        pod_uid: Text<'a> = "PodUID",
        /// The node kube-scheduler chose.
        node: Text<'a> = "Node",
    }
}

go_object! {
    /// What kube-scheduler sends to `/preempt`: one of the two maps is set.
    PreemptionArgs {
        /// The pod that needs room.
        pod: Option<Box<PodView<'a>>> = "Pod",
        /// Full victims by node, where `nodeCacheCapable` is false.
        victims: Option<BTreeMap<Text<'a>, Victims<'a>>> = "NodeNameToVictims",
        /// Victims' UIDs by node, where it is true.
        meta_victims: Option<BTreeMap<Text<'a>, MetaVictims<'a>>> = "NodeNameToMetaVictims",
    }
}

go_object! {
    /// Full pods that would be removed from one node.
    Victims {
        /// The pods.
        pods: Vec<PodView<'a>> = "Pods",
        /// How many of them a disruption budget protects.
        pdb_violations: i64 = "NumPDBViolations",
    }
}

go_object! {
    /// UIDs of pods that would be removed from one node.
    MetaVictims {
        /// The pods.
        pods: Vec<MetaPod<'a>> = "Pods",
        /// How many of them a disruption budget protects.
        pdb_violations: i64 = "NumPDBViolations",
    }
}

go_object! {
    /// A pod by UID.
    MetaPod {
        /// The UID.
        uid: Text<'a> = "UID",
    }
}

/// The answer to `/filter`.
#[derive(Debug, Default)]
pub struct FilterResult<'a> {
    /// The fitting nodes as they came; only where full nodes were sent.
    pub nodes: Option<Vec<&'a RawValue>>,
    /// The fitting nodes' names. Never `null` on the wire: kube-scheduler takes that for "none fits".
    pub node_names: Vec<&'a str>,
    /// Nodes that removing pods might help, with reasons.
    pub failed: Vec<(&'a str, &'static str)>,
    /// Nodes that it would not help, with reasons.
    pub failed_and_unresolvable: Vec<(&'a str, &'static str)>,
    /// Empty, or why there is no answer.
    pub error: String,
}

/// One node's place in the answer to `/prioritize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostPriority<'a> {
    /// The node.
    pub host: &'a str,
    /// 0..=10.
    pub score: i64,
}

/// The answer to `/bind`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BindResult {
    /// Empty, or why the pod was not bound.
    pub error: String,
}

/// The answer to `/preempt`: always this form, whichever was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PreemptionResult {
    /// The nodes where preemption helps.
    pub node_name_to_meta_victims: BTreeMap<String, VictimsOut>,
}

/// One node's victims in the answer to `/preempt`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct VictimsOut {
    /// The pods.
    #[serde(rename = "Pods")]
    pub pods: Vec<MetaPodOut>,
    /// How many of them a disruption budget protects.
    #[serde(rename = "NumPDBViolations")]
    pub pdb_violations: i64,
}

/// A pod by UID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct MetaPodOut {
    /// The UID.
    #[serde(rename = "UID")]
    pub uid: String,
}

/// Name and reason pairs, written as a map.
struct Reasons<'a>(&'a [(&'a str, &'static str)]);

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, reason) in self.0 {
            map.serialize_entry(name, reason)?;
        }
        map.end()
    }
}

/// Nodes, written as a `NodeList`.
struct Items<'a>(&'a [&'a RawValue]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_struct("NodeList", 2)?;
        list.serialize_field("metadata", &BTreeMap::<&str, &str>::new())?;
        list.serialize_field("items", self.0)?;
        list.end()
    }
}

impl Serialize for FilterResult<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut result = serializer.serialize_struct("FilterResult", 5)?;
        result.serialize_field("Nodes", &self.nodes.as_deref().map(Items))?;
        result.serialize_field("NodeNames", &self.node_names)?;
        result.serialize_field("FailedNodes", &Reasons(&self.failed))?;
        result.serialize_field("FailedAndUnresolvableNodes", &Reasons(&self.failed_and_unresolvable))?;
        result.serialize_field("Error", &self.error)?;
        result.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_in_any_case_and_null_everywhere() {
        for body in [
            r#"{"Pod":{"metadata":{"name":"a"}},"Nodes":null,"NodeNames":["n1","n2"]}"#,
            r#"{"pod":{"metadata":{"name":"a"}},"nodes":null,"nodenames":["n1","n2"],"extra":{"x":[1]}}"#,
            r#"{"nodeNames":["n1","n2"],"POD":{"metadata":{"name":"a","labels":null},"spec":null}}"#,
        ] {
            let args: Args<'_> = serde_json::from_str(body).unwrap();
            assert_eq!(args.pod.unwrap().metadata.name.as_deref(), Some("a"), "{body}");
            assert!(args.nodes.is_none());
            let names: Vec<&str> = args.node_names.as_ref().unwrap().iter().map(|n| &**n).collect();
            assert_eq!(names, ["n1", "n2"]);
            assert!(matches!(args.node_names.unwrap()[0].0, std::borrow::Cow::Borrowed(_)), "names are not copied");
        }
        let args: Args<'_> = serde_json::from_str(r#"{"Pod":null,"Nodes":null,"NodeNames":null}"#).unwrap();
        assert!(args.pod.is_none() && args.nodes.is_none() && args.node_names.is_none());
        let args: PreemptionArgs<'_> = serde_json::from_str(
            r#"{"Pod":null,"NodeNameToVictims":null,"nodenametometavictims":{"n":{"pods":[{"uid":"u"}],"NumPDBViolations":null}}}"#,
        )
        .unwrap();
        assert_eq!(&*args.meta_victims.unwrap()["n"].pods[0].uid, "u");
    }

    #[test]
    fn names_the_field_of_a_wrong_type() {
        let error = serde_json::from_str::<Args<'_>>(r#"{"NodeNames":[1]}"#).unwrap_err().to_string();
        assert!(error.starts_with("NodeNames: "), "{error}");
        let error = serde_json::from_str::<Args<'_>>("[]").unwrap_err().to_string();
        assert!(error.contains("expected an object (Args)"), "{error}");
    }

    #[test]
    fn writes_every_field_in_pascal_case() {
        let text = serde_json::to_string(&FilterResult { node_names: vec!["n"], ..FilterResult::default() }).unwrap();
        assert_eq!(
            text,
            r#"{"Nodes":null,"NodeNames":["n"],"FailedNodes":{},"FailedAndUnresolvableNodes":{},"Error":""}"#
        );
        assert_eq!(
            serde_json::to_string(&[HostPriority { host: "n", score: 10 }]).unwrap(),
            r#"[{"Host":"n","Score":10}]"#
        );
        assert_eq!(serde_json::to_string(&BindResult::default()).unwrap(), r#"{"Error":""}"#);
        let victims = VictimsOut { pods: vec![MetaPodOut { uid: "u".to_owned() }], pdb_violations: 1 };
        let result = PreemptionResult { node_name_to_meta_victims: BTreeMap::from([("n".to_owned(), victims)]) };
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"NodeNameToMetaVictims":{"n":{"Pods":[{"UID":"u"}],"NumPDBViolations":1}}}"#
        );
    }
}
