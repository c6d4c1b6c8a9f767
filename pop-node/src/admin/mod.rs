//! The admin page, plain HTTP/1.1: `/metrics` for Prometheus, `/healthz` for whoever starts and
//! watches the process, `/standing` for whoever sends calls there, `/status`, `/paths` and `/bgp` for people and tools (JSON), `/calls/ID` for
//! how a call sounds.
//!
//! Read-only. Figures are read from the cores at each request, so an idle POP does nothing.
//! Deliberately absent: TLS and users. Listen on loopback or a management network.

pub mod ask;
mod bgp;
mod paths;

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use pop_core::bgp::Standing;
use pop_core::media::{DropReason, Rated, Rating, SilenceCause};
use pop_core::pop::{CallSummary, Guardian, Phase, Refusal};
use pop_core::sdp::offer_answer::NegotiationError;
use proto::id::{CallId, PopId, TrunkId};
use proto::time::Instant;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::cdr::role;
use crate::clock::Clock;
use crate::drops::{Drops, Reason};
use crate::quality;
use crate::signaling::{Status, StatusRequest};
use crate::{control, media, telemetry as t};

/// Connections at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
/// A client sends its request within this.
const REQUEST: Duration = Duration::from_secs(5);
/// The loops answer within this, or the POP is not healthy.
const ANSWER: Duration = Duration::from_secs(2);

/// Everything the page shows.
pub struct Page {
    /// Our id.
    pub pop: PopId,
    /// Our region.
    pub region: String,
    /// Our mesh.
    pub mesh: String,
    /// Uptime is its `now`.
    pub clock: Clock,
    /// Renders the metrics.
    pub prometheus: PrometheusHandle,
    /// The signaling loop.
    pub signaling: mpsc::Sender<StatusRequest>,
    /// The media thread.
    pub media: media::Handle,
    /// The control plane's client.
    pub control: Arc<control::Shared>,
    /// The paths to other POPs.
    pub links: crate::link::Links,
    /// What routers tell, if there are any.
    pub bgp: Option<crate::bgp::Handle>,
    /// What the shell dropped.
    pub drops: Drops,
    /// What the kernel dropped at media sockets.
    pub socket_drops: Arc<Mutex<media::SocketDrops>>,
}

/// What both loops said.
struct Figures {
    status: Status,
    media: media::Status,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, page: Arc<Page>) {
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
            let service = service_fn(|request| answer(&page, request));
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(REQUEST);
            // A client that breaks off is its own affair.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
            drop(permit);
        });
    }
}

