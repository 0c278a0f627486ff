//! What is printed first: what runs here, and what to try while it does. Every command works when pasted.

use super::parts::Parts;

/// The text, with the live addresses. No line is longer than 100 columns.
pub(super) fn text(nodes: usize, gpus: usize, seed: u64, api_url: &str, parts: &Parts) -> String {
    let Parts { extender_url, webhook_url, metrics_url, .. } = parts;
    let names: Vec<String> = (1..=nodes.min(3)).map(|number| format!("\"node-{number}\"")).collect();
    let names = names.join(",");
    format!(
        r#"Packhorse demo: {gpus} simulated GPUs on {nodes} nodes, shared by pods that come and go (seed {seed}).
Open {metrics_url}/ in a browser to watch it.
Real: webhook {webhook_url}, extender {extender_url}, ledger.
Simulated: API server {api_url}, nodes, scheduler, users. Paste into another terminal:
  api={api_url}/api/v1 json='content-type: application/json'
  # Ask for 8 GiB of a GPU, and see which one it got. Then name it otherwise and try "8G" or "200Gi".
  curl -s $api/namespaces/default/pods -H "$json" -d '{{"metadata":{{"name":"mine"}},"spec":{{"containers":[
    {{"name":"main","image":"x","resources":{{"limits":{{"nvidia.com/gpumem":"8Gi"}}}}}}]}}}}' | grep -E 'request"|message'
  curl -s $api/namespaces/default/pods/mine | grep -E 'nodeName|devices.*GPU|message'
  # Take a GPU out of use; ask the extender who has 20 GiB and half of the cores; look at the metrics.
  curl -s $api/nodes/node-1 -X PATCH -H 'content-type: application/merge-patch+json' -d '{{"metadata":
    {{"annotations":{{"packhorse.dev/cordon":"GPU-00000001-0000-0000-0000-000000000000"}}}}}}' | grep cordon
  curl -s {extender_url}/filter -d '{{"NodeNames":[{names}],"Pod":{{"spec":{{
    "containers":[{{"name":"main","resources":{{"limits":{{"nvidia.com/gpumem":"20Gi","nvidia.com/gpucores":50}}}}}}]}}}}}}'; echo
  curl -s {metrics_url}/metrics | grep -E '^packhorse.*(_total|_count)'

"#
    )
}
