//! The published policies by the published protocol leave what was published: Weng et al., USENIX ATC 2023, artifact of the paper,
//! mean and standard deviation of ten runs. One run here: the means over ten are in `docs/simulate.md`.

use packhorse::simulate::choose::Ties;
use packhorse::simulate::policy::PolicyName;
use packhorse::simulate::{Options, Workload, openb, run};

/// How far the mean of this policy may be from the published one.
fn bound(policy: PolicyName) -> f64 {
    if matches!(policy, PolicyName::GpuClustering | PolicyName::Random) { 0.7 } else { 0.3 }
}

fn check(mix: &str, policy: PolicyName, mean: f64, sd: f64, at_end: f64) {
    let cluster = openb::nodes(&super::openb("openb_node_list_gpu_node.csv")).unwrap();
    let trace = openb::pods(&super::openb(&format!("openb_pod_list_{mix}.csv"))).unwrap();
    let options = Options {
        policies: vec![policy],
        ties: Ties::Name,
        workload: Workload::Learned,
        sample: 100,
        seeds: vec![43],
        departures: None,
        mirror_scheduler: false,
    };
    let reports = run(&cluster, &trace, &options, &mut |_| ()).unwrap();
    let (found, end) = (reports[0].unallocated_at_100.mean, reports[0].unallocated_at_end.mean);
    let most = bound(policy) + 2.0 * sd;
    assert!((found - mean).abs() < most, "{mix}, {policy}: {found:.2} at 100 %, published {mean} ± {sd}");
    assert!((end - at_end).abs() < most, "{mix}, {policy}: {end:.2} at the end, published {at_end}");
}

#[test]
fn fgd_does() {
    check("default", PolicyName::Fgd, 4.77, 0.10, 4.61);
}

#[test]
fn fgd_does_where_pods_want_models() {
    check("gpuspec20", PolicyName::Fgd, 5.34, 0.13, 5.16);
}

#[test]
fn fgd_does_where_pods_want_several_cards() {
    check("multigpu30", PolicyName::Fgd, 3.64, 0.09, 3.54);
}

#[test]
fn bestfit_does() {
    check("default", PolicyName::Bestfit, 7.14, 0.14, 6.92);
}

#[test]
fn dotproduct_does() {
    check("default", PolicyName::Dotproduct, 9.38, 0.18, 9.15);
}

#[test]
fn gpu_packing_does() {
    check("default", PolicyName::GpuPacking, 8.22, 0.50, 8.00);
}

#[test]
fn gpu_clustering_does() {
    check("default", PolicyName::GpuClustering, 8.35, 0.58, 8.12);
}

#[test]
fn random_does() {
    check("default", PolicyName::Random, 13.70, 0.31, 12.53);
}
