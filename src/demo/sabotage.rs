//! What goes wrong only where somebody asks for it, so that everybody can see that the demo would tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::api_server::Objects;
use crate::agent::specification::{Container, Specifications};
use crate::agent::start::{Refusal, Start, Starter};
use crate::agent::view::ViewReceiver;

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// A pod is bound behind Packhorse's back onto a GPU that is in use, once there is one.
    Oversubscription,
    /// The agents write the first devices of the node for every container, whatever its pod was given.
    StartCheck,
}

/// Gives the whole of a GPU that is in use to another pod as well, as no right scheduler would.
pub(super) async fn oversubscribe(objects: Objects) {
    let mut changes = objects.observe();
    while let Some(change) = changes.recv().await {
        let annotations = &change.object["metadata"]["annotations"];
        let Some(allocation) = annotations["packhorse.dev/allocation"].as_str() else { continue };
        let pod =
            json!({"metadata": {"name": "intruder"}, "spec": {"containers": change.object["spec"]["containers"]}});
        let node = change.object["spec"]["nodeName"].as_str().unwrap_or_default();
        let bound = objects.create("pods", pod).and_then(|_| {
            // Ten times, so that even a small share exceeds its card.
            let devices: serde_json::Value = serde_json::from_str(allocation).unwrap_or_default();
            let devices = devices.to_string().replace("\"memory\":", "\"memory\":9");
            objects.bind("default", "intruder", "", node, &json!({"packhorse.dev/allocation": devices}))
        });
        if bound.is_ok() {
            break;
        }
    }
    std::future::pending().await
}

/// A check at container start that guesses.
#[derive(Debug)]
struct Guess {
    real: Arc<Start>,
    specifications: Arc<Specifications>,
    view: ViewReceiver,
}

/// Takes the place of the real check.
pub(super) fn guess(real: Arc<Start>, specifications: Arc<Specifications>, view: ViewReceiver) -> Arc<dyn Starter> {
    Arc::new(Guess { real, specifications, view })
}

#[tonic::async_trait]
impl Starter for Guess {
    async fn prepare(&self, resource: &str, slots: &[String]) -> Result<(), Refusal> {
        self.real.prepare(resource, slots).await?;
        let view = Arc::clone(&self.view.borrow());
        let of_resource = view.devices.iter().filter(|device| view.resource_of(device).as_deref() == Some(resource));
        let devices: Vec<_> = of_resource
            .filter_map(|device| Some((device.clone(), view.card_of(&device.uuid)?.clone())))
            .take(slots.len())
            .collect();
        let wanted: BTreeSet<&String> = slots.iter().collect();
        let recorded = self.specifications.on_disk().map_err(|error| Refusal(error.to_string()))?;
        for right in recorded.into_iter().filter(|it| it.slots.iter().collect::<BTreeSet<_>>() == wanted) {
            let wrong = Container {
                name: right.name,
                pod_uid: right.pod_uid,
                container: right.container,
                slots: right.slots,
                devices: devices.clone(),
            };
            self.specifications.write(&wrong).map_err(|error| Refusal(error.to_string()))?;
        }
        Ok(())
    }
}
