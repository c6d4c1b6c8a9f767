//! Datagrams of other POPs: out by their routes, in and apart, or passed on.

use std::ops::RangeInclusive;

use bytes::Bytes;
use proto::id::PopId;
use proto::overlay::{Datagram, PathId, PopTag, Relayed};
use proto::time::{Duration, Instant};

use super::link::{By, Link, News, ends};
use super::{ARENA_BYTES, DropReason, Lane, LinkKey, Media, MediaTransmit, TRANSMITS_MAX};
use crate::overlay::{Hop, LinkStats, Route};

/// What was counted about the paths to a POP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathCounts {
    /// Which POP.
    pub peer: PopId,
    /// Datagrams sent to it.
    pub sent: u64,
    /// Received from it, by path.
    pub received: Vec<(PathId, LinkStats)>,
}

/// The keys of everything that goes to a peer.
fn all_lanes(peer: &PopId) -> RangeInclusive<LinkKey> {
    (peer.clone(), Lane(0))..=(peer.clone(), Lane(u8::MAX))
}

impl Media {
    /// Media for a POP goes this way from now on.
    pub fn handle_route(&mut self, peer: &PopId, route: &Route) {
        self.link(peer);
        let lanes = self.lanes.range_mut(all_lanes(peer)).map(|(_, lane)| lane);
        for link in self.links.get_mut(peer).into_iter().chain(lanes) {
            link.route.clone_from(route);
        }
    }

    /// How long media for a POP and back is under way, as its path measures it.
    pub fn handle_round_trip(&mut self, peer: &PopId, round_trip: Duration) {
        self.link(peer);
        if let Some(link) = self.links.get_mut(peer) {
            link.round_trip = Some(round_trip);
        }
    }

    /// The POP is another process: it counts anew.
    pub fn handle_restart(&mut self, peer: &PopId) {
        let lanes = self.lanes.range_mut(all_lanes(peer)).map(|(_, lane)| lane);
        for link in self.links.get_mut(peer).into_iter().chain(lanes) {
            link.restart();
        }
    }

    fn link(&mut self, peer: &PopId) {
        if !self.links.contains_key(peer) {
            let link = self.new_link(peer, Lane::default());
            self.links.insert(peer.clone(), link);
        }
    }

    /// Something will go to a peer on this lane.
    pub(super) fn lane(&mut self, key: &LinkKey) {
        let (peer, lane) = key;
        self.link(peer);
        if !self.lanes.contains_key(key) {
            let mut link = self.new_link(peer, *lane);
            if let Some(known) = self.links.get(peer) {
                link.route.clone_from(&known.route);
            }
            self.lanes.insert(key.clone(), link);
        }
    }

    fn new_link(&mut self, peer: &PopId, lane: Lane) -> Link {
        let first = u16::try_from(self.random.next() >> 48).unwrap_or(0);
        let ends = ends(self.config.own, PopTag::of(peer));
        let size = (self.config.datagram_bytes, self.config.flush_delay);
        Link::new(ends, size, (lane.0, first))
    }

    /// All that waits for a POP leaves now.
    pub(super) fn send_burst(&mut self, key: &LinkKey, now: Instant) {
        let Some(link) = self.lanes.get_mut(key) else { return };
        let mut leaving = std::mem::take(&mut self.leaving);
        link.burst(now, &mut leaving);
        let [primary, copy] = [By::Primary, By::Copy].map(|by| self.connection(key, by));
        for (by, bytes) in leaving.drain(..) {
            let to = match by {
                By::Primary => &primary,
                By::Copy => &copy,
            };
            match to {
                Some((to, path)) => self.send_datagram(to.clone(), *path, bytes),
                None => self.counters.drop(DropReason::NoPath),
            }
        }
        self.leaving = leaving;
    }

    /// The POP and the path of the connection that a hop begins with.
    fn connection(&self, key: &LinkKey, by: By) -> Option<(PopId, PathId)> {
        let hop: &Hop = self.lanes.get(key)?.hop(by)?;
        match &hop.via {
            None => Some((key.0.clone(), hop.path)),
            Some(relay) => Some((relay.clone(), self.links.get(relay)?.route.direct?)),
        }
    }

