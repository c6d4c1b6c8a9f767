//! One media port for all legs: whose packet is this?
//!
//! A stream is an address and an SSRC (RFC 3550 §8). It belongs to the leg it was heard at before;
//! a new one to the leg whose SDP named the address, when that is one leg only, or named the SSRC
//! (`a=ssrc`, RFC 5576 §4.1). A peer behind NAT comes from where no SDP said: then it has to be a
//! trusted host (`latch`), and either the SSRC is known or only one leg waits for such a host.
//! What fits two legs is given to none: a wrong guess would put a stranger into a call.

use std::collections::VecDeque;
use std::net::SocketAddr;

use proto::id::LegId;
use proto::time::{Duration, Instant};

use super::map::Map;
use super::{DropReason, LegParams};

/// Legs without a packet that are asked whether a stranger may be theirs, the newest first.
const WAITING_ASKED_MAX: usize = 64;
/// Late packets of a call that ended must not be heard in the next one.
const QUARANTINE: Duration = Duration::from_secs(30);
/// Addresses in quarantine; the oldest go first.
const RESTING_MAX: usize = 65_536;

/// Legs by an address that SDP named.
#[derive(Debug)]
struct Addresses(Map<SocketAddr, Vec<LegId>>);

impl Addresses {
    fn add(&mut self, address: SocketAddr, leg: LegId) {
        self.0.get_or_insert(address, Vec::new()).push(leg);
    }

    fn remove(&mut self, address: SocketAddr, leg: LegId) {
        let Some(legs) = self.0.get_mut(&address) else { return };
        legs.retain(|other| *other != leg);
        if legs.is_empty() {
            self.0.remove(&address);
        }
    }

    /// The one leg; an error if there are several.
    fn only(&self, address: SocketAddr) -> Result<Option<LegId>, DropReason> {
        match self.0.get(&address).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([leg]) => Ok(Some(*leg)),
            Some(_) => Err(DropReason::AmbiguousSource),
        }
    }
}

/// What is known of one leg.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    rtp: Option<SocketAddr>,
    rtcp: Option<SocketAddr>,
    ssrc: Option<u32>,
    heard: Option<(SocketAddr, u32)>,
}

/// Finds legs by what is in a packet.
#[derive(Debug)]
pub(super) struct Demux {
    legs: Map<LegId, Known>,
    streams: Map<(SocketAddr, u32), LegId>,
    ssrcs: Map<u32, LegId>,
    rtp: Addresses,
    rtcp: Addresses,
    /// Legs at which nothing was heard yet, in the order they began.
    waiting: VecDeque<LegId>,
    resting: VecDeque<(Instant, SocketAddr)>,
    at_rest: Map<SocketAddr, Instant>,
}

