//! Bars in groups, one bar of each group for each series.

use std::fmt::{self, Display};

use super::{Axis, BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, axis, colour, escaped, head, upwards};

/// Share of a group's width that stays empty.
const GAP: f64 = 0.25;

/// Bars in groups, and a legend of the series.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Stands above.
    pub title: String,
    /// Upwards; begins at zero.
    pub y: Axis,
    /// What the bars of a group stand for.
    pub series: Vec<String>,
    /// Name, and a height for each series. What is missing has no bar.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

impl Display for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        head(f, &self.title)?;
        upwards(f, &self.y)?;
        let bottom = HEIGHT - BOTTOM;
        let group = (WIDTH - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        let bar = group * (1.0 - GAP) / self.series.len().max(1) as f64;
        for (at, (name, heights)) in self.groups.iter().enumerate() {
            let left = LEFT + group * (at as f64 + GAP / 2.0);
            let heights = heights.iter().enumerate().filter_map(|(series, height)| Some((series, (*height)?)));
            for (series, height) in heights.filter(|(_, height)| self.y.shows(*height)) {
                let (x, tall) = (left + bar * series as f64, self.y.place(height) * (bottom - TOP));
                let title = format!("{name}, {}: {}", self.series.get(series).map_or("", |it| it), axis::text(height));
                writeln!(
                    f,
                    r#"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{tall:.1}" fill="{}"><title>{}</title></rect>"#,
                    bottom - tall,
                    bar * 0.92,
                    colour(series),
                    escaped(&title)
                )?;
            }
            let middle = left + group * (1.0 - GAP) / 2.0;
            // One line a word group: names of two parts would run into each other.
            for (row, part) in name.split(", ").enumerate() {
                let y = bottom + 18.0 + 16.0 * row as f64;
                writeln!(f, r#"<text x="{middle:.1}" y="{y:.1}" text-anchor="middle">{}</text>"#, escaped(part))?;
            }
        }
        for (row, series) in self.series.iter().enumerate() {
            let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 4.0 + 22.0 * row as f64);
            writeln!(f, r#"<rect x="{x}" y="{y}" width="14" height="12" fill="{}"/>"#, colour(row))?;
            writeln!(f, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, x + 22.0, y + 10.0, escaped(series))?;
        }
        f.write_str("</svg>\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_high_as_its_number() {
        let bars = Bars {
            title: String::new(),
            y: Axis::linear("pods/s", 0.0, 100.0),
            series: vec!["a".to_owned(), "b".to_owned()],
            groups: vec![
                ("one, stock".to_owned(), vec![Some(100.0), Some(50.0)]),
                ("two".to_owned(), vec![None, Some(25.0)]),
            ],
        };
        let svg = bars.to_string();
        let full = HEIGHT - TOP - BOTTOM;
        for (share, title) in [(1.0, "one, stock, a: 100"), (0.5, "one, stock, b: 50"), (0.25, "two, b: 25")] {
            let (line, tall) = (format!("<title>{title}</title>"), format!("height=\"{:.1}\"", share * full));
            assert!(svg.lines().any(|it| it.contains(&line) && it.contains(&tall)), "{title} {tall} in {svg}");
        }
        assert!(!svg.contains("two, a:"), "{svg}");
    }
}
