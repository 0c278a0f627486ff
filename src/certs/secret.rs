//! The Secret that holds the CA, shared by all replicas: one of them creates it, each change is conditional on the version read.
//!
//! | key | holds |
//! |---|---|
//! | `ca.crt`, `ca.key` | the CA that signs |
//! | `next.crt`, `next.key` | the CA that will sign, while the bundle with it spreads |
//! | `previous.crt` | the CA that signed before, while its leaf certificates live; its key is gone |
//!
//! Annotations: `packhorse.dev/replace-ca` (an administrator asks for a new CA; removed when that begins) and
//! `packhorse.dev/previous-ca-until` (when `previous.crt` goes).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::authority::Authority;
use super::{Error, pem};

/// Annotation by which an administrator asks for a new CA; any value.
pub const REPLACE_CA: &str = "packhorse.dev/replace-ca";
/// Annotation: when the previous CA leaves the bundle, RFC 3339.
pub const PREVIOUS_UNTIL: &str = "packhorse.dev/previous-ca-until";

/// What the Secret says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// The CA that signs.
    pub current: Authority,
    /// The CA that will sign.
    pub next: Option<Authority>,
    /// The CA that signed before.
    pub previous: Option<Previous>,
    /// Whether an administrator asks for a new CA.
    pub replace_asked: bool,
}

/// A CA that signs no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// Its certificate, PEM.
    pub certificate: String,
    /// When its last leaf certificate has ended, with a margin.
    pub until: SystemTime,
}

/// What one look at the Secret changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new CA stands beside the current one.
    Introduced,
    /// The new CA signs from now on.
    Promoted,
    /// The CA before it left the bundle.
    Dropped,
}

/// When CAs are replaced.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Life of a new CA.
    pub ca_lifetime: Duration,
    /// A CA is replaced this long before its end.
    pub renew_before: Duration,
    /// How long leaf certificates of a replaced CA may still be presented.
    pub keep_previous: Duration,
}

impl Authorities {
    /// Only a new CA.
    pub fn new(current: Authority) -> Self {
        Self { current, next: None, previous: None, replace_asked: false }
    }

    /// What clients must trust now: all CAs, one text, in a fixed order.
    pub fn bundle(&self) -> String {
        let previous = self.previous.iter().map(|previous| previous.certificate.as_str());
        let next = self.next.iter().map(|next| next.certificate.as_str());
        let all: Vec<_> = previous.chain([self.current.certificate.as_str()]).chain(next).map(str::trim_end).collect();
        all.join("\n") + "\n"
    }

    /// The next step of a replacement, if one is due. `settled` says that clients have trusted the next CA for long enough.
    ///
    /// # Errors
    /// [`Error::Generate`].
    pub fn advance(&mut self, now: SystemTime, plan: &Plan, settled: bool) -> Result<Option<Change>, Error> {
        if self.previous.as_ref().is_some_and(|previous| now >= previous.until) {
            self.previous = None;
            return Ok(Some(Change::Dropped));
        }
        if let Some(next) = &self.next {
            // A CA that has ended signs nothing anyone accepts, so waiting any longer helps nobody.
            if !settled && now < self.current.not_after {
                return Ok(None);
            }
            let before = std::mem::replace(&mut self.current, next.clone());
            self.next = None;
            self.previous = Some(Previous { certificate: before.certificate, until: now + plan.keep_previous });
            return Ok(Some(Change::Promoted));
        }
        let ending = now + plan.renew_before >= self.current.not_after;
        if (ending || self.replace_asked) && self.previous.is_none() {
            self.next = Some(Authority::generate(now, plan.ca_lifetime)?);
            self.replace_asked = false;
            return Ok(Some(Change::Introduced));
        }
        Ok(None)
    }

    /// Reads the Secret.
    ///
    /// # Errors
    /// [`Error::Secret`] names the damaged key.
    pub fn decode(secret: &Secret) -> Result<Self, Error> {
        let annotations = secret.metadata.annotations.as_ref();
        let annotation = |key: &str| annotations.and_then(|annotations| annotations.get(key));
        let text = |key: &'static str| -> Result<Option<String>, Error> {
            let Some(ByteString(bytes)) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
            let text = String::from_utf8(bytes.clone()).map_err(|error| named(key)(Error::Pem(error.to_string())))?;
            Ok(Some(text))
        };
        let authority = |certificate: &'static str, key: &'static str| match (text(certificate)?, text(key)?) {
            (Some(one), Some(other)) => Authority::from_pem(&one, &other).map(Some).map_err(named(certificate)),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Error::Secret(certificate.to_owned(), "missing".to_owned())),
            (Some(_), None) => Err(Error::Secret(key.to_owned(), "missing".to_owned())),
        };

        let current =
            authority("ca.crt", "ca.key")?.ok_or_else(|| Error::Secret("ca.crt".to_owned(), "missing".to_owned()))?;
        let previous = match text("previous.crt")? {
            None => None,
            Some(certificate) => {
                pem::facts(certificate.as_bytes()).map_err(named("previous.crt"))?;
                let until = annotation(PREVIOUS_UNTIL).map(|until| until.parse::<jiff::Timestamp>());
                let until = match until {
                    Some(Ok(until)) => until.into(),
                    Some(Err(error)) => return Err(Error::Secret(PREVIOUS_UNTIL.to_owned(), error.to_string())),
                    None => return Err(Error::Secret(PREVIOUS_UNTIL.to_owned(), "missing".to_owned())),
                };
                Some(Previous { certificate, until })
            }
        };
        Ok(Self {
            current,
            next: authority("next.crt", "next.key")?,
            previous,
            replace_asked: annotation(REPLACE_CA).is_some(),
        })
    }

    /// Writes into the Secret, leaving alone what is not ours.
    pub fn encode(&self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        let next = self.next.as_ref();
        set(data, "ca.crt", Some(&self.current.certificate));
        set(data, "ca.key", Some(&self.current.key));
        set(data, "next.crt", next.map(|next| &next.certificate));
        set(data, "next.key", next.map(|next| &next.key));
        set(data, "previous.crt", self.previous.as_ref().map(|previous| &previous.certificate));
        let annotations = secret.metadata.annotations.get_or_insert_default();
        if !self.replace_asked {
            annotations.remove(REPLACE_CA);
        }
        match &self.previous {
            Some(previous) => {
                // Out of jiff's range lies only what no clock shows; the text then reads as damaged, not as free.
                let until = jiff::Timestamp::try_from(previous.until)
                    .map_or_else(|error| error.to_string(), |at| at.to_string());
                annotations.insert(PREVIOUS_UNTIL.to_owned(), until);
            }
            None => {
                annotations.remove(PREVIOUS_UNTIL);
            }
        }
    }
}

