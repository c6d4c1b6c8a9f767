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
/// Halves looked at in one turn: when POPs come and go all are looked at, and calls wait meanwhile.
const LOOKS: usize = 128;

/// A half of ours that is guarded.
#[derive(Debug)]
pub(super) struct Own {
    key: CallKey,
    /// Of the half as it was last seen, to find out whether it changed.
    hash: u64,
    version: u64,
    /// Of the POPs of the view, when the guardians were chosen, and for whom.
    chosen: (u64, Option<PopId>),
    pub(super) guardians: Vec<Keeper>,
}

/// A guardian of a half.
#[derive(Debug)]
pub(super) struct Keeper {
    pop: PopId,
    epoch: Epoch,
    /// The version it is known to have, since when.
    has: Option<(u64, Instant)>,
    /// It had one once: it takes the half over, as it was then at least.
    kept: bool,
}

/// To one guardian.
#[derive(Debug, Default)]
pub(super) struct Feed {
    stream: Option<CallStream>,
    /// Halves it lacks, in their latest version.
    pending: BTreeSet<Name>,
    /// Halves it shall forget: ours, or those of a POP from which we took them.
    gone: BTreeSet<(Name, Option<PopId>)>,
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
        for _ in 0..LOOKS {
            let Some(key) = self.core.guard.dirty.pop_first() else { break };
            self.look_at(key);
        }
        self.core.guard.look_at = (!self.core.guard.dirty.is_empty()).then_some(now);
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
        let (core, hash) = (&mut self.core, hash(&capsule));
        let basis = (core.guard.pops, PopId::new(&capsule.peer).ok());
        core.guard.names.insert(key, name);
        let before = core.guard.own.remove(&name).filter(|own| own.key == key);
        if before.as_ref().is_some_and(|own| own.hash == hash && own.chosen == basis) {
            core.guard.own.extend(before.map(|own| (name, own)));
            return;
        }
        let (id, peer) = (&core.config.id, basis.1.as_ref());
        let chosen = choose::guardians(&core.view, id, peer, name.call_id);
        let (version, mut had) = before.map_or((0, Vec::new()), |own| (own.version, own.guardians));
        let guardians: Vec<Keeper> = chosen.into_iter().map(|one| keeper(one, &mut had)).collect();
        for lost in had.iter().filter(|had| !guardians.iter().any(|one| one.pop == had.pop)) {
            core.guard.forget_at(&lost.pop, name);
        }
        for guardian in &guardians {
            let feed = core.guard.feeds.entry(guardian.pop.clone()).or_default();
            feed.gone.remove(&(name, None));
            feed.pending.insert(name);
            core.guard.pump.insert(guardian.pop.clone());
        }
        let own = Own { key, hash, version: version + 1, chosen: basis, guardians };
        core.guard.own.insert(name, own);
    }

    /// The half is over, or another's.
    fn unguard(&mut self, key: CallKey) {
        let guard = &mut self.core.guard;
        let Some(name) = guard.names.remove(&key) else { return };
        let Some(own) = guard.own.remove(&name) else { return };
        for guardian in own.guardians {
            guard.forget_at(&guardian.pop, name);
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
            && let Some((name, from)) = feed.gone.pop_first()
        {
            feed.in_flight += 1;
            let half = Some(name.write());
            let taken_from = from.map_or_else(String::new, |from| from.as_str().to_owned());
            say(stream, Guarding::End(CapsuleEnd { half, taken_from }), &mut self.core);
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
            // What it said of these may have been lost with the stream before.
            for name in self.core.guard.offered_to(&stream.peer) {
                let half = Some(name.write());
                say(stream, Guarding::Handover(Handover { half }), &mut self.core);
            }
        }
    }

    fn capsule_of(&self, name: Name, now: Instant) -> Option<Capsule> {
        let own = self.core.guard.own.get(&name)?;
        let (_, mut capsule) = self.calls.get(&own.key).and_then(|call| named(call))?;
        let guardian = |keeper: &Keeper| Guardian {
            pop_id: keeper.pop.as_str().to_owned(),
            epoch: keeper.epoch.0,
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
        if let Some(keeper) = own.guardians.iter_mut().find(|keeper| keeper.pop == *guardian) {
            keeper.has = Some((ack.version, now));
            keeper.kept = true;
        }
    }

    /// Asks a guardian to take a half of ours now, and gives it; `None` if none has its capsule. Of a
    /// call with both halves here both must be there: they are taken together.
    pub(in crate::pop) fn hand_over(&mut self, name: Name) -> Option<PopId> {
        let stream = self.fresh_at(name)?;
        if self.core.guard.own.contains_key(&name.other()) {
            self.fresh_at(name.other()).filter(|other| *other == stream)?;
        }
        let half = Some(name.write());
        say(&stream, Guarding::Handover(Handover { half }), &mut self.core);
        Some(stream.peer)
    }

    /// The stream to the first guardian that can be reached, if it has this half of ours as it is.
    fn fresh_at(&self, name: Name) -> Option<CallStream> {
        let own = self.core.guard.own.get(&name)?;
        // The same for both halves of a call. Of a call with another POP nobody but that one: it has
        // the other half.
        let local = self.core.guard.own.contains_key(&name.other());
        let few = if local { own.guardians.len() } else { 1 };
        let feed = |id: &PopId| self.core.guard.feeds.get(id).filter(|feed| feed.stream.is_some());
        let first = own.guardians.iter().take(few).find(|keeper| feed(&keeper.pop).is_some());
        let fresh = first.filter(|keeper| keeper.is_fresh(own.version))?;
        // Before all was said on a stream, what is offered is said again at its end.
        feed(&fresh.pop).filter(|feed| feed.synced)?.stream.clone()
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
            for keeper in own.guardians.iter_mut().filter(|keeper| keeper.pop == *guardian) {
                keeper.has = None;
            }
        }
    }
}

