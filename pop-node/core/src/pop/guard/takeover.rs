//! Halves of a lost POP go on here.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::call::call_message::Kind as FarKind;
use proto::call::guard_message::Kind as Guarding;
use proto::call::{CallBye, Capsule, HandoverResult};
use proto::id::{CallId, LegId, PopId};
use proto::time::{Duration, Instant};

use super::feed::say;
use super::{Owner, is_lost};
use crate::call::{Arrived, Call, CallKey, EndCause, Input, Kept, Name, Taking, farewell};
use crate::media::Lane;
use crate::pop::{Pop, PopCommand};

/// A lost POP's half that another guardian should have taken is forgotten after this.
const FORGET: Duration = Duration::from_secs(300);

/// A half to take.
struct Due {
    owner: Owner,
    kept: Kept,
    over: Option<EndCause>,
    /// When its POP said it.
    said: Instant,
}

/// Of two POPs that had a half one after the other, the later one counts.
fn add(halves: &mut Vec<Due>, due: Due) {
    match halves.iter_mut().find(|other| other.owner.name == due.owner.name) {
        Some(other) if other.said < due.said => *other = due,
        Some(_) => {}
        None => halves.push(due),
    }
}

impl Pop {
    /// No node can have found us lost before `until`: until then we may take over from others. A
    /// POP that slept, or is cut off, may be lost itself and not know it.
    pub fn handle_lease(&mut self, until: Instant, now: Instant) {
        self.core.guard.lease = Some(until);
        self.settle(now);
    }

    /// Finds halves that lost their POP, and takes those that are ours to take.
    pub(in crate::pop) fn take_over(&mut self, now: Instant) {
        if !self.core.guard.stale || self.core.guard.lease.is_none_or(|until| until <= now) {
            return;
        }
        self.core.guard.stale = false;
        let keys: Vec<CallKey> = self.core.guard.names.keys().copied().collect();
        self.core.guard.dirty.extend(keys);
        if self.core.fenced {
            return;
        }
        let mut calls: BTreeMap<CallId, Vec<Due>> = BTreeMap::new();
        for owner in self.found_lost(now) {
            if let Some(due) = self.is_due(owner) {
                add(calls.entry(due.owner.name.call_id).or_default(), due);
            }
        }
        let mut calls: Vec<Vec<Due>> = calls.into_values().collect();
        // Who talks longest would miss most.
        calls.sort_by_key(|halves| halves.iter().map(|due| due.kept.record.started).min());
        for halves in calls {
            self.take_call(halves, now);
        }
        let (guard, view) = (&mut self.core.guard, &self.core.view);
        guard
            .feeds
            .retain(|id, feed| feed.is_open() || view.pop(id).is_some_and(|pop| !pop.fenced));
        self.leave_lost(now);
    }

    /// Calls that wait for a lost POP to set them up, or that nobody guards, need not wait.
    fn leave_lost(&mut self, now: Instant) {
        let lost = self.core.view.pops().filter(|(_, pop)| pop.fenced).map(|(id, _)| id.clone());
        for pop in lost.collect::<Vec<_>>() {
            for key in self.core.index.with_peer(&pop) {
                self.deliver(key, Input::FarLost, now);
            }
        }
    }

    fn found_lost(&mut self, now: Instant) -> Vec<Owner> {
        let (guard, view) = (&mut self.core.guard, &self.core.view);
        let mut lost = Vec::new();
        guard.retain(|owner, ward| {
            if !is_lost(view, &owner.pop, owner.epoch) {
                return true;
            }
            lost.push(owner.clone());
            now.since(*ward.lost.get_or_insert(now)) < FORGET
        });
        lost
    }

    /// Ours to take: all that come before us are lost.
    fn is_due(&self, owner: Owner) -> Option<Due> {
        let (core, ward) = (&self.core, self.core.guard.ward(&owner)?);
        let kept = Kept::read(Capsule::decode(ward.bytes.clone()).ok()?, ward.at)?;
        let mut guardians = kept.guardians.iter();
        let first = guardians.find(|(id, epoch)| !is_lost(&core.view, id, *epoch));
        let ours =
            first.is_some_and(|(id, epoch)| *id == core.config.id && *epoch == core.config.epoch);
        let (over, said) = (ward.over, ward.at);
        ours.then_some(Due { owner, kept, over, said })
    }

