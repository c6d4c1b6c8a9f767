//! Where a peer really is (symmetric RTP, RFC 4961), and who may not pretend to be it.
//!
//! SDP says where to send; NAT makes that wrong. The first good packet from elsewhere moves the
//! address once. Then it is locked until the peer is silent for [`SILENCE`] or SDP names a new
//! address; only the address SDP named may take it back at any time.
//!
//! Whoever guesses a port could take a call's audio so. Therefore only the hosts we know of count:
//! the one SDP named, the SIP peer, behind whose NAT the media most likely is, and the trunk's own.

use std::net::{IpAddr, SocketAddr};

use proto::time::{Duration, Instant};

use crate::view::Block;

/// A peer silent for so long may have moved.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// What a packet's source means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The peer.
    Known,
    /// The peer, who has moved here.
    Moved,
    /// Somebody else.
    Refused,
}

/// The address of one peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Latch {
    signaled: Option<SocketAddr>,
    current: Option<SocketAddr>,
    trusted: Vec<Block>,
    locked: bool,
    heard: Option<Instant>,
}

impl Latch {
    /// SDP names an address. The unspecified one or port 0 is none. `trusted`: who may send besides.
    pub(super) fn signal(&mut self, address: Option<SocketAddr>, trusted: &[Block]) {
        self.trusted = trusted.to_vec();
        let address = address.filter(|a| !a.ip().is_unspecified() && a.port() != 0);
        if address != self.signaled {
            *self = Self {
                signaled: address,
                current: address,
                trusted: std::mem::take(&mut self.trusted),
                locked: false,
                heard: None,
            };
        }
    }

    /// Where to send.
    pub(super) const fn current(&self) -> Option<SocketAddr> {
        self.current
    }

    /// Is it where SDP said?
    pub(super) fn is_as_signaled(&self) -> bool {
        self.current == self.signaled
    }

    /// A good packet came from `source`.
    pub(super) fn packet(&mut self, source: SocketAddr, now: Instant) -> Source {
        let known = self.current == Some(source);
        if !known && !self.may_be_at(source.ip()) {
            return Source::Refused;
        }
        let silent = self.heard.is_none_or(|heard| now - heard > SILENCE);
        if !known && self.locked && !silent && self.signaled != Some(source) {
            return Source::Refused;
        }
        self.current = Some(source);
        self.locked = true;
        self.heard = Some(now);
        if known { Source::Known } else { Source::Moved }
    }

    /// Could the peer be at this host?
    pub(super) fn may_be_at(&self, source: IpAddr) -> bool {
        let media = [self.signaled, self.current].into_iter().flatten();
        let mut hosts = media.map(|a| Block::host(a.ip())).chain(self.trusted.iter().copied());
        hosts.any(|block| block.contains(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: &[Block] = &[];

    #[test]
    fn moves_once_then_locks_until_silence_or_sdp() {
        let [a, b, c, d] = ["10.0.0.1:9", "10.0.0.2:9", "10.0.0.2:8", "10.0.0.3:9"]
            .map(|a| a.parse::<SocketAddr>().unwrap());
        let at = Instant::from_millis;
        let sip = &[Block::host(b.ip())];
        let mut latch = Latch::default();
        latch.signal(Some(a), sip);
        assert_eq!(latch.packet(b, at(0)), Source::Moved);
        assert_eq!(latch.packet(b, at(20)), Source::Known);
        assert_eq!(latch.packet(c, at(40)), Source::Refused);
        latch.signal(Some(a), sip);
        assert_eq!(latch.current(), Some(b), "a repeated SDP changes nothing");
        assert_eq!(latch.packet(a, at(60)), Source::Moved, "the signaled address wins");
        assert_eq!(latch.packet(b, at(80)), Source::Refused);
        assert_eq!(latch.packet(c, at(4_000)), Source::Moved, "after silence");
        latch.signal(Some(d), sip);
        assert_eq!(latch.current(), Some(d));
        assert_eq!(latch.packet(b, at(4_010)), Source::Moved);
        latch.signal(Some("0.0.0.0:9".parse().unwrap()), sip);
        assert_eq!(latch.current(), None);
        assert_eq!(latch.packet(a, at(4_020)), Source::Refused);
        assert_eq!(latch.packet(c, at(4_030)), Source::Moved);
    }

    #[test]
    fn a_stranger_never_gets_in() {
        let [a, stranger] = ["10.0.0.1:9", "10.0.0.9:9"].map(|a| a.parse::<SocketAddr>().unwrap());
        let at = Instant::from_millis;
        let mut latch = Latch::default();
        assert_eq!(latch.packet(a, at(0)), Source::Refused, "nothing is known");
        latch.signal(Some(a), NOBODY);
        assert_eq!(latch.packet(stranger, at(10)), Source::Refused, "before the first packet");
        assert_eq!(latch.packet(a, at(20)), Source::Known);
        assert_eq!(latch.packet(stranger, at(9_000)), Source::Refused, "after silence");
        let moved: SocketAddr = "[::ffff:10.0.0.1]:7".parse().unwrap();
        assert_eq!(latch.packet(moved, at(9_010)), Source::Moved, "the host with another port");
        assert_eq!(latch.current(), Some(moved));
    }
}
