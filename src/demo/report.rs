//! What is told at the end, and whether the demo was a success.

use std::fmt::Write as _;
use std::time::Duration;

use super::checker::Started;
use super::latency::{Percentiles, Short};

/// The outcome of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// How long it ran.
    pub elapsed: Duration,
    /// The seed it ran with.
    pub seed: u64,
    /// Nodes and GPUs.
    pub nodes: usize,
    /// GPUs of all nodes.
    pub gpus: usize,
    /// Pods that users tried to create.
    pub offered: usize,
    /// Of these, let in by admission.
    pub admitted: usize,
    /// Refused at admission: the webhook's words, and how often.
    pub refused: Vec<(String, usize)>,
    /// GPU pods bound.
    pub placed: usize,
    /// Pods without a GPU bound.
    pub placed_plain: usize,
    /// Ended well, ended badly, deleted while running.
    pub ended: [usize; 3],
    /// Containers that started, and with whose devices.
    pub started: Started,
    /// Pods that their node's kubelet failed.
    pub not_admitted: usize,
    /// Tries to start a container that the agent or the runtime refused.
    pub refused_starts: usize,
    /// From a GPU's failure until the inventory said so, the longest; `None`: no GPU failed.
    pub noticed: Option<Duration>,
    /// Deleted by users who waited in vain.
    pub given_up: usize,
    /// Pods without a node at the end.
    pub waiting_pods: usize,
    /// Why nodes do not take them: the reason, how many of the pods met it, and one of them.
    pub waiting: Vec<(String, usize, String)>,
    /// Share of the fleet given to pods, mean over the run.
    pub mean_use: Shares,
    /// The same at its highest.
    pub peak_use: Shares,
    /// The webhook, seen from the API server.
    pub webhook: Percentiles,
    /// The extender, seen from the scheduler.
    pub filter: Percentiles,
    /// The extender, seen from the scheduler.
    pub prioritize: Percentiles,
    /// The extender with its API call, seen from the scheduler.
    pub bind: Percentiles,
    /// The agents, seen from the kubelets.
    pub allocate: Percentiles,
    /// The agents' check at container start, seen from the kubelets.
    pub pre_start: Percentiles,
    /// From a GPU pod's creation to its binding.
    pub waits: Percentiles,
    /// Writes of the server to the API server that succeeded, by what was written.
    pub writes: Vec<(String, usize)>,
    /// The same of the agents.
    pub agent_writes: Vec<(String, usize)>,
    /// Errors the scheduler met, and how often.
    pub errors: Vec<(String, usize)>,
    /// Faults injected into the API server's answers and watches.
    pub faults: u64,
    /// States of the cluster that were judged.
    pub states: u64,
    /// Oversubscribed devices and broken promises.
    pub violations: Vec<String>,
    /// Pods that admission treated otherwise than it must.
    pub surprises: Vec<String>,
}

/// How much of the fleet is given to pods, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Shares {
    /// Of all GPU memory.
    pub memory: f64,
    /// Of all cores of cards that are not in MIG mode.
    pub cores: f64,
    /// GPUs with at least one pod.
    pub gpus: f64,
}

