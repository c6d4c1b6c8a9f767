//! Our halves, as capsules, to the POPs that guard them.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

use prost::Message as _;
use proto::call::call_message::Kind;
use proto::call::guard_message::Kind as Guarding;
use proto::call::{
    Capsule, CapsuleAck, CapsuleEnd, GuardMessage, GuardOpen, GuardSynced, Guardian, Handover,
};
use proto::id::{Epoch, PopId};
use proto::time::{Duration, Instant, earlier};

use super::{CAPSULE_BYTES_MAX, WINDOW, choose};
use crate::call::{Call, CallKey, Link, Name};
use crate::pop::core::Core;
use crate::pop::{CallStream, LinkState, Pop, Refusal};

/// A stream that broke is opened again after this.
const REOPEN: Duration = Duration::from_millis(500);

/// A half of ours that is guarded.
#[derive(Debug)]
pub(super) struct Own {
    key: CallKey,
    /// Of the half as it was last seen, to find out whether it changed.
    hash: u64,
    version: u64,
    /// Some guardian had it once: it takes the half over, as it was then at least.
    kept: bool,
    pub(super) guardians: Vec<Keeper>,
}

/// A guardian, its epoch, and the version it is known to have, since when.
type Keeper = (PopId, Epoch, Option<(u64, Instant)>);

/// To one guardian.
#[derive(Debug, Default)]
pub(super) struct Feed {
    stream: Option<CallStream>,
    /// Halves it lacks, in their latest version.
    pending: BTreeSet<Name>,
    /// Halves it shall forget.
    gone: BTreeSet<Name>,
    in_flight: usize,
    synced: bool,
    reopen_at: Option<Instant>,
}

fn wrap(kind: Guarding) -> Kind {
    Kind::Guard(GuardMessage { kind: Some(kind) })
}

pub(in crate::pop) fn say(stream: &CallStream, kind: Guarding, core: &mut Core) {
    core.send(&Link::Remote(stream.clone()), wrap(kind));
}

/// A half without what differs each time it is said.
fn hash(capsule: &Capsule) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&capsule.encode_to_vec());
    hasher.finish()
}

impl Pop {
    /// Sees which halves changed, and sends what guardians lack.
    pub(in crate::pop) fn feed(&mut self, now: Instant) {
        if !self.core.guard.registered {
            // Looked at anew when there is an epoch.
            return self.core.guard.dirty.clear();
        }
        for key in std::mem::take(&mut self.core.guard.dirty) {
            self.look_at(key);
        }
        if self.core.guard.reopens_at().is_some_and(|at| at <= now) {
            self.core.guard.pump_all();
        }
        for guardian in std::mem::take(&mut self.core.guard.pump) {
            self.pump(&guardian, now);
        }
    }

    /// Whether a half is guarded as it is now.
    fn look_at(&mut self, key: CallKey) {
        let Some((name, capsule)) = self.calls.get(&key).and_then(|call| named(call)) else {
            return self.unguard(key);
        };
        let core = &mut self.core;
        let peer = PopId::new(&capsule.peer).ok();
        let chosen = choose::guardians(&core.view, &core.config.id, peer.as_ref(), name.call_id);
        let hash = hash(&capsule);
        core.guard.names.insert(key, name);
        let before = core.guard.own.remove(&name);
        if let Some(mut own) = before {
            let same = own.guardians.iter().map(|(id, epoch, _)| (id, epoch));
            if own.hash == hash
                && own.key == key
                && same.eq(chosen.iter().map(|(id, epoch)| (id, epoch)))
            {
                core.guard.own.insert(name, own);
                return;
            }
            for (guardian, ..) in own.guardians.drain(..) {
                if !chosen.iter().any(|(id, _)| *id == guardian) {
                    core.guard.forget_at(&guardian, name);
                }
            }
            own.version += 1;
            core.guard.own.insert(name, Own { key, hash, ..own });
        } else {
            core.guard
                .own
                .insert(name, Own { key, hash, version: 1, kept: false, guardians: Vec::new() });
        }
        for (guardian, _) in &chosen {
            let feed = core.guard.feeds.entry(guardian.clone()).or_default();
            feed.gone.remove(&name);
            feed.pending.insert(name);
            core.guard.pump.insert(guardian.clone());
        }
        if let Some(own) = core.guard.own.get_mut(&name) {
            own.guardians = chosen.into_iter().map(|(id, epoch)| (id, epoch, None)).collect();
        }
    }

    /// The half is over, or another's.
    fn unguard(&mut self, key: CallKey) {
        let guard = &mut self.core.guard;
        let Some(name) = guard.names.remove(&key) else { return };
        let Some(own) = guard.own.remove(&name) else { return };
        for (guardian, ..) in own.guardians {
            guard.forget_at(&guardian, name);
        }
    }

