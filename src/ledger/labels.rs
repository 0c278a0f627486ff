//! The labels of nodes: nodes of one pool differ by their name only, so what they have in common is kept once. Written when a Node
//! is read; read by nomination for a pod's `nodeSelector`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::intern::{Interner, Shared};
use crate::kube_api::pod::Text;

/// Keys with their values, sorted by key.
type Pairs = Arc<[(Arc<str>, Arc<str>)]>;

/// The labels of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Those whose value is the node's name.
    own: Pairs,
    /// The others.
    common: Pairs,
}

/// Every set of common labels in use.
#[derive(Debug, Default)]
pub(super) struct Common(Shared<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let find = |pairs: &[(Arc<str>, Arc<str>)]| pairs.binary_search_by(|(known, _)| (**known).cmp(key)).ok();
        find(&self.own).map(|at| &self.own[at].1).or_else(|| find(&self.common).map(|at| &self.common[at].1))
    }
}

impl Common {
    /// The labels of the node of this name.
    pub(super) fn read(&self, name: &str, labels: &BTreeMap<Text<'_>, Text<'_>>, strings: &Interner) -> Labels {
        let intern = |(key, value): (&Text<'_>, &Text<'_>)| (strings.get(key), strings.get(value));
        let own = labels.iter().filter(|(_, value)| &***value == name).map(intern).collect();
        let common = labels.iter().filter(|(_, value)| &***value != name).map(intern).collect();
        Labels { own, common: self.0.get(common) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(common: &Common, name: &str, labels: &[(&str, &str)]) -> Labels {
        let text = |text: &str| Text(text.to_owned().into());
        let labels = labels.iter().map(|(key, value)| (text(key), text(value))).collect();
        common.read(name, &labels, &Interner::default())
    }

    #[test]
    fn every_label_is_found_and_what_nodes_have_in_common_is_kept_once() {
        let common = Common::default();
        let a = read(&common, "a", &[("host", "a"), ("pool", "gpu"), ("zone", "1")]);
        let b = read(&common, "b", &[("host", "b"), ("pool", "gpu"), ("zone", "1")]);
        for (labels, host) in [(&a, "a"), (&b, "b")] {
            for (key, value) in [("host", Some(host)), ("pool", Some("gpu")), ("zone", Some("1")), ("x", None)] {
                assert_eq!(labels.get(key).map(|value| &**value), value, "{key}");
            }
        }
        assert!(Arc::ptr_eq(&a.common, &b.common));
        assert_ne!(a, b);
        assert_eq!(a, read(&common, "a", &[("host", "a"), ("pool", "gpu"), ("zone", "1")]));
        assert_ne!(a, read(&common, "a", &[("host", "a"), ("pool", "cpu"), ("zone", "1")]));
    }
}
