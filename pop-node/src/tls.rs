//! Certificates: loading, the identity in them, and the TLS settings made of them.
//!
//! Everything inside the mesh is mutual TLS 1.3; who a peer is, its certificate says in a
//! SPIFFE-style URI. Each refusal is one sentence that names the file and the fix.
//! `rotation` follows files that change. Deliberately not here: revocation lists.

pub mod rotation;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enroll::renew::Validity;
use proto::identity::{Identity, Kind};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::rfc3339;
use crate::config::Config;

/// ALPN of the overlay, version 1.
pub const ALPN: &[u8] = b"voxmesh/1";

/// Why the certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("[tls] {field} {path} cannot be read: {source}; correct the path or its permissions")]
    Unreadable {
        /// Key in the TOML.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// From the system.
        source: std::io::Error,
    },
    /// Not PEM, or not of the kind wanted.
    #[error("[tls] {field} {path} holds no {wanted}; give the PEM file meshctl pki wrote")]
    Malformed {
        /// Key in the TOML.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// Key and certificate are not a pair.
    #[error("[tls] key {key} does not belong to cert {cert}; give the pair meshctl pki wrote")]
    KeyMismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        cert: PathBuf,
    },
    /// The clock is before the certificate's validity.
    #[error(
        "[tls] {field} {path} is valid only from {from}, but this machine's clock says {clock}; \
         set the clock (NTP)"
    )]
    NotYetValid {
        /// Key in the TOML.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// RFC 3339.
        from: String,
        /// RFC 3339.
        clock: String,
    },
    /// The clock is behind the certificate's validity.
    #[error(
        "[tls] {field} {path} expired at {until}, and this machine's clock says {clock}; \
         issue a new one (meshctl pki issue)"
    )]
    Expired {
        /// Key in the TOML.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// RFC 3339.
        until: String,
        /// RFC 3339.
        clock: String,
    },
    /// Another authority issued it.
    #[error("[tls] cert {cert} was not issued by ca {ca} ({source}); give files of one mesh")]
    WrongAuthority {
        /// The certificate file.
        cert: PathBuf,
        /// The authority's file.
        ca: PathBuf,
        /// From rustls.
        source: rustls::Error,
    },
    /// No usable identity in it.
    #[error("[tls] cert {cert} {source}; issue one with meshctl pki issue --kind pop")]
    NoIdentity {
        /// The certificate file.
        cert: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// The identity is not the configured one.
    #[error("[pop] {field} is \"{ours}\" but [tls] cert {cert} is for {theirs}; make them agree")]
    WrongIdentity {
        /// Key in the TOML.
        field: &'static str,
        /// The configured value.
        ours: String,
        /// The certificate file.
        cert: PathBuf,
        /// What the certificate says.
        theirs: String,
    },
    /// rustls refused the settings.
    #[error("[tls] files cannot be used: {0}; give the files meshctl pki wrote")]
    Refused(#[from] rustls::Error),
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate.
    #[error("is no X.509 certificate")]
    Certificate,
    /// No URI among the subject's names, or more than one.
    #[error("does not name exactly one spiffe:// URI")]
    Missing,
    /// A URI that is not of ours.
    #[error("names a URI that is no identity of a mesh")]
    Malformed,
}

/// Our certificate, its key, and whom we trust.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    certified: Arc<CertifiedKey>,
    validity: Validity,
    /// What control nodes are dialed with; shared by all clones, so that all follow a rotation.
    dial: Arc<watch::Sender<Arc<rustls::ClientConfig>>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity.to_uri()).finish()
    }
}

