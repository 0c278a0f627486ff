//! Draws a [`Board`] as lines of text that fit a terminal: every GPU with a bar and its pods where there is room, a line per node
//! where there is not.

use super::board::{Board, GpuRow, NodeRow};
use super::news::{Item, Topic};

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) color: bool,
    /// Block characters; else plain ASCII.
    pub(super) unicode: bool,
}

#[derive(Debug, Clone, Copy)]
enum Paint {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
    Magenta,
    Cyan,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
            Self::Magenta => "35",
            Self::Cyan => "36",
        }
    }
}

/// A line under construction, which never gets wider than the terminal.
struct Line {
    style: Style,
    text: String,
    used: usize,
}

impl Line {
    fn new(style: Style) -> Self {
        Self { style, text: String::new(), used: 0 }
    }

    fn left(&self) -> usize {
        self.style.width.saturating_sub(self.used)
    }

    fn push(&mut self, paint: Option<Paint>, text: &str) {
        let cut: String = text.chars().take(self.left()).collect();
        self.used += cut.chars().count();
        match paint {
            Some(paint) if self.style.color && !cut.is_empty() => {
                self.text.push_str(&format!("\x1b[{}m{cut}\x1b[0m", paint.code()));
            }
            _ => self.text.push_str(&cut),
        }
    }

    fn plain(&mut self, text: &str) {
        self.push(None, text);
    }
}

/// The lines of one frame, at most `style.height` of them.
pub(super) fn frame(board: &Board, recent: &[Item], style: Style) -> Vec<String> {
    let mut lines = head(board, style);
    let room = style.height.saturating_sub(lines.len());
    let full: usize = board.nodes.iter().map(|node| 1 + node.gpus.len()).sum();
    let news = recent.len().min(6);
    if full < room {
        for node in &board.nodes {
            lines.push(node_title(node, style));
            lines.extend(node.gpus.iter().map(|gpu| gpu_line(gpu, style)));
        }
    } else {
        let shown = board.nodes.len().min(room.saturating_sub(if board.nodes.len() > room { 1 } else { 0 }));
        lines.extend(board.nodes[..shown].iter().map(|node| node_line(node, style)));
        if shown < board.nodes.len() {
            let mut line = Line::new(style);
            line.push(Some(Paint::Dim), &format!("  and {} more nodes", board.nodes.len() - shown));
            lines.push(line.text);
        }
    }
    let left = style.height.saturating_sub(lines.len());
    if left > 1 {
        lines.push(String::new());
        lines.extend(recent[recent.len() - news.min(left - 1)..].iter().map(|item| item_line(item, style)));
    }
    lines.truncate(style.height);
    lines
}

fn head(board: &Board, style: Style) -> Vec<String> {
    let mut first = Line::new(style);
    first.push(Some(Paint::Bold), "Packhorse demo");
    first.plain(&format!("  {:.1} s", board.elapsed.as_secs_f64()));
    match board.duration {
        Some(duration) => first.plain(&format!(" of {:.0} s", duration.as_secs_f64())),
        None => first.push(Some(Paint::Dim), "  (Ctrl-C ends it)"),
    }
    let percent = |share: f64| format!("{:3.0} %", share * 100.0);
    first.plain("   GPU memory ");
    first.push(Some(Paint::Cyan), &percent(board.use_now.memory));
    first.plain("  cores ");
    first.push(Some(Paint::Cyan), &percent(board.use_now.cores));
    first.plain("  GPUs used ");
    first.push(Some(Paint::Cyan), &percent(board.use_now.gpus));
    let mut second = Line::new(style);
    second.plain(&format!("Pods: {} offered, ", board.offered));
    second.push(Some(Paint::Green), &format!("{} placed", board.placed));
    second.plain(&format!(" ({} now), ", board.running));
    second.push(Some(Paint::Red), &format!("{} refused", board.refused));
    second.plain(", ");
    second.push(Some(Paint::Yellow), &format!("{} waiting", board.waiting));
    second.plain(&format!("; {} containers started on their own devices, ", board.started - board.wrong));
    second.push((board.wrong > 0).then_some(Paint::Red), &format!("{} on others", board.wrong));
    vec![first.text, second.text, String::new()]
}

