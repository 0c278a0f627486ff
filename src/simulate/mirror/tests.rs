//! Each rule of kube-scheduler and the extender that the mirror follows.

use super::super::Workload;
use super::super::policy::PolicyName;
use super::super::trace::{Builder, Cluster, Machine, Trace, Wanted};
use super::*;

/// 32 cores a node.
const CPU: i64 = 32_000;

fn trace(pods: &[(i64, u32, u32, &str)]) -> Trace {
    let mut trace = Builder::default();
    for (cpu, gpus, milli, model) in pods {
        let models = if model.is_empty() { Vec::new() } else { vec![(*model).to_owned()] };
        trace.add(Wanted { cpu: *cpu, memory: 0, gpus: *gpus, milli: *milli, models }, None);
    }
    trace.finish()
}

/// Nodes of so many cards, each of its model.
fn world(nodes: &[(u32, &str)], trace: &Trace) -> World {
    let machine = |(at, (gpus, model)): (usize, &(u32, &str))| Machine {
        name: format!("n{at}").into(),
        cpu: CPU,
        memory: 0,
        gpus: *gpus,
        model: (*model).into(),
        node: None,
    };
    World::new(&Cluster { machines: nodes.iter().enumerate().map(machine).collect() }, trace)
}

fn mirror<'a>(world: &World, trace: &'a Trace, policy: PolicyName, sample: u8) -> Mirror<'a> {
    let policy = policy.build(world, trace, Workload::Oracle);
    Mirror::new(policy, world, &trace.shapes, sample, 0, Random::new(2))
}

#[test]
fn as_many_nodes_are_found_as_kube_scheduler_finds_by_default() {
    let found = [50, 100, 303, 1_000, 1_213, 5_000, 6_000, 50_000].map(|nodes| enough(nodes, stock_sample(nodes)));
    assert_eq!(found, [50, 100, 145, 420, 497, 500, 300, 2_500]);
}

#[test]
fn the_search_goes_on_where_the_last_one_ended_and_passes_over_full_nodes() {
    let trace = trace(&[(CPU, 0, 0, ""), (1, 1, 500, "")]);
    let mut world = world(&[(1, "T4"); 300], &trace);
    let mut mirror = mirror(&world, &trace, PolicyName::Packhorse, 40);
    assert_eq!(mirror.sampled(&world, &trace.shapes[1]), (0..120).collect::<Vec<_>>());
    // No CPU is left on 200..210.
    for at in 200..210 {
        world.place(at, &trace.shapes[0], Vec::new());
    }
    let second = mirror.sampled(&world, &trace.shapes[1]);
    assert_eq!(second, (120..200).chain(210..250).collect::<Vec<_>>());
    assert_eq!(mirror.sampled(&world, &trace.shapes[1]), (250..300).chain(0..70).collect::<Vec<_>>());
}

#[test]
fn kube_scheduler_counts_totals_and_knows_no_cards() {
    // Shares count in memory only, whole cards in cores only.
    let trace = trace(&[(1, 1, 600, ""), (1, 1, 1000, ""), (1, 2, 1000, "")]);
    let [share, whole, both] = [0, 1, 2].map(|at| &trace.shapes[at]);
    let mut world = world(&[(2, "T4")], &trace);
    let mut mirror = mirror(&world, &trace, PolicyName::Packhorse, 100);
    let asked = |mirror: &mut Mirror<'_>, world: &World, shape: &Shape| mirror.sampled(world, shape).len();
    let first = mirror.arrive(&mut world, share).unwrap();
    assert_eq!([share, whole, both].map(|shape| asked(&mut mirror, &world, shape)), [1, 1, 1]);
    mirror.arrive(&mut world, whole).unwrap();
    // One card is left by cores, though a share is on it; 1,400 MiB, though a whole card is gone.
    assert_eq!([share, whole, both].map(|shape| asked(&mut mirror, &world, shape)), [1, 1, 0]);
    assert!(mirror.arrive(&mut world, whole).is_none(), "the extender knows better");
    mirror.depart(&mut world, share, &first);
    assert_eq!(mirror.late().len(), 1, "the whole card that waited");
    assert_eq!([share, whole, both].map(|shape| asked(&mut mirror, &world, shape)), [1, 0, 0]);
}

