//! gRPC connections over TLS whose certificates may change while the process runs.
//!
//! Each new connection takes the configuration of that moment; open ones stay as they are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// The configuration of the moment.
pub type Tls = watch::Receiver<Arc<ClientConfig>>;

/// A handshake takes two round trips; longer than this and another node is tried.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// One that never changes.
pub fn fixed(config: ClientConfig) -> Tls {
    let (sender, receiver) = watch::channel(Arc::new(config));
    drop(sender);
    receiver
}

/// An endpoint for [`channel`]: without TLS of its own.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true))
}

/// A channel that connects when first used. `name` is what the server's certificate must carry.
pub fn channel(endpoint: &Endpoint, name: ServerName<'static>, tls: Tls) -> Channel {
    endpoint.connect_with_connector_lazy(Dialer { name, tls })
}

struct Dialer {
    name: ServerName<'static>,
    tls: Tls,
}

type Dialed = TokioIo<TlsStream<TcpStream>>;

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Dialed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (name, mut config) = (self.name.clone(), (**self.tls.borrow()).clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Box::pin(async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            let stream = TcpStream::connect(authority).await?;
            let _ = stream.set_nodelay(true); // Only latency is lost.
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
            let stream = tokio::time::timeout(HANDSHAKE, connecting).await??;
            Ok(TokioIo::new(stream))
        })
    }
}
