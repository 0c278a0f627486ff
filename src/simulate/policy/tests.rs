//! Which node and device each policy prefers, worked out by hand from its published definition.

use super::super::trace::{Builder, Cluster, Machine, Trace, Wanted};
use super::super::world::World;
use super::*;

/// A pod of so much of so many cards, without a lifetime.
fn pod(trace: &mut Builder, cpu: i64, gpus: u32, milli: u32, models: &[&str]) {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    trace.add(Wanted { cpu, memory: 1_024, gpus, milli, models }, None);
}

/// Nodes of one size: how many cards each, and of which model.
fn cluster(machines: &[(u32, &str)]) -> Cluster {
    let machine = |(at, (gpus, model)): (usize, &(u32, &str))| Machine {
        name: format!("node-{at}").into(),
        cpu: 64_000,
        memory: 262_144,
        gpus: *gpus,
        model: (*model).into(),
        node: None,
    };
    Cluster { machines: machines.iter().enumerate().map(machine).collect() }
}

/// Books a pod of this shape on this device; whole cards from there on.
fn put(world: &mut World, trace: &Trace, shape: usize, host: usize, device: usize) {
    let shape = &trace.shapes[shape];
    let holdings = world.hosts[host].holdings(shape, device..device + shape.gpus as usize);
    world.place(host, shape, holdings);
}

/// The best node, the first of equal ones, and its devices' positions.
fn best(policy: PolicyName, world: &World, trace: &Trace, shape: usize) -> Option<(usize, Vec<usize>)> {
    let shape = &trace.shapes[shape];
    let mut policy = policy.build(world, trace, Workload::Oracle);
    let mut best: Option<(usize, f64)> = None;
    for host in &world.hosts {
        if let Some(score) = policy.score(host, shape)
            && best.is_none_or(|(_, best)| score > best)
        {
            best = Some((host.id, score));
        }
    }
    let host = &world.hosts[best?.0];
    let holdings = policy.devices(host, shape, &mut Random::new(1))?;
    let position = |holding: &Holding| host.node.devices.iter().position(|device| device.uuid == holding.device);
    Some((host.id, holdings.iter().filter_map(position).collect()))
}

#[test]
fn each_policy_prefers_what_its_definition_says() {
    let mut trace = Builder::default();
    let (half, whole, small, large) = (0, 1, 2, 3);
    pod(&mut trace, 32_000, 1, 500, &[]);
    pod(&mut trace, 8_000, 1, 1000, &[]);
    pod(&mut trace, 8_000, 1, 500, &[]);
    pod(&mut trace, 8_000, 1, 600, &[]);
    let trace = trace.finish();
    let mut world = World::new(&cluster(&[(2, "T4"); 4]), &trace);
    // Holes: 0 both free; 1 one half used, pods of parts; 2 one card gone, a pod of whole cards; 3 none large enough.
    put(&mut world, &trace, small, 1, 1);
    put(&mut world, &trace, whole, 2, 0);
    put(&mut world, &trace, large, 3, 0);
    put(&mut world, &trace, large, 3, 1);
    for (policy, host, device) in [
        // 78, 84, 87 of 100.
        (PolicyName::Bestfit, 2, 1),
        // 92, 93, 94.
        (PolicyName::Dotproduct, 2, 1),
        // All free 31, a hole of half a card 95, a free card of a node in use 49.
        (PolicyName::GpuPacking, 1, 1),
        // No pods 43, only pods of this kind 95, only others 21.
        (PolicyName::GpuClustering, 1, 1),
        (PolicyName::Binpack, 2, 1),
        (PolicyName::Spread, 0, 0),
    ] {
        assert_eq!(best(policy, &world, &trace, half), Some((host, vec![device])), "{policy}");
    }
}

