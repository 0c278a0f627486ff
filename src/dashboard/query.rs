//! What a reader of the page's data asks for.

/// Which nodes to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// How many of the matching nodes to skip.
    pub(super) first: usize,
    /// How many to show, 1 to [`Query::MOST`].
    pub(super) limit: usize,
    /// In lower case; a node must have all of them in its name, its state, or a model, UUID, health or pod of its devices.
    pub(super) words: Vec<String>,
}

/// A query that cannot be answered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueryError {
    /// No pairs at all.
    #[error("the query cannot be read: write name=value pairs, for example ?search=node-7&limit=20")]
    Unreadable,
    /// Nobody asked for that.
    #[error("{0:?} is no parameter: use first, limit or search")]
    Unknown(String),
    /// Two values for one.
    #[error("{0} is given twice: write it once")]
    Twice(&'static str),
    /// A value that is out of range or no number.
    #[error("{name}: {value:?}: {remedy}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What stood there, cut.
        value: String,
        /// What may stand there.
        remedy: &'static str,
    },
}

impl Default for Query {
    fn default() -> Self {
        Self { first: 0, limit: 48, words: Vec::new() }
    }
}

impl Query {
    /// The most nodes that one look has.
    pub const MOST: usize = 200;
    /// The longest search, in bytes.
    const LONGEST: usize = 200;

    /// Reads the pairs of a URL's query.
    ///
    /// # Errors
    /// Names the parameter, its value and what may stand there.
    pub fn read(pairs: &[(String, String)]) -> Result<Self, QueryError> {
        let mut query = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            let bad = |name, remedy| QueryError::Value { name, value: value.chars().take(40).collect(), remedy };
            let name = match name.as_str() {
                "first" => {
                    query.first = value.parse().map_err(|_| bad("first", "must be a number, 0 or more"))?;
                    "first"
                }
                "limit" => {
                    let limit = value.parse::<usize>().ok().filter(|limit| (1..=Self::MOST).contains(limit));
                    query.limit = limit.ok_or_else(|| bad("limit", "must be a number from 1 to 200"))?;
                    "limit"
                }
                "search" => {
                    if value.len() > Self::LONGEST {
                        return Err(bad("search", "must not be longer than 200 bytes"));
                    }
                    query.words = value.to_lowercase().split_whitespace().map(str::to_owned).collect();
                    "search"
                }
                other => return Err(QueryError::Unknown(other.chars().take(40).collect())),
            };
            if seen.contains(&name) {
                return Err(QueryError::Twice(name));
            }
            seen.push(name);
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Query::read(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn a_query_says_which_nodes() {
        assert_eq!(read(&[]), Ok(Query::default()));
        let words = vec!["a100".to_owned(), "unhealthy".to_owned()];
        let expected = Query { first: 48, limit: 200, words };
        assert_eq!(read(&[("first", "48"), ("limit", "200"), ("search", " A100  Unhealthy ")]), Ok(expected));
    }

    #[test]
    fn a_bad_query_is_answered_with_name_value_and_remedy() {
        let long = "x".repeat(201);
        for (pairs, parts) in [
            (&[("limit", "0")][..], &["limit", "\"0\"", "1 to 200"][..]),
            (&[("limit", "201")], &["limit", "\"201\"", "1 to 200"]),
            (&[("limit", "many")], &["limit", "\"many\""]),
            (&[("first", "-1")], &["first", "\"-1\"", "0 or more"]),
            (&[("first", "1"), ("first", "2")], &["first", "twice"]),
            (&[("search", &long)], &["search", "200 bytes"]),
            (&[("nodes", "a")], &["\"nodes\"", "first, limit or search"]),
        ] {
            let error = read(pairs).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{pairs:?}: {error:?} lacks {part:?}");
            }
            assert!(error.len() < 200, "{error}");
        }
    }
}
