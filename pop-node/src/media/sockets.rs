//! The two UDP sockets of every leg.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use proto::id::LegId;

use super::poll::Poll;

/// Which of a leg's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Rtp,
    Rtcp,
}

/// Leg and port in one number: legs count up from process start, so it never runs over.
fn token(leg: LegId, port: Port) -> u64 {
    leg.0.saturating_mul(2).saturating_add(u64::from(port == Port::Rtcp))
}

pub(super) fn leg_of(token: u64) -> (LegId, Port) {
    (LegId(token / 2), if token.is_multiple_of(2) { Port::Rtp } else { Port::Rtcp })
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
    pub(super) fn open(&mut self, leg: LegId, local: SocketAddr, poll: &Poll) -> io::Result<()> {
        let next = local.port().checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
        let rtp = UdpSocket::bind(local)?;
        let rtcp = UdpSocket::bind(SocketAddr::new(local.ip(), next))?;
        for (socket, port) in [(&rtp, Port::Rtp), (&rtcp, Port::Rtcp)] {
            socket.set_nonblocking(true)?;
            poll.add(socket, token(leg, port))?;
        }
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