impl Report {
    /// Whether no device was oversubscribed, no container got another's devices, no promise broken and no pod wrongly admitted or refused.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.surprises.is_empty()
    }

    /// The summary, in lines of at most `width` columns where they can be cut; the verdict comes last.
    pub fn text(&self, width: usize) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, width.max(40));
        out
    }

    fn write(&self, out: &mut String, width: usize) -> std::fmt::Result {
        let refused: usize = self.refused.iter().map(|(_, count)| count).sum();
        writeln!(
            out,
            "\nSummary after {:.1} s: {} nodes, {} GPUs, seed {}",
            self.elapsed.as_secs_f64(),
            self.nodes,
            self.gpus,
            self.seed
        )?;
        writeln!(out, "  {:>5} pods offered", self.offered)?;
        writeln!(
            out,
            "  {:>5} placed on GPUs, {} more without a GPU (never sent to Packhorse)",
            self.placed, self.placed_plain
        )?;
        let [completed, failed, deleted] = self.ended;
        writeln!(
            out,
            "  {:>5} of them over: {completed} completed, {failed} failed, {deleted} deleted",
            completed + failed + deleted
        )?;
        writeln!(out, "  {refused:>5} refused at admission, because they could never run:")?;
        for (words, count) in &self.refused {
            wrapped(out, &format!("{count:>9} x "), words, width)?;
        }
        writeln!(
            out,
            "  {:>5} waiting for room at the end, {} taken back by their users before",
            self.waiting_pods, self.given_up
        )?;
        if !self.waiting.is_empty() {
            writeln!(out, "        why not on other nodes, and how many of the pods say so:")?;
        }
        for (reason, count, example) in &self.waiting {
            wrapped(out, &format!("{count:>9} x "), &format!("{reason}  ({example})"), width)?;
        }
        let percent = |share: f64| share * 100.0;
        writeln!(
            out,
            "  given to pods: GPU memory {:.0} % on average, {:.0} % at most; cores {:.0} %, {:.0} %",
            percent(self.mean_use.memory),
            percent(self.peak_use.memory),
            percent(self.mean_use.cores),
            percent(self.peak_use.cores)
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "  {:<34} {:>6} {:>9} {:>9} {:>9} {:>9}",
            "latency (over loopback)", "calls", "p50", "p90", "p99", "max"
        )?;
        for (name, p) in [
            ("webhook, TLS", self.webhook),
            ("filter", self.filter),
            ("prioritize", self.prioritize),
            ("bind, with its API call", self.bind),
            ("GPU pod from creation to binding", self.waits),
            ("Allocate", self.allocate),
            ("PreStartContainer", self.pre_start),
        ] {
            writeln!(
                out,
                "  {name:<34} {:>6} {:>9} {:>9} {:>9} {:>9}",
                p.count,
                Short(p.p50),
                Short(p.p90),
                Short(p.p99),
                Short(p.max)
            )?;
        }
        for (who, writes) in [("the server", &self.writes), ("the agents", &self.agent_writes)] {
            let writes: Vec<String> = writes.iter().map(|(what, count)| format!("{count} {what}")).collect();
            let writes = if writes.is_empty() { "none".to_owned() } else { writes.join(", ") };
            writeln!(out, "  API writes by {who}: {writes}")?;
        }
        if let Some(noticed) = self.noticed {
            writeln!(out, "  a failed GPU was out of the inventory after {} at most", Short(noticed))?;
        }
        writeln!(
            out,
            "  container starts refused, and tried again: {}; pods failed by a kubelet: {}",
            self.refused_starts, self.not_admitted
        )?;
        writeln!(out, "  faults injected: {} (watches cut, delayed or expired; answers late or lost)", self.faults)?;
        if !self.errors.is_empty() {
            writeln!(out, "  errors the scheduler met and got over:")?;
            for (error, count) in &self.errors {
                wrapped(out, &format!("{count:>9} x "), error, width)?;
            }
        }
        writeln!(out)?;
        let repeatable = "The same seed and options offer the same pods at the same times, and the same incidents; which node \
                          a pod gets, and all times measured, depend on how the machine interleaves what happens at once.";
        wrapped(out, "  ", repeatable, width.min(100))?;
        writeln!(out)?;
        self.verdict(out)
    }

    fn verdict(&self, out: &mut String) -> std::fmt::Result {
        for surprise in &self.surprises {
            writeln!(out, "ADMISSION WAS WRONG: {surprise}")?;
        }
        for violation in &self.violations {
            writeln!(out, "WRONG: {violation}")?;
        }
        writeln!(out, "Judged {} states of {} GPUs from the API objects alone.", self.states, self.gpus)?;
        let Started { with_devices, wrong, .. } = self.started;
        if wrong == 0 {
            writeln!(out, "{with_devices} containers started, each with its own devices; 0 wrong.")?;
        } else {
            writeln!(out, "{with_devices} containers started; {wrong} wrong, with devices that are not theirs.")?;
        }
        if self.violations.is_empty() {
            writeln!(out, "OK: no GPU was oversubscribed at any time, and every pod got what it asked for.")
        } else {
            writeln!(
                out,
                "FAILED: {} times a GPU was oversubscribed, a container got another's devices, or a promise was broken; see above.",
                self.violations.len()
            )
        }
    }
}

/// Text after a first mark, continued below it, in lines of at most `width` columns where words allow.
fn wrapped(out: &mut String, mark: &str, text: &str, width: usize) -> std::fmt::Result {
    let indent = mark.chars().count();
    let mut used = indent;
    out.push_str(mark);
    for (position, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if position > 0 {
            if used + 1 + length > width {
                write!(out, "\n{:indent$}", "")?;
                used = indent;
            } else {
                out.push(' ');
                used += 1;
            }
        }
        out.push_str(word);
        used += length;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_verdict() {
        let started = Started { with_devices: 3, ..Started::default() };
        let mut report = Report { gpus: 4, states: 17, started, ..Report::default() };
        assert!(report.is_clean());
        assert!(
            report
                .text(80)
                .ends_with("\nOK: no GPU was oversubscribed at any time, and every pod got what it asked for.\n")
        );
        assert!(report.text(80).contains("\n3 containers started, each with its own devices; 0 wrong.\n"));
        report.started.wrong = 1;
        assert!(report.text(80).contains("\n3 containers started; 1 wrong, with devices that are not theirs.\n"));
        report.violations.push("node-1 GPU-x: 90 of 80 MiB".to_owned());
        assert!(!report.is_clean());
        let text = report.text(80);
        assert!(text.contains("\nWRONG: node-1 GPU-x: 90 of 80 MiB\n"), "{text}");
        assert!(text.trim_end().lines().last().unwrap().starts_with("FAILED: 1 "), "{text}");
    }

    #[test]
    fn long_words_of_the_webhook_stay_within_the_terminal() {
        let words =
            "container \"main\": something is wrong with a value that somebody wrote there without thinking".to_owned();
        let report = Report { refused: vec![(words, 12)], ..Report::default() };
        for width in [40, 60, 100] {
            let text = report.text(width);
            let shown = text
                .lines()
                .skip_while(|line| !line.contains(" x container"))
                .take_while(|line| !line.contains("waiting"));
            for line in shown {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }
}