fn node_title(node: &NodeRow, style: Style) -> String {
    let mut line = Line::new(style);
    line.push(Some(Paint::Bold), &node.name);
    line.push(Some(Paint::Dim), &format!("  {} x {}", node.gpus.len(), node.model));
    let profiles =
        |gpu: &GpuRow| gpu.instances.iter().map(|(profile, _)| profile.clone()).collect::<Vec<_>>().join(" ");
    if let Some(mig) = node.gpus.first().map(profiles).filter(|profiles| !profiles.is_empty()) {
        line.push(Some(Paint::Dim), &format!(", MIG: {mig}"));
    }
    line.text
}

fn bar(share: f64, cells: usize, unicode: bool) -> (String, String) {
    let filled = ((share.clamp(0.0, 1.0) * cells as f64).round() as usize).min(cells);
    // Something is something, even where it rounds to nothing.
    let filled = if share > 0.0 { filled.max(1) } else { filled };
    let (full, empty) = if unicode { ("█", "░") } else { ("#", ".") };
    (full.repeat(filled), empty.repeat(cells - filled))
}

fn paint(gpu: &GpuRow) -> Paint {
    match gpu.state.as_str() {
        "healthy" if gpu.exclusive => Paint::Magenta,
        "healthy" => Paint::Green,
        "unhealthy" => Paint::Red,
        _ => Paint::Yellow,
    }
}

fn share(gpu: &GpuRow) -> f64 {
    if gpu.memory == 0 { 0.0 } else { gpu.used as f64 / gpu.memory as f64 }
}

fn gpu_line(gpu: &GpuRow, style: Style) -> String {
    let mut line = Line::new(style);
    line.plain(&format!("  GPU {:<2} ", gpu.index));
    let (filled, empty) = bar(share(gpu), if style.width >= 90 { 20 } else { 10 }, style.unicode);
    line.push(Some(paint(gpu)), &filled);
    line.push(Some(Paint::Dim), &empty);
    let gib = |mib: i64| mib as f64 / 1024.0;
    line.plain(&format!(" {:>5.1}/{:<3.0}GiB ", gib(gpu.used), gib(gpu.memory)));
    if gpu.instances.is_empty() {
        line.push(Some(Paint::Dim), &format!("{:>3}% ", gpu.cores));
    } else {
        line.plain("     ");
    }
    if gpu.state != "healthy" {
        line.push(Some(paint(gpu)), &format!("{} ", gpu.state));
    }
    if gpu.instances.is_empty() {
        pods(&mut line, gpu);
    } else {
        instances(&mut line, gpu);
    }
    line.text
}

fn pods(line: &mut Line, gpu: &GpuRow) {
    for (position, (name, amount)) in gpu.pods.iter().enumerate() {
        let rest = gpu.pods.len() - position;
        let entry = format!(" {name} {amount}");
        // Room is kept for saying how many are not shown.
        let reserve = if rest > 1 { 5 } else { 0 };
        if entry.chars().count() + reserve > line.left() {
            line.push(Some(Paint::Dim), &format!(" +{rest}"));
            return;
        }
        line.plain(&format!(" {name}"));
        line.push(Some(Paint::Dim), &format!(" {amount}"));
    }
}

fn instances(line: &mut Line, gpu: &GpuRow) {
    for (profile, user) in &gpu.instances {
        let short = profile.split('.').next().unwrap_or(profile);
        line.push(Some(Paint::Dim), &format!(" {short}:"));
        match user {
            Some(user) => line.push(Some(Paint::Magenta), user),
            None => line.push(Some(Paint::Dim), "-"),
        }
    }
}

/// One node in one line: a column per GPU.
fn node_line(node: &NodeRow, style: Style) -> String {
    let mut line = Line::new(style);
    let model = node.model.trim_start_matches("NVIDIA ").trim_start_matches("Tesla ");
    line.push(Some(Paint::Bold), &format!("{:<8} ", node.name));
    line.push(Some(Paint::Dim), &format!("{:<15.15} ", model));
    for gpu in &node.gpus {
        let (filled, empty) = bar(share(gpu), 4, style.unicode);
        line.push(Some(paint(gpu)), &filled);
        line.push(Some(Paint::Dim), &empty);
        line.plain(" ");
    }
    let (used, memory) = node.gpus.iter().fold((0, 0), |(used, memory), gpu| (used + gpu.used, memory + gpu.memory));
    line.plain(&format!("{:>3.0} % ", if memory == 0 { 0.0 } else { used as f64 * 100.0 / memory as f64 }));
    let mut names: Vec<&str> = node.gpus.iter().flat_map(|gpu| &gpu.pods).map(|(name, _)| name.as_str()).collect();
    names.extend(node.gpus.iter().flat_map(|gpu| &gpu.instances).filter_map(|(_, user)| user.as_deref()));
    names.sort_unstable();
    names.dedup();
    line.push(Some(Paint::Dim), &format!("{} pods: ", names.len()));
    line.plain(&names.join(" "));
    line.text
}

