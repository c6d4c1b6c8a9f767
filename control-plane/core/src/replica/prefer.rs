//! Leadership goes home: to the voter of the highest priority (the preferred region), once that is
//! well and all is calm.
//!
//! Calm: for a while every voter was heard, the preferred one had caught up, nothing about the
//! members was under way, and the same node led. Never during an outage: a transfer that fails
//! costs an election. Each move by preference makes the next one wait twice as long, until there
//! was peace for long: a node that comes and goes does not drag leadership with it.

use raft::StateRole;

use super::Replica;

/// All must be calm for so many of the longest election timeouts: 15 s next door.
const CALM_ELECTIONS: u64 = 25;
/// The longest pause between two moves, in calms.
const PAUSE_MAX: u64 = 64;
/// The preferred voter must be as close to the end of the log as this.
const BEHIND_MAX: u64 = 100;

/// Where leadership would rather be.
#[derive(Debug, Default)]
pub(super) struct Preference {
    candidate: u64,
    /// It has been able to lead, and all calm, since this tick.
    since: u64,
    /// When leadership moved by preference.
    moved: Option<u64>,
    /// Before the next move, in calms.
    pause: u64,
}

impl Replica {
    fn calm_ticks(&self) -> u64 {
        u64::from(self.config.election_ticks.1).saturating_mul(CALM_ELECTIONS)
    }

    /// Looked at with each tick.
    pub(super) fn prefer(&mut self) {
        let candidate = self.preferred().unwrap_or_default();
        let calm = self.calm_ticks();
        let preference = &mut self.preference;
        if candidate == 0 || candidate != preference.candidate {
            preference.candidate = candidate;
            preference.since = self.tick;
            return;
        }
        let pause = preference.pause.max(1).saturating_mul(calm);
        let rested = preference.moved.is_none_or(|moved| self.tick - moved >= pause);
        if self.tick - preference.since < calm || !rested {
            return;
        }
        let peace = preference.moved.is_none_or(|moved| self.tick - moved >= pause * 8);
        preference.pause = if peace { 2 } else { (preference.pause * 2).min(PAUSE_MAX) };
        preference.moved = Some(self.tick);
        preference.since = self.tick;
        // Only refused when it cannot lead after all; then the next calm is waited for.
        if self.transfer_leader(Some(proto::id::NodeId(candidate))).is_ok() {
            self.counters.preferred += 1;
        }
    }

    /// Whom this leader would hand over to, if all is well now.
    fn preferred(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() {
            return None;
        }
        let conf = self.raw.store().conf_state();
        let own = self.config.id.0;
        let all_heard = conf.voters.iter().all(|id| *id == own || self.heard_lately(*id));
        if raft.has_pending_conf() || !conf.voters_outgoing.is_empty() || !all_heard {
            return None;
        }
        let candidate = self.successors().into_iter().next()?;
        let last = raft.raft_log.last_index();
        let matched = raft.prs().get(candidate).map_or(0, |progress| progress.matched);
        let close = matched.saturating_add(BEHIND_MAX) >= last;
        (close && self.priority_of(candidate) > self.priority_of(own)).then_some(candidate)
    }
}
