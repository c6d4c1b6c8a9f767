//! Putting a POP together, running it, taking it apart.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use pop_core::media::MediaConfig;
use pop_core::pop::{Limits, Pop, PopConfig, Secret, Timing};
use pop_core::sip::TimerValues;
use pop_core::view::View;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::check::{self, Problem};
use crate::clock::Clock;
use crate::config::{Config, Liveness};
use crate::drops::Drops;
use crate::signaling::{self, Inputs, Outputs, Signaling, Tcp, Udp};
use crate::sockets::{self, SipSocket};
use crate::tls::{Credentials, rotation};
use crate::{admin, bgp, cdr, control, link, media, resolve, telemetry};

/// Between the tasks and the signaling loop; a full one makes its sender wait.
const EVENTS_MAX: usize = 1_024;
/// A frame waits no longer for company.
const FLUSH: Duration = Duration::from_millis(2);
/// QUIC promises 1,200 bytes a packet (RFC 9000 §14); this is what is left for a datagram.
const DATAGRAM_BYTES: usize = 1_150;

/// Why the POP does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something `pop-node check` would have told.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The overlay.
    #[error(transparent)]
    Link(#[from] link::StartError),
    /// A control endpoint that is no address.
    #[error("[control] endpoints cannot be used: {0}; list control nodes as \"host:port\"")]
    Control(#[from] tonic::transport::Error),
    /// The system refuses a thread, a task or a signal handler.
    #[error("the system refuses what a process needs: {0}; look at its limits (ulimit -a)")]
    System(#[from] std::io::Error),
    /// Two POPs in one process.
    #[error("metrics cannot be recorded: {0}; start one POP per process")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

impl From<sockets::BindError> for RunError {
    fn from(error: sockets::BindError) -> Self {
        Self::Problem(error.into())
    }
}

/// The sockets of the configuration.
struct Bound {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
    overlay: Vec<std::net::UdpSocket>,
    admin: std::net::TcpListener,
    bmp: Option<std::net::TcpListener>,
}

fn bind(config: &Config) -> Result<Bound, sockets::BindError> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for listen in &config.sip {
        match sockets::sip(*listen)? {
            SipSocket::Udp(socket) => udp.push(socket),
            SipSocket::Tcp(listener) => tcp.push(listener),
        }
    }
    let overlay = config.overlay_listen.iter().copied().map(sockets::overlay);
    let overlay = overlay.collect::<Result<_, _>>()?;
    let admin = sockets::admin(config.admin)?;
    let bmp = config.bgp.as_ref().map(|bgp| sockets::bmp(bgp.bmp_listen)).transpose()?;
    Ok(Bound { udp, tcp, overlay, admin, bmp })
}

/// Runs a POP until SIGTERM or SIGINT, and ends its calls.
pub async fn run(config: Config) -> Result<(), RunError> {
    let clock = Clock::start();
    proto::e164::E164::warm_up();
    let credentials = Credentials::load(&config, SystemTime::now()).map_err(Problem::Tls)?;
    check::data_dir(&config)?;
    let bound = bind(&config)?;
    let prometheus = telemetry::install()?;
    let drops = Drops::default();

    // What must be known before the first packet: the view, as it was last seen.
    let view = control::Copy::new(&config.data_dir).load();
    let pop = pop(&config, &credentials, view.clone(), clock);
    announce(&config, &view);

    let (media_events, media_in) = mpsc::channel(EVENTS_MAX);
    let media_config = media_config(&config, &credentials);
    let (media, media_threads) =
        media::start_facing(faces(&config), media_config, clock, drops.clone(), media_events)?;

    let (peers, peers_in) = watch::channel(Vec::new());
    let (link_events, link_in) = mpsc::channel(EVENTS_MAX);
    let settings = link_settings(&config, (&link_events, &media, &drops), clock);
    let links = link::Links::start(credentials.clone(), bound.overlay, settings, peers_in)?;
    let bgp = station(&config, bound.bmp, (links.clone(), peers.subscribe()), clock)?;

    let (status, status_in) = mpsc::channel(EVENTS_MAX);
    let (control_events, control_in) = mpsc::channel(EVENTS_MAX);
    let settings = control_settings(&config, &links);
    let heard = (control_events, admin::ask::start(links.clone(), status.clone(), clock));
    let control = control::Client::start(settings, &credentials, view, heard, peers)?;

    rotate(&config, credentials, &links, &control);

    let (sip_events, sip_in) = mpsc::channel(EVENTS_MAX);
    let (answers, resolved_in) = mpsc::channel(EVENTS_MAX);
    let outputs = Outputs {
        udp: Udp::start(bound.udp, &sip_events, drops.clone())?,
        tcp: Tcp::start(bound.tcp, config.max_tcp_connections, sip_events, drops.clone())?,
        media: media.clone(),
        links: links.clone(),
        resolver: resolve::Resolver::new(answers, drops.clone()),
        cdr: cdr::Writer::start(&config.data_dir, clock, drops.clone())?,
        control: control.shared.clone(),
        drops: drops.clone(),
    };
    let page = admin::Page {
        pop: config.id.clone(),
        region: config.region.clone(),
        mesh: config.mesh.clone(),
        clock,
        prometheus,
        signaling: status,
        media: media.clone(),
        control: control.shared.clone(),
        links: links.clone(),
        bgp,
        drops,
        socket_drops: socket_drops(&config),
    };
    serve(bound.admin, page)?;

    let inputs = Inputs {
        stop: stop_signal()?,
        control: control_in,
        link: link_in,
        media: media_in,
        resolved: resolved_in,
        status: status_in,
        sip: sip_in,
    };
    tracing::info!(pop = %config.id, "running");
    // Everything a call needs ends with the loop; call records are on disk when it is dropped.
    Signaling::new(pop, clock, inputs, outputs).run().await;
    links.shutdown().await;
    control.shutdown().await;
    stop_media(&media, media_threads).await;
    tracing::info!("stopped");
    Ok(())
}

fn rotate(config: &Config, held: Credentials, links: &link::Links, control: &control::Client) {
    let nodes = control.shared.channels();
    tokio::spawn(rotation::run(config.clone(), held, links.clone(), nodes));
}

fn serve(listener: std::net::TcpListener, page: admin::Page) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(admin::serve(listener, Arc::new(page)));
    Ok(())
}

fn station(
    config: &Config,
    listener: Option<std::net::TcpListener>,
    around: (link::Links, watch::Receiver<Vec<link::Peer>>),
    clock: Clock,
) -> std::io::Result<Option<bgp::Handle>> {
    let (Some(listener), Some(settings)) = (listener, &config.bgp) else { return Ok(None) };
    bgp::start(listener, settings, around, clock).map(Some)
}

fn pop(config: &Config, credentials: &Credentials, view: View, clock: Clock) -> Pop {
    let limits = Limits {
        max_calls: usize::try_from(config.max_calls).unwrap_or(usize::MAX),
        takeover_rate: config.takeover_rate,
        ..Limits::default()
    };
    let settings = PopConfig {
        id: config.id.clone(),
        region: config.region.clone(),
        mesh: config.mesh.clone(),
        epoch: signaling::epoch_in(&view, &config.id),
        sip: config.sip.iter().map(|listen| (listen.transport, listen.address)).collect(),
        media_address: config.media_address,
        media_ports: config.media_ports.clone(),
        media_shared: config.media_shared,
        media_threads: config.media_threads,
        limits,
        timing: timing(config.liveness),
        sip_timers: TimerValues::default(),
        seed: u64::from_ne_bytes(credentials.random()),
        secret: Secret(credentials.random()),
    };
    let mut pop = Pop::new(settings, clock.now());
    pop.restore_view(view, clock.now());
    pop
}

fn timing(liveness: Liveness) -> Timing {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    Timing {
        session_expires: seconds(liveness.session_expires),
        min_session_expires: seconds(liveness.min_session_expires),
        probe_interval: seconds(liveness.probe_interval),
        ..Timing::default()
    }
}

fn announce(config: &Config, view: &View) {
    let (sip, admin) = (&config.sip, config.admin);
    let sip: Vec<String> = sip.iter().map(ToString::to_string).collect();
    let overlay: Vec<String> = config.overlay_listen.iter().map(ToString::to_string).collect();
    tracing::info!(
        pop = %config.id,
        sip = sip.join(" "),
        overlay = overlay.join(" "),
        %admin,
        revision = view.revision().0,
        "starting, with the view's copy at this revision"
    );
}

fn faces(config: &Config) -> media::Faces {
    let shared = (config.media_address, *config.media_ports.start()).into();
    media::Faces {
        shared: config.media_shared.then_some(shared),
        dscp: config.media_dscp,
        threads: config.media_threads,
        pinned: config.media_pinned,
    }
}

fn socket_drops(config: &Config) -> Arc<Mutex<media::SocketDrops>> {
    let ports = config.media_ports.clone();
    Arc::new(Mutex::new(media::SocketDrops::new(config.media_address, ports)))
}

fn media_config(config: &Config, credentials: &Credentials) -> MediaConfig {
    MediaConfig {
        own: proto::overlay::PopTag::of(&config.id),
        seed: u64::from_ne_bytes(credentials.random()),
        flush_delay: FLUSH,
        datagram_bytes: DATAGRAM_BYTES,
        cname: format!("{}@{}", config.id, config.media_address),
        opus_complexity: config.opus_complexity,
    }
}

fn link_settings(
    config: &Config,
    (events, media, drops): (&mpsc::Sender<link::Event>, &media::Handle, &Drops),
    clock: Clock,
) -> link::Settings {
    link::Settings {
        own: config.id.clone(),
        max_calls: config.max_calls,
        events: events.clone(),
        media: media.clone(),
        drops: drops.clone(),
        clock,
    }
}

fn control_settings(config: &Config, links: &link::Links) -> control::Settings {
    let pop = proto::control::Pop {
        pop_id: config.id.to_string(),
        region: config.region.clone(),
        overlay_address: config.overlay_advertise.join(","),
        sip_addresses: config.sip.iter().map(ToString::to_string).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // The rest is for the cluster to say.
        ..<_>::default()
    };
    control::Settings {
        pop,
        endpoints: config.control.clone(),
        data_dir: config.data_dir.clone(),
        unseen: links.unseen(),
    }
}

/// Told at the first SIGTERM or SIGINT; the second one ends the process at once.
fn stop_signal() -> std::io::Result<oneshot::Receiver<()>> {
    let (stop, stopped) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut stop = Some(stop);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match stop.take() {
                // The loop may be gone already.
                Some(stop) => drop(stop.send(())),
                None => std::process::exit(1),
            }
        }
    });
    Ok(stopped)
}

async fn stop_media(media: &media::Handle, threads: media::Threads) {
    // One that ended takes no order: the last round only finds that out.
    while media.order(media::Order::Stop).is_err() && !threads.iter().all(|t| t.is_finished()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // They end within one turn.
    let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
    let _ = tokio::task::spawn_blocking(join).await;
}
