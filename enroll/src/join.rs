//! Joining: a key made here, a certificate for it from the mesh.
//!
//! Before anything is said, the server must show the authority that the token names (its
//! fingerprint) and a control node's certificate from it: the secret goes to nobody else. The
//! secret is good once; asked again with the same key, the mesh answers again.

use std::sync::Arc;
use std::time::Duration;

use proto::control::enrollment_client::EnrollmentClient;
use proto::control::{CertificateResponse, JoinRequest, Member};
use proto::identity::{CONTROL_DNS_NAME, Identity};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use crate::dial;
use crate::token::Token;

/// One try at one node.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Why a machine was not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A node said no: another one would too.
    #[error("the mesh refuses this token: {0}")]
    Refused(String),
    /// No node of the token could be asked.
    #[error("no control node could be asked: {0}; see that one of them runs and is reachable")]
    Unreachable(String),
    /// What came back is not what was asked for.
    #[error("the answer is not a certificate for this key and mesh: {0}")]
    Answer(&'static str),
    /// Keys.
    #[error("a key cannot be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// What a machine has afterwards.
pub struct Joined {
    /// Who it is now.
    pub identity: Identity,
    /// Key and certificate in one PEM text: they change together.
    pub pem: String,
    /// The mesh's authorities.
    pub ca_pem: String,
    /// All control nodes.
    pub members: Vec<Member>,
}

/// A new key, as PEM; keep it until the certificate is there.
pub fn new_key() -> Result<String, JoinError> {
    Ok(KeyPair::generate()?.serialize_pem())
}

/// A request for a certificate (PKCS #10, RFC 2986): proves that its sender has the key.
pub(crate) fn request_of(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec())
}

/// Asks the token's nodes in turn.
pub async fn join(token: &Token, key_pem: &str) -> Result<Joined, JoinError> {
    let key = KeyPair::from_pem(key_pem)?;
    let request = JoinRequest { secret: token.secret().to_vec(), csr: request_of(&key)? };
    let mut failures = Vec::new();
    for endpoint in token.endpoints() {
        match ask(token, endpoint, request.clone()).await {
            Ok(answer) => {
                let joined = take(answer, &key)?;
                if joined.identity.mesh != token.mesh() {
                    return Err(JoinError::Answer("it is for another mesh"));
                }
                return Ok(joined);
            }
            Err(status) if is_final(&status) => {
                return Err(JoinError::Refused(status.message().into()));
            }
            Err(status) => failures.push(format!("{endpoint} ({})", cause(&status))),
        }
    }
    Err(JoinError::Unreachable(failures.join(", ")))
}

async fn ask(
    token: &Token,
    address: &str,
    request: JoinRequest,
) -> Result<CertificateResponse, Status> {
    let unusable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let endpoint = dial::endpoint(address).map_err(unusable)?.connect_timeout(ATTEMPT);
    let name = ServerName::try_from(CONTROL_DNS_NAME);
    let name = name.map_err(|error| Status::internal(error.to_string()))?;
    let config = pinned(token.ca_sha256()).map_err(|error| Status::internal(error.to_string()))?;
    let channel = dial::channel(&endpoint, name, dial::fixed(config));
    let mut client = EnrollmentClient::new(channel);
    match tokio::time::timeout(ATTEMPT, client.join(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::unavailable("no answer in time")),
    }
}

/// A node said it, not the way to it.
fn is_final(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown)
        && status.metadata().contains_key("voxmesh-reason")
}

/// The innermost cause says it: "Connection refused", "invalid peer certificate".
fn cause(status: &Status) -> String {
    let mut said = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    said
}

/// Checks an answer to a request with this key.
pub(crate) fn take(answer: CertificateResponse, key: &KeyPair) -> Result<Joined, JoinError> {
    let leaf = CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes());
    let leaf = leaf.map_err(|_| JoinError::Answer("it holds no certificate"))?;
    let chain = vec![leaf.into_owned()];
    let signing = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der())
        .ok()
        .and_then(|der| provider().key_provider.load_private_key(der).ok())
        .ok_or(JoinError::Answer("the key is of no kind we use"))?;
    if rustls::sign::CertifiedKey::new(chain, signing).keys_match().is_err() {
        return Err(JoinError::Answer("the certificate is for another key"));
    }
    let identity = Identity::parse_uri(&answer.identity)
        .map_err(|_| JoinError::Answer("it names no identity"))?;
    let pem = format!("{}{}", key.serialize_pem(), answer.certificate_pem);
    Ok(Joined { identity, pem, ca_pem: answer.ca_pem, members: answer.members })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn pinned(ca_sha256: &[u8]) -> Result<ClientConfig, rustls::Error> {
    let pin = Pin { ca_sha256: ca_sha256.to_vec(), provider: provider() };
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // Only in name: the verifier below asks for more than a root store does.
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth())
}

/// Trusts the one authority with this fingerprint, which the server has to show.
#[derive(Debug)]
struct Pin {
    ca_sha256: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates
            .iter()
            .find(|der| Sha256::digest(der.as_ref()).as_slice() == self.ca_sha256)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
