//! Which form of specification the node's runtime can read: a pure function of what is known of the node, with its reason in
//! words. Called at the start and when the host's specification comes or goes.

use std::fmt;

use super::Form;
use crate::agent::options::Strategy;

/// The first containerd 1.7 whose CDI library knows annotations (CDI 0.6.0), without which our files would not be read.
const CONTAINERD_1_7: Release = Release(1, 7, 12);

/// What is known of the node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Node<'a> {
    /// The Node's `status.nodeInfo.containerRuntimeVersion`, for example `containerd://2.1.4`; empty where unknown.
    pub runtime: &'a str,
    /// Whether the host has a generated CDI specification of kind `nvidia.com/gpu`.
    pub host_specification: bool,
    /// The text of containerd's configuration file, where it is at hand.
    pub containerd_config: Option<&'a str>,
}

/// A form and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The form.
    pub form: Form,
    /// The reason, short and fixed.
    pub why: Why,
    /// The reason in words, with the remedy where there is one.
    pub reason: String,
}

/// Why a form was chosen; a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `--specification-form` says so.
    Configured,
    /// The runtime reads CDI and the host has a generated specification.
    HostSpecification,
    /// The runtime reads CDI; the host has no generated specification.
    NoHostSpecification,
    /// The runtime is too old.
    RuntimeTooOld,
    /// The runtime could read CDI and is not configured to.
    CdiDisabled,
}

/// A strategy that the runtime cannot carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs a container runtime with CDI, and this node's has none ({reason}); {remedy}")]
pub struct Conflict {
    /// The flags, as a user writes them.
    pub what: String,
    /// Why the form is `none`.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

impl Why {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::HostSpecification => "host-specification",
            Self::NoHostSpecification => "no-host-specification",
            Self::RuntimeTooOld => "runtime-too-old",
            Self::CdiDisabled => "cdi-disabled",
        }
    }
}

/// Chooses the form; `configured` is `--specification-form`.
pub fn detect(node: Node<'_>, configured: Option<Form>) -> Detected {
    if let Some(form) = configured {
        return Detected { form, why: Why::Configured, reason: format!("--specification-form is {form}") };
    }
    match reads_cdi(node) {
        Err((why, reason)) => Detected { form: Form::None, why, reason },
        Ok(reason) if node.host_specification => Detected {
            form: Form::Full,
            why: Why::HostSpecification,
            reason: format!("{reason}, and the host has a generated CDI specification of kind nvidia.com/gpu"),
        },
        Ok(reason) => Detected {
            form: Form::Env,
            why: Why::NoHostSpecification,
            reason: format!(
                "{reason}, and the host has no generated CDI specification of kind nvidia.com/gpu: containers must run with NVIDIA's \
                 runtime, or generate one with nvidia-ctk cdi generate"
            ),
        },
    }
}

/// Whether what NVIDIA's flags ask for can be done in that form.
///
/// # Errors
/// [`Conflict`] names every flag that cannot, and the remedy.
pub fn check(detected: &Detected, strategies: &[Strategy], pass_device_specs: bool) -> Result<(), Conflict> {
    if detected.form != Form::None {
        return Ok(());
    }
    let mut what: Vec<String> = strategies
        .iter()
        .filter(|strategy| **strategy != Strategy::Envvar)
        .map(|strategy| format!("--device-list-strategy={strategy}"))
        .collect();
    if pass_device_specs {
        what.push("--pass-device-specs".to_owned());
    }
    if what.is_empty() {
        return Ok(());
    }
    let remedy = "use --device-list-strategy=envvar and --pass-device-specs=false with NVIDIA's runtime, or a runtime with CDI \
                  (containerd 2.0 or newer; containerd 1.7 with enable_cdi = true; CRI-O 1.23 or newer)";
    Err(Conflict { what: what.join(", "), reason: detected.reason.clone(), remedy })
}

/// The reason in words, either way.
fn reads_cdi(node: Node<'_>) -> Result<String, (Why, String)> {
    let version = node.runtime;
    let release = version.split_once("://").and_then(|(name, release)| Some((name, Release::parse(release)?)));
    let Some((name, release)) = release else {
        return Ok(format!("the container runtime's version {version:?} is not known and is taken to read CDI"));
    };
    let configured = node.containerd_config.and_then(enable_cdi);
    let too_old = |first: &str| {
        Err((Why::RuntimeTooOld, format!("{version} is older than {first}, the first that reads our CDI")))
    };
    let disabled = |reason: &str| Err((Why::CdiDisabled, format!("{version} {reason}")));
    match name {
        "containerd" if release < Release(1, 7, 0) => too_old("containerd 1.7"),
        "containerd" if release < Release(2, 0, 0) => match configured {
            _ if release < CONTAINERD_1_7 => too_old("containerd 1.7.12"),
            Some(true) => Ok(format!("{version} reads CDI by its configuration")),
            Some(false) => disabled("has enable_cdi = false in its configuration"),
            None => disabled(
                "reads CDI only with enable_cdi = true, which its configuration does not say or is not at hand",
            ),
        },
        "containerd" if configured == Some(false) => disabled("has enable_cdi = false in its configuration"),
        "cri-o" if release < Release(1, 23, 0) => too_old("CRI-O 1.23"),
        "containerd" | "cri-o" => Ok(format!("{version} reads CDI")),
        _ => Ok(format!("{version} is not a runtime that we know and is taken to read CDI")),
    }
}