    /// One call's halves: both, or the one whose other half is here.
    fn take_call(&mut self, halves: Vec<Due>, now: Instant) {
        let mut here: Vec<(Name, CallKey, LegId)> = Vec::new();
        let (mut over, mut due) = (None, Vec::new());
        for half in halves {
            self.core.guard.held.remove(&half.owner.name);
            over = over.or(half.over);
            match self.half(half.owner.name) {
                // Its POP asked for it while it lived: now it is ours.
                Some(taken) => {
                    self.keep_asked(taken.1);
                    here.push(taken);
                }
                None => due.push(half),
            }
        }
        let names = due.iter().map(|half| half.owner.name).chain(here.iter().map(|half| half.0));
        let names: Vec<Name> = names.collect();
        if let [name] = names.as_slice() {
            here.extend(self.half(name.other()));
        }
        let lane = here.first().map_or_else(|| self.core.ports.idlest(), |half| Lane::of(half.2));
        let whole = due.len() + here.len() == 2 && over.is_none();
        for Due { owner, kept, over, .. } in due {
            if !whole {
                let own = self.core.config.id.clone();
                self.core.guard.taken((owner.name, &owner.pop), &kept.guardians, &own);
                self.part(owner, kept, over.unwrap_or(EndCause::LinkLost), now);
                continue;
            }
            let (name, at) = (owner.name, self.pace(&kept, now));
            let taken = self.take((owner, kept), (lane, at, false), now);
            here.extend(taken.map(|(key, leg)| (name, key, leg)));
        }
        match here.as_slice() {
            [one, other] if !self.is_paired(one.1) || !self.is_paired(other.1) => {
                self.join(*one, *other, now);
            }
            // The other one could not be taken, or is over.
            [one] => self.deliver(one.1, Input::FarLost, now),
            _ => {}
        }
    }