#[test]
fn fgd_leaves_no_hole_that_the_target_cannot_use() {
    let mut trace = Builder::default();
    for _ in 0..99 {
        pod(&mut trace, 1_000, 1, 500, &[]);
    }
    // Too rare for the target.
    pod(&mut trace, 1_000, 1, 300, &[]);
    let trace = trace.finish();
    let mut world = World::new(&cluster(&[(1, "T4"), (1, "T4"), (2, "T4")]), &trace);
    put(&mut world, &trace, 1, 0, 0);
    put(&mut world, &trace, 1, 2, 1);
    // On node 0 it would leave 200 that nobody can use; best fit does not mind.
    assert_eq!(best(PolicyName::Bestfit, &world, &trace, 0), Some((0, vec![0])));
    for policy in [PolicyName::Fgd, PolicyName::FgdBestfit] {
        assert_eq!(best(policy, &world, &trace, 0), Some((1, vec![0])), "{policy}");
    }
    // Nor on card 1 of node 2.
    world.hosts[1].free[0] = 0;
    for policy in [PolicyName::Fgd, PolicyName::FgdBestfit] {
        assert_eq!(best(policy, &world, &trace, 0), Some((2, vec![0])), "{policy}");
    }
}

#[test]
fn fgd_keeps_cards_for_pods_that_accept_no_other() {
    let mut trace = Builder::default();
    for _ in 0..10 {
        pod(&mut trace, 1_000, 1, 1000, &["A10"]);
        pod(&mut trace, 1_000, 1, 1000, &[]);
    }
    let trace = trace.finish();
    let world = World::new(&cluster(&[(1, "A10"), (1, "T4")]), &trace);
    for policy in [PolicyName::Fgd, PolicyName::FgdBestfit] {
        assert_eq!(best(policy, &world, &trace, 1).map(|(host, _)| host), Some(1), "{policy}");
        assert_eq!(best(policy, &world, &trace, 0).map(|(host, _)| host), Some(0), "{policy}");
    }
}

#[test]
fn random_takes_any_device() {
    let mut trace = Builder::default();
    pod(&mut trace, 1_000, 1, 500, &[]);
    let trace = trace.finish();
    let world = World::new(&cluster(&[(4, "T4")]), &trace);
    let mut policy = PolicyName::Random.build(&world, &trace, Workload::Learned);
    let mut random = Random::new(1);
    let mut seen: Vec<_> = (0..100)
        .filter_map(|_| policy.devices(&world.hosts[0], &trace.shapes[0], &mut random))
        .map(|holdings| holdings[0].device.to_string())
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    assert_eq!(policy.ties(Ties::Name), Ties::Random);
}

#[test]
fn no_policy_takes_what_is_not_there() {
    let mut trace = Builder::default();
    let asks: [(&str, i64, u32, u32, &[&str]); 6] = [
        ("too much CPU", 64_001, 0, 0, &[]),
        ("too many cards", 1_000, 3, 1000, &[]),
        ("another model", 1_000, 1, 100, &["A100"]),
        ("part of a name", 1_000, 1, 100, &["A1"]),
        ("a larger hole", 1_000, 1, 501, &[]),
        ("a card in use", 1_000, 2, 1000, &[]),
    ];
    for (_, cpu, gpus, milli, models) in asks {
        pod(&mut trace, cpu, gpus, milli, models);
    }
    pod(&mut trace, 1_000, 1, 500, &["A10"]);
    let trace = trace.finish();
    let mut world = World::new(&cluster(&[(2, "A10")]), &trace);
    put(&mut world, &trace, asks.len(), 0, 0);
    put(&mut world, &trace, asks.len(), 0, 1);
    for (policy, name) in PolicyName::ALL {
        for (shape, (why, ..)) in asks.iter().enumerate() {
            assert_eq!(best(policy, &world, &trace, shape), None, "{name}: {why}");
        }
        assert!(best(policy, &world, &trace, asks.len()).is_some(), "{name}");
    }
}

#[test]
fn a_pod_without_gpus_takes_none() {
    let mut trace = Builder::default();
    pod(&mut trace, 1_000, 0, 0, &[]);
    let trace = trace.finish();
    let world = World::new(&cluster(&[(2, "T4"), (0, "")]), &trace);
    for (policy, name) in PolicyName::ALL {
        assert!(best(policy, &world, &trace, 0).is_some_and(|(_, devices)| devices.is_empty()), "{name}");
    }
}
