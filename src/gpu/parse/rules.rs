//! How requests are read in a cluster, or a namespace: names of resources, and what a count alone means.

use std::fmt;

/// What a count alone means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CountAlone {
    /// Whole cards.
    #[default]
    Exclusive,
    /// A share of this many percent of memory, what time-slicing users have.
    Share(u8),
}

/// A text that is neither `exclusive` nor `share-1` to `share-100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected exclusive, or share-<percent> with a percent of 1 to 100")]
pub struct CountAloneError;

impl std::str::FromStr for CountAlone {
    type Err = CountAloneError;

    /// `exclusive` or `share-<percent>`, as the namespace label and the configuration have it.
    fn from_str(text: &str) -> Result<Self, CountAloneError> {
        if text == "exclusive" {
            return Ok(Self::Exclusive);
        }
        let percent = text.strip_prefix("share-").filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
        match percent.and_then(|p| p.parse().ok()) {
            Some(percent @ 1..=100) => Ok(Self::Share(percent)),
            _ => Err(CountAloneError),
        }
    }
}

impl fmt::Display for CountAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive => f.write_str("exclusive"),
            Self::Share(percent) => write!(f, "share-{percent}"),
        }
    }
}

/// How requests are read in this cluster, or this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The resource prefix, `nvidia.com` unless configured.
    pub prefix: String,
    /// What a count alone means.
    pub count_alone: CountAlone,
}

impl Default for Rules {
    fn default() -> Self {
        Self { prefix: "nvidia.com".to_owned(), count_alone: CountAlone::Exclusive }
    }
}

/// What a resource under the prefix stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// `gpu`: how many.
    Count,
    /// `gpumem`: memory per GPU.
    Memory,
    /// `gpumem-percentage`: the same as a share of the card.
    MemoryPercent,
    /// `gpucores`: compute per GPU.
    Cores,
    /// `priority`: HAMi's, not supported.
    Priority,
    /// `mig-<profile>`: how many instances of that profile.
    Mig(&'a str),
    /// Begins like a name of ours but is none.
    Unknown(&'a str),
}

impl Rules {
    /// What the resource `name` stands for, `None` where it is not ours to read.
    pub fn field<'a>(&self, name: &'a str) -> Option<Field<'a>> {
        let name = name.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?;
        Some(match name {
            "gpu" => Field::Count,
            "gpumem" => Field::Memory,
            "gpumem-percentage" => Field::MemoryPercent,
            "gpucores" => Field::Cores,
            "priority" => Field::Priority,
            _ => match name.strip_prefix("mig-") {
                Some(profile) => Field::Mig(profile),
                None if name.starts_with("gpu") => Field::Unknown(name),
                None => return None,
            },
        })
    }

    /// Whether no node advertises the resource `name`, so that the webhook removes it from a GPU container once it is written
    /// into the request annotation.
    pub fn is_removed(&self, name: &str) -> bool {
        matches!(self.field(name), Some(Field::Memory | Field::MemoryPercent | Field::Cores | Field::Priority))
    }

    /// The resource that counts GPUs.
    pub fn count_name(&self) -> String {
        format!("{}/gpu", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_alone_reads_what_it_writes() {
        for text in ["exclusive", "share-1", "share-50", "share-100"] {
            assert_eq!(text.parse::<CountAlone>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "share", "share-", "share-0", "share-101", "share-+5", "share-5%", "Exclusive"] {
            assert_eq!(text.parse::<CountAlone>(), Err(CountAloneError), "{text}");
        }
    }
}
