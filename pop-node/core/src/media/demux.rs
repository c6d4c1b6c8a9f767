//! One media port for all legs: whose packet is this?
//!
//! A stream is an address and an SSRC (RFC 3550 §8). It belongs to the leg it was heard at before. A
//! new one belongs to the leg at that address, when it is one leg only: the leg that was heard there,
//! or whose SDP named it and whose trunk it is known for; a leg whose SDP merely claims it counts only
//! if there is no such leg, or anybody could silence a call by naming its address. A peer behind NAT
//! comes from where no SDP said: then it has to be a trusted host (`latch`), and either its SSRC was
//! announced (`a=ssrc`, RFC 5576 §4.1) or only one leg waits for such a host.
//! What fits two legs is given to none: a wrong guess would put a stranger into a call.

use std::collections::VecDeque;
use std::hash::Hash;
use std::net::SocketAddr;

use proto::id::LegId;
use proto::time::{Duration, Instant};

use super::map::Map;
use super::{DropReason, LegParams};

/// Legs that are asked whether a stranger may be theirs; with more, none is.
const ASKED_MAX: usize = 64;
/// Late packets of a call that ended must not be heard in the next one.
const QUARANTINE: Duration = Duration::from_secs(30);
/// Streams in quarantine; the oldest go first.
const RESTING_MAX: usize = 65_536;

/// A source and its SSRC.
type StreamKey = (SocketAddr, u32);

/// Legs by something they have.
#[derive(Debug)]
struct Holders<K>(Map<K, Vec<LegId>>);

impl<K: Eq + Hash> Holders<K> {
    fn add(&mut self, key: K, leg: LegId) {
        let legs = self.0.get_or_insert(key, Vec::new());
        if !legs.contains(&leg) {
            legs.push(leg);
        }
    }

    fn remove(&mut self, key: &K, leg: LegId) {
        let Some(legs) = self.0.get_mut(key) else { return };
        legs.retain(|other| *other != leg);
        if legs.is_empty() {
            self.0.remove(key);
        }
    }

    /// The one leg; an error if there are several.
    fn only(&self, key: &K) -> Result<Option<LegId>, DropReason> {
        match self.0.get(key).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([leg]) => Ok(Some(*leg)),
            Some(_) => Err(DropReason::AmbiguousSource),
        }
    }
}

/// The only one of these legs that trusts the source. An error if there are several, or too many to
/// ask.
fn sole(
    legs: impl Iterator<Item = LegId>,
    count: usize,
    trusts: &impl Fn(LegId) -> bool,
) -> Result<Option<LegId>, DropReason> {
    if count > ASKED_MAX {
        return Err(DropReason::AmbiguousSource);
    }
    let mut fitting = legs.filter(|leg| trusts(*leg));
    match (fitting.next(), fitting.next()) {
        (leg, None) => Ok(leg),
        (_, Some(_)) => Err(DropReason::AmbiguousSource),
    }
}

/// What is known of one leg.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    rtp: Option<SocketAddr>,
    /// The trunk is known for the host of `rtp`.
    trusted: bool,
    rtcp: Option<SocketAddr>,
    ssrc: Option<u32>,
    heard: Option<StreamKey>,
}

/// Whose a stream is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) leg: LegId,
    /// The leg took a packet of it; else it was announced only.
    pub(super) heard: bool,
}

/// Finds legs by what is in a packet.
#[derive(Debug)]
pub(super) struct Demux {
    legs: Map<LegId, Known>,
    streams: Map<StreamKey, Owner>,
    ssrcs: Holders<u32>,
    /// Heard there, or named by SDP and trusted.
    at: Holders<SocketAddr>,
    /// Merely named.
    claims: Holders<SocketAddr>,
    rtcp: Holders<SocketAddr>,
    /// Legs at which nothing was heard since SDP named their address, or for a while.
    waiting: VecDeque<LegId>,
    resting: VecDeque<(Instant, StreamKey)>,
    at_rest: Map<StreamKey, Instant>,
}

