//! Plots as SVG that needs no script, no font and no style sheet beside it: lines over two axes, and bars. Light, and dark where the
//! reader's surroundings are. Drawn by `simulate --svg` and by the report of the measurements; knows nothing of either.
//!
//! Numbers that an axis cannot show (not finite, on a logarithmic axis not above zero) are left out of a line.

pub mod axis;
pub mod bars;

use std::fmt::{self, Display, Write as _};

pub use axis::Axis;
pub use bars::Bars;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
/// Room for the numbers of the axes, and for the legend.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
/// Distinct for people who see colours differently, on white and on black; repeated with dashes.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080", "#8c6d31"];

/// Lines over two axes, and a legend.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Stands above.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The legend has them in this order.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Shown where the pointer rests on the line.
    pub name: String,
    /// What the legend says.
    pub legend: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Which colour; any number.
    pub colour: usize,
    /// For what is only compared with.
    pub dashed: bool,
    /// Whether each point is marked: for lines of few points.
    pub marked: bool,
}

impl Plot {
    fn at_x(&self, number: f64) -> f64 {
        LEFT + self.x.place(number) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, number: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(number) * (HEIGHT - TOP - BOTTOM)
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, row: usize, line: &Line) -> fmt::Result {
        let colour = colour(line.colour);
        let dash = if line.dashed || line.colour >= COLOURS.len() { r#" stroke-dasharray="6 3""# } else { "" };
        let style = format!(r#"fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"{dash}"#);
        let shown = || line.points.iter().filter(|(x, y)| self.x.shows(*x) && self.y.shows(*y));
        let mut points = String::new();
        for (x, y) in shown() {
            write!(points, "{:.1},{:.1} ", self.at_x(*x), self.at_y(*y))?;
        }
        let name = escaped(&line.name);
        writeln!(
            f,
            r#"<polyline points="{}" clip-path="url(#plot)" {style}><title>{name}</title></polyline>"#,
            points.trim_end(),
        )?;
        for (x, y) in shown().filter(|_| line.marked) {
            writeln!(f, r#"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"#, self.at_x(*x), self.at_y(*y))?;
        }
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + 22.0 * row as f64);
        writeln!(f, r#"<path d="M{x} {y}h24" {style}/>"#)?;
        writeln!(f, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, x + 32.0, y + 4.0, escaped(&line.legend))
    }
}

impl Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(f, &self.title)?;
        let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
        let (width, height) = (right - left, bottom - top);
        writeln!(
            f,
            r#"<clipPath id="plot"><rect x="{left}" y="{top}" width="{width}" height="{height}"/></clipPath>"#
        )?;
        for tick in self.x.ticks() {
            let x = self.at_x(tick);
            writeln!(f, r##"<path class="grid" d="M{x:.1} {top}V{bottom}" stroke="#e0e0e0"/>"##)?;
            writeln!(
                f,
                r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                bottom + 18.0,
                axis::text(tick)
            )?;
        }
        upwards(f, &self.y)?;
        let middle = f64::midpoint(left, right);
        writeln!(
            f,
            r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - 14.0,
            escaped(&self.x.label)
        )?;
        for (row, line) in self.lines.iter().enumerate() {
            self.line(f, row, line)?;
        }
        f.write_str("</svg>\n")
    }
}

/// The beginning of a picture: its size, its colours by day and by night, its title.
fn head(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(
        f,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="13" fill="#202020" class="ink">"##
    )?;
    writeln!(
        f,
        "<style>@media (prefers-color-scheme:dark){{.ink{{fill:#e6e6e6}}.paper{{fill:#16181c}}.grid{{stroke:#3a3d44}}.axis{{stroke:#a0a0a0}}}}</style>"
    )?;
    let title = escaped(title);
    writeln!(f, "<title>{title}</title>")?;
    writeln!(f, r##"<rect class="paper" width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##)?;
    writeln!(f, r#"<text x="{LEFT}" y="24" font-size="15">{title}</text>"#)
}

/// The grid, the numbers and the words of the upward axis, and both axes themselves.
fn upwards(f: &mut fmt::Formatter<'_>, axis: &Axis) -> fmt::Result {
    let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
    for tick in axis.ticks() {
        let y = bottom - axis.place(tick) * (bottom - top);
        writeln!(f, r##"<path class="grid" d="M{left} {y:.1}H{right}" stroke="#e0e0e0"/>"##)?;
        writeln!(f, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#, left - 8.0, y + 4.0, axis::text(tick))?;
    }
    writeln!(f, r##"<path class="axis" d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#404040"/>"##)?;
    let middle = f64::midpoint(top, bottom);
    writeln!(
        f,
        r#"<text transform="translate(18 {middle:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
        escaped(&axis.label)
    )
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(x: Axis, y: Axis, points: &[(f64, f64)]) -> String {
        let line = Line { name: "a<b".to_owned(), points: points.to_vec(), marked: true, ..Line::default() };
        Plot { title: "R&D".to_owned(), x, y, lines: vec![line] }.to_string()
    }

    #[test]
    fn a_decade_is_as_long_as_the_next_on_a_logarithmic_axis() {
        let axes = (Axis::logarithmic("", 1.0, 100.0), Axis::logarithmic("", 1.0, 100.0));
        let svg = plot(axes.0, axes.1, &[(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)]);
        let (middle, right, top) = (f64::midpoint(LEFT, WIDTH - RIGHT), WIDTH - RIGHT, TOP);
        let (height, bottom) = (f64::midpoint(TOP, HEIGHT - BOTTOM), HEIGHT - BOTTOM);
        let expected = format!("points=\"{LEFT:.1},{bottom:.1} {middle:.1},{height:.1} {right:.1},{top:.1}\"");
        assert!(svg.contains(&expected), "{expected} in {svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out() {
        let svg = plot(
            Axis::linear("", 0.0, 10.0),
            Axis::logarithmic("", 1.0, 100.0),
            &[(1.0, 0.0), (2.0, 10.0), (3.0, f64::NAN), (4.0, f64::INFINITY)],
        );
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let svg = plot(Axis::linear("x < y", 0.0, 1.0), Axis::linear("", 0.0, 1.0), &[]);
        for text in ["a&lt;b", "R&amp;D", "x &lt; y"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }
}
