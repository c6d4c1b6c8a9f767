//! The two UDP sockets of every leg.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use pop_core::media::map::Map;
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

/// An RTP packet over Ethernet is shorter, with room for what SRTP adds; longer ones are cut, and
/// refused by the core. An odd number of cache lines: the headers of a batch share no set of a cache.
pub(super) const PACKET_BYTES_MAX: usize = 25 * 64;

/// Opens RTP at `local` and RTCP at the next port (RFC 3550 §11), both marked with `dscp`.
pub(super) fn bind(local: SocketAddr, dscp: u8) -> io::Result<(UdpSocket, UdpSocket)> {
    let next = local.port().checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
    let open = |port| -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(local.ip(), port))?;
        socket.set_nonblocking(true)?;
        mark(&socket, dscp)?;
        Ok(socket)
    };
    Ok((open(local.port())?, open(next)?))
}

/// The DSCP is the upper six bits of what was TOS and traffic class (RFC 2474 §3).
fn mark(socket: &UdpSocket, dscp: u8) -> io::Result<()> {
    let (socket2, class) = (socket2::SockRef::from(socket), u32::from(dscp) << 2);
    if socket.local_addr()?.is_ipv6() {
        socket2.set_tclass_v6(class)
    } else {
        socket2.set_tos_v4(class)
    }
}

struct Pair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// All legs' sockets.
pub(super) struct Sockets(Map<LegId, Pair>);

impl Sockets {
    pub(super) fn new(seed: u64) -> Self {
        Self(Map::new(seed))
    }

    pub(super) fn open(
        &mut self,
        leg: LegId,
        (local, dscp): (SocketAddr, u8),
        poll: &Poll,
    ) -> io::Result<()> {
        let (rtp, rtcp) = bind(local, dscp)?;
        poll.add(&rtp, token(leg, Port::Rtp))?;
        poll.add(&rtcp, token(leg, Port::Rtcp))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ports_are_marked_in_either_family() {
        for ip in ["127.0.0.1", "::1"] {
            let (rtp, rtcp) = (20_000..60_000)
                .step_by(2)
                .find_map(|port| bind(SocketAddr::new(ip.parse().unwrap(), port), 46).ok())
                .unwrap();
            for socket in [rtp, rtcp] {
                let socket = socket2::SockRef::from(&socket);
                let class = if ip == "::1" { socket.tclass_v6() } else { socket.tos_v4() };
                assert_eq!(class.unwrap(), 46 << 2, "{ip}");
            }
        }
    }
}