    fn pump(&mut self, guardian: &PopId, now: Instant) {
        let Some(mut feed) = self.core.guard.feeds.remove(guardian) else { return };
        if feed.reopen_at.is_some_and(|at| at <= now) {
            feed.reopen_at = None;
        }
        let has_link = self.core.links.get(guardian) != Some(&LinkState::Down);
        if feed.stream.is_none() && has_link && feed.reopen_at.is_none() {
            self.open_feed(guardian, &mut feed);
        }
        if let Some(stream) = feed.stream.clone() {
            self.fill(&stream, &mut feed, now);
        }
        if feed.stream.is_some() || !feed.pending.is_empty() || !feed.gone.is_empty() {
            self.core.guard.feeds.insert(guardian.clone(), feed);
        }
    }

    /// All that this POP guards is said anew.
    fn open_feed(&mut self, guardian: &PopId, feed: &mut Feed) {
        let own = &self.core.guard.own;
        let theirs = own.iter().filter(|(_, own)| own.is_guarded_by(guardian));
        feed.pending = theirs.map(|(name, _)| *name).collect();
        (feed.in_flight, feed.synced) = (0, false);
        if feed.pending.is_empty() && feed.gone.is_empty() {
            return;
        }
        let stream = self.core.open_guard_stream(guardian.clone());
        let epoch = self.core.config.epoch.0;
        say(&stream, Guarding::Open(GuardOpen { epoch }), &mut self.core);
        feed.stream = Some(stream);
    }

    fn fill(&mut self, stream: &CallStream, feed: &mut Feed, now: Instant) {
        while feed.in_flight < WINDOW
            && let Some(name) = feed.gone.pop_first()
        {
            feed.in_flight += 1;
            let half = Some(name.write());
            say(stream, Guarding::End(CapsuleEnd { half }), &mut self.core);
        }
        while feed.in_flight < WINDOW
            && let Some(name) = feed.pending.pop_first()
        {
            let Some(capsule) = self.capsule_of(name, now) else { continue };
            let capsule = capsule.encode_to_vec();
            if capsule.len() > CAPSULE_BYTES_MAX {
                self.core.counters.refuse(Refusal::CapsuleTooLong);
                continue;
            }
            feed.in_flight += 1;
            self.core.counters.capsules_sent += 1;
            say(stream, Guarding::Capsule(capsule), &mut self.core);
        }
        if feed.pending.is_empty() && !std::mem::replace(&mut feed.synced, true) {
            say(stream, Guarding::Synced(GuardSynced {}), &mut self.core);
        }
    }

    fn capsule_of(&self, name: Name, now: Instant) -> Option<Capsule> {
        let own = self.core.guard.own.get(&name)?;
        let (_, mut capsule) = self.calls.get(&own.key).and_then(|call| named(call))?;
        let guardian = |(id, epoch, _): &(PopId, Epoch, _)| Guardian {
            pop_id: id.as_str().to_owned(),
            epoch: epoch.0,
        };
        capsule.guardians = own.guardians.iter().map(guardian).collect();
        (capsule.version, capsule.now_ms) = (own.version, now.as_millis());
        Some(capsule)
    }

    /// A guardian has a capsule, or forgot one.
    pub(in crate::pop) fn capsule_acknowledged(
        &mut self,
        guardian: &PopId,
        ack: &CapsuleAck,
        now: Instant,
    ) {
        if let Some(feed) = self.core.guard.feeds.get_mut(guardian) {
            feed.in_flight = feed.in_flight.saturating_sub(1);
            if !(feed.pending.is_empty() && feed.gone.is_empty()) {
                self.core.guard.pump.insert(guardian.clone());
            }
        }
        let own = Name::read(ack.half.as_ref()).and_then(|name| self.core.guard.own.get_mut(&name));
        let Some(own) = own.filter(|_| ack.version != 0) else { return };
        if let Some((.., has)) = own.guardians.iter_mut().find(|(id, ..)| id == guardian) {
            *has = Some((ack.version, now));
            own.kept = true;
        }
    }

    /// Asks a guardian to take a half of ours now; false if none has its capsule.
    pub(in crate::pop) fn hand_over(&mut self, name: Name) -> bool {
        let Some(own) = self.core.guard.own.get(&name) else { return false };
        // The first that can be reached: the same for both halves of a call. Of a call with another
        // POP nobody but that one: it has the other half.
        let local = self.core.guard.own.contains_key(&name.other());
        let few = if local { own.guardians.len() } else { 1 };
        let feed = |id: &PopId| self.core.guard.feeds.get(id).filter(|feed| feed.stream.is_some());
        let first = own.guardians.iter().take(few).find(|(id, ..)| feed(id).is_some());
        let has = first.filter(|(.., has)| has.is_some_and(|(v, _)| v == own.version));
        let stream = has.and_then(|(id, ..)| self.core.guard.feeds.get(id)?.stream.clone());
        let Some(stream) = stream else { return false };
        let half = Some(name.write());
        say(&stream, Guarding::Handover(Handover { half }), &mut self.core);
        true
    }

