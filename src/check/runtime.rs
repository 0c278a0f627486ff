//! The switch of NVIDIA's container runtime by which an image's own `NVIDIA_VISIBLE_DEVICES` is heeded. With that runtime as default, an
//! image that says `all` gets every GPU of its node; the webhook cannot see into images. Source: NVIDIA Container Toolkit,
//! `/etc/nvidia-container-runtime/config.toml`.

use super::Finding;

const CHECK: &str = "image environment";
const SWITCH: &str = "accept-nvidia-visible-devices-envvar-when-unprivileged";

/// Judges the text of `config.toml`; `path` says where it is. A switch that is not set is on.
pub fn judge(text: &str, path: &str) -> Finding {
    // Top level only: the switch stands before the first table.
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let value = lines.filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim().trim_matches('"') == SWITCH).then(|| value.split('#').next().unwrap_or_default().trim().to_owned())
    });
    match value.last().as_deref() {
        Some("false") => Finding::ok(CHECK, format!("{path}: {SWITCH} is off")),
        other => Finding::wrong(
            CHECK,
            format!("{path}: {SWITCH} is {}", other.unwrap_or("not set, which is on")),
            format!(
                "set {SWITCH} = false: an image whose environment says NVIDIA_VISIBLE_DEVICES=all gets every GPU otherwise"
            ),
        ),
    }
}

/// For who does not run this on a node.
pub fn not_here() -> Finding {
    Finding::note(
        CHECK,
        "NVIDIA's runtime configuration is not on this machine",
        "run packhorse check on a GPU node, or give --nvidia-runtime-config FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn only_a_switch_that_is_off_closes_it() {
        for (text, level) in [
            ("accept-nvidia-visible-devices-envvar-when-unprivileged = false\n", Level::Ok),
            ("a = 1\naccept-nvidia-visible-devices-envvar-when-unprivileged=false # closed\n[x]\n", Level::Ok),
            ("accept-nvidia-visible-devices-envvar-when-unprivileged = true\n", Level::Wrong),
            ("#accept-nvidia-visible-devices-envvar-when-unprivileged = false\n", Level::Wrong),
            ("[x]\naccept-nvidia-visible-devices-envvar-when-unprivileged = false\n", Level::Wrong),
            ("", Level::Wrong),
        ] {
            assert_eq!(judge(text, "f").level, level, "{text:?}");
        }
    }
}