#[test]
fn the_best_of_the_sample_is_taken_and_the_first_by_name_of_equals() {
    let trace = trace(&[(1, 1, 500, "")]);
    let shape = &trace.shapes[0];
    let mut world = world(&[(1, "T4"); 200], &trace);
    for at in [20, 150] {
        let holdings = world.hosts[at].holdings(shape, [0]);
        world.place(at, shape, holdings);
    }
    // 0..100, then 100..200, then again.
    let mut mirror = mirror(&world, &trace, PolicyName::Bestfit, 50);
    let hosts = [(); 4].map(|()| mirror.arrive(&mut world, shape).unwrap().host);
    assert_eq!(hosts, [20, 150, 0, 100]);
}

#[test]
fn a_pod_that_fits_none_of_the_sample_goes_to_the_best_of_the_cluster() {
    let trace = trace(&[(1, 1, 500, "H100")]);
    let mut nodes = [(1, "T4"); 300];
    (nodes[170], nodes[250]) = ((1, "H100"), (2, "H100"));
    let mut world = world(&nodes, &trace);
    let mut mirror = mirror(&world, &trace, PolicyName::Bestfit, 1);
    let hosts = [(); 7].map(|()| mirror.arrive(&mut world, &trace.shapes[0]).map(|placed| placed.host));
    // Samples 0..100 and 100..200, then 200..300, and round: the best of the cluster is 170 as long as it has room.
    assert_eq!(hosts, [170, 170, 250, 250, 250, 250].map(Some).into_iter().chain([None]).collect::<Vec<_>>()[..]);
}

#[test]
fn a_pod_without_gpus_goes_to_the_first_node_found() {
    let trace = trace(&[(1, 0, 0, ""), (CPU, 0, 0, "")]);
    let mut world = world(&[(1, "T4"); 300], &trace);
    world.place(100, &trace.shapes[1], Vec::new());
    let mut mirror = mirror(&world, &trace, PolicyName::Packhorse, stock_sample(300));
    let met = [(); 4].map(|()| mirror.arrive(&mut world, &trace.shapes[0]).unwrap().host);
    // Each search finds its number of nodes and begins where the last one ended; one of them is full.
    let found = enough(300, stock_sample(300));
    assert!((101..150).contains(&found), "{found}");
    assert_eq!(met, [0, found + 1, 2 * found + 1, (3 * found + 2) % 300]);
}

#[test]
fn who_waits_is_tried_again_when_a_pod_leaves_the_oldest_first() {
    let trace = trace(&[(1, 1, 500, ""), (1, 1, 1000, ""), (1, 1, 400, "")]);
    let [half, whole, less] = [0, 1, 2].map(|at| &trace.shapes[at]);
    let mut world = world(&[(1, "T4")], &trace);
    let mut mirror = mirror(&world, &trace, PolicyName::Packhorse, 100);
    let running = [half, half].map(|shape| mirror.arrive(&mut world, shape).unwrap());
    for waits in [whole, half, less, less] {
        assert!(mirror.arrive(&mut world, waits).is_none());
    }
    assert!(mirror.late().is_empty());
    let late = |mirror: &mut Mirror<'_>, world: &mut World, placed: &Placed| {
        mirror.depart(world, half, placed);
        mirror.late().into_iter().map(|late| (late.arrival, late.placed.shape)).collect::<Vec<_>>()
    };
    // The whole card finds no room yet and holds nobody up.
    assert_eq!(late(&mut mirror, &mut world, &running[0]), [(3, half.id)]);
    assert_eq!(late(&mut mirror, &mut world, &running[1]), [(4, less.id)]);
}