async fn answer(
    page: &Page,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()));
    }
    let path = request.uri().path();
    if let Some(call) = path.strip_prefix("/calls/") {
        return Ok(page.call(call).await);
    }
    if let Some(peer) = path.strip_prefix("/paths") {
        return Ok(page.paths(peer.trim_start_matches('/')).await);
    }
    if path == "/bgp" {
        return Ok(page.bgp().await);
    }
    if !["/metrics", "/healthz", "/standing", "/status"].contains(&path) {
        let text =
            "try /metrics, /healthz, /standing, /status, /paths, /paths/POP, /bgp or /calls/ID\n";
        return Ok(plain(StatusCode::NOT_FOUND, text.into()));
    }
    let Some(figures) = page.figures().await else {
        let text = "the signaling loop or the media thread does not answer\n";
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, text.into()));
    };
    Ok(match path {
        "/metrics" => {
            page.count_socket_drops().await;
            page.set_metrics(&figures);
            paths::metrics(&page.links.paths().await.unwrap_or_default());
            if let Some(handle) = &page.bgp
                && let Some(report) = handle.report().await
            {
                bgp::metrics(&report, handle);
            }
            page.prometheus.run_upkeep();
            respond(StatusCode::OK, "text/plain; version=0.0.4", page.prometheus.render())
        }
        "/standing" => {
            let standing = page.standing(&figures.status).name();
            let body = json!({ "standing": standing, "calls": figures.status.active_calls });
            respond(StatusCode::OK, "application/json", body.to_string())
        }
        "/healthz" if page.control.is_fenced() => {
            let text = "fenced: a newer process registered as this POP; stop this one\n";
            plain(StatusCode::SERVICE_UNAVAILABLE, text.into())
        }
        "/healthz" if figures.status.cluster_id.is_empty() => {
            let text = "no view yet: no control node answered, and there is no copy on disk\n";
            plain(StatusCode::SERVICE_UNAVAILABLE, text.into())
        }
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        _ => respond(StatusCode::OK, "application/json", page.status(&figures).to_string()),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain", text)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

impl Page {
    async fn figures(&self) -> Option<Figures> {
        let (answer, status) = oneshot::channel();
        let asked = async {
            self.signaling.send(StatusRequest::Figures(answer)).await.ok()?;
            let status = status.await.ok()?;
            Some(Figures { status, media: self.media.status().await? })
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }

    fn standing(&self, status: &Status) -> Standing {
        match status.leaving {
            _ if self.control.is_fenced() => Standing::Fenced,
            _ if status.cluster_id.is_empty() => Standing::NoView,
            (_, true) => Standing::Draining,
            (true, false) => Standing::Cordoned,
            (false, false) => Standing::Serving,
        }
    }

    /// The paths to all POPs, or in words to one.
    async fn paths(&self, peer: &str) -> Response<Full<Bytes>> {
        let Some(reports) = self.links.paths().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n".into());
        };
        let now = self.clock.now();
        if peer.is_empty() {
            let page = paths::page(&reports, now).to_string();
            return respond(StatusCode::OK, "application/json", page);
        }
        match reports.iter().find(|report| report.peer.as_str() == peer) {
            Some(report) => plain(StatusCode::OK, paths::words(report, now)),
            None => plain(StatusCode::NOT_FOUND, "no path to such a POP was ever up\n".into()),
        }
    }

    /// What routers tell.
    async fn bgp(&self) -> Response<Full<Bytes>> {
        let Some(handle) = &self.bgp else {
            return plain(StatusCode::NOT_FOUND, "no [bgp] in the configuration\n".into());
        };
        match handle.report().await {
            Some(report) => respond(
                StatusCode::OK,
                "application/json",
                bgp::page(&report, handle.caches.as_ref()).to_string(),
            ),
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "the process is ending\n".into()),
        }
    }

    /// What the legs of a call received, over time.
    async fn call(&self, id: &str) -> Response<Full<Bytes>> {
        let Some(id) = CallId::parse(id) else {
            let text = "a call id has 32 hexadecimal digits: see /status\n";
            return plain(StatusCode::NOT_FOUND, text.into());
        };
        let (answer, timelines) = oneshot::channel();
        let asked = async {
            self.signaling.send(StatusRequest::Call(id, answer)).await.ok()?;
            timelines.await.ok()
        };
        match tokio::time::timeout(ANSWER, asked).await.ok().flatten() {
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "the signaling loop is busy\n".into()),
            Some(legs) if legs.is_empty() => {
                plain(StatusCode::NOT_FOUND, "no such call here, or it is over\n".into())
            }
            Some(legs) => {
                let legs: Vec<Value> =
                    legs.iter().map(|leg| quality::timeline(leg, &self.clock)).collect();
                let body = json!({ "call_id": id.to_string(), "legs": legs });
                respond(StatusCode::OK, "application/json", body.to_string())
            }
        }
    }

    fn status(&self, figures: &Figures) -> Value {
        let Figures { status, media } = figures;
        let (trunks, routes, numbers) = status.resources;
        let nodes = self.control.nodes.iter().map(
            |node| json!({ "endpoint": node.endpoint, "heard": node.heard.load(Ordering::Relaxed) }),
        );
        json!({
            "pop": self.pop.as_str(),
            "region": self.region,
            "mesh": self.mesh,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": seconds(self.clock.now().since(Instant::ZERO)),
            "epoch": self.control.epoch.load(Ordering::Relaxed),
            "fenced": self.control.is_fenced(),
            "view": {
                "revision": status.revision.0,
                "cluster_id": status.cluster_id,
                "live": self.control.live.load(Ordering::Relaxed),
                "trunks": trunks,
                "routes": routes,
                "numbers": numbers,
            },
            "control": nodes.collect::<Vec<_>>(),
            "active_calls": status.active_calls,
            "media_legs": media.legs,
            "media_threads": media.threads.iter().map(thread).collect::<Vec<_>>(),
            "calls": status.calls.iter().map(call).collect::<Vec<_>>(),
            "links": self.links(figures),
        })
    }

    fn links(&self, figures: &Figures) -> Vec<Value> {
        let Figures { status, media } = figures;
        let up = status.links.iter().map(|(peer, rtt)| {
            let measured = media.links.iter().find(|(measured, _)| measured == peer);
            let stats = measured.map(|(_, stats)| *stats).unwrap_or_default();
            json!({
                "peer": peer.as_str(),
                "up": true,
                "rtt_ms": millis(*rtt),
                "received": stats.received,
                "sent": stats.sent,
                "lost": stats.lost,
                "loss": ratio(stats.lost, stats.received),
                "jitter_ms": millis(stats.jitter),
                "queueing_ms": millis(stats.queueing),
            })
        });
        let is_up = |peer: &PopId| status.links.iter().any(|(held, _)| held == peer);
        let down = media.links.iter().filter(|(peer, _)| !is_up(peer));
        let down = down.map(|(peer, _)| json!({ "peer": peer.as_str(), "up": false }));
        up.chain(down).collect()
    }

    /// A long table when there are many calls: read beside the runtime.
    async fn count_socket_drops(&self) {
        let sockets = self.socket_drops.clone();
        let look = move || sockets.lock().map_or(Ok(0), |mut sockets| sockets.look());
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(count)) => self.drops.count_many(Reason::MediaSocketFull, count),
            Ok(Err(error)) => tracing::warn!(%error, "cannot read the kernel's table of sockets"),
            // The runtime is ending.
            Err(_) => {}
        }
    }

    fn set_metrics(&self, figures: &Figures) {
        let Figures { status, media } = figures;
        metrics::gauge!(
            t::INFO.name,
            "pop" => self.pop.to_string(),
            "region" => self.region.clone(),
            "version" => env!("CARGO_PKG_VERSION"),
        )
        .set(1.0);
        t::UPTIME.set(seconds(self.clock.now().since(Instant::ZERO)));
        t::VIEW_REVISION.set(float(status.revision.0));
        t::VIEW_LIVE.set(f64::from(u8::from(self.control.live.load(Ordering::Relaxed))));
        t::EPOCH.set(float(self.control.epoch.load(Ordering::Relaxed)));
        t::FENCED.set(f64::from(u8::from(self.control.is_fenced())));
        t::CALLS.set(float(status.active_calls as u64));
        for reason in Reason::ALL {
            t::SHELL_DROPPED.total_of("reason", reason.name(), self.drops.get(*reason));
        }
        t::LOG_LOST.total(crate::log::lost());
        call_metrics(status);
        sip_metrics(status);
        media_metrics(media);
        link_metrics(figures);
    }
}