/// The last `enable_cdi` of containerd's configuration, which only its CRI plugin has. `None` where it says nothing.
fn enable_cdi(config: &str) -> Option<bool> {
    let value = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let (_, rest) = line.rsplit_once("enable_cdi")?;
        let rest = rest.trim_start_matches(['"', '\'']).trim_start().strip_prefix('=')?;
        match rest.trim_start() {
            rest if rest.starts_with("true") => Some(true),
            rest if rest.starts_with("false") => Some(false),
            _ => None,
        }
    };
    config.lines().filter_map(value).next_back()
}

impl Release {
    /// `1.7.27-0ubuntu1`, `v2.0.0`, `2.1.4-k3s1`, `1.30`.
    fn parse(text: &str) -> Option<Self> {
        let number =
            |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        let mut parts = text.trim_start_matches('v').split('.').map(number);
        Some(Self(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: &str =
        "[plugins.\"io.containerd.grpc.v1.cri\"]\n  cdi_spec_dirs = [\"/etc/cdi\"]\n  enable_cdi = true # for GPUs\n";
    const OFF: &str = "[plugins.'io.containerd.cri.v1.runtime']\nenable_cdi=false\n";

    #[test]
    fn the_form_follows_the_runtime_and_the_host() {
        use Form::{Env, Full, None};
        let table = [
            ("containerd://2.0.0", true, Option::None, Full, Why::HostSpecification),
            ("containerd://2.0.0", false, Option::None, Env, Why::NoHostSpecification),
            ("containerd://v2.2.1-k3s1", true, Some(""), Full, Why::HostSpecification),
            ("containerd://2.1.4", true, Some(OFF), None, Why::CdiDisabled),
            ("containerd://1.7.27-0ubuntu1~24.04.1", true, Some(ON), Full, Why::HostSpecification),
            ("containerd://1.7.27", false, Some(ON), Env, Why::NoHostSpecification),
            ("containerd://1.7.27", true, Some("# enable_cdi = true"), None, Why::CdiDisabled),
            ("containerd://1.7.27", true, Option::None, None, Why::CdiDisabled),
            ("containerd://1.7.11", true, Some(ON), None, Why::RuntimeTooOld),
            ("containerd://1.6.20~ds1", true, Some(ON), None, Why::RuntimeTooOld),
            ("cri-o://1.22.5", true, Option::None, None, Why::RuntimeTooOld),
            ("cri-o://1.23.0", true, Option::None, Full, Why::HostSpecification),
            ("cri-o://1.35.1", false, Option::None, Env, Why::NoHostSpecification),
            ("docker://28.1.1", true, Option::None, Full, Why::HostSpecification),
            ("containerd://HEAD", false, Option::None, Env, Why::NoHostSpecification),
            ("", true, Option::None, Full, Why::HostSpecification),
        ];
        for (runtime, host_specification, containerd_config, form, why) in table {
            let detected = detect(Node { runtime, host_specification, containerd_config }, Option::None);
            assert_eq!(
                (detected.form, detected.why),
                (form, why),
                "{runtime} {host_specification} {containerd_config:?}"
            );
            assert!(detected.reason.contains(runtime), "{}", detected.reason);
            for configured in [Full, Env, None] {
                let node = Node { runtime, host_specification, containerd_config };
                assert_eq!(detect(node, Some(configured)).form, configured);
            }
        }
    }

    #[test]
    fn a_runtime_without_cdi_refuses_what_needs_it_with_the_remedy() {
        let old = detect(Node { runtime: "containerd://1.6.20", ..Node::default() }, Option::None);
        for strategy in [Strategy::VolumeMounts, Strategy::CdiAnnotations, Strategy::CdiCri] {
            let conflict = check(&old, &[Strategy::Envvar, strategy], false).unwrap_err().to_string();
            for part in [strategy.as_str(), "containerd://1.6.20", "--device-list-strategy=envvar"] {
                assert!(conflict.contains(part), "{conflict:?} lacks {part}");
            }
            assert!(!conflict.starts_with("--device-list-strategy=envvar"), "{conflict}");
        }
        assert!(
            check(&old, &[Strategy::Envvar], true).unwrap_err().to_string().starts_with("--pass-device-specs needs")
        );
        assert_eq!(check(&old, &[Strategy::Envvar], false), Ok(()));
        let new = detect(Node { runtime: "containerd://2.0.0", ..Node::default() }, Option::None);
        assert_eq!(check(&new, &Strategy::ALL.map(|(strategy, _)| strategy), true), Ok(()));
    }
}
