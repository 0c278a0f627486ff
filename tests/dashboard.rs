//! The page of the cluster: its data, its live feed, and the page itself in a real browser.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test's own tools a panic is the test's failure")]

mod api;
mod browser;
pub(crate) mod devtools;
mod feed;
mod http;
mod world;