    /// The stream to a guardian is gone.
    pub(in crate::pop) fn feed_lost(&mut self, guardian: &PopId, now: Instant) {
        let guard = &mut self.core.guard;
        if let Some(feed) = guard.feeds.get_mut(guardian) {
            feed.stream = None;
            feed.reopen_at = Some(now + REOPEN);
            let theirs = guard.own.iter().filter(|(_, own)| own.is_guarded_by(guardian));
            feed.pending = theirs.map(|(name, _)| *name).collect();
        }
        for own in self.core.guard.own.values_mut() {
            for (.., has) in own.guardians.iter_mut().filter(|(id, ..)| id == guardian) {
                *has = None;
            }
        }
    }
}

fn named(call: &Call) -> Option<(Name, Capsule)> {
    Some((Name::of(&call.half), call.capsule()?))
}

impl Feed {
    pub(super) const fn is_open(&self) -> bool {
        self.stream.is_some()
    }
}

impl Own {
    fn is_guarded_by(&self, guardian: &PopId) -> bool {
        self.guardians.iter().any(|(id, ..)| id == guardian)
    }

    /// Some guardian has it as it is.
    pub(in crate::pop) fn is_safe(&self) -> bool {
        self.guardians.iter().any(|(.., has)| has.is_some_and(|(v, _)| v == self.version))
    }

    pub(in crate::pop) fn key(&self) -> CallKey {
        self.key
    }
}

impl super::Guard {
    fn forget_at(&mut self, guardian: &PopId, name: Name) {
        let feed = self.feeds.entry(guardian.clone()).or_default();
        feed.pending.remove(&name);
        feed.gone.insert(name);
        self.pump.insert(guardian.clone());
    }

    /// A half was taken over here: those that would have done it after us need not.
    pub(super) fn taken(&mut self, name: Name, guardians: &[(PopId, Epoch)], own: &PopId) {
        for (guardian, _) in guardians.iter().filter(|(id, _)| id != own) {
            let feed = self.feeds.entry(guardian.clone()).or_default();
            feed.gone.insert(name);
            self.pump.insert(guardian.clone());
        }
    }

    /// All guardians may be told more now.
    pub(in crate::pop) fn pump_all(&mut self) {
        self.pump.extend(self.feeds.keys().cloned());
    }

    /// There is a link to this one.
    pub(in crate::pop) fn pump(&mut self, guardian: &PopId) {
        if self.feeds.contains_key(guardian) {
            self.pump.insert(guardian.clone());
        }
    }

    /// The guardian of a feed's stream.
    pub(in crate::pop) fn fed(&self, stream: &CallStream) -> Option<PopId> {
        let feed = self.feeds.get(&stream.peer)?;
        (feed.stream.as_ref() == Some(stream)).then(|| stream.peer.clone())
    }

    /// When a broken stream is opened again.
    fn reopens_at(&self) -> Option<Instant> {
        self.feeds.values().filter_map(|feed| feed.reopen_at).min()
    }

    /// When there is something to do.
    pub(in crate::pop) fn deadline(&self) -> Option<Instant> {
        earlier(self.reopens_at(), self.drain_at)
    }

    /// Who has this half of ours.
    pub(in crate::pop) fn guardians(&self, name: Name) -> Vec<crate::pop::Guardian> {
        let Some(own) = self.own.get(&name) else { return Vec::new() };
        let guardian = |(pop, _, has): &Keeper| {
            let fresh = has.is_some_and(|(version, _)| version == own.version);
            crate::pop::Guardian { pop: pop.clone(), fresh }
        };
        own.guardians.iter().map(guardian).collect()
    }

    /// Halves of ours that nobody has as they are.
    pub(in crate::pop) fn unguarded(&self) -> usize {
        let safe = self.own.values().filter(|own| own.is_safe()).count();
        self.halves.len().saturating_sub(safe)
    }

    /// Some guardian has this half of ours, or had it when it was last heard.
    pub(in crate::pop) fn is_kept(&self, name: Name) -> bool {
        self.own.get(&name).is_some_and(|own| own.kept)
    }

    /// All is to be said anew, with another epoch or to nobody.
    pub(in crate::pop) fn close_feeds(&mut self) -> Vec<CallStream> {
        let feeds = std::mem::take(&mut self.feeds);
        for own in self.own.values_mut() {
            own.guardians.clear();
        }
        self.dirty.extend(self.own.values().map(Own::key));
        feeds.into_values().filter_map(|feed| feed.stream).collect()
    }
}
