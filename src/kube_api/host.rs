//! CPU and memory of the host: what a pod requests, as Kubernetes counts it, and the quantities they are written in.
//!
//! Fragmentation depends on them; kube-scheduler alone decides whether they suffice. An unreadable quantity counts as nothing.

use super::pod::{ContainerView, PodView, ResourcesView};

/// CPU in millicores and memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostRequest {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
}

impl HostRequest {
    fn of(resources: &ResourcesView<'_>) -> Self {
        // The API server copies limits to requests at creation; a pod read earlier may still lack them.
        let find = |name: &str| {
            let requests = resources.requests.as_ref().and_then(|list| list.get(name));
            requests.or_else(|| resources.limits.as_ref().and_then(|list| list.get(name)))
        };
        Self {
            cpu: find("cpu").and_then(|q| millis(&q.0)).unwrap_or(0),
            memory: find("memory").and_then(|q| units(&q.0)).unwrap_or(0),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory) }
    }

    fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

fn is_sidecar(container: &ContainerView<'_>) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod requests of its node: the maximum over its init phase and its running phase, plus overhead; pod-level resources
/// decide where they are given.
pub fn host_request(pod: &PodView<'_>) -> HostRequest {
    let spec = &pod.spec;
    let mut running = HostRequest::default();
    let mut peak = HostRequest::default();
    for container in &spec.init_containers {
        let own = HostRequest::of(&container.resources);
        peak = peak.max(running.plus(own));
        if is_sidecar(container) {
            running = running.plus(own);
        }
    }
    for container in &spec.containers {
        running = running.plus(HostRequest::of(&container.resources));
    }
    let mut total = peak.max(running);
    if let Some(resources) = &spec.resources {
        let whole = HostRequest::of(resources);
        let has = |name: &str| {
            [&resources.requests, &resources.limits].into_iter().flatten().any(|list| list.contains_key(name))
        };
        if has("cpu") {
            total.cpu = whole.cpu;
        }
        if has("memory") {
            total.memory = whole.memory;
        }
    }
    let overhead = HostRequest {
        cpu: spec.overhead.get("cpu").and_then(|q| millis(&q.0)).unwrap_or(0),
        memory: spec.overhead.get("memory").and_then(|q| units(&q.0)).unwrap_or(0),
    };
    total.plus(overhead)
}

/// A quantity in thousandths, rounded up: `1500m`, `1.5`, `2`.
pub fn millis(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// A quantity in whole units, rounded up: `16Gi`, `128974848`, `129e6`, `1.5G`.
pub fn units(text: &str) -> Option<i64> {
    scaled(text, 1)
}

/// `text` times `scale`, rounded up; `None` where it is no quantity, negative, or too large.
fn scaled(text: &str, scale: i128) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Nano is the finest that Kubernetes keeps.
    if fraction.len() > 15 || whole.len() > 24 || number.contains('+') || fraction.contains('.') {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (multiply, divide): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    };
    let divide = divide.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let product = digits.checked_mul(multiply)?.checked_mul(scale)?;
    i64::try_from(product.div_euclid(divide) + i128::from(product.rem_euclid(divide) != 0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_quantity() {
        for (text, milli, unit) in [
            ("1500m", Some(1500), Some(2)),
            ("1.5", Some(1500), Some(2)),
            ("2", Some(2000), Some(2)),
            ("16Gi", Some(17_179_869_184_000), Some(17_179_869_184)),
            ("129e6", Some(129_000_000_000), Some(129_000_000)),
            ("1.5G", Some(1_500_000_000_000), Some(1_500_000_000)),
            (".5", Some(500), Some(1)),
            ("1n", Some(1), Some(1)),
            ("5E-1", Some(500), Some(1)),
            ("0", Some(0), Some(0)),
            ("", None, None),
            ("-1", None, None),
            ("1x", None, None),
            ("1.2.3", None, None),
            ("9999999999999999999999999", None, None),
        ] {
            assert_eq!(millis(text), milli, "{text} in thousandths");
            assert_eq!(units(text), unit, "{text} in units");
        }
    }

    #[test]
    fn counts_a_pod_as_kubernetes_does() {
        let pod: PodView<'_> = serde_json::from_str(
            r#"{"spec":{
                "initContainers":[
                    {"name":"side","restartPolicy":"Always","resources":{"requests":{"cpu":"100m","memory":"1Mi"}}},
                    {"name":"init","resources":{"requests":{"cpu":"3","memory":"1Mi"}}}],
                "containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"4Mi"}}},
                              {"name":"b","resources":{"limits":{"cpu":"1"}}}],
                "overhead":{"cpu":"10m","memory":"1Mi"}}}"#,
        )
        .unwrap();
        assert_eq!(host_request(&pod), HostRequest { cpu: 3110, memory: 6 << 20 });
    }
}