impl Demux {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            legs: Map::new(seed),
            streams: Map::new(seed),
            ssrcs: Holders(Map::new(seed)),
            at: Holders(Map::new(seed)),
            claims: Holders(Map::new(seed)),
            rtcp: Holders(Map::new(seed)),
            waiting: VecDeque::new(),
            resting: VecDeque::new(),
            at_rest: Map::new(seed),
        }
    }

    /// What offer and answer say of a leg's peer.
    pub(super) fn expect(&mut self, leg: LegId, params: &LegParams) {
        let before = self.legs.get(&leg).copied();
        let moved = before.is_none_or(|before| before.rtp != params.remote_rtp);
        let rtp = params.remote_rtp;
        let now = Known {
            rtp,
            trusted: rtp.is_some_and(|at| params.trusted.iter().any(|b| b.contains(at.ip()))),
            rtcp: params.remote_rtcp,
            ssrc: params.remote_ssrc,
            // The latch begins anew, too.
            heard: before.and_then(|before| before.heard).filter(|_| !moved),
        };
        if before == Some(now) {
            return;
        }
        if now.heard.is_none() && !self.waiting.contains(&leg) {
            self.waiting.push_back(leg);
        }
        self.place(leg, now);
    }

    /// A packet of the stream was taken by the leg.
    pub(super) fn heard(&mut self, leg: LegId, source: SocketAddr, ssrc: u32) {
        let Some(known) = self.legs.get(&leg).copied() else { return };
        self.waiting.retain(|other| *other != leg);
        self.place(leg, Known { heard: Some((source, ssrc)), ..known });
    }

    /// The leg was not heard for a while: its peer may be elsewhere. Its stream is still its own.
    pub(super) fn wait_again(&mut self, leg: LegId) {
        let heard = self.legs.get(&leg).and_then(|known| known.heard);
        if let Some(owner) = heard.and_then(|stream| self.streams.get_mut(&stream))
            && owner.leg == leg
        {
            owner.heard = false;
        }
        if heard.is_some() && !self.waiting.contains(&leg) {
            self.waiting.push_back(leg);
        }
    }

    /// The leg is closed.
    pub(super) fn forget(&mut self, leg: LegId, now: Instant) {
        let Some(known) = self.legs.remove(&leg) else { return };
        self.take_out(leg, known);
        self.waiting.retain(|other| *other != leg);
        if let Some(stream) = known.heard {
            self.resting.push_back((now + QUARANTINE, stream));
            self.at_rest.insert(stream, now + QUARANTINE);
        }
        self.end_quarantines(now);
    }

    fn end_quarantines(&mut self, now: Instant) {
        while let Some(&(until, stream)) = self.resting.front()
            && (until <= now || self.resting.len() > RESTING_MAX)
        {
            self.resting.pop_front();
            match self.at_rest.get(&stream) {
                // It was still heard.
                Some(&later) if later > until && self.resting.len() < RESTING_MAX => {
                    self.resting.push_back((later, stream));
                }
                _ => {
                    self.at_rest.remove(&stream);
                }
            }
        }
    }

    fn place(&mut self, leg: LegId, now: Known) {
        if let Some(before) = self.legs.insert(leg, now) {
            self.take_out(leg, before);
        }
        if let Some(rtp) = now.rtp {
            let holders = if now.trusted { &mut self.at } else { &mut self.claims };
            holders.add(rtp, leg);
        }
        now.rtcp.into_iter().for_each(|address| self.rtcp.add(address, leg));
        if let Some(ssrc) = now.ssrc {
            self.ssrcs.add(ssrc, leg);
            now.rtp.into_iter().for_each(|address| {
                self.streams.get_or_insert((address, ssrc), Owner { leg, heard: false });
            });
        }
        if let Some((address, ssrc)) = now.heard {
            self.at.add(address, leg);
            self.ssrcs.add(ssrc, leg);
            self.streams.insert((address, ssrc), Owner { leg, heard: true });
        }
    }

    fn take_out(&mut self, leg: LegId, known: Known) {
        let heard = known.heard.map(|(address, _)| address);
        for address in known.rtp.into_iter().chain(heard) {
            self.at.remove(&address, leg);
            self.claims.remove(&address, leg);
        }
        known.rtcp.into_iter().for_each(|address| self.rtcp.remove(&address, leg));
        for ssrc in known.ssrc.into_iter().chain(known.heard.map(|(_, ssrc)| ssrc)) {
            self.ssrcs.remove(&ssrc, leg);
        }
        for stream in known.rtp.zip(known.ssrc).into_iter().chain(known.heard) {
            if self.streams.get(&stream).is_some_and(|owner| owner.leg == leg) {
                self.streams.remove(&stream);
            }
        }
    }

    /// The leg of a stream that was heard or announced before.
    pub(super) fn known(&self, source: SocketAddr, ssrc: u32) -> Option<Owner> {
        self.streams.get(&(source, ssrc)).copied()
    }

    /// The leg a new stream can only belong to. `trusts`: may the leg's peer be at that host?
    pub(super) fn new_stream(
        &mut self,
        (source, ssrc): StreamKey,
        trusts: impl Fn(LegId) -> bool,
        now: Instant,
    ) -> Result<LegId, DropReason> {
        if let Some(leg) = self.at.only(&source)? {
            return Ok(leg);
        }
        if let Some(leg) = self.claims.only(&source)? {
            return Ok(leg);
        }
        let holders = self.ssrcs.0.get(&ssrc).map_or(&[][..], Vec::as_slice);
        if let Some(leg) = sole(holders.iter().copied(), holders.len(), &trusts)? {
            return Ok(leg);
        }
        if let Some(until) = self.at_rest.get_mut(&(source, ssrc))
            && *until > now
        {
            *until = now + QUARANTINE;
            return Err(DropReason::WrongSource);
        }
        let (waiting, count) = (self.waiting.iter().copied(), self.waiting.len());
        sole(waiting, count, &trusts)?.ok_or(DropReason::WrongSource)
    }

    /// The leg of an RTCP packet, whose sender is `ssrc`.
    pub(super) fn rtcp(&self, source: SocketAddr, ssrc: u32) -> Result<LegId, DropReason> {
        if let Some(owner) = self.known(source, ssrc) {
            return Ok(owner.leg);
        }
        // A peer that only listens is known by its address alone.
        match self.rtcp.only(&source)? {
            Some(leg) => Ok(leg),
            None => self.ssrcs.only(&ssrc)?.ok_or(DropReason::WrongSource),
        }
    }

    /// Nothing is known but what rests.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.legs.is_empty()
            && self.streams.is_empty()
            && self.ssrcs.0.is_empty()
            && self.at.0.is_empty()
            && self.claims.0.is_empty()
            && self.rtcp.0.is_empty()
            && self.waiting.is_empty()
    }
}