impl Demux {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            legs: Map::new(seed),
            streams: Map::new(seed),
            ssrcs: Map::new(seed),
            rtp: Addresses(Map::new(seed)),
            rtcp: Addresses(Map::new(seed)),
            waiting: VecDeque::new(),
            resting: VecDeque::new(),
            at_rest: Map::new(seed),
        }
    }

    /// What offer and answer say of a leg's peer.
    pub(super) fn expect(&mut self, leg: LegId, params: &LegParams) {
        let now = Known {
            rtp: params.remote_rtp,
            rtcp: params.remote_rtcp,
            ssrc: params.remote_ssrc,
            heard: self.legs.get(&leg).and_then(|known| known.heard),
        };
        let before = self.legs.insert(leg, now);
        if before == Some(now) {
            return;
        }
        if before.is_none() {
            self.waiting.push_back(leg);
        }
        self.unname(leg, before.unwrap_or_default());
        now.rtp.into_iter().for_each(|address| self.rtp.add(address, leg));
        now.rtcp.into_iter().for_each(|address| self.rtcp.add(address, leg));
        if let Some(ssrc) = now.ssrc {
            self.ssrcs.get_or_insert(ssrc, leg);
            now.rtp.into_iter().for_each(|address| {
                self.streams.get_or_insert((address, ssrc), leg);
            });
        }
        if let Some((address, ssrc)) = now.heard {
            self.streams.insert((address, ssrc), leg);
            self.ssrcs.insert(ssrc, leg);
        }
    }

    /// A packet of the stream was taken by the leg.
    pub(super) fn heard(&mut self, leg: LegId, source: SocketAddr, ssrc: u32) {
        let Some(known) = self.legs.get_mut(&leg) else { return };
        match known.heard.replace((source, ssrc)) {
            None => self.waiting.retain(|other| *other != leg),
            Some((address, ssrc)) => self.unheard(leg, address, ssrc),
        }
        self.streams.insert((source, ssrc), leg);
        self.ssrcs.insert(ssrc, leg);
    }

    /// The leg is closed.
    pub(super) fn forget(&mut self, leg: LegId, now: Instant) {
        let Some(known) = self.legs.remove(&leg) else { return };
        self.unname(leg, known);
        self.waiting.retain(|other| *other != leg);
        let Some((address, ssrc)) = known.heard else { return };
        self.unheard(leg, address, ssrc);
        let until = now + QUARANTINE;
        self.resting.push_back((until, address));
        self.at_rest.insert(address, until);
        while let Some(&(until, address)) = self.resting.front()
            && (until <= now || self.resting.len() > RESTING_MAX)
        {
            self.resting.pop_front();
            if self.at_rest.get(&address) == Some(&until) {
                self.at_rest.remove(&address);
            }
        }
    }

    fn unname(&mut self, leg: LegId, known: Known) {
        known.rtp.into_iter().for_each(|address| self.rtp.remove(address, leg));
        known.rtcp.into_iter().for_each(|address| self.rtcp.remove(address, leg));
        if let Some(ssrc) = known.ssrc {
            known.rtp.into_iter().for_each(|address| self.unheard(leg, address, ssrc));
        }
    }

    fn unheard(&mut self, leg: LegId, address: SocketAddr, ssrc: u32) {
        if self.streams.get(&(address, ssrc)) == Some(&leg) {
            self.streams.remove(&(address, ssrc));
        }
        if self.ssrcs.get(&ssrc) == Some(&leg) {
            self.ssrcs.remove(&ssrc);
        }
    }

    /// The leg of a stream that was heard or announced before.
    pub(super) fn known(&self, source: SocketAddr, ssrc: u32) -> Option<LegId> {
        self.streams.get(&(source, ssrc)).copied()
    }

    /// The leg a new stream can only belong to. `trusts`: may the leg's peer be at that host?
    pub(super) fn new_stream(
        &self,
        (source, ssrc): (SocketAddr, u32),
        trusts: impl Fn(LegId) -> bool,
        now: Instant,
    ) -> Result<LegId, DropReason> {
        if let Some(leg) = self.rtp.only(source)? {
            return Ok(leg);
        }
        if let Some(leg) = self.ssrcs.get(&ssrc).copied().filter(|leg| trusts(*leg)) {
            return Ok(leg);
        }
        if self.at_rest.get(&source).is_some_and(|until| *until > now) {
            return Err(DropReason::WrongSource);
        }
        let newest = self.waiting.iter().rev().take(WAITING_ASKED_MAX).copied();
        let mut fitting = newest.filter(|leg| trusts(*leg));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(DropReason::WrongSource),
            (Some(leg), None) => Ok(leg),
            (Some(_), Some(_)) => Err(DropReason::AmbiguousSource),
        }
    }

    /// The leg of an RTCP packet, whose sender is `ssrc`.
    pub(super) fn rtcp(&self, source: SocketAddr, ssrc: u32) -> Result<LegId, DropReason> {
        if let Some(leg) = self.known(source, ssrc).or_else(|| self.ssrcs.get(&ssrc).copied()) {
            return Ok(leg);
        }
        // A peer that only listens: its SSRC was never seen.
        self.rtcp.only(source)?.ok_or(DropReason::WrongSource)
    }

    /// Nothing is known but what rests.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.legs.is_empty()
            && self.streams.is_empty()
            && self.ssrcs.is_empty()
            && self.rtp.0.is_empty()
            && self.rtcp.0.is_empty()
            && self.waiting.is_empty()
    }
}
