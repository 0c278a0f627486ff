//! `packhorse demo`: see [`crate::demo`].

use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::demo::{self, Options, Report, Sabotage};

/// Show what Packhorse does, without a cluster and without a GPU.
///
/// Runs the real webhook, ledger and extender on 127.0.0.1 against a simulated cluster, and the real agent on each of its nodes; shows
/// who is on which GPU, and checks that no GPU is ever oversubscribed and that every container gets its own devices. The exit status
/// says whether that held.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Simulated nodes, 1 to 500. From 3 on the last one is in MIG mode.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=500))]
    nodes: u16,
    /// GPUs of each node, 1 to 16.
    #[arg(long, value_name = "G", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    gpus_per_node: u16,
    /// How long to run, for example 20s, 2m or 1500ms. Without it the demo runs until Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Decides which pods come when, and which GPUs fail. The same seed and sizes offer the same pods.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Break something on purpose, to see that the demo tells.
    #[arg(long, value_name = "WHAT", value_enum)]
    sabotage: Option<Sabotage>,
}

/// A time with its unit.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok().context("write a number with a unit, for example 20s")?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "" => bail!("the unit is missing, write {text}s for seconds"),
        unit => bail!("{unit:?} is no unit of time, write ms, s, m or h"),
    };
    if !(1.0..=86_400.0).contains(&seconds) {
        bail!("must be from 1s to 24h");
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs the demo.
///
/// # Errors
/// Where it cannot start, and where a GPU was oversubscribed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let options = Options {
        nodes: args.nodes.into(),
        gpus_per_node: args.gpus_per_node.into(),
        duration: args.duration,
        seed: args.seed,
        sabotage: args.sabotage,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let report = runtime.block_on(async {
        let stop = CancellationToken::new();
        let interrupted = stop.clone();
        tokio::spawn(async move {
            // Without the signal Ctrl-C ends the process as it always does.
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.cancel();
            }
        });
        demo::run(options, stop).await
    })?;
    outcome(&report)
}

/// What the exit status says.
fn outcome(report: &Report) -> anyhow::Result<()> {
    if !report.is_clean() {
        bail!("{} things went wrong, see above", report.violations.len() + report.surprises.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversubscribed_gpu_fails_the_command() {
        assert!(outcome(&Report::default()).is_ok());
        let wrong = Report { violations: vec!["node-1 GPU-x: 90 of 80 MiB".to_owned()], ..Report::default() };
        assert!(outcome(&wrong).is_err());
    }

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        for (text, expected) in [
            ("20s", Some(20_000)),
            ("2m", Some(120_000)),
            ("1500ms", Some(1500)),
            ("1.5s", Some(1500)),
            ("1h", Some(3_600_000)),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
        for (text, hint) in [
            ("20", "write 20s for seconds"),
            ("s", "write a number with a unit"),
            ("5d", "\"d\" is no unit of time"),
            ("0s", "from 1s to 24h"),
            ("-5s", "write a number"),
            ("1.2.3s", "write a number"),
        ] {
            assert!(duration(text).unwrap_err().to_string().contains(hint), "{text}");
        }
    }
}