impl Credentials {
    /// Loads the files of `config` and checks that they are this POP's, valid at `wall`.
    pub fn load(config: &Config, wall: SystemTime) -> Result<Self, TlsError> {
        let files = &config.tls;
        let authorities = certificates("ca", &files.ca, &read("ca", &files.ca)?)?;
        let chain = certificates("cert", &files.cert, &read("cert", &files.cert)?)?;
        let key = PrivateKeyDer::from_pem_slice(&read("key", &files.key)?).map_err(|_| {
            TlsError::Malformed { field: "key", path: files.key.clone(), wanted: "private key" }
        })?;
        for authority in &authorities {
            check_validity("ca", &files.ca, authority, wall)?;
        }
        let Some(leaf) = chain.first().cloned() else { return Err(no_certificate(config)) };
        let validity = check_validity("cert", &files.cert, &leaf, wall)?;
        let identity = identity_of(&leaf)
            .map_err(|source| TlsError::NoIdentity { cert: files.cert.clone(), source })?;
        check_identity(config, &identity)?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certified = certified(config, chain, key, &provider)?;
        let roots = Arc::new(root_store(authorities)?);
        let client = client(&provider, &roots, &certified)?;
        let dial = Arc::new(watch::Sender::new(Arc::new(client)));
        let credentials = Self { identity, provider, roots, certified, validity, dial };
        credentials.check_authority(config, wall)?;
        Ok(credentials)
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For dialing other POPs.
    pub fn overlay_client(&self) -> Result<rustls::ClientConfig, TlsError> {
        let mut config = client(&self.provider, &self.roots, &self.certified)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// For being dialed by other POPs.
    pub fn overlay_server(&self) -> Result<rustls::ServerConfig, TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For the control plane's API: the settings of the moment.
    pub fn dial(&self) -> enroll::dial::Tls {
        self.dial.subscribe()
    }

    /// When our certificate is valid.
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// New connections to control nodes use what `newer` holds, from all clones of this one.
    pub fn adopt(&self, newer: &Self) {
        self.dial.send_replace(newer.dial.borrow().clone());
    }

    /// Random bytes from the operating system, through the TLS provider.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        random_bytes(&self.provider)
    }

    fn check_authority(&self, config: &Config, wall: SystemTime) -> Result<(), TlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let Some((leaf, chain)) = self.certified.cert.split_first() else {
            return Err(no_certificate(config));
        };
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        verifier
            .verify_client_cert(leaf, chain, UnixTime::since_unix_epoch(since))
            .map(|_| ())
            .map_err(|source| TlsError::WrongAuthority {
                cert: config.tls.cert.clone(),
                ca: config.tls.ca.clone(),
                source,
            })
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    certified: &Arc<CertifiedKey>,
) -> Result<rustls::ClientConfig, TlsError> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())));
    // Tickets would let a peer come back without showing its certificate again.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn random_bytes<const N: usize>(provider: &CryptoProvider) -> [u8; N] {
    let mut bytes = [0; N];
    // The provider fails only when the system has no entropy source at all: nothing could run.
    if provider.secure_random.fill(&mut bytes).is_err() {
        crate::log::abort("the system gives no random bytes");
    }
    bytes
}

/// Who a peer's certificate says it is. The chain must have been verified by TLS before.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Result<Identity, IdentityError> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| IdentityError::Certificate)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Certificate)?
        .ok_or(IdentityError::Missing)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Identity::parse_uri(uri).map_err(|_| IdentityError::Malformed),
        (None, _) | (Some(_), Some(_)) => Err(IdentityError::Missing),
    }
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { field, path: path.into(), source })
}

fn certificates(
    field: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refused = || TlsError::Malformed { field, path: path.into(), wanted: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| refused())?;
    if found.is_empty() { Err(refused()) } else { Ok(found) }
}

fn no_certificate(config: &Config) -> TlsError {
    TlsError::Malformed { field: "cert", path: config.tls.cert.clone(), wanted: "certificate" }
}

fn certified(
    config: &Config,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let files = &config.tls;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::KeyMismatch { key: files.key.clone(), cert: files.cert.clone() }
        }
        other => TlsError::Refused(other),
    })
}

fn root_store(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority)?;
    }
    Ok(roots)
}

fn check_validity(
    field: &'static str,
    path: &Path,
    certificate: &CertificateDer<'_>,
    wall: SystemTime,
) -> Result<Validity, TlsError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| {
        TlsError::Malformed { field, path: path.into(), wanted: "X.509 certificate" }
    })?;
    let at = |timestamp: i64| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or_default())
    };
    let validity = certificate.validity();
    let (from, until) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    let (path, clock) = (path.to_path_buf(), rfc3339(wall));
    if wall < from {
        return Err(TlsError::NotYetValid { field, path, from: rfc3339(from), clock });
    }
    if wall > until {
        return Err(TlsError::Expired { field, path, until: rfc3339(until), clock });
    }
    Ok(Validity {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

fn check_identity(config: &Config, identity: &Identity) -> Result<(), TlsError> {
    let wrong = |field, ours: &str, theirs: String| {
        let cert = config.tls.cert.clone();
        Err(TlsError::WrongIdentity { field, ours: ours.to_owned(), cert, theirs })
    };
    if identity.mesh != config.mesh {
        return wrong("mesh", &config.mesh, format!("mesh \"{}\"", identity.mesh));
    }
    if identity.kind != Kind::Pop || identity.name != config.id.as_str() {
        return wrong("id", config.id.as_str(), identity.principal());
    }
    if identity.region != config.region {
        return wrong("region", &config.region, format!("region \"{}\"", identity.region));
    }
    Ok(())
}
