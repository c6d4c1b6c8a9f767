//! A POP that is drained hands its halves to their guardians, a few at a time. Until a guardian says
//! that the peer followed, the half is ours and goes on; if the peer did not, we call it back.

use std::collections::BTreeSet;

use proto::id::PopId;
use proto::time::{Duration, Instant};

use super::feed::Own;
use crate::call::{CallKey, Input, Name};
use crate::pop::Pop;

/// Halves under way at once.
const AT_ONCE: usize = 32;
/// Between two looks for halves to hand over.
const ROUND: Duration = Duration::from_millis(20);
/// A guardian that says nothing has not taken the half.
const PATIENCE: Duration = Duration::from_secs(100);
/// A half that could not be handed over is offered again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// What a drained POP does about one half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handing {
    /// Offered then, to this one; no answer yet.
    Offered(Instant, PopId),
    /// Ours until then.
    Refused(Instant),
}

impl Pop {
    /// Hands over what it can, if the control plane wants this POP drained.
    pub(in crate::pop) fn drain(&mut self, now: Instant) {
        let core = &mut self.core;
        let own = core.view.pop(&core.config.id);
        if !own.is_some_and(|pop| pop.draining && pop.epoch == core.config.epoch.0) {
            // What is under way may come to something yet, unless its half is over.
            let own = &core.guard.own;
            core.guard.handing.retain(|name, handing| {
                matches!(handing, Handing::Offered(..)) && own.contains_key(name)
            });
            core.guard.drain_at = None;
            return;
        }
        if core.guard.drain_at.is_some_and(|at| at > now) {
            return;
        }
        core.guard.drain_at = (!core.guard.own.is_empty()).then(|| now + ROUND);
        let own = &core.guard.own;
        core.guard.handing.retain(|name, handing| match handing {
            _ if !own.contains_key(name) => false,
            Handing::Offered(at, _) => now.since(*at) < PATIENCE,
            Handing::Refused(until) => *until > now,
        });
        let offered = |handing: &&Handing| matches!(handing, Handing::Offered(..));
        let room = AT_ONCE.saturating_sub(core.guard.handing.values().filter(offered).count());
        for name in self.movable(room) {
            if let Some(guardian) = self.hand_over(name) {
                self.core.guard.handing.insert(name, Handing::Offered(now, guardian));
            }
        }
    }

    /// Halves to offer now; both of a call that has both here.
    fn movable(&self, room: usize) -> BTreeSet<Name> {
        let guard = &self.core.guard;
        let is_free = |name: &Name| {
            let settled = |key: CallKey| {
                self.calls.get(&key).is_some_and(|call| !call.is_moving() && !call.is_orphan())
            };
            let own = guard.own.get(name);
            own.is_some_and(|own| own.is_safe() && settled(own.key()))
                && !guard.handing.contains_key(name)
        };
        let both = |name: &Name| match guard.own.contains_key(&name.other()) {
            true => is_free(name) && is_free(&name.other()),
            false => is_free(name),
        };
        let free = guard.own.keys().filter(|name| both(name)).take(room);
        let pairs = free.flat_map(|name| [*name, name.other()]);
        pairs.filter(|name| guard.own.contains_key(name)).collect()
    }

    /// What a guardian says of a half it was offered.
    pub(in crate::pop) fn handed_over(&mut self, name: Name, status: u32, now: Instant) {
        let offered = matches!(self.core.guard.handing.remove(&name), Some(Handing::Offered(..)));
        let Some(key) = self.core.guard.own.get(&name).map(Own::key) else {
            // It left by the word of the other half already.
            self.core.counters.halves_handed_over += u64::from(offered && status == 200);
            return;
        };
        // Late or not: the peer is there.
        if status == 200 {
            self.core.guard.came.remove(&name);
            self.core.counters.halves_handed_over += 1;
            return self.deliver(key, Input::Moved, now);
        }
        if !offered {
            return;
        }
        self.core.guard.handing.insert(name, Handing::Refused(now + AGAIN));
        self.core.counters.halves_kept += 1;
        // 404: it was never tried.
        if status != 404 {
            self.deliver(key, Input::Kept, now);
        }
    }
}

impl super::Guard {
    /// Halves that this guardian was asked to take, and of which it did not say how it went.
    pub(super) fn offered_to(&self, guardian: &PopId) -> Vec<Name> {
        let theirs =
            |handing: &Handing| matches!(handing, Handing::Offered(_, to) if to == guardian);
        self.handing.iter().filter(|(_, handing)| theirs(handing)).map(|(name, _)| *name).collect()
    }

    /// Another POP was asked to take this half, and has not said how it went.
    pub(crate) fn is_offered(&self, name: Name) -> bool {
        matches!(self.handing.get(&name), Some(Handing::Offered(..)))
    }
}
