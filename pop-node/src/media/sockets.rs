//! The two UDP sockets of every leg.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use proto::id::LegId;

/// The token of the wake-up.
pub(super) const WAKE: Token = Token(usize::MAX);

/// Which of a leg's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Rtp,
    Rtcp,
}

/// Leg and port in one number: legs count up from process start, so it never runs over.
pub(super) fn token(leg: LegId, port: Port) -> Token {
    let number = leg.0.saturating_mul(2).saturating_add(u64::from(port == Port::Rtcp));
    Token(usize::try_from(number).unwrap_or(usize::MAX))
}

pub(super) fn leg_of(token: Token) -> (LegId, Port) {
    let number = token.0 as u64;
    (LegId(number / 2), if number.is_multiple_of(2) { Port::Rtp } else { Port::Rtcp })
}

struct Pair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// All legs' sockets.
#[derive(Default)]
pub(super) struct Sockets(BTreeMap<LegId, Pair>);

impl Sockets {
    /// RTP at `local`, RTCP at the next port (RFC 3550 §11).
    pub(super) fn open(
        &mut self,
        leg: LegId,
        local: SocketAddr,
        registry: &Registry,
    ) -> io::Result<()> {
        let next = local.port().checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
        let mut rtp = UdpSocket::bind(local)?;
        let mut rtcp = UdpSocket::bind(SocketAddr::new(local.ip(), next))?;
        registry.register(&mut rtp, token(leg, Port::Rtp), Interest::READABLE)?;
        registry.register(&mut rtcp, token(leg, Port::Rtcp), Interest::READABLE)?;
        self.0.insert(leg, Pair { rtp, rtcp });
        Ok(())
    }

    /// Closing takes them out of epoll, too.
    pub(super) fn close(&mut self, leg: LegId) {
        self.0.remove(&leg);
    }

    pub(super) fn get(&self, leg: LegId, port: Port) -> Option<&UdpSocket> {
        let pair = self.0.get(&leg)?;
        Some(match port {
            Port::Rtp => &pair.rtp,
            Port::Rtcp => &pair.rtcp,
        })
    }
}
