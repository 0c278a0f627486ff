//! What the command prints.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Files, text};

/// Four nodes of two cards; halves, wholes and CPU-only pods, each with a lifetime.
fn small() -> Files {
    let mut nodes = "sn,cpu_milli,memory_mib,gpu,model\n".to_owned();
    for node in 0..4 {
        writeln!(nodes, "n{node},64000,262144,2,T4").unwrap();
    }
    let mut pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time\n".to_owned();
    for pod in 0..12 {
        let (gpus, milli) = [(1, 500), (1, 1000), (0, 0)][pod % 3];
        writeln!(pods, "p{pod},1000,1024,{gpus},{milli},0,{}", 10 + pod).unwrap();
    }
    Files::new(&nodes, &pods)
}

fn json(files: &Files, more: &[&str]) -> Value {
    let output = files.simulate(&[&["--format", "json"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Without what the clock says.
fn timeless(mut report: Value) -> Value {
    report["seconds"].take();
    report["runs"].as_array_mut().unwrap().iter_mut().for_each(|run| {
        run["seconds"].take();
    });
    report
}

#[test]
fn json_has_exactly_the_documented_fields() {
    let report = json(&small(), &["--policy", "bestfit", "--ties", "name", "--seeds", "42..43", "--sample", "40"]);
    let mut expected = [
        "v",
        "policy",
        "ties",
        "workload",
        "sample",
        "seeds",
        "runs",
        "unallocated_at_100",
        "unallocated_at_end",
        "seconds",
    ];
    expected.sort_unstable();
    let mut found = keys(&report);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(report["v"], 1);
    assert_eq!(report["policy"], "bestfit");
    assert_eq!(report["ties"], "name");
    assert_eq!(report["workload"], "learned");
    assert_eq!(report["sample"], 40);
    assert_eq!(report["seeds"], serde_json::json!([42, 43]));
    let mut run = keys(&report["runs"][1]);
    run.sort_unstable();
    assert_eq!(run, ["seconds", "seed", "unallocated_at_100", "unallocated_at_end"]);
    assert_eq!(keys(&report["seconds"]), ["mean"]);
    let number = |run: usize, field: &str| report["runs"][run][field].as_f64().unwrap();
    for field in ["unallocated_at_100", "unallocated_at_end"] {
        let mean = f64::midpoint(number(0, field), number(1, field));
        let sd = (number(0, field) - number(1, field)).abs() / 2.0;
        assert!((report[field]["mean"].as_f64().unwrap() - mean).abs() < 2e-4);
        assert!((report[field]["sd"].as_f64().unwrap() - sd).abs() < 2e-4);
    }
}

#[test]
fn departures_add_what_they_found() {
    let report = json(&small(), &["--departures", "--load", "0.9", "--arrivals", "400", "--seeds", "1..2"]);
    assert_eq!(report["load"], 0.9);
    assert_eq!(report["arrivals"], 400);
    assert_eq!(report["lifetimes"], "trace");
    let average = report["unallocated_time_average"]["mean"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&average), "{average}");
    assert!(report["unallocated_time_average"]["sd"].is_f64());
    assert!(report["rejected"]["mean"].is_f64() && report["rejected_8_gpu"]["mean"] == 0.0);
    assert!(report["runs"][0]["rejected"].is_u64());
    let report = json(&small(), &["--departures", "--lifetimes", "exponential", "--arrivals", "400", "--seeds", "1"]);
    assert_eq!(report["lifetimes"], "exponential");
}

#[test]
fn several_policies_make_an_array_and_a_table() {
    let reports = json(&small(), &["--policy", "fgd,bestfit", "--policy", "bestfit", "--seeds", "1..2"]);
    let names: Vec<_> = reports.as_array().unwrap().iter().map(|report| report["policy"].as_str().unwrap()).collect();
    assert_eq!(names, ["fgd", "bestfit"]);
    // By definition; there is no learned FGD.
    assert_eq!(reports[0]["workload"], "oracle");
    let output = small().simulate(&["--policy", "all", "--seeds", "1"]);
    let table = text(&output.stdout);
    assert_eq!(table.lines().count(), 11, "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("packhorse ")), "{table}");
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let files = small();
    for more in [&["--policy", "random"][..], &["--departures", "--arrivals", "300"]] {
        let run = |seed| timeless(json(&files, &[more, &["--seeds", seed]].concat()));
        assert_eq!(run("3..4"), run("3..4"));
        assert_eq!(run("3")["runs"][0], run("3..4")["runs"][0]);
    }
}

#[test]
fn equal_pods_fill_every_card_whatever_the_policy() {
    let nodes = "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,4,T4\nb,64000,262144,1,A10\n";
    for (pods, left) in [
        ("p,1000,1024,1,500\n", 0.0),
        ("p,1000,1024,1,1000\n", 0.0),
        // A card has room for three.
        ("p,1000,1024,1,300\n", 10.0),
        // Node b has but one card.
        ("p,1000,1024,2,1000\n", 20.0),
        // Two nodes of 64 cores.
        ("p,32000,1024,1,1000\n", 40.0),
    ] {
        let pods = format!("name,cpu_milli,memory_mib,num_gpu,gpu_milli\n{}", pods.repeat(40));
        let reports = json(&Files::new(nodes, &pods), &["--policy", "all", "--seeds", "1..3"]);
        for report in reports.as_array().unwrap() {
            let found = report["unallocated_at_end"]["mean"].as_f64().unwrap();
            assert!((found - left).abs() < 1e-3, "{}: {found}, not {left}", report["policy"]);
        }
    }
}

#[test]
fn the_picture_has_a_line_and_a_name_for_every_policy() {
    let files = small();
    let svg = files.path("picture.svg");
    let output = files.simulate(&["--policy", "fgd,random,spread", "--seeds", "1..2", "--svg", svg.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!(svg.matches("<polyline").count(), 3);
    for (name, opening) in [("text", "<text"), ("title", "<title>"), ("polyline", "<polyline")] {
        assert_eq!(svg.matches(opening).count(), svg.matches(&format!("</{name}>")).count());
    }
    for policy in ["fgd", "random", "spread"] {
        assert!(svg.contains(&format!(">{policy} ")), "{policy}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let output = files.simulate(&["--svg", "/nowhere/picture.svg"]);
    assert!(text(&output.stderr).contains("cannot write /nowhere/picture.svg"));
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let files = small();
    for (flags, expected) in [
        (&["--policy", "best"][..], "possible values: packhorse, fgd"),
        (&["--seeds", "5..1"], "write 1..5"),
        (&["--seeds", "1..x"], "write two numbers such as 42..51"),
        (&["--sample", "0"], "0 is not in 1..=100"),
        (&["--ties", "first"], "possible values: random, name"),
        (&["--load", "0.9"], "--departures"),
        (&["--departures", "--load", "0"], "must be from 0.01 to 10"),
    ] {
        let output = files.simulate(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(text(&output.stderr).contains(expected), "{flags:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_mirrored_run_samples_nodes_as_kube_scheduler_does_unless_told_otherwise() {
    let files = small();
    for (more, sample) in
        [(&["--mirror-scheduler"][..], 50), (&["--mirror-scheduler", "--sample", "30"], 30), (&[], 100)]
    {
        assert_eq!(json(&files, more)["sample"], sample, "{more:?}");
    }
}
