//! The admin page, plain HTTP/1.1: `/metrics` for Prometheus, `/healthz` for whoever starts and
//! watches the process.
//!
//! Read-only. Deliberately absent: TLS and users. Listen on loopback or a management network.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::driver::Progress;
use crate::liveness::Liveness;
use crate::telemetry;

/// Connections at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
/// A client sends its request within this.
const REQUEST: Duration = Duration::from_secs(5);
/// The driver turns at every tick; one that does not for so long hangs, most likely on its disk.
const TURN: Duration = Duration::from_secs(2);

/// What the page shows.
pub struct Page {
    /// Renders the metrics.
    pub prometheus: PrometheusHandle,
    /// How the replica stands.
    pub progress: watch::Receiver<Progress>,
    /// Heartbeats.
    pub liveness: Arc<Liveness>,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, page: Page) {
    let page = Arc::new(page);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin address");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let page = page.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(page.answer(&request)));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
            // A client that breaks off is its own affair.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
            drop(permit);
        });
    }
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path();
        let (status, text) = match (request.method(), path) {
            (&Method::GET, "/metrics") => (StatusCode::OK, self.metrics()),
            (&Method::GET, "/healthz") => self.health(),
            (&Method::GET, _) => (StatusCode::NOT_FOUND, "try /metrics or /healthz\n".into()),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }

    fn metrics(&self) -> String {
        telemetry::pops_alive(self.liveness.alive(Instant::now()));
        telemetry::log_lost();
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }

    fn health(&self) -> (StatusCode, String) {
        let progress = self.progress.borrow().clone();
        match why_unhealthy(&progress, Instant::now()) {
            None => {
                let leader = progress.leader.map_or(0, |leader| leader.0);
                (StatusCode::OK, format!("ok, revision {}, leader {leader}\n", progress.revision))
            }
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    }
}

fn why_unhealthy(progress: &Progress, now: Instant) -> Option<&'static str> {
    if now.saturating_duration_since(progress.turned) > TURN {
        return Some("the driver hangs: look at the disk of node.data_dir");
    }
    if progress.leader.is_none() {
        return Some("no leader is known: a majority of the members must run and reach each other");
    }
    if progress.cluster_id.is_empty() {
        return Some("the cluster begins: its first entry is not applied here yet");
    }
    None
}

#[cfg(test)]
mod tests {
    use proto::id::{NodeId, Revision};

    use super::*;

    #[test]
    fn health_names_what_is_missing() {
        let now = Instant::now();
        let good = Progress {
            node: NodeId(1),
            applied: 1,
            revision: Revision(0),
            log_time_ms: 1,
            term: 1,
            leader: Some(NodeId(2)),
            leads: false,
            cluster_id: "x".into(),
            policy: Arc::default(),
            turned: now,
        };
        assert_eq!(why_unhealthy(&good, now), None);
        let cases = [
            (Progress { leader: None, ..good.clone() }, "no leader is known"),
            (Progress { cluster_id: "".into(), ..good.clone() }, "the cluster begins"),
        ];
        for (progress, why) in cases {
            assert!(why_unhealthy(&progress, now).unwrap().starts_with(why));
        }
        assert!(why_unhealthy(&good, now + TURN * 2).unwrap().contains("disk"));
    }
}
