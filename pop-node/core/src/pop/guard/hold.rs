//! Capsules of other POPs.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::call::guard_message::Kind as Guarding;
use proto::call::{Capsule, CapsuleAck, GuardMessage, GuardOpen, HalfName};
use proto::id::{Epoch, PopId};
use proto::time::{Duration, Instant};

use super::feed::say;
use super::{CAPSULE_BYTES_MAX, Owner, Ward, is_lost};
use crate::call::{Kept, Name};
use crate::pop::{CallStream, Initiator, Pop, PopCommand, Refusal};

/// A POP that gave us a half asks for it within this, if it did not hear that we have it.
const REMEMBER: Duration = Duration::from_secs(120);

/// A stream on which a POP says which halves it has.
#[derive(Debug)]
pub(super) struct Incoming {
    epoch: Epoch,
    /// Said since the stream began; `None`: all were.
    said: Option<BTreeSet<Name>>,
}

impl Pop {
    /// A POP wants its halves guarded.
    pub(in crate::pop) fn guard_opened(&mut self, stream: CallStream, open: GuardOpen) {
        let core = &mut self.core;
        let epoch = Epoch(open.epoch);
        if stream.initiator == Initiator::Local || is_lost(&core.view, &stream.peer, epoch) {
            core.counters.refuse(Refusal::StaleEpoch);
            core.commands.push_back(PopCommand::CloseStream { stream });
            return;
        }
        // One that is open yet is of a connection that is gone here, and not there.
        core.guard.incoming.retain(|other, _| other.peer != stream.peer);
        core.guard.incoming.insert(stream, Incoming { epoch, said: Some(BTreeSet::new()) });
    }

    /// On a stream of either direction.
    pub(in crate::pop) fn handle_guard(
        &mut self,
        stream: &CallStream,
        message: GuardMessage,
        now: Instant,
    ) {
        if let Some(guardian) = self.core.guard.fed(stream) {
            return match message.kind {
                Some(Guarding::Ack(ack)) => self.capsule_acknowledged(&guardian, &ack, now),
                Some(Guarding::Taken(taken)) => {
                    if let Some(name) = Name::read(taken.half.as_ref()) {
                        self.handed_over(name, taken.status, now);
                    }
                }
                _ => self.core.counters.refuse(Refusal::BadPeerMessage),
            };
        }
        let Some(epoch) = self.core.guard.incoming.get(stream).map(|incoming| incoming.epoch)
        else {
            return self.core.counters.refuse(Refusal::BadPeerMessage);
        };
        let pop = stream.peer.clone();
        if is_lost(&self.core.view, &pop, epoch) {
            // Fenced since: what it says now may be of a call that is elsewhere.
            return self.core.counters.refuse(Refusal::StaleEpoch);
        }
        match message.kind {
            Some(Guarding::Capsule(bytes)) => self.hold(stream, (pop, epoch), bytes, now),
            Some(Guarding::End(end)) => {
                let Some(name) = Name::read(end.half.as_ref()) else {
                    return self.core.counters.refuse(Refusal::BadCapsule);
                };
                let taken_from = PopId::new(&end.taken_from).ok();
                self.core.guard.half_over(name, (&pop, epoch), taken_from.as_ref());
                self.acknowledge(stream, end.half, 0);
            }
            Some(Guarding::Synced(_)) => self.core.guard.sweep(stream),
            Some(Guarding::Handover(handover)) => match Name::read(handover.half.as_ref()) {
                Some(name) => self.take_asked(Owner { name, pop, epoch }, now),
                None => self.core.counters.refuse(Refusal::BadCapsule),
            },
            Some(Guarding::Open(_) | Guarding::Ack(_) | Guarding::Taken(_)) | None => {
                self.core.counters.refuse(Refusal::BadPeerMessage);
            }
        }
    }

    fn acknowledge(&mut self, stream: &CallStream, half: Option<HalfName>, version: u64) {
        say(stream, Guarding::Ack(CapsuleAck { half, version }), &mut self.core);
    }