fn call_metrics(status: &Status) {
    let counters = &status.counters;
    for (event, total) in [
        ("in", counters.calls_in),
        ("out", counters.calls_out),
        ("answered", counters.calls_answered),
        ("candidate_failed", counters.candidates_failed),
        ("cdr", counters.cdrs),
        ("glare", counters.glare),
        ("capsule_sent", counters.capsules_sent),
        ("half_taken", counters.halves_taken),
        ("half_arrived", counters.halves_arrived),
        ("half_lost", counters.halves_lost),
        ("half_handed_over", counters.halves_handed_over),
        ("half_kept", counters.halves_kept),
        ("rejoined", counters.calls_rejoined),
        ("info_dropped", counters.infos_dropped),
        ("port_taken", counters.ports_taken),
        ("probe", counters.probes),
        ("stray_answer", counters.stray_answers),
    ] {
        t::CALL_EVENTS.total_of("event", event, total);
    }
    let guard = &status.guard;
    t::HALVES_GUARDED.set(float(guard.held as u64));
    t::CAPSULE_BYTES.set(float(guard.held_bytes as u64));
    t::HALVES_UNGUARDED.set(float(guard.unguarded as u64));
    t::TAKEOVER_MAX.set(seconds(Duration::from_millis(counters.takeover_ms_max)));
    for reason in Refusal::ALL {
        t::CALLS_REFUSED.total_of("reason", reason.name(), counters.refused(*reason));
    }
    for reason in NegotiationError::ALL {
        t::ANSWERS_REFUSED.total_of("reason", reason.name(), counters.answers_refused(reason));
    }
}

fn sip_metrics(status: &Status) {
    let sip = &status.sip;
    t::SIP_REQUESTS_RECEIVED.total(sip.requests_received);
    t::SIP_RESPONSES_RECEIVED.total(sip.responses_received);
    t::SIP_REQUESTS_SENT.total(sip.requests_sent);
    t::SIP_RETRANSMISSIONS_SENT.total(sip.retransmissions_sent);
    t::SIP_RETRANSMISSIONS_RECEIVED.total(sip.retransmissions_received);
    t::SIP_TIMEOUTS.total(sip.timeouts);
    t::SIP_TRANSPORT_ERRORS.total(sip.transport_errors);
    t::SIP_ACKS_MISSING.total(sip.acks_missing);
    t::SIP_TCP_CONNECTIONS.set(float(status.tcp_connections as u64));
    for (reason, total) in sip.reasons() {
        t::SIP_DROPPED.total_of("reason", reason.as_str(), total);
    }
}

