//! Allocation over arrivals as a picture: an SVG that needs no style sheet, no script and no font.

use std::fmt::{self, Display, Write as _};

use super::report::Report;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
/// Room for the numbers of the axes, and for the legend.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 56.0;
/// Distinct for people who see colours differently; repeated with dashes.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"];
/// The least that the picture shows of what is allocated, in points below the lowest end of a line.
const BELOW: f64 = 5.0;

/// One policy's line: percent arrived, percent allocated.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// The numbers that an axis shows.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

/// The picture.
struct Picture<'a> {
    lines: Vec<Line<'a>>,
    x: Axis,
    y: Axis,
}

/// Draws what each policy allocated, means over seeds. Several lines run together until the cluster is nearly full: then only what
/// comes after is shown.
pub fn svg(reports: &[Report]) -> String {
    let lines: Vec<_> = reports.iter().map(Line::of).collect();
    let (mut lowest, mut highest) = (100.0, 0.0);
    for end in lines.iter().map(Line::end) {
        (lowest, highest) = (f64::min(lowest, end), f64::max(highest, end));
    }
    let low = if lines.len() > 1 { f64::max(lowest - f64::max(highest - lowest, BELOW), 0.0) } else { 0.0 };
    let y = Axis::over(low, 100.0);
    let points = || lines.iter().flat_map(|line| &line.points);
    let end = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let start = points().filter(|(_, allocated)| *allocated >= y.low).map(|(x, _)| *x).fold(end - 1.0, f64::min);
    // The line of the last pod needs no round number.
    let x = Axis { high: end, ..Axis::over(start, end) };
    Picture { lines, x, y }.to_string()
}

impl<'a> Line<'a> {
    fn of(report: &'a Report) -> Self {
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
        Self { name: report.policy, points }
    }

    /// What is allocated after the last pod.
    fn end(&self) -> f64 {
        self.points.last().map_or(0.0, |(_, allocated)| *allocated)
    }
}

impl Axis {
    /// Round numbers around these, about six of them.
    fn over(low: f64, high: f64) -> Self {
        let rough = ((high - low) / 6.0).max(0.1);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    /// Where a number lies, 0..=1.
    fn place(&self, number: f64) -> f64 {
        (number - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, step) = (self.low, self.step);
        let count = ((self.high - low) / step + 1e-9).floor() as u32;
        (0..=count).map(move |tick| low + f64::from(tick) * step)
    }
}

impl Picture<'_> {
    fn at_x(&self, number: f64) -> f64 {
        LEFT + self.x.place(number) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, number: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(number) * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
        for tick in self.x.ticks() {
            let x = self.at_x(tick);
            writeln!(f, r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="#e0e0e0"/>"##)?;
            writeln!(f, r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#, bottom + 18.0)?;
        }
        for tick in self.y.ticks() {
            let y = self.at_y(tick);
            writeln!(f, r##"<line x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#e0e0e0"/>"##)?;
            writeln!(f, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{tick}</text>"#, left - 8.0, y + 4.0)?;
        }
        writeln!(f, r##"<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#404040"/>"##)?;
        let middle = f64::midpoint(left, right);
        writeln!(
            f,
            r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">GPU asked for by the pods that came, % of all</text>"#,
            HEIGHT - 14.0
        )?;
        let middle = f64::midpoint(top, bottom);
        writeln!(
            f,
            r#"<text transform="translate(18 {middle:.1}) rotate(-90)" text-anchor="middle">GPU allocated, % of all</text>"#
        )
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, at: usize, line: &Line<'_>, row: usize) -> fmt::Result {
        let colour = COLOURS[at % COLOURS.len()];
        let dash = if at < COLOURS.len() { "" } else { r#" stroke-dasharray="6 3""# };
        let style = format!(r#"fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"{dash}"#);
        let mut points = String::new();
        for (x, y) in line.points.iter().filter(|(x, _)| *x >= self.x.low) {
            write!(points, "{:.1},{:.1} ", self.at_x(*x), self.at_y(*y))?;
        }
        writeln!(
            f,
            r#"<polyline points="{}" clip-path="url(#plot)" {style}><title>{}</title></polyline>"#,
            points.trim_end(),
            line.name
        )?;
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + 22.0 * row as f64);
        writeln!(f, r#"<path d="M{x} {y}h24" {style}/>"#)?;
        writeln!(f, r#"<text x="{:.1}" y="{:.1}">{} {:.1}</text>"#, x + 32.0, y + 4.0, line.name, line.end())
    }
}

impl Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#202020">"##
        )?;
        writeln!(f, "<title>GPU allocated over arrivals</title>")?;
        writeln!(f, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##)?;
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        writeln!(
            f,
            r#"<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/></clipPath>"#
        )?;
        self.axes(f)?;
        // The legend in the order in which the lines end.
        let mut order: Vec<_> = (0..self.lines.len()).collect();
        order.sort_by(|a, b| self.lines[*b].end().total_cmp(&self.lines[*a].end()));
        for (row, at) in order.into_iter().enumerate() {
            self.line(f, at, &self.lines[at], row)?;
        }
        f.write_str("</svg>\n")
    }
}