/// A guardian as it is chosen now; it has what it had, if it is the same process.
fn keeper((pop, epoch): (PopId, Epoch), had: &mut Vec<Keeper>) -> Keeper {
    let same = had.iter().position(|had| had.pop == pop && had.epoch == epoch);
    let new = || Keeper { pop, epoch, has: None, kept: false };
    same.map_or_else(new, |at| had.swap_remove(at))
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
        self.guardians.iter().any(|keeper| keeper.pop == *guardian)
    }

    /// Some guardian has it as it is.
    pub(in crate::pop) fn is_safe(&self) -> bool {
        self.guardians.iter().any(|keeper| keeper.is_fresh(self.version))
    }

    pub(in crate::pop) fn key(&self) -> CallKey {
        self.key
    }
}

impl Keeper {
    fn is_fresh(&self, version: u64) -> bool {
        self.has.is_some_and(|(has, _)| has == version)
    }
}

impl super::Guard {
    fn forget_at(&mut self, guardian: &PopId, name: Name) {
        let feed = self.feeds.entry(guardian.clone()).or_default();
        feed.pending.remove(&name);
        feed.gone.insert((name, None));
        self.pump.insert(guardian.clone());
    }

    /// A half was taken over here: those that would have done it after us need not.
    pub(super) fn taken(
        &mut self,
        (name, from): (Name, &PopId),
        guardians: &[(PopId, Epoch)],
        own: &PopId,
    ) {
        for (guardian, _) in guardians.iter().filter(|(id, _)| id != own) {
            let feed = self.feeds.entry(guardian.clone()).or_default();
            feed.gone.insert((name, Some(from.clone())));
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
        earlier(earlier(self.reopens_at(), self.drain_at), self.look_at)
    }

    /// Who has this half of ours.
    pub(in crate::pop) fn guardians(&self, name: Name) -> Vec<crate::pop::Guardian> {
        let Some(own) = self.own.get(&name) else { return Vec::new() };
        let guardian = |keeper: &Keeper| crate::pop::Guardian {
            pop: keeper.pop.clone(),
            fresh: keeper.is_fresh(own.version),
        };
        own.guardians.iter().map(guardian).collect()
    }

    /// Halves of ours that nobody has as they are.
    pub(in crate::pop) fn unguarded(&self) -> usize {
        let safe = self.own.values().filter(|own| own.is_safe()).count();
        self.halves.len().saturating_sub(safe)
    }

    /// A guardian that takes it over has this half of ours, or had it when it was last heard.
    pub(in crate::pop) fn is_kept(&self, name: Name) -> bool {
        let own = self.own.get(&name);
        own.is_some_and(|own| own.guardians.iter().any(|keeper| keeper.kept))
    }

    /// All is to be said anew, with another epoch or to nobody.
    pub(in crate::pop) fn close_feeds(&mut self) -> Vec<CallStream> {
        let feeds = std::mem::take(&mut self.feeds);
        for own in self.own.values_mut() {
            own.guardians.clear();
            // They are to be chosen anew, though the POPs are the same.
            own.chosen = (0, None);
        }
        self.dirty.extend(self.own.values().map(Own::key));
        feeds.into_values().filter_map(|feed| feed.stream).collect()
    }
}
