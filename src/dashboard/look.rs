//! One look at the cluster: as much of it as a query asks for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::nodes::{self, NodeLook};
use super::overview::{Overview, Row, Totals};
use super::{Dashboard, Query};

/// What is sent. In a feed, what is absent is as it was; `nodes` are those of `names` that have changed.
#[derive(Debug, Serialize)]
pub(super) struct Wire {
    v: u8,
    /// Whether the ledger is complete.
    pub(super) ready: bool,
    pub(super) totals: Totals,
    /// How many nodes the search finds.
    pub(super) matching: usize,
    /// How many of them come before the first one here.
    pub(super) first: usize,
    /// The nodes shown, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) names: Option<Vec<Arc<str>>>,
    pub(super) nodes: Vec<Box<RawValue>>,
    /// One character for each matching node, in order: see [`super::overview`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) map: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Box<RawValue>>,
}

/// One look, complete.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) ready: bool,
    pub(super) totals: Totals,
    pub(super) matching: usize,
    pub(super) first: usize,
    /// With the JSON of each.
    pub(super) nodes: Vec<(Arc<str>, Box<RawValue>)>,
    pub(super) map: String,
    pub(super) pending: Box<RawValue>,
}

/// Which nodes a reader's search found, with the version of each: only what has changed is searched again.
#[derive(Debug, Default)]
pub(super) struct Matches(HashMap<Arc<str>, (u64, bool)>);

impl Dashboard {
    /// A look now. `matches` belongs to this query.
    pub(super) fn look(&self, query: &Query, matches: &mut Matches) -> Look {
        let overview = self.overviews.get(&self.ledger);
        let rows = matches.of(self, query, &overview);
        // A search that finds less than before, or nodes that are gone: the last page, rather than nothing.
        let last_page = rows.len().saturating_sub(1) / query.limit * query.limit;
        let first = query.first.min(last_page);
        let shown = rows.iter().skip(first).take(query.limit);
        Look {
            ready: self.ledger.is_ready(),
            totals: overview.totals,
            matching: rows.len(),
            first,
            nodes: shown
                .map(|row| (Arc::clone(&row.entry.name), raw(&NodeLook::new(&self.ledger, &row.entry))))
                .collect(),
            map: rows.iter().map(|row| row.mark).collect(),
            pending: raw(&self.pending.look(&self.ledger, &query.words)),
        }
    }
}

impl Matches {
    fn of<'a>(&mut self, dashboard: &Dashboard, query: &Query, overview: &'a Overview) -> Vec<&'a Row> {
        if query.words.is_empty() {
            return overview.rows.iter().collect();
        }
        let before = std::mem::take(&mut self.0);
        let mut rows = Vec::new();
        for row in &overview.rows {
            let name = &row.entry.name;
            let known = before.get(name).filter(|(version, _)| *version == row.version).map(|(_, found)| *found);
            let found = known.unwrap_or_else(|| nodes::matches(&dashboard.ledger, &row.entry, &query.words));
            self.0.insert(Arc::clone(name), (row.version, found));
            if found {
                rows.push(row);
            }
        }
        rows
    }
}

impl Look {
    /// All of it.
    pub(super) fn into_wire(self) -> Wire {
        let Self { ready, totals, matching, first, nodes, map, pending } = self;
        let (names, nodes) = nodes.into_iter().unzip();
        Wire { v: 1, ready, totals, matching, first, names: Some(names), nodes, map: Some(map), pending: Some(pending) }
    }
}

impl Wire {
    /// Of a feed.
    pub(super) fn new(look: &Look) -> Self {
        let Look { ready, totals, matching, first, .. } = *look;
        Self { v: 1, ready, totals, matching, first, names: None, nodes: Vec::new(), map: None, pending: None }
    }
}

/// JSON of what always has one.
fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Structs of names, lists and numbers: nothing that serde_json could refuse.
    serde_json::value::to_raw_value(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a part of the page's data cannot be written");
        RawValue::NULL.to_owned()
    })
}
