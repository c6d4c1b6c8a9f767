//! The authority inside a control node: signs for keys that were made elsewhere.
//!
//! Of a request (PKCS #10) only the key counts, and its signature, which proves that the sender
//! has it; who the certificate names is decided by the caller of this module.

use std::path::Path;

use proto::identity::Identity;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair, PublicKeyData as _};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{leaf_params, mesh_of};
use crate::problem::Problem;

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Not PKCS #10, or not signed by its own key.
    #[error("csr is no certificate request (PKCS #10, DER) signed by its own key ({0})")]
    Request(rcgen::Error),
    /// The authority's own trouble.
    #[error("the authority cannot sign ({0})")]
    Authority(rcgen::Error),
}

/// A key and the certificate of the mesh's authority that belongs to it.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    mesh: String,
}

/// A request that proved its key.
pub struct Requested(CertificateSigningRequestParams);

impl Requested {
    /// Checks a request.
    pub fn read(csr: &[u8]) -> Result<Self, SignError> {
        let der = CertificateSigningRequestDer::from(csr);
        CertificateSigningRequestParams::from_der(&der).map(Self).map_err(SignError::Request)
    }

    /// SHA-256 of its key (SubjectPublicKeyInfo).
    pub fn key_sha256(&self) -> Vec<u8> {
        Sha256::digest(self.0.public_key.subject_public_key_info()).to_vec()
    }
}

impl Authority {
    /// The certificate of `bundle` that belongs to `key`.
    pub fn load(bundle: &Path, key: &Path) -> Result<Self, Problem> {
        let read = |field: &str, path: &Path| {
            std::fs::read_to_string(path).map_err(|error| {
                let what = format!("{} cannot be read ({error})", path.display());
                Problem::new(field, what, "correct the path, or let this user read it")
            })
        };
        let pair = KeyPair::from_pem(&read("ca.key", key)?).map_err(|error| {
            let what = format!("{} holds no private key ({error})", key.display());
            Problem::new("ca.key", what, "give the ca.key that `meshctl pki init` wrote")
        })?;
        let spki = pair.subject_public_key_info();
        let bundled = read("tls.ca", bundle)?;
        let mut certificates = CertificateDer::pem_slice_iter(bundled.as_bytes()).flatten();
        let own = certificates.find(|der| {
            X509Certificate::from_der(der).is_ok_and(|(_, c)| c.public_key().raw == spki)
        });
        let Some(certificate) = own else {
            let what = format!("{} belongs to no certificate of tls.ca", key.display());
            let fix = "give the key of an authority in that file, or add its ca.pem there";
            return Err(Problem::new("ca.key", what, fix));
        };
        let unusable = |error: rcgen::Error| {
            let what = format!("{} is no authority ({error})", bundle.display());
            Problem::new("tls.ca", what, "give the ca.pem that `meshctl pki init` wrote")
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, pair).map_err(unusable)?;
        let mesh = mesh_of(&certificate)?;
        Ok(Self { certificate, issuer, mesh })
    }

    /// The mesh it signs for.
    pub fn mesh(&self) -> &str {
        &self.mesh
    }

    /// Its certificate, to be shown in handshakes.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// What join tokens name it by.
    pub fn sha256(&self) -> Vec<u8> {
        Sha256::digest(&self.certificate).to_vec()
    }

    /// A certificate for the key of `request`, as PEM.
    pub fn sign(
        &self,
        identity: &Identity,
        request: &Requested,
        days: u32,
    ) -> Result<String, SignError> {
        let params = leaf_params(identity, &[], days).map_err(SignError::Authority)?;
        let signed = params.signed_by(&request.0.public_key, &self.issuer);
        Ok(signed.map_err(SignError::Authority)?.pem())
    }
}

#[cfg(test)]
mod tests {
    use proto::identity::Kind;
    use rcgen::CertificateParams;

    use super::super::init;
    use super::*;

    fn csr(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_key_finds_its_certificate_among_two() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        init("demo", &old).unwrap();
        init("demo", &new).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path.join("ca.pem")).unwrap();
        let bundle = dir.path().join("bundle.pem");
        std::fs::write(&bundle, read(&old) + &read(&new)).unwrap();
        let authority = Authority::load(&bundle, &new.join("ca.key")).unwrap();
        assert_eq!(authority.mesh(), "demo");
        let expected = Authority::load(&new.join("ca.pem"), &new.join("ca.key")).unwrap();
        assert_eq!(authority.sha256(), expected.sha256());
        let said = Authority::load(&old.join("ca.pem"), &new.join("ca.key")).err().unwrap();
        assert!(said.to_string().contains("belongs to no certificate of tls.ca"), "{said}");
    }

    #[test]
    fn only_requests_with_a_proven_key_are_signed() {
        let dir = tempfile::tempdir().unwrap();
        init("demo", dir.path()).unwrap();
        let (bundle, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
        let authority = Authority::load(&bundle, &key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut request = csr(&key);
        let identity = Identity::new("demo", "eu", Kind::Pop, "fra1").unwrap();
        let pem = authority.sign(&identity, &Requested::read(&request).unwrap(), 90).unwrap();
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(crate::tls::identity_of(&leaf).unwrap(), identity);
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(matches!(Requested::read(&request), Err(SignError::Request(_))));
        assert!(Requested::read(b"nonsense").is_err());
    }
}
