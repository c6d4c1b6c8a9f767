//! What the shell drops between socket and core: every bound has a reason and a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// Why the shell dropped or refused something.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Call stream: the peer or we spoke faster than the other side read.
    CallStreamFull = "call_stream_full",
    /// Call stream: a message that is none, or too large.
    CallStreamMalformed = "call_stream_malformed",
    /// A CDR could not be written to disk; it went to the log.
    CdrNotWritten = "cdr_not_written",
    /// The media thread was behind with datagrams of other POPs.
    DatagramQueueFull = "datagram_queue_full",
    /// QUIC's send buffer was full: the oldest datagrams were dropped.
    DatagramSendFull = "datagram_send_full",
    /// A datagram longer than the path takes.
    DatagramTooLarge = "datagram_too_large",
    /// A connection that showed no identity of this mesh, or the wrong one.
    LinkRefused = "link_refused",
    /// Media for a POP without a link.
    NoLink = "no_link",
    /// A media socket could not be opened.
    MediaBindFailed = "media_bind_failed",
    /// More probes of paths than are read: their sender is not who it says, or we are too slow.
    ProbeQueueFull = "probe_queue_full",
    /// A probe of nobody known, or one that is none.
    ProbeUnknown = "probe_unknown",
    /// The system did not take an RTP or RTCP packet.
    MediaSendFailed = "media_send_failed",
    /// The kernel dropped packets of a media socket: the media thread was behind.
    MediaSocketFull = "media_socket_full",
    /// A name to resolve while too many others were being resolved.
    ResolverBusy = "resolver_busy",
    /// SIP over TCP: more connections than `[limits] max_tcp_connections`.
    TcpConnectionRefused = "tcp_connection_refused",
    /// SIP over TCP: a connection that was silent for too long.
    TcpIdle = "tcp_idle",
    /// SIP over TCP: a peer that does not read.
    TcpOutboxFull = "tcp_outbox_full",
    /// SIP over TCP: a connection from an address of no trunk and no live call.
    TcpUnknownSource = "tcp_unknown_source",
    /// SIP over UDP: the system did not take the message.
    UdpSendFailed = "udp_send_failed",
}

/// The counters, shared by the threads.
#[derive(Debug, Clone, Default)]
pub struct Drops(Arc<[AtomicU64; Reason::ALL.len()]>);

impl Drops {
    /// One more.
    pub fn count(&self, reason: Reason) {
        self.count_many(reason, 1);
    }

    /// So many more.
    pub fn count_many(&self, reason: Reason, count: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}
