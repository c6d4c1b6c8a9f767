//! Certificates: read, judged before use, turned into TLS configurations.
//!
//! Mutual TLS 1.3 (RFC 8446) only. A party is its certificate's SPIFFE-style URI; clients verify
//! the DNS name of a control node. `rotation` follows files that change.

pub mod rotation;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enroll::renew::Validity;
use proto::identity::{CONTROL_DNS_NAME, Identity, Kind};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tonic::transport::{Certificate, ClientTlsConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{Config, TlsFiles};
use crate::problem::Problem;

/// A party's certificate, key and the authority it trusts.
pub struct Credentials {
    files: TlsFiles,
    pem: Pem,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

/// The files as read; tonic wants them as text.
struct Pem {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// What a certificate says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    identity: Identity,
    not_before: i64,
    not_after: i64,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The URI is not one of ours.
    #[error("has a URI name that {0}")]
    Foreign(#[from] proto::identity::IdentityError),
    /// Not exactly one URI among the subject alternative names.
    #[error("has {0} URI names where exactly one is due")]
    UriCount(usize),
    /// No X.509 certificate at all.
    #[error("is no X.509 certificate")]
    Unreadable,
}

impl Credentials {
    /// Reads the three files.
    pub fn load(files: &TlsFiles) -> Result<Self, Problem> {
        let pem = Pem {
            ca: read("tls.ca", &files.ca)?,
            cert: read("tls.cert", &files.cert)?,
            key: read("tls.key", &files.key)?,
        };
        let mut roots = RootCertStore::empty();
        for root in certificates("tls.ca", &files.ca, &pem.ca)? {
            roots.add(root).map_err(|error| {
                let what = format!("{} is no authority ({error})", files.ca.display());
                Problem::new("tls.ca", what, "give the ca.pem that `meshctl pki init` wrote")
            })?;
        }
        let chain = certificates("tls.cert", &files.cert, &pem.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| {
            let what = format!("{} holds no private key ({error})", files.key.display());
            Problem::new("tls.key", what, "give the .key file that belongs to tls.cert")
        })?;
        Ok(Self { files: files.clone(), pem, chain, key, roots: Arc::new(roots) })
    }

    /// Whom the certificate names, if it may be used at `now`: readable, in its validity, signed
    /// by the authority, with its own key.
    pub fn check(&self, now: SystemTime) -> Result<Identity, Problem> {
        let leaf = self.leaf()?;
        self.check_validity(&leaf, now)?;
        self.check_signature(&leaf, now)?;
        self.check_key()?;
        Ok(leaf.identity)
    }

    /// As `check`, and that the certificate is the one of this control node.
    pub fn check_for(&self, config: &Config, now: SystemTime) -> Result<Identity, Problem> {
        let identity = self.check(now)?;
        let (id, node) = (config.node.id.to_string(), &config.node);
        let fields = [
            ("node.mesh", identity.mesh == node.mesh, &identity.mesh, &node.mesh),
            ("node.id", identity.kind == Kind::Control, &identity.principal(), &id),
            ("node.id", identity.name == id, &identity.principal(), &id),
            ("node.region", identity.region == node.region, &identity.region, &node.region),
        ];
        if let Some((field, _, theirs, ours)) = fields.iter().find(|(_, agree, ..)| !agree) {
            let what = format!(
                "is \"{ours}\", but {} was issued to \"{theirs}\" ({})",
                self.files.cert.display(),
                identity.to_uri()
            );
            let fix = "correct the field or issue a certificate with `meshctl pki issue`";
            return Err(Problem::new(*field, what, fix));
        }
        Ok(identity)
    }

    fn leaf(&self) -> Result<Leaf, Problem> {
        let der = self.chain.first();
        der.ok_or(NoIdentity::Unreadable).and_then(read_leaf).map_err(|error| {
            let what = format!("{} {error}", self.files.cert.display());
            Problem::new("tls.cert", what, "issue one with `meshctl pki issue`")
        })
    }

    fn check_validity(&self, leaf: &Leaf, now: SystemTime) -> Result<(), Problem> {
        let now = seconds(now);
        let cert = self.files.cert.display();
        if now < leaf.not_before {
            let ahead = describe_seconds(leaf.not_before - now);
            let what = format!("{cert} is not valid yet: its validity begins in {ahead}");
            let fix = "set this machine's clock (timedatectl), it is probably behind";
            return Err(Problem::new("tls.cert", what, fix));
        }
        if now > leaf.not_after {
            let ago = describe_seconds(now - leaf.not_after);
            let what = format!("{cert} expired {ago} ago");
            let fix = "issue a new one with `meshctl pki issue` (or set this machine's clock)";
            return Err(Problem::new("tls.cert", what, fix));
        }
        Ok(())
    }

    fn check_signature(&self, leaf: &Leaf, now: SystemTime) -> Result<(), Problem> {
        let Some((end, intermediates)) = self.chain.split_first() else {
            return Ok(()); // No certificate: `leaf` has said so.
        };
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let as_client = client_verifier(&self.roots)
            .and_then(|v| v.verify_client_cert(end, intermediates, time).map(drop));
        let as_server = match leaf.identity.kind {
            Kind::Control => server_verifier(&self.roots).and_then(|v| {
                let name = ServerName::try_from(CONTROL_DNS_NAME)
                    .map_err(|_| rustls::Error::General("name".into()))?;
                v.verify_server_cert(end, intermediates, &name, &[], time).map(drop)
            }),
            Kind::Operator | Kind::Pop | Kind::Service => Ok(()),
        };
        as_client.and(as_server).map_err(|error| {
            let cert = self.files.cert.display();
            let why = match error {
                rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer | CertificateError::BadSignature,
                ) => {
                    format!("was not signed by {}", self.files.ca.display())
                }
                other => format!("cannot serve here ({other})"),
            };
            let fix = "use certificate and ca.pem of the same mesh (`meshctl pki issue`)";
            Problem::new("tls.cert", format!("{cert} {why}"), fix)
        })
    }

    fn check_key(&self) -> Result<(), Problem> {
        let key = provider().key_provider.load_private_key(self.key.clone_key());
        let pair = key.map(|key| rustls::sign::CertifiedKey::new(self.chain.clone(), key));
        pair.and_then(|pair| pair.keys_match()).map_err(|error| {
            let key = self.files.key.display();
            let what = format!("{key} does not belong to the certificate ({error})");
            Problem::new("tls.key", what, "give the .key file written with tls.cert")
        })
    }

    /// What the API listens with: TLS 1.3, client certificate required, HTTP/2.
    pub fn server_config(&self) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(client_verifier(&self.roots)?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Who comes back shows its certificate again.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// What the join address listens with: no client certificate, and the authority's own one
    /// beside ours, which new machines look for.
    pub fn join_config(
        &self,
        authority: CertificateDer<'static>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut chain = self.chain.clone();
        chain.push(authority);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// What to dial control nodes with.
    pub fn dial_config(&self) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        // A ticket would bring an old certificate back after a rotation.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// When the certificate is valid.
    pub fn validity(&self) -> Result<Validity, Problem> {
        let Leaf { not_before, not_after, .. } = self.leaf()?;
        Ok(Validity { not_before, not_after })
    }

    /// All authorities this party trusts, as PEM.
    pub fn ca_pem(&self) -> String {
        String::from_utf8_lossy(&self.pem.ca).into_owned()
    }

    /// What to dial a control node with; `name` is the DNS name its certificate must carry.
    pub fn client_config(&self, name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .domain_name(name)
            .ca_certificate(Certificate::from_pem(&self.pem.ca))
            .identity(tonic::transport::Identity::from_pem(&self.pem.cert, &self.pem.key))
            .timeout(Duration::from_secs(5))
    }
}

/// Whom a verified certificate names.
pub fn identity_of(der: &CertificateDer<'_>) -> Result<Identity, NoIdentity> {
    read_leaf(der).map(|leaf| leaf.identity)
}

fn read_leaf(der: &CertificateDer<'_>) -> Result<Leaf, NoIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NoIdentity::Unreadable)?;
    let names = certificate.subject_alternative_name().map_err(|_| NoIdentity::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else { return Err(NoIdentity::UriCount(uris.len())) };
    Ok(Leaf {
        identity: Identity::parse_uri(uri)?,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn client_verifier(
    roots: &Arc<RootCertStore>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn server_verifier(roots: &Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
    WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| {
        let what = format!("{} cannot be read ({error})", path.display());
        let fix = "correct the path, or let this user read it";
        Problem::new(field, what, fix)
    })
}

fn certificates(
    field: &str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => {
            let what = format!("{} holds no PEM certificate", path.display());
            Err(Problem::new(field, what, "give a file that `meshctl pki` wrote"))
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn describe_seconds(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