    fn hold(
        &mut self,
        stream: &CallStream,
        (pop, epoch): (PopId, Epoch),
        bytes: Vec<u8>,
        now: Instant,
    ) {
        let capsule = Capsule::decode(bytes.as_slice()).unwrap_or_default();
        let (half, version) = (capsule.half.clone(), capsule.version);
        let bytes = Bytes::from(bytes);
        let guard = &self.core.guard;
        let refused = match Kept::read(capsule, now) {
            None => Err(Refusal::BadCapsule),
            Some(_) if bytes.len() > CAPSULE_BYTES_MAX => Err(Refusal::CapsuleTooLong),
            Some(kept) => {
                let owner = Owner { name: kept.name, pop, epoch };
                let room = guard.held.len() < guard.wards_max || guard.holds(owner.name);
                if room { Ok(owner) } else { Err(Refusal::Overload) }
            }
        };
        let owner = match refused {
            Ok(owner) => owner,
            Err(refusal) => {
                self.core.counters.refuse(refusal);
                return self.acknowledge(stream, half, 0);
            }
        };
        // Who had it before is lost, or gave it away.
        self.core.forget_lost(owner.name);
        let guard = &mut self.core.guard;
        if let Some(said) = guard.incoming.get_mut(stream).and_then(|i| i.said.as_mut()) {
            said.insert(owner.name);
        }
        let over = guard.ward(&owner).and_then(|ward| ward.over);
        guard.put(owner, Ward { bytes, at: now, over, lost: None });
        self.acknowledge(stream, half, version);
    }
}

impl super::super::core::Core {
    /// Another POP has this half by now, or had it: not those that are lost.
    pub(in crate::pop) fn forget_lost(&mut self, name: Name) {
        let Some(wards) = self.guard.held.get_mut(&name) else { return };
        wards.retain(|(pop, epoch), _| !is_lost(&self.view, pop, *epoch));
        if wards.is_empty() {
            self.guard.held.remove(&name);
        }
    }
}

impl super::Guard {
    /// A POP says that a half is over: its own, or one that it was to take over and did, perhaps
    /// before the POP that had it is known to be lost here.
    fn half_over(&mut self, name: Name, (sender, epoch): (&PopId, Epoch), from: Option<&PopId>) {
        let Some(wards) = self.held.get_mut(&name) else { return };
        wards.retain(|(pop, of), ward| match from {
            None => (pop, *of) != (sender, epoch),
            // Only who was to take it may say so.
            Some(from) => {
                let is_sender =
                    |guardian: &proto::call::Guardian| guardian.pop_id == sender.as_str();
                pop != from || !ward.guardians().iter().any(is_sender)
            }
        });
        if wards.is_empty() {
            self.held.remove(&name);
        }
    }

    /// A half of `from` is here now, for good.
    pub(super) fn remember(&mut self, name: Name, from: &PopId, now: Instant) {
        self.came.retain(|_, (_, at)| now.since(*at) < REMEMBER);
        if self.came.len() < self.wards_max {
            self.came.insert(name, (from.clone(), now));
        }
    }

    /// This POP gave us the half; it may be over by now.
    pub(super) fn has_come(&self, name: Name, from: &PopId) -> bool {
        self.came.get(&name).is_some_and(|(pop, _)| pop == from)
    }

    /// Forgets a half of `pop`; gives who else guards it.
    pub(super) fn release(&mut self, name: Name, pop: &PopId) -> Vec<Vec<(PopId, Epoch)>> {
        let Some(wards) = self.held.get_mut(&name) else { return Vec::new() };
        let mut released = Vec::new();
        wards.retain(|(of, _), ward| {
            let is_theirs = of == pop;
            if is_theirs {
                let read = |one: proto::call::Guardian| {
                    Some((PopId::new(&one.pop_id).ok()?, Epoch(one.epoch)))
                };
                released.push(ward.guardians().into_iter().filter_map(read).collect());
            }
            !is_theirs
        });
        if wards.is_empty() {
            self.held.remove(&name);
        }
        released
    }

    /// All halves were said: others of this epoch are over.
    fn sweep(&mut self, stream: &CallStream) {
        let Some(incoming) = self.incoming.get_mut(stream) else { return };
        let (epoch, Some(said)) = (incoming.epoch, incoming.said.take()) else { return };
        self.retain(|owner, _| {
            owner.pop != stream.peer || owner.epoch != epoch || said.contains(&owner.name)
        });
    }

    /// The stream is one on which a POP says what it has.
    pub(in crate::pop) fn is_incoming(&self, stream: &CallStream) -> bool {
        self.incoming.contains_key(stream)
    }

    /// It is over. What was said on it stays: its POP may be lost.
    pub(in crate::pop) fn incoming_lost(&mut self, stream: &CallStream) {
        self.incoming.remove(stream);
    }

    /// The stream of a POP that may have asked for something.
    pub(in crate::pop) fn incoming_of(&self, pop: &PopId) -> Option<CallStream> {
        self.incoming.keys().find(|stream| stream.peer == *pop).cloned()
    }
}
