//! `nodeCacheCapable: false`: full Node objects in, full Node objects out.

use serde_json::{Value, json};

use super::world::{GIB, World, bound, names, node, scores, share};

fn given(pod: &Value, nodes: &[Value]) -> Value {
    json!({"Pod": pod, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": null})
}

#[tokio::test]
async fn the_inventory_is_that_of_the_given_objects_and_nothing_is_booked() {
    // The ledger knows none of them.
    let world = World::new(&[]);
    let mut odd = node("n1", 1);
    odd["future"] = json!({"kept": [1, 2.50, "x"]});
    let mut bare = node("bare", 1);
    bare["metadata"]["annotations"] = json!({});
    let request = given(&share("p", 20 * GIB), &[bare.clone(), odd.clone()]);
    let answer = world.post("/filter", &request).await;
    assert_eq!(answer["Nodes"]["items"], json!([odd]), "as it came");
    assert_eq!(names(&answer), ["n1"]);
    assert_eq!(answer["Error"], "");
    assert_eq!(answer["FailedAndUnresolvableNodes"], json!({}));
    assert!(world.ledger.pods().is_empty());
    assert_eq!(world.extender.holds(), 0);
    assert_eq!(scores(&world.post("/prioritize", &request).await)[0], (10, "n1".to_owned()));

    let answer = world.post("/filter", &given(&share("q", 81 * GIB), &[bare, odd])).await;
    assert_eq!(answer["Nodes"]["items"], json!([]));
    assert_eq!(names(&answer), [""; 0]);
    assert_eq!(answer["FailedAndUnresolvableNodes"]["bare"], "no GPU inventory published");
}

#[tokio::test]
async fn what_is_booked_comes_from_the_ledger() {
    let world = World::new(&[node("n1", 1)]);
    world.apply_pod(&bound("other", 0, "n1", 0, 70 * GIB));
    // The given object has a card that the ledger has not seen yet.
    let newer = node("n1", 2);
    let one = given(&share("p", 20 * GIB), &[node("n1", 1)]);
    assert_eq!(names(&world.post("/filter", &one).await), [""; 0]);
    let two = given(&share("p", 20 * GIB), std::slice::from_ref(&newer));
    assert_eq!(names(&world.post("/filter", &two).await), ["n1"]);
    // A pod that holds a card which only the given object lists holds it here too.
    world.apply_pod(&bound("early", 0, "n1", 1, 70 * GIB));
    assert_eq!(names(&world.post("/filter", &two).await), [""; 0]);
    let mut cordoned = newer;
    cordoned["metadata"]["annotations"]["packhorse.dev/cordon"] = json!("GPU-n1-0, GPU-n1-1");
    let answer = world.post("/filter", &given(&share("p", GIB), &[cordoned])).await;
    assert_eq!(answer["FailedAndUnresolvableNodes"]["n1"], "GPU cordoned");
}