fn media_metrics(media: &media::Status) {
    let counters = &media.counters;
    t::MEDIA_LEGS.set(float(media.legs as u64));
    t::RTP_RECEIVED.total(counters.rtp_received);
    t::RTP_SENT.total(counters.rtp_sent);
    t::RTCP_RECEIVED.total(counters.rtcp_received);
    t::RTCP_SENT.total(counters.rtcp_sent);
    t::TRANSCODED.total(counters.transcoded);
    t::CONCEALED.total(counters.concealed);
    t::RTP_LOST.total(counters.lost);
    for cause in SilenceCause::ALL {
        t::SILENCES.total_of("cause", cause.name(), counters.silences(cause));
    }
    for of in Rated::ALL {
        for rating in Rating::ALL {
            let labels = [("of", of.name()), ("rating", rating.name())];
            metrics::counter!(t::RATINGS.name, &labels).absolute(counters.ratings(of, rating));
        }
    }
    t::REPAIRED.total(counters.repaired);
    t::SUPPRESSED.total(counters.suppressed);
    t::SUPPRESSION_SKIPPED.total(counters.suppression_skipped);
    t::SRTP_OPENED.total(counters.srtp_opened);
    t::SRTP_PROTECTED.total(counters.srtp_protected);
    t::SRTCP_OPENED.total(counters.srtcp_opened);
    t::SRTCP_PROTECTED.total(counters.srtcp_protected);
    t::OPUS_COMPLEXITY.set(f64::from(media.opus_complexity.unwrap_or(0)));
    t::DATAGRAMS_RECEIVED.total(counters.datagrams_received);
    t::DATAGRAMS_SENT.total(counters.datagrams_sent);
    t::COPIES_RECEIVED.total(counters.copies_received);
    t::DATAGRAMS_PASSED.total(counters.datagrams_passed);
    t::FRAMES_RECEIVED.total(counters.frames_received);
    t::FRAMES_SENT.total(counters.frames_sent);
    for reason in DropReason::ALL {
        t::RTP_DROPPED.total_of("reason", reason.name(), counters.dropped(*reason));
    }
}

fn link_metrics(figures: &Figures) {
    for (peer, stats) in &figures.media.links {
        t::LINK_RECEIVED.total_of("peer", peer.as_str(), stats.received);
        t::LINK_LOST.set_of("peer", peer.as_str(), float(stats.lost));
        t::LINK_JITTER.set_of("peer", peer.as_str(), seconds(stats.jitter));
        t::LINK_UP.set_of("peer", peer.as_str(), 0.0);
    }
    for (peer, rtt) in &figures.status.links {
        t::LINK_UP.set_of("peer", peer.as_str(), 1.0);
        t::LINK_RTT.set_of("peer", peer.as_str(), seconds(*rtt));
    }
}

fn thread(figures: &media::ThreadFigures) -> Value {
    json!({ "legs": figures.legs, "rtp_received": figures.rtp_received })
}

fn call((call, age): &(CallSummary, Duration)) -> Value {
    json!({
        "call_id": call.call_id.to_string(),
        "role": role(call.role),
        "phase": match call.phase {
            Phase::SettingUp => "setting_up",
            Phase::Answered => "answered",
            Phase::Ending => "ending",
        },
        "trunk_in": call.trunk_in.as_ref().map(TrunkId::as_str),
        "trunk_out": call.trunk_out.as_ref().map(TrunkId::as_str),
        "peer": call.peer.as_ref().map(PopId::as_str),
        "age_seconds": seconds(*age),
        "mos": call.mos,
        "moved_from": call.guard.moved_from.as_ref().map(PopId::as_str),
        "arriving": call.guard.arriving,
        "orphan": call.guard.orphan,
        "guardians": call.guard.guardians.iter().map(guardian).collect::<Vec<_>>(),
    })
}

/// A guardian, and whether it has the call as it is.
fn guardian(guardian: &Guardian) -> Value {
    json!({ "pop": guardian.pop.as_str(), "fresh": guardian.fresh })
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn ratio(lost: u64, received: u64) -> f64 {
    let expected = lost.saturating_add(received);
    if expected == 0 { 0.0 } else { float(lost) / float(expected) }
}

/// Exact up to 2^53: no figure here comes near.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}
