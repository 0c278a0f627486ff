//! A certificate authority and the leaf certificates it signs. Pure apart from randomness: reads no file, asks no clock.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::{Error, pem};

/// Certificates begin to be valid this much in the past: the API server's clock may be behind ours.
const BACKDATE: Duration = Duration::from_secs(300);

/// A CA with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM (PKCS 8).
    pub key: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// A serving certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM (PKCS 8).
    pub key: String,
}

impl Authority {
    /// A new CA that lives from `now` (a little before) for `lifetime`.
    ///
    /// # Errors
    /// [`Error::Generate`].
    pub fn generate(now: SystemTime, lifetime: Duration) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + lifetime).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Two CAs stand in one bundle while one is replaced. Names of their own make a verifier try the right one first.
        let born = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("packhorse webhook CA {born}"));
        let certificate = params.self_signed(&key)?.pem();
        Self::from_pem(&certificate, &key.serialize_pem())
    }

    /// Reads a CA from PEM, and checks that it is one and that the key belongs to it.
    ///
    /// # Errors
    /// [`Error::Pem`] says which of the two is damaged.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, Error> {
        let facts = pem::facts(certificate.as_bytes())?;
        if !facts.is_ca {
            return Err(Error::Pem("the certificate is not one of a CA".to_owned()));
        }
        pem::certified(certificate.as_bytes(), key.as_bytes())?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), not_after: facts.not_after })
    }

    /// Signs a new leaf certificate for `names` (DNS names or IP addresses). It ends after `lifetime`, or with the CA.
    ///
    /// # Errors
    /// [`Error::Generate`], also where a name is not a DNS name.
    pub fn issue(&self, now: SystemTime, names: &[String], lifetime: Duration) -> Result<Leaf, Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + lifetime).min(self.not_after).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "packhorse webhook");
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Leaf { certificate, key: key.serialize_pem() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_leaf_never_outlives_its_ca() {
        let now = SystemTime::now();
        let authority = Authority::generate(now, DAY).unwrap();
        let leaf = authority.issue(now, &["a.example".to_owned()], 10 * DAY).unwrap();
        assert_eq!(pem::facts(leaf.certificate.as_bytes()).unwrap().not_after, authority.not_after);
    }

    #[test]
    fn refuses_a_key_of_another_ca() {
        let now = SystemTime::now();
        let (one, other) = (Authority::generate(now, DAY).unwrap(), Authority::generate(now, DAY).unwrap());
        assert!(matches!(Authority::from_pem(&one.certificate, &other.key), Err(Error::Pem(_))));
    }

    #[test]
    fn refuses_a_leaf_as_ca() {
        let now = SystemTime::now();
        let leaf = Authority::generate(now, DAY).unwrap().issue(now, &["a.example".to_owned()], DAY).unwrap();
        let error = Authority::from_pem(&leaf.certificate, &leaf.key).unwrap_err();
        assert_eq!(error.to_string(), "damaged certificate or key: the certificate is not one of a CA");
    }
}
