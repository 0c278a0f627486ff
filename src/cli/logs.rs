//! Structured logs on stderr, as text or as JSON, at a level that can be changed while the server runs: by the configuration
//! file, or by `PUT /log` for the hunt after a fault.

use anyhow::{Context, bail};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Repeats as an error every failed request that its caller already tells with what it means.
const KUBE_ERRORS: &str = "kube_client::client::builder";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Changes the level. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    filter: Handle<EnvFilter, Registry>,
}

impl Logs {
    /// Starts logging; once in a process.
    ///
    /// # Errors
    /// A level that cannot be read, or a second start.
    pub fn start(format: Format, level: &str) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(filter(level)?);
        let registry = tracing_subscriber::registry().with(filter);
        let started = match format {
            Format::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init(),
            Format::Json => {
                let layer = fmt::layer().with_writer(std::io::stderr).json().flatten_event(true);
                registry.with(layer).try_init()
            }
        };
        started.context("cannot start logging")?;
        Ok(Self { filter: handle })
    }

    /// Changes the level from now on.
    ///
    /// # Errors
    /// A level that cannot be read; the old one stays.
    pub fn set(&self, level: &str) -> anyhow::Result<()> {
        self.filter.reload(filter(level)?).context("cannot change the log level")?;
        tracing::info!(level, "log level changed");
        Ok(())
    }
}

/// `info`, or directives such as `info,packhorse::extender=debug`. A level alone means Packhorse itself; the crates below it
/// speak from `warn` on, since their debug lines hold whole requests.
pub fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let level = level.trim();
    let is_plain = ["off", "error", "warn", "info", "debug", "trace"].contains(&level);
    let directives = if is_plain { format!("warn,{KUBE_ERRORS}=off,packhorse={level}") } else { level.to_owned() };
    if directives.is_empty() {
        bail!(
            "log level is empty; write off, error, warn, info, debug, trace, or directives such as info,packhorse::extender=debug"
        );
    }
    EnvFilter::builder().parse(&directives).with_context(|| {
        format!("log level {level:?}: write off, error, warn, info, debug, trace, or directives such as info,packhorse::extender=debug")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_packhorses_own() {
        for (level, own) in [("debug", "packhorse=debug"), (" info ", "packhorse=info")] {
            let filter = filter(level).unwrap().to_string();
            let mut parts: Vec<_> = filter.split(',').collect();
            parts.sort_unstable();
            assert_eq!(parts, ["kube_client::client::builder=off", own, "warn"]);
        }
        assert_eq!(filter("error,hyper=trace").unwrap().to_string(), "hyper=trace,error");
    }

    #[test]
    fn a_level_that_is_none_is_named_with_the_known_ones() {
        for level in ["", "packhorse=loud", "info,=", "a=b=c"] {
            let error = format!("{:#}", filter(level).unwrap_err());
            assert!(error.contains("error, warn, info"), "{level:?}: {error}");
        }
    }
}
