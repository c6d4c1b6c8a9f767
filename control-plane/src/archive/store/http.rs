//! HTTP to an object store, on the TLS that everything else here uses: a connection per request,
//! for those are few and long.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Until an answer begins.
const PATIENCE: Duration = Duration::from_secs(60);
/// Who may vouch for an object store, unless SSL_CERT_FILE says otherwise.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes clients.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client))
    }
}

#[derive(Debug)]
struct Client;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

#[tonic::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(PATIENCE, ask(request)).await {
            Ok(answer) => answer,
            Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
        }
    }
}

async fn ask(request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = request.into_parts();
    let io =
        connect(&parts.uri).await.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
    let failed = |error| HttpError::new(HttpErrorKind::Request, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    // It ends with the answer; why it broke the answer says.
    tokio::spawn(async move { drop(connection.await) });
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = HeaderValue::try_from(authority.unwrap_or_default());
    let host = host.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
    parts.headers.insert(HOST, host);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let answer = sender.send_request(Request::from_parts(parts, body)).await.map_err(failed)?;
    let broken = |error| HttpError::new(HttpErrorKind::Interrupted, error);
    Ok(answer.map(|body| HttpResponseBody::new(body.map_err(broken))))
}

async fn connect(uri: &Uri) -> std::io::Result<Box<dyn Io>> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    if !secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    let tls = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await?;
    Ok(Box::new(tls))
}

fn tls() -> std::io::Result<ClientConfig> {
    let file = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| AUTHORITIES.into());
    let unreadable = |error: &dyn std::fmt::Display| {
        let file = file.display();
        std::io::Error::other(format!(
            "{file} ({error}): install ca-certificates, or name a file by SSL_CERT_FILE"
        ))
    };
    let mut roots = RootCertStore::empty();
    let read = CertificateDer::pem_file_iter(&file).map_err(|error| unreadable(&error))?;
    roots.add_parsable_certificates(read.filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
