//! How commands for people print what they found: a table with columns as wide as they need to be, or data. Used by `inspect` and `top`.

use serde::Serialize;

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For people with wide terminals.
    Wide,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// A report as data; `None` where a table is wanted. `watched`: one document after the other.
pub(super) fn data(format: Format, report: &impl Serialize, watched: bool) -> anyhow::Result<Option<String>> {
    match format {
        Format::Json => Ok(Some(format!("{}\n", serde_json::to_string(report)?))),
        Format::Yaml => {
            let start = if watched { "---\n" } else { "" };
            Ok(Some(format!("{start}{}", serde_saphyr::to_string(report)?)))
        }
        Format::Table | Format::Wide => Ok(None),
    }
}

/// Rows of cells with a header.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With nothing below its header.
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// One more row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Columns as wide as they need to be, numbers at the right.
    pub(super) fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let shape: Vec<_> = (0..columns).map(|at| (width(at).unwrap_or(0), self.counts(at))).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, counts)) in row.iter().zip(&shape) {
                let space = " ".repeat(width - cell.chars().count());
                let (before, after) = if *counts { (&*space, "") } else { ("", &*space) };
                line.extend([before, cell, after, "   "]);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    /// Whether a column below its header is of numbers, and of words for those that are missing.
    fn counts(&self, at: usize) -> bool {
        let number = |cell: &str| cell.chars().all(|c| c.is_ascii_digit() || matches!(c, '/' | '.'));
        let mut cells =
            self.rows.iter().skip(1).filter_map(|row| row.get(at)).map(|cell| cell.trim_start_matches("unknown"));
        self.rows.len() > 1 && cells.all(|cell| cell == "-" || number(cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_at_the_right_and_words_at_the_left() {
        let mut table = Table::new(&["NAME", "USED", "PARTS", "NOTE"]);
        for cells in [["a", "5", "1/20", "1 of 2"], ["long", "unknown", "unknown/3", "7"], ["b", "-", "10/2", ""]] {
            table.row(cells.map(str::to_owned).to_vec());
        }
        let mut out = String::new();
        table.write(&mut out);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME      USED       PARTS   NOTE",
                "a            5        1/20   1 of 2",
                "long   unknown   unknown/3   7",
                "b            -        10/2",
            ]
        );
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        let mut out = String::new();
        Table::new(&["A", "B"]).write(&mut out);
        assert_eq!(out, "A   B\n");
    }
}
