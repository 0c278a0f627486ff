//! Allocation over arrivals as a picture.

use super::report::Report;
use crate::plot::{Axis, Line, Plot};

/// The least that the picture shows of what is allocated, in points below the lowest end of a line.
const BELOW: f64 = 5.0;

/// Draws what each policy allocated, means over seeds. Several lines run together until the cluster is nearly full: then only what
/// comes after is shown.
pub fn svg(reports: &[Report]) -> String {
    let mut lines: Vec<_> = reports.iter().enumerate().map(|(colour, report)| line(report, colour)).collect();
    // The legend in the order in which the lines end.
    lines.sort_by(|a, b| end(b).total_cmp(&end(a)));
    let (highest, lowest) = (lines.first().map_or(0.0, end), lines.last().map_or(100.0, end));
    let low = if lines.len() > 1 { f64::max(lowest - f64::max(highest - lowest, BELOW), 0.0) } else { 0.0 };
    let y = Axis::linear("GPU allocated, % of all", low, 100.0);
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let start = points().filter(|(_, allocated)| *allocated >= y.low()).map(|(x, _)| *x).fold(last - 1.0, f64::min);
    let x = Axis::linear("GPU asked for by the pods that came, % of all", start, last).ending_at(last);
    for line in &mut lines {
        line.points.retain(|(at, _)| *at >= x.low());
    }
    Plot { title: "GPU allocated over arrivals".to_owned(), x, y, lines }.to_string()
}

/// Percent arrived, percent allocated.
fn line(report: &Report, colour: usize) -> Line {
    let mut sums: Vec<(usize, f64, u32)> = Vec::new();
    for (x, unallocated) in report.runs.iter().flat_map(|run| run.curve.points()) {
        match sums.binary_search_by_key(&x, |(x, ..)| *x) {
            Ok(at) => {
                sums[at].1 += unallocated;
                sums[at].2 += 1;
            }
            Err(at) => sums.insert(at, (x, unallocated, 1)),
        }
    }
    let points = sums.into_iter().map(|(x, sum, count)| (x as f64, 100.0 - sum / f64::from(count))).collect();
    let line = Line { name: report.policy.to_owned(), points, colour, ..Line::default() };
    Line { legend: format!("{} {:.1}", report.policy, end(&line)), ..line }
}

/// What is allocated after the last pod.
fn end(line: &Line) -> f64 {
    line.points.last().map_or(0.0, |(_, allocated)| *allocated)
}
