//! Whether a device's model is one that a pod names. Read by fit; the names come from pod annotations, the models from NVML or,
//! with dashes for spaces, from node labels that people copy. A name that matches nothing is no error: no device fits then.

/// Whether `model` contains `name`, without case, between word boundaries: `A10` is not in `NVIDIA A100-SXM4-80GB`, `A100-SXM4` is.
/// Spaces, dashes and underscores are alike, so the label value `NVIDIA-A100-SXM4-80GB` names the same model. An empty name
/// matches nothing.
pub fn matches(name: &str, model: &str) -> bool {
    let name = name.trim().as_bytes();
    let model = model.as_bytes();
    let Some(first) = name.first().map(|byte| fold(*byte)) else { return false };
    let Some(most) = model.len().checked_sub(name.len()) else { return false };
    (0..=most).any(|start| {
        let end = start + name.len();
        fold(model[start]) == first
            && model[start..end].iter().zip(name).all(|(a, b)| fold(*a) == fold(*b))
            && is_boundary(model, start)
            && is_boundary(model, end)
    })
}

/// Whether any of `names` matches.
pub fn matches_any(names: &[String], model: &str) -> bool {
    names.iter().any(|name| matches(name, model))
}

/// Whether no word goes on across `at`.
fn is_boundary(text: &[u8], at: usize) -> bool {
    at == 0 || at == text.len() || !(is_word(text[at - 1]) && is_word(text[at]))
}

/// Letters and digits; bytes beyond ASCII are parts of letters.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

fn fold(byte: u8) -> u8 {
    match byte {
        b' ' | b'_' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_match_on_word_boundaries_without_case() {
        let a100 = "NVIDIA A100-SXM4-80GB";
        for (name, model, expected) in [
            ("A100", a100, true),
            ("a100", a100, true),
            ("A10", a100, false),
            ("A100-SXM4", a100, true),
            ("A100-SXM", a100, false),
            ("SXM4", a100, true),
            ("80GB", a100, true),
            ("0GB", a100, false),
            ("NVIDIA-A100-SXM4-80GB", a100, true),
            ("nvidia_a100 sxm4", a100, true),
            (" A100 ", a100, true),
            ("NVIDIA A100-SXM4-80GB PLUS", a100, false),
            ("", a100, false),
            (" ", a100, false),
            ("A10", "NVIDIA A10", true),
            ("A100", "NVIDIA A10", false),
            ("A100", "NVIDIA A100X", false),
            ("A100", "NVIDIA-A100", true),
            ("RTX 4090", "NVIDIA GeForce RTX 4090", true),
            ("RTX 4090", "NVIDIA GeForce RTX 4090 D", true),
            ("40", "NVIDIA L40", false),
            ("L4", "NVIDIA L40S", false),
            ("T4", "Tesla T4", true),
            ("é4", "é4", true),
            ("4", "é4", false),
        ] {
            assert_eq!(matches(name, model), expected, "{name:?} in {model:?}");
        }
    }
}