/// A line of news.
pub(super) fn item_line(item: &Item, style: Style) -> String {
    let mut line = Line::new(style);
    let (word, paint) = match item.topic {
        Topic::Refused => ("refused", Paint::Red),
        Topic::Placed => ("placed", Paint::Green),
        Topic::Started => ("started", Paint::Green),
        Topic::Waiting => ("waiting", Paint::Yellow),
        Topic::Fleet => ("fleet", Paint::Cyan),
        Topic::Wrong => ("WRONG", Paint::Red),
    };
    line.push(Some(Paint::Dim), &format!("{:>6.1} s  ", item.at.as_secs_f64()));
    line.push(Some(paint), &format!("{word:<8} "));
    line.plain(&item.text.replace('\n', " "));
    line.text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::Shares;
    use super::*;

    fn board(nodes: usize, gpus: usize) -> Board {
        let gpu = |index: usize| GpuRow {
            index: index as i64,
            memory: 81920,
            used: if index == 0 { 24576 } else { 81920 },
            cores: 60,
            exclusive: index == 1,
            state: if index == 2 { "unhealthy" } else { "healthy" }.to_owned(),
            pods: (0..if index == 0 { 9 } else { 1 }).map(|n| (format!("infer-{n}"), "8.0G".to_owned())).collect(),
            instances: Vec::new(),
        };
        let node = |n: usize| NodeRow {
            name: format!("node-{n}"),
            model: "NVIDIA A100-SXM4-80GB".to_owned(),
            gpus: (0..gpus).map(gpu).collect(),
        };
        Board {
            elapsed: Duration::from_millis(12_345),
            duration: Some(Duration::from_secs(20)),
            seed: 1,
            offered: 100,
            refused: 3,
            placed: 90,
            running: 40,
            waiting: 7,
            started: 80,
            wrong: 0,
            use_now: Shares { memory: 0.8, cores: 0.5, gpus: 1.0 },
            nodes: (1..=nodes).map(node).collect(),
        }
    }

    fn news() -> Vec<Item> {
        let item = |n| Item { at: Duration::from_secs(n), topic: Topic::Placed, text: "x".repeat(200) };
        (0..20).map(item).collect()
    }

    #[test]
    fn a_frame_fits_every_terminal() {
        for (nodes, gpus) in [(1, 1), (6, 4), (6, 16), (300, 8)] {
            for (width, height) in [(200, 60), (100, 40), (80, 24), (40, 10), (20, 4)] {
                let style = Style { width, height, color: false, unicode: true };
                let lines = frame(&board(nodes, gpus), &news(), style);
                assert!(lines.len() <= height, "{nodes}x{gpus} on {width}x{height}");
                for line in lines {
                    assert!(line.chars().count() <= width, "{nodes}x{gpus} on {width}x{height}: {line}");
                }
            }
        }
    }

    #[test]
    fn every_gpu_has_a_line_where_there_is_room_and_every_node_where_there_is_not() {
        let style = |height| Style { width: 100, height, color: false, unicode: false };
        let shown = frame(&board(6, 4), &news(), style(45)).join("\n");
        assert_eq!(shown.lines().filter(|line| line.starts_with("  GPU ")).count(), 6 * 4);
        assert!(shown.contains("######..............  24.0/80 GiB  60%  infer-0 8.0G"), "{shown}");
        assert!(shown.contains("unhealthy"), "{shown}");
        assert!(shown.contains(" +6"), "{shown}");
        let shown = frame(&board(6, 4), &news(), style(20)).join("\n");
        assert_eq!(shown.matches("node-").count(), 6);
        assert!(shown.contains("placed"), "{shown}");
    }
}
