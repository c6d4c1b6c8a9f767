//! What a POP is told once, at its start.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use proto::id::{Epoch, PopId};
use proto::time::Duration;

use crate::sip::{TimerValues, Transport};

/// Identity, addresses and bounds of a POP.
#[derive(Debug, Clone)]
pub struct PopConfig {
    /// Our name.
    pub id: PopId,
    /// Our region.
    pub region: String,
    /// The mesh: the digest realm where a trunk names none.
    pub mesh: String,
    /// Of our registration; see [`Pop::set_epoch`](super::Pop::set_epoch).
    pub epoch: Epoch,
    /// Where we listen for SIP; never an unspecified address, peers are told these.
    pub sip: Vec<(Transport, SocketAddr)>,
    /// Where we receive media; peers are told this one.
    pub media_address: IpAddr,
    /// RTP takes even ports of these, RTCP the next odd one.
    pub media_ports: RangeInclusive<u16>,
    /// All legs share the first of `media_ports` (RTCP the next); each needs no port of its own.
    pub media_shared: bool,
    /// Media threads, at least 1: a call lives on one. With `media_shared` thread n has the n-th
    /// pair of `media_ports`.
    pub media_threads: u8,
    /// Bounds.
    pub limits: Limits,
    /// Waiting times.
    pub timing: Timing,
    /// SIP timers (RFC 3261 §17); change them only in tests.
    pub sip_timers: TimerValues,
    /// Seed of all randomness: tags, nonces, SSRC and route weights. Secret, new at each start.
    pub seed: u64,
    /// What SRTP keys are made from. Secret, unpredictable, new at each start.
    pub secret: Secret,
}

/// 32 bytes that printing does not show.
#[derive(Clone, Copy)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls; above it new ones get 503 with Retry-After. A call costs about 20 KiB.
    pub max_calls: usize,
    /// SIP transactions; each costs about 3 KiB.
    pub max_transactions: usize,
    /// Peers of calls of a lost POP that are called over, for each trunk and second: carriers take
    /// only so many re-INVITEs.
    pub takeover_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_calls: 1_000, max_transactions: 50_000, takeover_rate: 200 }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a first sign of life of a candidate; then the next one is tried. Default 3 s.
    pub first_response: Duration,
    /// For the link to a POP that is being dialed, when there is no other candidate. Default 1 s.
    pub link_wait: Duration,
    /// From INVITE to answer (as Timer C, RFC 3261 §16.6). Default 180 s.
    pub ring_limit: Duration,
    /// For the other half's answer to a re-INVITE. Default 35 s: more than its Timer B.
    pub update_limit: Duration,
    /// For the last quality reports of a call that ended. Default 1 s.
    pub report_limit: Duration,
    /// A media port rests so long before it is used again. Default 30 s.
    pub port_quarantine: Duration,
    /// Digest nonces live so long. Default 30 s.
    pub nonce_lifetime: Duration,
    /// Session interval we ask for and grant at most (RFC 4028). Default 1,800 s, at least 90.
    pub session_expires: Duration,
    /// Session intervals below it get 422 (RFC 4028 §6). Default 90 s, at least 90.
    pub min_session_expires: Duration,
    /// A peer without session timers is asked whether it lives so often. Default 180 s.
    pub probe_interval: Duration,
    /// A peer whose media fell silent is asked within this. Default 2 s.
    pub probe_spread: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_response: Duration::from_secs(3),
            link_wait: Duration::from_secs(1),
            ring_limit: Duration::from_secs(180),
            update_limit: Duration::from_secs(35),
            report_limit: Duration::from_secs(1),
            port_quarantine: Duration::from_secs(30),
            nonce_lifetime: Duration::from_secs(30),
            session_expires: Duration::from_secs(1_800),
            min_session_expires: Duration::from_secs(90),
            probe_interval: Duration::from_secs(180),
            probe_spread: Duration::from_secs(2),
        }
    }
}
