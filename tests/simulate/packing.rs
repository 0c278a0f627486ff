//! The server's placement leaves less than the best published policy. One run on the smallest mix here: all mixes, ten seeds, samples
//! and departures are in `docs/simulate.md`.

use packhorse::simulate::choose::Ties;
use packhorse::simulate::policy::PolicyName;
use packhorse::simulate::report::Report;
use packhorse::simulate::{Churning, Options, Workload, openb, run};

fn reports(options: &Options) -> Vec<Report> {
    let cluster = openb::nodes(&super::openb("openb_node_list_gpu_node.csv")).unwrap();
    let trace = openb::pods(&super::openb("openb_pod_list_multigpu30.csv")).unwrap();
    run(&cluster, &trace, options, &mut |_| ()).unwrap()
}

fn options(policies: &[PolicyName]) -> Options {
    Options {
        policies: policies.to_vec(),
        ties: Ties::Random,
        workload: Workload::Learned,
        sample: 100,
        seeds: vec![42],
        departures: None,
        mirror_scheduler: false,
    }
}

#[test]
fn with_what_was_learned_and_random_ties_less_is_left_than_the_best_published_policy_leaves() {
    let found = reports(&options(&[PolicyName::Packhorse]))[0].unallocated_at_100.mean;
    assert!(found < 3.64, "{found:.2}, published for FGD: 3.64");
}

#[test]
fn when_pods_come_and_go_no_more_is_left_than_by_the_better_of_both_forms_of_fgd() {
    let churning = Churning { load: 1.1, arrivals: 24_000, lifetimes: None };
    let policies = [PolicyName::Packhorse, PolicyName::Fgd, PolicyName::FgdBestfit];
    let reports = reports(&Options { departures: Some(churning), ..options(&policies) });
    let [ours, fgd, bestfit] = [0, 1, 2].map(|at: usize| reports[at].departures.as_ref().unwrap());
    let left = |departures: &packhorse::simulate::report::Departures| departures.unallocated_time_average.mean;
    assert!(left(ours) < left(fgd).min(left(bestfit)) + 0.1, "{} {} {}", left(ours), left(fgd), left(bestfit));
    let refused = |departures: &packhorse::simulate::report::Departures| departures.rejected_8_gpu.mean;
    assert!(refused(ours) <= refused(fgd).max(refused(bestfit)), "large pods starve: {}", refused(ours));
}