    fn send_datagram(&mut self, peer: PopId, path: PathId, bytes: Bytes) {
        self.counters.datagrams_sent += 1;
        if self.transmits.len() < TRANSMITS_MAX {
            self.transmits.push_back(MediaTransmit::Datagram { peer, path, bytes });
        } else {
            self.counters.drop(DropReason::TransmitFull);
        }
    }

    /// A datagram on a connection with another POP, whose identity the link proved.
    pub fn handle_datagram(&mut self, peer: &PopId, bytes: &[u8], now: Instant) {
        self.counters.datagrams_received += 1;
        if let Err(reason) = self.receive_datagram(peer, bytes, now) {
            self.counters.drop(reason);
        }
    }

    fn receive_datagram(
        &mut self,
        peer: &PopId,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let datagram = Datagram::decode(bytes).map_err(|_| DropReason::MalformedDatagram)?;
        let from = match datagram.header.relayed {
            None => peer.clone(),
            Some(Relayed { to, .. }) if to != self.config.own => {
                return self.pass_on(peer, &datagram, bytes);
            }
            // A POP of the mesh passed it on; who sent it, it says.
            Some(Relayed { from, .. }) => self.tagged(from).ok_or(DropReason::WrongPeer)?,
        };
        self.link(&from);
        let link = self.links.get_mut(&from).ok_or(DropReason::WrongPeer)?;
        match link.receive(&datagram.header, now) {
            News::Fresh => {}
            News::Copy => {
                self.counters.copies_received += 1;
                return Ok(());
            }
            News::Twice => return Err(DropReason::DuplicateDatagram),
        }
        for frame in datagram.frames() {
            let received = match frame {
                Ok(frame) => {
                    self.counters.frames_received += 1;
                    self.receive_frame(&from, &frame, now)
                }
                Err(_) => Err(DropReason::MalformedDatagram),
            };
            if let Err(reason) = received {
                self.counters.drop(reason);
            }
        }
        Ok(())
    }

    fn tagged(&self, tag: PopTag) -> Option<PopId> {
        self.links.keys().find(|pop| PopTag::of(pop) == tag).cloned()
    }

    /// One hop and no more: only what its own sender gave us, and only on a direct path.
    fn pass_on(
        &mut self,
        peer: &PopId,
        datagram: &Datagram<'_>,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let ends = datagram.header.relayed.ok_or(DropReason::NoPath)?;
        if ends.from != PopTag::of(peer) {
            return Err(DropReason::WrongPeer);
        }
        let to = self.tagged(ends.to).ok_or(DropReason::NoPath)?;
        let path = self.links.get(&to).and_then(|link| link.route.direct);
        let path = path.ok_or(DropReason::NoPath)?;
        if self.arena.capacity() < bytes.len() {
            self.arena.reserve(ARENA_BYTES.max(bytes.len()));
        }
        self.arena.extend_from_slice(bytes);
        let copy = self.arena.split().freeze();
        self.counters.datagrams_passed += 1;
        self.send_datagram(to, path, copy);
        Ok(())
    }

    /// Every peer's link, by POP.
    pub fn links(&self) -> impl Iterator<Item = (&PopId, LinkStats)> {
        let sent = |peer| LinkStats { sent: self.sent(peer), ..LinkStats::default() };
        self.links.iter().map(move |(peer, link)| (peer, link.stats().with(sent(peer))))
    }

    /// Datagrams to a peer, on all lanes.
    fn sent(&self, peer: &PopId) -> u64 {
        self.lanes.range(all_lanes(peer)).map(|(_, lane)| lane.stats().sent).sum()
    }

    /// What was counted on each path.
    pub fn path_counts(&self) -> Vec<PathCounts> {
        let each = |(peer, link): (&PopId, &Link)| {
            let (_, received) = link.paths();
            PathCounts { peer: peer.clone(), sent: self.sent(peer), received }
        };
        self.links.iter().map(each).collect()
    }
}
