//! Who leads next, faster than by waiting: evidence that the leader is gone, elections that hang,
//! leadership that is handed over.
//!
//! Timers suffice for safety and progress; everything here only shortens the wait. A wrong belief
//! costs a pre-vote (Raft thesis §9.6) that those who hear the leader do not grant.

use proto::id::NodeId;
use raft::StateRole;

use super::Replica;
use super::api::TransferError;
use super::drive::Outstanding;

/// Between two tries: a round of pre-votes and votes fits in.
const AGAIN_TICKS: u64 = 4;

/// Tries until only the timer counts.
const TRIES_MAX: u8 = 5;

/// A voter that lags by more entries would take too long to lead.
const BEHIND_MAX: u64 = 1_000;

/// An election that does not wait for the timer.
pub(super) struct Hurry {
    at: u64,
    left: u8,
}

impl Replica {
    /// The process of that node has ended: its connection broke and its address refuses another.
    /// Never told on mere silence. When it led, the voters campaign at once, one after the other.
    pub fn handle_peer_gone(&mut self, node: NodeId) {
        self.report_unreachable(node);
        self.heard.remove(&node.0);
        let raft = &mut self.raw.raft;
        if self.halted || raft.leader_id != node.0 || raft.state != StateRole::Follower {
            return;
        }
        // The term and the vote in it stay; without a leader there is no lease to respect.
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
        let turn = self.turn(node.0);
        self.hurry = Some(Hurry { at: self.tick + turn * AGAIN_TICKS, left: TRIES_MAX });
        self.hurry();
    }

    /// This node's place among the voters without `gone`: who comes first campaigns first, so that
    /// votes do not split.
    fn turn(&self, gone: u64) -> u64 {
        let mut voters = self.raw.store().conf_state().voters.clone();
        voters.retain(|id| *id != gone);
        voters.sort_unstable_by_key(|id| (std::cmp::Reverse(self.priority_of(*id)), *id));
        voters.iter().position(|id| *id == self.config.id.0).map_or(0, |at| at as u64)
    }

    /// Campaigns when it is time to, until there is a leader.
    pub(super) fn hurry(&mut self) {
        let raft = &self.raw.raft;
        let waits = matches!(raft.state, StateRole::Follower | StateRole::PreCandidate);
        if !waits || raft.leader_id != raft::INVALID_ID || !raft.promotable() || self.is_repairing()
        {
            self.hurry = None;
            return;
        }
        if raft.state == StateRole::PreCandidate && self.hurry.is_none() {
            // Some may have been asked before their lease ended, some did not hear it.
            self.hurry = Some(Hurry { at: self.tick + AGAIN_TICKS, left: TRIES_MAX });
        }
        // While a snapshot is being written the log is not there for raft to look at.
        if self.outstanding.as_ref().is_some_and(Outstanding::is_snapshot) {
            return;
        }
        let Some(hurry) = self.hurry.as_mut().filter(|h| h.at <= self.tick && h.left > 0) else {
            return;
        };
        *hurry = Hurry { at: self.tick + AGAIN_TICKS, left: hurry.left - 1 };
        // Only refused for a message type it does not have.
        let _ = self.raw.campaign();
    }

    /// Hands leadership to `to`, or to the best voter: its name. Until it took over or an election
    /// timeout has passed, proposals find no leader here.
    pub fn transfer_leader(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.halted || self.raw.raft.state != StateRole::Leader {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        let able = self.successors();
        let chosen = match to {
            Some(to) => able.into_iter().find(|id| *id == to.0),
            None => able.into_iter().next(),
        };
        let chosen = chosen.ok_or(TransferError::NoCandidate)?;
        self.pump(); // What was queued goes before.
        self.raw.transfer_leader(chosen);
        Ok(NodeId(chosen))
    }

    /// A node elected while its own removal was half done leads on when it is done; raft then drops
    /// whatever it proposes. One of those who vote takes over.
    pub(super) fn leave_office(&mut self) {
        let (raft, conf) = (&self.raw.raft, self.raw.store().conf_state());
        let own = self.config.id.0;
        let votes = conf.voters.contains(&own) || conf.voters_outgoing.contains(&own);
        if raft.state == StateRole::Leader && !votes && raft.lead_transferee.is_none() {
            // Without a successor now, with the next tick.
            let _ = self.transfer_leader(None);
        }
    }

    /// Voters that could lead, the best one first.
    pub(super) fn successors(&self) -> Vec<u64> {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let voters = self.raw.store().conf_state().voters.iter().copied();
        let mut able: Vec<(u64, u64)> = voters
            .filter(|id| *id != self.config.id.0 && self.heard_lately(*id))
            .filter_map(|id| Some((raft.prs().get(id)?.matched, id)))
            .filter(|(matched, _)| matched.saturating_add(BEHIND_MAX) >= last)
            .collect();
        let rank = |(matched, id): &(u64, u64)| (self.priority_of(*id), *matched);
        able.sort_unstable_by_key(|one| (std::cmp::Reverse(rank(one)), one.1));
        able.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn priority_of(&self, id: u64) -> i64 {
        self.state.member(id).map_or(0, |member| member.priority)
    }

    /// Whether a message of it came within an election timeout.
    pub(super) fn heard_lately(&self, id: u64) -> bool {
        let window = u64::from(self.config.election_ticks.0);
        self.heard.get(&id).is_some_and(|at| at + window >= self.tick)
    }
}
