//! What `/metrics` answers: the registry, and after it the series that are too many for it ([`Bulk`]). Those are written piece by
//! piece while they are sent, so that 120,000 of them are never in memory together.

use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, join_all};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// A piece is sent when it has so many bytes.
const PIECE: usize = 64 * 1024;

/// Families of very many series.
pub trait Bulk: fmt::Debug + Send + Sync {
    /// As OpenMetrics text: whole lines, whole families, none that the registry or another bulk has.
    fn pieces(&self) -> Box<dyn Iterator<Item = String> + Send>;

    /// What has to be done before they are true; by default nothing. It ends in good time, whatever it asks.
    fn refresh(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// All that is exposed.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
    bulks: Vec<Arc<dyn Bulk>>,
}

impl Exposition {
    /// What the registry has.
    pub fn new(registry: Registry) -> Self {
        Self { registry, bulks: Vec::new() }
    }

    /// And this.
    #[must_use]
    pub fn with(mut self, bulk: Arc<dyn Bulk>) -> Self {
        self.bulks.push(bulk);
        self
    }

    /// Before [`Exposition::pieces`]: brings up to date what is measured only when somebody asks.
    pub async fn refresh(&self) {
        join_all(self.bulks.iter().map(|bulk| Arc::clone(bulk).refresh())).await;
    }

    /// All series as OpenMetrics text, in pieces.
    ///
    /// # Errors
    /// A collector that fails; nothing may be sent then.
    pub fn pieces(&self) -> Result<impl Iterator<Item = String> + Send + use<>, fmt::Error> {
        let (mut first, mut last) = (String::new(), String::new());
        text::encode_registry(&mut first, &self.registry)?;
        text::encode_eof(&mut last)?;
        let bulks = self.bulks.clone();
        let many = bulks.into_iter().flat_map(|bulk| bulk.pieces());
        Ok(std::iter::once(first).chain(many).chain(std::iter::once(last)))
    }
}

/// A gauge family as text: its head, then a series per item, in pieces. `series` writes the labels, without braces, and gives
/// the value.
pub fn gauges<T>(
    name: &'static str,
    help: &'static str,
    mut items: impl Iterator<Item = T>,
    mut series: impl FnMut(&T, &mut String) -> u64,
) -> impl Iterator<Item = String> {
    use fmt::Write as _;
    let mut head = Some(format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    std::iter::from_fn(move || {
        let mut piece = head.take().unwrap_or_default();
        piece.reserve(PIECE + PIECE / 8);
        while piece.len() < PIECE {
            let Some(item) = items.next() else { break };
            piece.push_str(name);
            piece.push('{');
            let value = series(&item, &mut piece);
            // Into a string, which takes all.
            let _ = writeln!(piece, "}} {value}");
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Appends `key="value"`, escaped as OpenMetrics wants it.
pub fn label(out: &mut String, key: &str, value: &str) {
    out.push_str(key);
    out.push_str("=\"");
    if value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
    } else {
        out.push_str(value);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    const VALUES: [&str; 4] = ["GPU-1", "a\"b", "\\\n\\", "λ"];

    #[derive(Debug)]
    struct Many(usize);

    impl Bulk for Many {
        fn pieces(&self) -> Box<dyn Iterator<Item = String> + Send> {
            Box::new(gauges("many", "Very many.", 0..self.0, |number, out| {
                label(out, "kind", VALUES[number % VALUES.len()]);
                out.push(',');
                label(out, "number", &number.to_string());
                *number as u64 * 7
            }))
        }
    }

    #[test]
    fn the_text_is_that_of_the_client_library() {
        for count in [0, 1, 4, 5_000] {
            let family = Family::<[(&str, String); 2], Gauge>::default();
            for number in 0..count {
                let labels = [("kind", VALUES[number % VALUES.len()].to_owned()), ("number", number.to_string())];
                family.get_or_create(&labels).set(i64::try_from(number).unwrap() * 7);
            }
            let mut registry = Registry::default();
            registry.register("many", "Very many", family);
            let mut expected = String::new();
            text::encode(&mut expected, &registry).unwrap();
            let pieces: Vec<_> =
                Exposition::new(Registry::default()).with(Arc::new(Many(count))).pieces().unwrap().collect();
            assert_eq!(pieces.len() > 4, count == 5_000, "many series come in pieces");
            assert!(pieces.iter().all(|piece| piece.is_empty() || piece.ends_with('\n')), "of whole lines");
            // A family of the library is in no order.
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort_unstable();
                lines
            };
            let text: String = pieces.concat();
            assert!(text.ends_with("# EOF\n"));
            if count > 0 {
                assert_eq!(sorted(&text), sorted(&expected));
            }
        }
    }
}
