//! What is measured of the process as a whole. Each part owns the series of its own work; here are the exposition ([`mod@exposition`]), the
//! process ([`process`]) and the calls to the API server ([`api_requests`]).

pub mod api_requests;
pub mod exposition;
pub mod process;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The content type of [`mod@exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Registers what every role of Packhorse exports: which build it is, and what the process uses.
pub fn register(registry: &mut Registry) {
    let build = Info::new(Build { version: env!("CARGO_PKG_VERSION") });
    registry.register("packhorse_build", "The running build", build);
    registry.register_collector(Box::new(process::Process::default()));
}

/// All series of a registry as OpenMetrics text.
///
/// # Errors
/// A collector that fails; its text is then incomplete and must not be sent.
pub fn exposition(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

/// Buckets in seconds from 10 µs, three a decade, up to 10 s: a filter takes tens of microseconds, a call to the API server
/// milliseconds, and both are judged in the same picture.
pub fn latency_buckets() -> impl Iterator<Item = f64> {
    const STEPS: [f64; 3] = [1.0, 2.5, 5.0];
    (-5..1).flat_map(|decade| STEPS.map(|step| step * 10_f64.powi(decade))).chain([10.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_and_the_memory_of_the_process_are_exposed() {
        let mut registry = Registry::default();
        register(&mut registry);
        let text = exposition(&registry).unwrap();
        assert!(
            text.contains(concat!("packhorse_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")),
            "{text}"
        );
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            line.unwrap_or_else(|| panic!("{name} in {text}")).split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_open_fds") > 0.0);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn buckets_grow_from_ten_microseconds_to_ten_seconds() {
        let buckets: Vec<_> = latency_buckets().collect();
        assert!((buckets[0] - 1e-5).abs() < 1e-12);
        assert!((buckets.last().unwrap() - 10.0).abs() < 1e-12);
        assert!(buckets.is_sorted_by(|a, b| a < b), "{buckets:?}");
    }
}
