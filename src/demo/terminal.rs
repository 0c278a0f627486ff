//! Where the demo is shown: a table redrawn in place on a terminal, plain lines anywhere else, or nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::board::Board;
use super::frame::{Style, frame, item_line};
use super::news::Item;

/// How the demo shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// A table on a terminal, plain lines elsewhere.
    Auto,
    /// Nothing at all.
    Silent,
}

/// Plain lines show the whole fleet's state this often.
const STATUS_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Mode {
    Table { style: Style, drawn: usize },
    Lines { next_status: Duration },
    Silent,
}

/// Standard output, in one of its modes.
#[derive(Debug)]
pub(super) struct Terminal {
    mode: Mode,
    recent: VecDeque<Item>,
    /// Lines printed before the table, which stay visible where there is room.
    above: usize,
}

impl Terminal {
    pub(super) fn new(display: Display) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let mode = match display {
            Display::Silent => Mode::Silent,
            Display::Auto if io::stdout().is_terminal() && !dumb => Mode::Table { style: style(), drawn: 0 },
            Display::Auto => Mode::Lines { next_status: STATUS_EVERY },
        };
        Self { mode, recent: VecDeque::new(), above: 0 }
    }

    /// Columns that text should keep to.
    pub(super) fn width(&self) -> usize {
        match &self.mode {
            Mode::Table { style, .. } => style.width,
            _ => usize::MAX,
        }
    }

    /// Prints lines that stay.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        if matches!(self.mode, Mode::Silent) {
            return Ok(());
        }
        if let Mode::Table { drawn, .. } = &mut self.mode {
            *drawn = 0;
        }
        self.above = text.lines().count();
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The window has another size now.
    pub(super) fn resized(&mut self) {
        if let Mode::Table { style: current, drawn } = &mut self.mode {
            *current = style();
            // Lines may have been wrapped anew: what was drawn cannot be found again.
            *drawn = 0;
        }
    }

    pub(super) fn tell(&mut self, item: Item) -> io::Result<()> {
        match &mut self.mode {
            Mode::Silent => Ok(()),
            Mode::Lines { .. } => {
                let style = Style { width: usize::MAX, height: 1, color: false, unicode: false };
                writeln!(io::stdout().lock(), "{}", item_line(&item, style))
            }
            Mode::Table { .. } => {
                self.recent.push_back(item);
                if self.recent.len() > 16 {
                    self.recent.pop_front();
                }
                Ok(())
            }
        }
    }

    /// Draws the table, or now and then a line about the fleet.
    pub(super) fn show(&mut self, board: &Board) -> io::Result<()> {
        match &mut self.mode {
            Mode::Silent => Ok(()),
            Mode::Lines { next_status } => {
                if board.elapsed < *next_status {
                    return Ok(());
                }
                *next_status += STATUS_EVERY;
                writeln!(
                    io::stdout().lock(),
                    "{:>6.1} s  status   {} offered, {} placed ({} now), {} refused, {} waiting; GPU memory {:.0} %, cores {:.0} %",
                    board.elapsed.as_secs_f64(),
                    board.offered,
                    board.placed,
                    board.running,
                    board.refused,
                    board.waiting,
                    board.use_now.memory * 100.0,
                    board.use_now.cores * 100.0
                )
            }
            Mode::Table { style, drawn } => {
                // The table stays below what was printed before, unless that leaves too little.
                let rows = style.height.saturating_sub(1);
                let beside = rows.saturating_sub(self.above);
                let needed: usize = 5 + board.nodes.iter().map(|node| 1 + node.gpus.len()).sum::<usize>();
                let height = if beside >= needed { beside } else { rows };
                let lines = frame(board, self.recent.make_contiguous(), Style { height, ..*style });
                let mut text = String::new();
                if *drawn > 0 {
                    text.push_str(&format!("\x1b[{}A", *drawn));
                }
                // Written over in place, each line cleared to its end: no flicker.
                for line in &lines {
                    text.push_str(&format!("\r{line}\x1b[K\n"));
                }
                text.push_str("\x1b[J");
                *drawn = lines.len();
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
        }
    }
}

fn style() -> Style {
    let (height, width) = size().unwrap_or((24, 80));
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| std::env::var(name).ok()).find(|v| !v.is_empty());
    let unicode = locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Style { width: width.max(20), height: height.max(4), color, unicode }
}

/// Rows and columns, as `stty` knows them: asking the kernel directly would need unsafe code or another dependency.
fn size() -> Option<(usize, usize)> {
    let tty = File::open("/dev/tty").ok()?;
    let output = Command::new("stty").arg("size").stdin(Stdio::from(tty)).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse::<usize>().ok().filter(|number| *number > 0));
    Some((numbers.next()??, numbers.next()??))
}
