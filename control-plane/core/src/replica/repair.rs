//! A node whose disk lost log entries it may have acknowledged.
//!
//! Its acknowledgement counted for a majority, so a leader may only be elected if the votes of a
//! majority still stand for those entries. Until this node has them again it neither votes nor
//! campaigns, and tells readers that its log ends where the lost one may have ended; it appends
//! what the leader sends, and what it acknowledges now it has. It is whole again when it has
//! applied either everything up to the highest index it may have acknowledged,
//! or an entry of a later term than it ever acknowledged in: that term's leader was elected
//! without it and has all that was committed before (Raft §5.4, leader completeness).
//!
//! A leader believes that this node has what it once acknowledged, and raft-rs takes a rejection
//! below that for an old message. So a leader lowers what it believes when a rejection says so:
//! it commits less by that, never more, and an old message only costs sending entries again.

use proto::id::NodeId;
use raft::prelude::{Message, MessageType};
use raft::{ProgressState, StateRole};

use super::Replica;
use super::api::{Position, Repair};

impl Replica {
    /// Something is lost up to here. To be called before anything else.
    pub fn begin_repair(&mut self, lost: Repair) {
        self.repair = Some(lost);
    }

    /// This node does not vote.
    pub fn is_repairing(&self) -> bool {
        self.repair.is_some()
    }

    /// Where the log of this node may have ended before it lost some.
    pub(super) fn lost_end(&self) -> Option<Position> {
        self.repair.map(|lost| Position { index: lost.index, term: lost.term })
    }

    /// Whether all that was lost has come back just now: from here on this node votes. Make that
    /// durable before anything else.
    pub fn take_repaired(&mut self) -> bool {
        let Some(lost) = self.repair.filter(|_| self.outstanding.is_none()) else { return false };
        let whole = self.applied.index >= lost.index || self.applied.term > lost.term;
        if whole {
            self.repair = None;
        }
        whole
    }

    /// What a node that lost entries does with a peer's message: `None` when it must not see it.
    pub(super) fn repairing(&mut self, mut message: Message) -> Option<Message> {
        if self.repair.is_none() {
            return Some(message);
        }
        let is = |kind: MessageType| message.msg_type == kind as i32;
        if is(MessageType::MsgRequestVote)
            || is(MessageType::MsgRequestPreVote)
            || is(MessageType::MsgTimeoutNow)
        {
            self.counters.peer_dropped += 1;
            return None;
        }
        let last_index = self.raw.raft.raft_log.last_index();
        if is(MessageType::MsgHeartbeat)
            && message.commit > last_index
            && message.term >= self.raw.raft.term
        {
            self.say_lost(&message, last_index);
            message.commit = last_index;
        }
        Some(message)
    }

    /// Answers a heartbeat that commits what is not here any more.
    fn say_lost(&mut self, heartbeat: &Message, last_index: u64) {
        let mut answer = Message::default();
        answer.set_msg_type(MessageType::MsgAppendResponse);
        answer.from = self.config.id.0;
        answer.to = heartbeat.from;
        answer.term = heartbeat.term;
        answer.index = heartbeat.commit;
        answer.reject = true;
        answer.reject_hint = last_index;
        self.send(vec![answer]);
    }

    /// A voter rejects below what it acknowledged: it lost entries.
    pub(super) fn believe_loss(&mut self, from: NodeId, message: &Message) {
        let raft = &mut self.raw.raft;
        let rejects = message.msg_type == MessageType::MsgAppendResponse as i32
            && message.reject
            && message.term == raft.term
            && raft.state == StateRole::Leader;
        let Some(progress) = raft.mut_prs().get_mut(from.0).filter(|_| rejects) else { return };
        if message.reject_hint < progress.matched {
            progress.matched = 0;
            if progress.state == ProgressState::Snapshot {
                progress.snapshot_failure();
            }
            progress.become_probe();
            progress.next_idx = message.reject_hint.saturating_add(1);
        }
    }
}
