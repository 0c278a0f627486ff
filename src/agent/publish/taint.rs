//! The start-up taint `packhorse.dev/not-ready`: whoever registers a node with it keeps GPU pods away until the agent takes it off,
//! which it does when the inventory says `ready` and the totals are there. No other taint is touched, nor can one be lost.

use serde_json::json;
use tokio::sync::watch;

use super::inventory::Confirmed;
use super::own_node::OwnNode;
use super::write::{Part, Write, next};
use crate::kube_api::names::NOT_READY_TAINT;

#[derive(Debug)]
pub(super) struct StartTaint {
    pub(super) confirmed: watch::Receiver<Option<Confirmed>>,
    pub(super) totals: watch::Receiver<bool>,
}

impl Part for StartTaint {
    const KIND: &'static str = "taint";

    async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.confirmed) => {}
            () = next(&mut self.totals) => {}
        }
    }

    fn due(&mut self, node: &OwnNode) -> Option<Write> {
        let totals = *self.totals.borrow_and_update();
        let ready = self.confirmed.borrow_and_update().as_ref().is_some_and(|confirmed| confirmed.standing.ready);
        let at = node.taints.iter().position(|taint| taint.key == NOT_READY_TAINT)?;
        if !ready || !totals {
            return None;
        }
        // Between reading and writing somebody may have changed the list: then the test fails, and nothing is removed.
        let path = format!("/spec/taints/{at}");
        let patch = json!([
            {"op": "test", "path": format!("{path}/key"), "value": NOT_READY_TAINT},
            {"op": "remove", "path": path},
        ]);
        match serde_json::from_value(patch) {
            Ok(patch) => Some(Write::Json(patch)),
            Err(error) => {
                tracing::error!(%error, "the start-up taint stays: its removal cannot be written as a JSON patch");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Taint;

    use super::*;
    use crate::agent::standing::Standing;

    #[test]
    fn goes_when_the_node_serves_and_takes_no_other_with_it() {
        let taint = |key: &str| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        let node = OwnNode { taints: vec![taint("a"), taint(NOT_READY_TAINT), taint("b")], ..OwnNode::default() };
        let confirmed =
            |ready| Some(Confirmed { inventory: "".into(), standing: Standing { ready, ..Standing::default() } });
        for (inventory, totals, expected) in [
            (None, true, false),
            (confirmed(false), true, false),
            (confirmed(true), false, false),
            (confirmed(true), true, true),
        ] {
            let (_inventory, confirmed) = watch::channel(inventory);
            let (_totals, totals) = watch::channel(totals);
            let due = StartTaint { confirmed, totals }.due(&node);
            assert_eq!(due.is_some(), expected);
            if let Some(Write::Json(patch)) = due {
                let mut object = json!({"spec": {"taints": node.taints}});
                json_patch::patch(&mut object, &patch).unwrap();
                assert_eq!(object, json!({"spec": {"taints": [taint("a"), taint("b")]}}));
                let mut changed = json!({"spec": {"taints": [taint("a"), taint("b"), taint("c")]}});
                json_patch::patch(&mut changed, &patch).expect_err("another taint stands there by now");
            }
        }
    }
}
