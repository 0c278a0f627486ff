//! Pods, Deployments and Jobs, from admission to their node.

use super::lab::on_cluster;

#[test]
fn the_lab_starts() {
    on_cluster(async |lab| {
        println!("{}", lab.kubectl(&["get", "nodes"]));
    });
}
