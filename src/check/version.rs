//! Whether the API server is new enough.

use super::Finding;
use crate::extender::Version;

/// The first with `matchConditions` of webhooks and admission policies without feature gates.
pub const OLDEST: Version = Version { major: 1, minor: 30 };
const CHECK: &str = "API version";

/// Judges `gitVersion` of the API server.
pub fn judge(git_version: &str) -> Finding {
    match git_version.parse::<Version>() {
        Ok(version) if version >= OLDEST => Finding::ok(CHECK, git_version),
        Ok(_) => Finding::wrong(
            CHECK,
            format!("{git_version} is older than {OLDEST}"),
            "upgrade Kubernetes: admission policies and matchConditions are missing",
        ),
        Err(error) => Finding::unknown(CHECK, error.to_string(), "look at kubectl version"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn versions_from_1_30_on_will_do() {
        for (version, level) in [
            ("v1.30.0", Level::Ok),
            ("v1.36.3+k3s1", Level::Ok),
            ("v1.29.14-eks-1", Level::Wrong),
            ("dev", Level::Unknown),
        ] {
            assert_eq!(judge(version).level, level, "{version}");
        }
    }
}
