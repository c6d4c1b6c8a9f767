//! QUIC settings for voice: short timeouts, small queues, no congestion window in the way.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};

use super::StartError;
use super::stream::MESSAGE_BYTES_MAX;
use crate::tls::Credentials;

/// A silent peer is gone after this. Calls that ride on it end then.
const IDLE: Duration = Duration::from_secs(4);
/// Often enough to survive two losses within [`IDLE`].
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Voice older than this queue is worth nothing: QUIC drops the oldest. 75 ms of 200 calls; half of
/// it was seen to overflow when the machine gave the sending task no core for 40 ms.
const DATAGRAM_SEND_BYTES: usize = 128 << 10;
/// Until the reading task runs.
const DATAGRAM_RECEIVE_BYTES: usize = 256 << 10;
/// One call, one direction, uncompressed with all headers.
const CALL_BYTES_PER_SECOND: u64 = 12_000;
/// The longest round trip between regions that the window must cover, in ms.
const RTT_MAX_MS: u64 = 500;
/// Streams beyond one per call: of calls that just ended.
const SPARE_STREAMS: u32 = 256;

/// A window as wide as admission lets it be filled. Voice does not slow down when a packet is
/// lost; admission and path choice answer congestion, not a shrinking window.
#[derive(Debug, Clone)]
struct PassThrough {
    window: u64,
}

impl Controller for PassThrough {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for PassThrough {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self::clone(&self))
    }
}

fn transport(max_calls: u32) -> TransportConfig {
    let in_flight = u64::from(max_calls) * CALL_BYTES_PER_SECOND * RTT_MAX_MS / 1000;
    let window = in_flight.clamp(256 << 10, 16 << 20);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(
            max_calls.saturating_mul(2).saturating_add(SPARE_STREAMS),
        ))
        // The welcome.
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(MESSAGE_BYTES_MAX * 2))
        .datagram_send_buffer_size(DATAGRAM_SEND_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
        .congestion_controller_factory(Arc::new(PassThrough { window }));
    transport
}

/// Settings for being dialed and for dialing.
pub(super) struct Configs {
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

pub(super) fn configs(credentials: &Credentials, max_calls: u32) -> Result<Configs, StartError> {
    let transport = Arc::new(transport(max_calls));
    let server = QuicServerConfig::try_from(credentials.overlay_server()?)?;
    let mut server = ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport.clone());
    let client = QuicClientConfig::try_from(credentials.overlay_client()?)?;
    let mut client = ClientConfig::new(Arc::new(client));
    client.transport_config(transport);
    Ok(Configs { server, client })
}

/// The endpoint that answers and dials.
pub(super) fn endpoint(
    server: ServerConfig,
    socket: std::net::UdpSocket,
) -> Result<Endpoint, StartError> {
    let config = EndpointConfig::default();
    Ok(Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?)
}