fn set(data: &mut BTreeMap<String, ByteString>, key: &str, value: Option<&String>) {
    match value {
        Some(value) => {
            data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        None => {
            data.remove(key);
        }
    }
}

fn named(key: &str) -> impl FnOnce(Error) -> Error {
    move |error| Error::Secret(key.to_owned(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const PLAN: Plan = Plan {
        ca_lifetime: Duration::from_secs(360_000),
        renew_before: Duration::from_secs(36_000),
        keep_previous: HOUR,
    };

    fn fresh(now: SystemTime) -> Authorities {
        Authorities::new(Authority::generate(now, PLAN.ca_lifetime).unwrap())
    }

    #[test]
    fn a_replacement_publishes_first_then_signs_then_forgets() {
        let now = SystemTime::now();
        let mut authorities = fresh(now);
        let old = authorities.current.clone();
        assert_eq!(authorities.advance(now, &PLAN, false).unwrap(), None, "nothing is due");

        authorities.replace_asked = true;
        assert_eq!(authorities.advance(now, &PLAN, false).unwrap(), Some(Change::Introduced));
        let new = authorities.next.clone().unwrap();
        assert_eq!(authorities.current, old, "the old CA still signs");
        assert!(authorities.bundle().contains(old.certificate.trim_end()));
        assert!(authorities.bundle().contains(new.certificate.trim_end()));
        assert_eq!(authorities.advance(now, &PLAN, false).unwrap(), None, "not before the bundle has spread");

        assert_eq!(authorities.advance(now, &PLAN, true).unwrap(), Some(Change::Promoted));
        assert_eq!(authorities.current, new);
        assert!(authorities.bundle().contains(old.certificate.trim_end()), "its leaf certificates still live");

        assert_eq!(authorities.advance(now + HOUR, &PLAN, true).unwrap(), Some(Change::Dropped));
        assert_eq!(authorities.bundle(), new.certificate);
    }

    #[test]
    fn a_ca_near_its_end_is_replaced_unasked() {
        let now = SystemTime::now();
        let mut authorities = fresh(now);
        let late = authorities.current.not_after - PLAN.renew_before;
        assert_eq!(authorities.advance(late - HOUR, &PLAN, false).unwrap(), None);
        assert_eq!(authorities.advance(late, &PLAN, false).unwrap(), Some(Change::Introduced));
    }

    #[test]
    fn a_second_replacement_waits_for_the_first() {
        let now = SystemTime::now();
        let mut authorities = fresh(now);
        authorities.replace_asked = true;
        authorities.advance(now, &PLAN, false).unwrap();
        authorities.advance(now, &PLAN, true).unwrap();
        authorities.replace_asked = true;
        assert_eq!(authorities.advance(now, &PLAN, true).unwrap(), None);
        assert!(authorities.replace_asked, "the wish is kept");
        assert_eq!(authorities.advance(now + HOUR, &PLAN, true).unwrap(), Some(Change::Dropped));
        assert_eq!(authorities.advance(now + HOUR, &PLAN, true).unwrap(), Some(Change::Introduced));
    }

    #[test]
    fn the_secret_holds_every_stage() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let mut authorities = fresh(now);
        let mut secret = Secret::default();
        authorities.replace_asked = true;
        for settled in [false, true] {
            authorities.advance(now, &PLAN, settled).unwrap();
            authorities.encode(&mut secret);
            assert_eq!(Authorities::decode(&secret).unwrap(), authorities);
        }
        assert!(!secret.data.unwrap().contains_key("next.key"), "the stage before leaves nothing behind");
    }

    #[test]
    fn a_damaged_secret_is_named_by_its_key() {
        let mut secret = Secret::default();
        fresh(SystemTime::now()).encode(&mut secret);
        for key in ["ca.crt", "ca.key"] {
            let mut damaged = secret.clone();
            damaged.data.as_mut().unwrap().insert(key.to_owned(), ByteString(b"nonsense".to_vec()));
            let error = Authorities::decode(&damaged).unwrap_err().to_string();
            assert!(error.contains("ca.crt"), "{error}");
            damaged.data.as_mut().unwrap().remove(key);
            let error = Authorities::decode(&damaged).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("missing"), "{error}");
        }
    }
}
