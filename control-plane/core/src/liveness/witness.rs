//! What POPs say of each other: whom no path of theirs reaches any more.
//!
//! Their reports come with their heartbeats to every control node, so a leader has them first-hand
//! and a new leader has them already; what control nodes tell each other stays what they hear. A
//! leader that hears no witness fences nobody.

use std::collections::BTreeSet;

use proto::time::Instant;

use super::judge::STORM_PERCENT;
use super::{Known, Liveness, UNSEEN_MAX};

/// The other POPs' reports, of those that can be believed.
pub(super) struct Witnesses<'a>(Vec<(&'a str, &'a BTreeSet<String>)>);

impl Witnesses<'_> {
    /// A majority of the others says that no path reaches it any more.
    pub(super) fn miss(&self, pop_id: &str) -> bool {
        let others = self.0.iter().filter(|(id, _)| *id != pop_id);
        let (mut heard, mut miss) = (0, 0);
        for (_, unseen) in others {
            heard += 1;
            miss += usize::from(unseen.contains(pop_id));
        }
        miss * 2 > heard
    }
}

impl Liveness {
    /// What a POP said with its heartbeat: whom no path of it reaches any more.
    pub fn handle_word(&mut self, pop_id: &str, epoch: u64, unseen: &[String]) {
        let named = unseen.iter().take(UNSEEN_MAX).filter(|id| self.pops.contains_key(*id));
        let unseen = named.cloned().collect();
        if let Some(known) = self.pops.get_mut(pop_id).filter(|known| known.epoch == epoch) {
            known.unseen = unseen;
        }
    }

    /// POPs that live as far as is known here, and were heard a moment ago.
    pub(super) fn witnesses(&self, now: Instant) -> Witnesses<'_> {
        let lives = |known: &Known| {
            known.expired == Some(false) && !known.fenced && self.is_heard(known, now)
        };
        let living = self.pops.iter().filter(|(_, known)| lives(known));
        let living: Vec<(&str, &Known)> = living.map(|(id, known)| (id.as_str(), known)).collect();
        // Who misses many that are heard here is out of sight itself.
        let sees = |known: &Known| {
            let heard = |id: &&String| self.pops.get(*id).is_some_and(lives);
            let missed = known.unseen.iter().filter(heard).count();
            missed <= 1 || missed * 100 <= living.len() * STORM_PERCENT
        };
        let seeing = living.iter().filter(|(_, known)| sees(known));
        Witnesses(seeing.map(|(id, known)| (*id, &known.unseen)).collect())
    }
}
