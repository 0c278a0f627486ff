//! The report of the measurements (`benches/report.rs`): what a file of figures becomes.

#[path = "../benches/report/goals.rs"]
mod goals;
#[path = "../benches/report/measured.rs"]
mod measured;
#[path = "../benches/report/plots.rs"]
mod plots;
#[path = "../benches/report/readme.rs"]
mod readme;
#[path = "../benches/report/tables.rs"]
mod tables;

use serde_json::{Value, json};

fn line(figure: &str, value: f64, case: &Value) -> String {
    json!({"figure": figure, "value": value, "unit": "us", "case": case}).to_string()
}

fn filter(server: &str, names: u32, kind: &str, p50: f64) -> String {
    let fill = if server == "reference" { "empty" } else { "half" };
    let case = json!({
        "server": server, "names": names, "name_length": 40, "fill": fill, "shapes": 150, "kind": kind, "events": 100,
        "protocol": "http1", "tls": false, "connections": 1, "cycle_ms": 0, "binds": true, "learns": true,
    });
    line("filter_p50_us", p50, &case)
}

fn webhook(server: &str, protocol: &str, cpu: f64) -> String {
    let case = json!({"server": server, "protocol": protocol, "load": "kept", "connections": 1});
    [line("webhook_cpu_us", cpu, &case), line("webhook_p50_us", cpu, &case)].join("\n")
}

fn rate(extender: &str, mix: &str, round: u32, rate: f64) -> String {
    let mut case = json!({
        "extender": extender, "mix": mix, "sampling": "stock", "round": round, "pods": 5000, "nodes": 5000,
    });
    if extender == "packhorse" {
        case["best_nodes"] = json!(1);
    }
    line("pods_per_second", rate, &case)
}

/// A made-up run of everything.
fn file() -> String {
    let mut lines = vec![
        line(
            "machine",
            2.0,
            &json!({"model": "a CPU", "kernel": "6.1", "load": "0.10", "date": "today", "program": "load", "commit": "abc", "build": "full"}),
        ),
        webhook("reference", "http1", 30.0),
        webhook("webhook", "http1", 50.0),
        webhook("reference", "http2", 40.0),
        webhook("webhook", "http2", 80.0),
        line("scale_resident_mb", 40.0, &json!({"nodes": 5000, "pods": 10_000})),
        line("scale_resident_mb", 44.0, &json!({"nodes": 5000, "pods": 10_000})),
        line("scale_resident_mb", 151.0, &json!({"nodes": 5000, "pods": 100_000})),
    ];
    for names in [100, 1_000, 5_000] {
        let size = f64::from(names);
        for run in [0.0, 2.0, 10.0] {
            lines.push(filter("packhorse", names, "known", 50.0 + size / 60.0 + run));
        }
        lines.push(filter("packhorse", names, "new", 60.0 + size / 10.0));
        lines.push(filter("reference", names, "known", 40.0 + size / 100.0));
    }
    for (round, factor) in [(0, 1.0), (1, 1.1), (2, 1.2)] {
        lines.push(rate("none", "default", round, 200.0 * factor));
        lines.push(rate("one_name", "default", round, 150.0 * factor));
        lines.push(rate("packhorse", "default", round, 141.0 * factor));
        lines.push(rate("one_name", "multigpu30", round, 150.0 * factor));
        lines.push(rate("packhorse", "multigpu30", round, 120.0 * factor));
    }
    lines.join("\n")
}

/// The row of a table that begins with this.
fn row<'t>(table: &'t str, begin: &str) -> &'t str {
    table.lines().find(|line| line.starts_with(&format!("| {begin}"))).unwrap_or_else(|| panic!("{begin} in {table}"))
}