    /// The POP that asked for this half is lost: whatever becomes of it, it does not go back.
    fn keep_asked(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key) {
            call.keep_asked();
        }
    }

    /// A half of ours, with its leg.
    fn half(&self, name: Name) -> Option<(Name, CallKey, LegId)> {
        let key = *self.core.guard.halves.get(&name)?;
        Some((name, key, self.calls.get(&key)?.half.leg.id))
    }

    fn take(
        &mut self,
        (owner, kept): (Owner, Kept),
        (lane, at, asked): (Lane, Instant, bool),
        now: Instant,
    ) -> Option<(CallKey, LegId)> {
        let core = &mut self.core;
        let (key, leg) = (core.new_key(), core.new_leg(lane));
        let from = owner.pop;
        let taking = Taking { key, leg, from: from.clone(), at, asked };
        core.counters.halves_taken += 1;
        match Call::adopt(kept.clone(), taking, core, now) {
            Some(call) => {
                self.keep(key, Box::new(call));
                Some((key, leg))
            }
            None if asked => {
                core.index.forget(key);
                let took = Duration::ZERO;
                let (name, guardians) = (kept.name, Vec::new());
                core.arrivals.push(Arrived { name, from, asked, status: 503, took, guardians });
                None
            }
            None => {
                core.index.forget(key);
                core.counters.halves_lost += 1;
                farewell(kept, from, EndCause::NotMoved, core, now);
                None
            }
        }
    }

    /// The peer of a half that cannot go on is told, and its record is written.
    fn part(&mut self, owner: Owner, kept: Kept, cause: EndCause, now: Instant) {
        self.core.counters.halves_lost += 1;
        farewell(kept, owner.pop, cause, &mut self.core, now);
    }

    fn join(&mut self, one: (Name, CallKey, LegId), other: (Name, CallKey, LegId), now: Instant) {
        for (half, far) in [(one, other), (other, one)] {
            let Some(mut call) = self.calls.remove(&half.1) else { continue };
            if let Some(at) = call.deadline() {
                self.deadlines.remove(&(at, half.1));
            }
            call.pair((far.1, far.2), &mut self.core, now);
            self.keep(half.1, call);
        }
    }

    /// When the peer of this half may be called over: carriers take only so many re-INVITEs a second.
    fn pace(&mut self, kept: &Kept, now: Instant) -> Instant {
        let rate = self.core.config.limits.takeover_rate.max(1);
        let next = self.core.guard.pace.entry(kept.trunk.clone()).or_insert(now);
        let at = (*next).max(now);
        *next = at + Duration::from_secs(1) / rate;
        at
    }

    // ------------------------------------------------------------ drain

    /// A POP asks us to take a half while it still has it.
    pub(in crate::pop) fn take_asked(&mut self, owner: Owner, now: Instant) {
        let ward = self.core.guard.ward(&owner);
        let kept =
            ward.and_then(|ward| Kept::read(Capsule::decode(ward.bytes.clone()).ok()?, ward.at));
        let (name, from) = (owner.name, owner.pop.clone());
        if self.core.guard.has_come(name, &from) {
            return self.answer_handover(&from, name, 200);
        }
        if let Some((_, key, _)) = self.half(name) {
            // Asked again: it comes yet, or is here and that was not heard.
            let call = self.calls.get(&key).filter(|call| !call.is_moving());
            if call.is_some_and(|call| call.half.record.moved_from.as_ref() == Some(&from)) {
                self.answer_handover(&from, name, 200);
            }
            return;
        }
        let refuse = kept.is_none() || self.core.closed().is_some();
        let Some(kept) = kept.filter(|_| !refuse) else {
            return self.answer_handover(&from, name, 404);
        };
        let existing = self.half(name.other());
        let other = Owner { name: name.other(), ..owner.clone() };
        let lane = existing.map_or_else(|| self.core.ports.idlest(), |(.., leg)| Lane::of(leg));
        let at = self.pace(&kept, now);
        let taken = self.take((owner, kept), (lane, at, true), now);
        let Some((key, leg)) = taken else { return };
        // Both of one call came: they belong together from now on. One whose other half is here
        // already has it from its old POP until the peer is here, too.
        if let Some(other) = existing.filter(|(_, key, _)| self.is_moving(*key)) {
            self.join((name, key, leg), other, now);
        }
        // Its POP has both and asks for both: the peer of this one may have followed before it asks
        // for the other.
        if existing.is_none() && self.core.guard.ward(&other).is_some() {
            self.take_asked(other, now);
        }
    }

    fn is_moving(&self, key: CallKey) -> bool {
        self.calls.get(&key).is_some_and(|call| call.is_moving())
    }

    /// What came of taking halves over.
    pub(in crate::pop) fn arrive(&mut self, now: Instant) {
        for arrived in std::mem::take(&mut self.core.arrivals) {
            let (asked, status) = (arrived.asked, arrived.status);
            let counters = &mut self.core.counters;
            if status == 200 {
                let took = u64::try_from(arrived.took.as_millis()).unwrap_or(u64::MAX);
                counters.halves_arrived += 1;
                counters.takeover_ms_max = counters.takeover_ms_max.max(took);
            } else {
                counters.halves_lost += u64::from(!asked);
            }
            if asked {
                self.arrived_asked(arrived, now);
            } else {
                // Those that would have taken it after us need not.
                let own = self.core.config.id.clone();
                let half = (arrived.name, &arrived.from);
                self.core.guard.taken(half, &arrived.guardians, &own);
            }
        }
    }

    /// Its POP waits to hear how it went; of both halves of a call only when both are here.
    fn arrived_asked(&mut self, Arrived { name, from, status, .. }: Arrived, now: Instant) {
        let other = self.half(name.other());
        let other_moves = other.is_some_and(|(_, key, _)| self.is_moving(key));
        if status != 200 {
            self.core.guard.doomed.remove(&name);
            self.answer_handover(&from, name, status);
            if self.core.guard.waiting.remove(&name.other()).is_some() {
                self.send_back(name.other(), &from, status, now);
            } else if other_moves {
                // Its INVITE is out: it goes back when that is answered.
                self.core.guard.doomed.insert(name.other());
            }
            return;
        }
        if self.half(name).is_none() {
            return self.over_on_the_way(name, &from, now);
        }
        if self.core.guard.doomed.remove(&name) {
            return self.send_back(name, &from, 487, now);
        }
        if other_moves {
            self.core.guard.waiting.insert(name, from);
            return;
        }
        match (self.half(name), other) {
            (Some(here), Some(other)) if !self.is_paired(here.1) => self.join(here, other, now),
            // Its other half was here and is over, which its old POP hears from that one; or it is not
            // here at all.
            (Some(_), None) => return self.send_back(name, &from, 487, now),
            _ => {}
        }
        self.keep_handed(name, &from, now);
        if let Some(from) = self.core.guard.waiting.remove(&name.other()) {
            self.keep_handed(name.other(), &from, now);
        }
    }

    /// One side hung up while halves of the call were on their way here: it is over everywhere.
    fn over_on_the_way(&mut self, name: Name, from: &PopId, now: Instant) {
        self.core.guard.doomed.remove(&name);
        self.keep_handed(name, from, now);
        if let Some(from) = self.core.guard.waiting.remove(&name.other()) {
            self.keep_handed(name.other(), &from, now);
        }
        // Paired ones heard of it from each other.
        if let Some((_, key, _)) = self.half(name.other()) {
            let hung_up = CallBye { status: 0, reason: String::new() };
            self.deliver(key, Input::Far(FarKind::Bye(hung_up)), now);
        }
    }

    /// A half is here for good. Its POP may die before it hears of it: neither we nor those that would
    /// have come after us need its capsule any more.
    fn keep_handed(&mut self, name: Name, from: &PopId, now: Instant) {
        self.answer_handover(from, name, 200);
        self.core.guard.remember(name, from, now);
        let own = self.core.config.id.clone();
        for guardians in self.core.guard.release(name, from) {
            self.core.guard.taken((name, from), &guardians, &own);
        }
    }

    /// A half whose peer is here, and which is its old POP's all the same.
    fn send_back(&mut self, name: Name, pop: &PopId, status: u16, now: Instant) {
        self.answer_handover(pop, name, status);
        if let Some((_, key, _)) = self.half(name) {
            self.deliver(key, Input::Moved, now);
        }
    }

    fn is_paired(&self, key: CallKey) -> bool {
        self.calls.get(&key).is_some_and(|call| call.half.peer_leg.is_some())
    }

    fn answer_handover(&mut self, pop: &PopId, name: Name, status: u16) {
        let Some(stream) = self.core.guard.incoming_of(pop) else { return };
        let (half, status) = (Some(name.write()), u32::from(status));
        say(&stream, Guarding::Taken(HandoverResult { half, status }), &mut self.core);
    }

    /// This POP was found lost although it lives: its halves are others' now, and it guards nothing.
    /// Nobody is told: the peers follow who took them over. What nobody had ends with BYE.
    pub fn retire(&mut self, now: Instant) {
        self.leave_calls(true, now);
        self.settle(now);
    }

    /// Leaves all halves that somebody guards, without a word, and guards none. Whether the rest ends.
    pub(in crate::pop) fn leave_calls(&mut self, all: bool, now: Instant) {
        self.core.fenced = true;
        self.core.guard.registered = false;
        let (guard, own) = (&self.core.guard, &self.core.config.id);
        let kept = |call: &Call| guard.is_kept(Name::of(&call.half)) || call.is_others(own);
        let calls: Vec<(CallKey, bool)> =
            self.calls.iter().map(|(key, call)| (*key, kept(call))).collect();
        self.core.guard.held.clear();
        self.core.guard.incoming.clear();
        for (key, is_kept) in calls {
            match is_kept {
                true => self.deliver(key, Input::Moved, now),
                false if all => self.deliver(key, Input::Shutdown, now),
                false => {}
            }
        }
        self.close_feeds();
        let guard = &mut self.core.guard;
        (guard.own, guard.names) = Default::default();
        (guard.handing, guard.waiting, guard.doomed) = Default::default();
        guard.came.clear();
    }

    pub(in crate::pop) fn close_feeds(&mut self) {
        for stream in self.core.guard.close_feeds() {
            self.core.commands.push_back(PopCommand::CloseStream { stream });
        }
    }

    /// There is a link to a POP again.
    pub(in crate::pop) fn guard_link(&mut self, peer: &PopId) {
        self.core.guard.pump(peer);
        self.rejoin(peer);
    }
}
