//! The pictures: how latency grows with the names, memory with the pods, and what the scheduler binds per second.

use packhorse::plot::{Axis, Bars, Line, Plot};

use super::measured::Measured;

/// File name and SVG of every picture for which something was measured.
pub(crate) fn all(all: &[Measured]) -> Vec<(&'static str, String)> {
    [
        ("latency.svg", latency(all)),
        ("memory.svg", memory(all)),
        ("throughput.svg", throughput(all)),
        ("webhook.svg", webhook(all)),
    ]
    .into_iter()
    .filter_map(|(name, svg)| Some((name, svg?)))
    .collect()
}

/// The median of a figure over a number of its case.
fn points(all: &[Measured], figure: &str, case: &[(&str, &str)], over: &str) -> Vec<(f64, f64)> {
    let found = all.iter().filter(|it| it.is(figure, case));
    let mut points: Vec<(f64, f64)> = found.filter_map(|it| Some((it.number(over)?, it.median()))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn line(legend: &str, colour: usize, points: Vec<(f64, f64)>) -> Line {
    let legend = legend.to_owned();
    Line { name: legend.clone(), legend, points, colour, marked: true, dashed: false }
}

fn range(lines: &[Line], of: impl Fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(&of));
    (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max))
}

fn latency(all: &[Measured]) -> Option<String> {
    // Lines of several cases would run to and fro: all words but the names are fixed.
    const TRANSPORT: [(&str, &str); 5] =
        [("name_length", "40"), ("connections", "1"), ("protocol", "http1"), ("tls", "false"), ("cycle_ms", "0")];
    const USUAL: [(&str, &str); 6] = [
        ("server", "packhorse"),
        ("fill", "half"),
        ("shapes", "150"),
        ("events", "100"),
        ("binds", "true"),
        ("learns", "true"),
    ];
    let of = |kind, figure| points(all, figure, &[&TRANSPORT[..], &USUAL, &[("kind", kind)]].concat(), "names");
    let floor = points(all, "filter_p50_us", &[&TRANSPORT[..], &[("server", "reference")]].concat(), "names");
    let lines = [
        line("new shape never seen, p50", 1, of("new", "filter_p50_us")),
        line("new shape, seen in watch, p50", 2, of("announced", "filter_p50_us")),
        Line { dashed: true, ..line("known shape, p99", 0, of("known", "filter_p99_us")) },
        line("known shape, p50", 0, of("known", "filter_p50_us")),
        Line { dashed: true, ..line("floor: no-op server, p50", 6, floor) },
    ];
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return None;
    }
    let (x, y) = (range(&lines, |point| point.0), range(&lines, |point| point.1));
    let x = Axis::logarithmic("node names in a request", x.0, x.1);
    let y = Axis::logarithmic("time of /filter, us", y.0, y.1);
    Some(Plot { title: "/filter over HTTP on loopback".to_owned(), x, y, lines }.to_string())
}

fn memory(all: &[Measured]) -> Option<String> {
    let of = |figure| points(all, figure, &[("nodes", "5000")], "pods");
    let lines =
        [Line { dashed: true, ..line("peak", 1, of("scale_peak_mb")) }, line("resident", 0, of("scale_resident_mb"))];
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return None;
    }
    let x = Axis::linear("GPU pods", 0.0, range(&lines, |point| point.0).1);
    let y = Axis::linear("memory of packhorse server, MB", 0.0, range(&lines, |point| point.1).1);
    Some(Plot { title: "Memory, 5,000 nodes of 8 GPUs".to_owned(), x, y, lines }.to_string())
}

fn throughput(all: &[Measured]) -> Option<String> {
    let rates: Vec<&Measured> = all.iter().filter(|it| it.figure == "pods_per_second").collect();
    let names = |name: fn(&Measured) -> String| {
        let mut names: Vec<String> = Vec::new();
        for rate in &rates {
            let name = name(rate);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    };
    let group = |it: &Measured| {
        let sampling = it.says("sampling");
        format!("{}, {}", it.says("mix"), if sampling == "100" { "all nodes".to_owned() } else { sampling })
    };
    let series = |it: &Measured| match it.says("best_nodes") {
        best if best.is_empty() => it.says("extender").replace('_', " "),
        best => format!("{}, best {best}", it.says("extender")),
    };
    let (groups, series_names) = (names(group), names(series));
    let groups: Vec<_> = groups
        .into_iter()
        .map(|name| {
            let of = |wanted: &String| rates.iter().find(|it| group(it) == name && series(it) == *wanted);
            let heights = series_names.iter().map(|wanted| of(wanted).map(|it| it.median())).collect();
            (name, heights)
        })
        .collect();
    let highest = rates.iter().map(|it| it.median()).fold(0.0, f64::max);
    let y = Axis::linear("pods bound per second", 0.0, highest);
    let title = "kube-scheduler, 5,000 nodes".to_owned();
    (!rates.is_empty()).then(|| Bars { title, y, series: series_names, groups }.to_string())
}

fn webhook(all: &[Measured]) -> Option<String> {
    let loads = [("kept", "kept, 1"), ("new", "new each, 1"), ("resumed", "resumed, 1"), ("stream", "100/s, 1")];
    let mut series = Vec::new();
    let mut groups: Vec<(String, Vec<Option<f64>>)> = loads.map(|(_, name)| (name.replace(", 1", ""), vec![])).to_vec();
    for (protocol, shown) in [("http1", "HTTP/1.1"), ("http2", "HTTP/2")] {
        for (server, name) in [("reference", "no-op server"), ("webhook", "webhook")] {
            series.push(format!("{name}, {shown}"));
            for ((load, _), (_, heights)) in loads.iter().zip(&mut groups) {
                let case = [("server", server), ("protocol", protocol), ("load", load), ("connections", "1")];
                heights.push(all.iter().find(|it| it.is("webhook_p50_us", &case)).map(Measured::median));
            }
        }
    }
    let highest = groups.iter().flat_map(|(_, heights)| heights).flatten().copied().fold(0.0, f64::max);
    let y = Axis::linear("p50, us", 0.0, highest);
    (highest > 0.0)
        .then(|| Bars { title: "Webhook over TLS, one connection".to_owned(), y, series, groups }.to_string())
}