#[test]
fn goals_are_told_with_median_spread_floor_and_verdict() {
    let table = goals::table(&measured::read(&file()).unwrap());
    for (begin, expected) in [
        ("filter, known shape, p50", "| <= 150 us | 90.0 us | 135 us (133 to 143, 3 runs) | 1.5 | yes |"),
        ("filter, new shape never", "| <= 400 us | 90.0 us | 560 us (1 run) | 6.2 | **no** |"),
        ("filter, known shape, TLS", "| <= 250 us | | not measured | | |"),
        ("webhook, processor", "| <= 60.0 us | 30.0 us | 50.0 us (1 run) | 1.7 | yes |"),
        ("pods/s, stock sampling, to a no-op", "| >= 0.90 |  | 0.80 (0.73 to 0.87, 3 runs) |  | **no** |"),
        ("pods/s, stock sampling, to no extender", "| reported |  | 0.70 (0.64 to 0.77, 3 runs) |  |  |"),
        ("server memory, 5,000 nodes, 10,000", "| <= 60.0 MB |  | 42.0 MB (40.0 to 44.0, 2 runs) |  | yes |"),
        ("server memory, 5,000 nodes, 100,000", "| <= 150 MB |  | 151 MB (1 run) |  | **no** |"),
    ] {
        let row = row(&table, begin);
        assert!(row.ends_with(expected), "{expected} in {row}");
    }
}

#[test]
fn figures_of_several_files_are_runs_of_one_case() {
    let twice = measured::read(&format!("{}\n{}\n", file(), file())).unwrap();
    assert_eq!(twice.len(), measured::read(&file()).unwrap().len());
    let row = row(&goals::table(&twice), "filter, known shape, p50").to_owned();
    assert!(row.contains("6 runs"), "{row}");
}

#[test]
fn a_line_that_is_no_figure_is_named() {
    for (line, expected) in [
        ("{", "line 2: "),
        (r#"{"value": 1}"#, "line 2: no text \"figure\""),
        (r#"{"figure": "a", "value": "1"}"#, "line 2: no number \"value\""),
    ] {
        let error = measured::read(&format!("{}\n{line}", self::line("a", 1.0, &json!({})))).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn tables_leave_out_what_all_cases_share() {
    let all = measured::read(&file()).unwrap();
    let table = tables::table(&all, &[("webhook_p50_us", "p50"), ("webhook_cpu_us", "CPU")]).unwrap();
    assert_eq!(
        table,
        "| protocol | server | p50 | CPU | runs |\n|---|---|---:|---:|---:|\n\
         | http1 | reference | 30.0 | 30.0 | 1 |\n| http1 | webhook | 50.0 | 50.0 | 1 |\n\
         | http2 | reference | 40.0 | 40.0 | 1 |\n| http2 | webhook | 80.0 | 80.0 | 1 |\n"
    );
    assert_eq!(tables::table(&all, &[("nothing", "")]), None);
}

#[test]
fn pictures_are_drawn_of_what_was_measured() {
    let all = measured::read(&file()).unwrap();
    let pictures = plots::all(&all);
    let names: Vec<&str> = pictures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["latency.svg", "memory.svg", "throughput.svg", "webhook.svg"]);
    if let Some(folder) = std::env::var_os("PACKHORSE_PICTURES") {
        for (name, svg) in &pictures {
            std::fs::write(std::path::Path::new(&folder).join(name), svg).unwrap();
        }
    }
    let latency = &pictures[0].1;
    assert_eq!(latency.matches("<polyline").count(), 3, "{latency}");
    assert!(pictures.iter().all(|(_, svg)| !svg.contains("NaN") && svg.ends_with("</svg>\n")));
    assert!(pictures[2].1.contains("<title>multigpu30, stock, packhorse, best 1: 132</title>"), "{}", pictures[2].1);
    assert!(plots::all(&[]).is_empty());
}

#[test]
fn only_what_stands_between_the_markers_is_replaced() {
    let page = "before\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nafter\n";
    let figures = readme::figures(&measured::read(&file()).unwrap(), &["latency.svg"]);
    let page = readme::put(page, &figures).unwrap();
    assert!(page.starts_with("before\n<!-- figures:begin -->\n\n- `load`: today at abc, 2 cores of a CPU"), "{page}");
    assert!(page.ends_with("\n<!-- figures:end -->\nafter\n") && !page.contains("old"), "{page}");
    assert!(page.contains("(plots/latency.svg)"), "{page}");
    assert_eq!(readme::put(&page, &figures).unwrap(), page);
    assert!(readme::put("nothing", "").unwrap_err().contains("figures:begin"));
}
