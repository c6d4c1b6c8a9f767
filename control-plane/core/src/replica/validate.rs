//! What a peer may say. raft-rs panics on messages that make no sense to it (an unknown type, a
//! commit beyond the log, a gap between entries) and believes any term, so everything that could
//! get there is refused here, before `step`. A refused message is only lost, and raft survives
//! lost messages.

use prost::Message as _;
use proto::id::NodeId;
use proto::raft::LogRecord;
use proto::raft::command::Kind;
use raft::StateRole;
use raft::prelude::{ConfChangeV2, Entry, EntryType, Message, MessageType};

use super::{Position, members};
use crate::command::COMMAND_BYTES_MAX;
use crate::state::{State, changes_conf};

/// No honest counter of ours gets here.
const COUNTER_MAX: u64 = 1 << 62;

/// How far ahead a term may be. Terms grow by elections, one a second at worst.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// ReadIndex contexts are the longest.
const CONTEXT_BYTES_MAX: usize = 256;

/// A record is a command and a few numbers.
pub(super) const RECORD_BYTES_MAX: usize = COMMAND_BYTES_MAX + 1024;

/// How a peer broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Heartbeat commits what this node does not have: data was lost here, or the peer lies.
    #[error(
        "says index {commit} is committed here, but the log ends at {last_index}: was this node's data lost?"
    )]
    CommitBeyondLog {
        /// What it says.
        commit: u64,
        /// What is here.
        last_index: u64,
    },
    /// Bytes do not decode.
    #[error("sent bytes that are no raft message")]
    Encoding,
    /// Tables of a version newer than this one.
    #[error(
        "sent tables of feature level {level}, this version knows {newest}: run the version the other nodes run"
    )]
    FeatureLevel {
        /// Of the tables.
        level: u32,
        /// Ours.
        newest: u32,
    },
    /// Tables that stand elsewhere than raft's message says.
    #[error(
        "announced tables at index {} of term {}, and sent those at index {} of term {}",
        announced.index, announced.term, came.index, came.term
    )]
    OtherTables {
        /// By raft's message.
        announced: Position,
        /// What the file says.
        came: Position,
    },
    /// Entries that do not follow each other, fall in term or hold no record of ours.
    #[error("sent log entries that do not belong into this log")]
    Entries,
    /// Message names another sender than the certificate.
    #[error("speaks as node {claimed}")]
    Impersonates {
        /// As it says.
        claimed: u64,
    },
    /// A response acknowledges what was never sent.
    #[error("acknowledges index {index} of a log that ends at {last_index}")]
    IndexBeyondLog {
        /// What it says.
        index: u64,
        /// What is here.
        last_index: u64,
    },
    /// A message that only exists inside a node, or that this cluster does not use.
    #[error("sent a message of type {0}, which no peer sends")]
    MessageType(i32),
    /// Not for this node.
    #[error("sent a message for node {to}")]
    Misdirected {
        /// For whom.
        to: u64,
    },
    /// Answers, but is no member.
    #[error("is no member of this cluster")]
    NotAMember,
    /// A number no counter reaches, or a field this cluster does not use.
    #[error("sent a number or field that makes no sense")]
    Range,
    /// Was a member once.
    #[error("was removed from this cluster")]
    Removed,
    /// A snapshot that is damaged, of another cluster or of a newer version.
    #[error("sent a snapshot that cannot be used here")]
    Snapshot,
    /// Term 0 or absurdly far ahead.
    #[error("is at term {term}, this node at {own}")]
    Term {
        /// Its term.
        term: u64,
        /// Ours.
        own: u64,
    },
    /// More bytes than a message may have.
    #[error("sent a message of {0} bytes")]
    TooLarge(usize),
    /// Leads a term that has another leader.
    #[error("claims to lead term {term}, which node {leader} leads")]
    TwoLeaders {
        /// That term.
        term: u64,
        /// Its leader.
        leader: u64,
    },
    /// A vote that was not asked for.
    #[error("sent a vote that was not asked for")]
    UnsolicitedVote,
}

/// What a message is judged by.
pub(super) struct Judge<'a> {
    pub(super) id: NodeId,
    pub(super) state: &'a State,
    pub(super) term: u64,
    pub(super) leader: u64,
    pub(super) role: StateRole,
    pub(super) last_index: u64,
    /// Everything in the log is durable: a vote request of this term can have left.
    pub(super) log_durable: bool,
}

impl Judge<'_> {
    /// Whether `step` may see this message of `from`.
    pub(super) fn check(&self, from: NodeId, m: &Message) -> Result<(), PeerMisbehaved> {
        if m.from != from.0 {
            return Err(PeerMisbehaved::Impersonates { claimed: m.from });
        }
        self.check_sender(m)?;
        if m.to != self.id.0 {
            return Err(PeerMisbehaved::Misdirected { to: m.to });
        }
        if m.term == 0 || m.term > self.term.saturating_add(TERM_JUMP_MAX).min(COUNTER_MAX) {
            return Err(PeerMisbehaved::Term { term: m.term, own: self.term });
        }
        let counters = [m.log_term, m.index, m.commit, m.commit_term, m.reject_hint];
        if counters.iter().any(|counter| *counter > COUNTER_MAX)
            || m.request_snapshot != 0
            || m.context.len() > CONTEXT_BYTES_MAX
        {
            return Err(PeerMisbehaved::Range);
        }
        self.check_type(m)
    }

    /// A node that lags may not know a new member yet: it learns from it, and may vote for it.
    fn check_sender(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        if m.from == self.id.0 || m.from == raft::INVALID_ID {
            return Err(PeerMisbehaved::NotAMember);
        }
        if self.state.is_removed(m.from) {
            return Err(PeerMisbehaved::Removed);
        }
        let asks = matches!(
            MessageType::from_i32(m.msg_type),
            Some(
                MessageType::MsgAppend
                    | MessageType::MsgHeartbeat
                    | MessageType::MsgSnapshot
                    | MessageType::MsgRequestVote
                    | MessageType::MsgRequestPreVote
                    | MessageType::MsgTimeoutNow
            )
        );
        let known = asks || self.state.conf().contains(m.from);
        if known { Ok(()) } else { Err(PeerMisbehaved::NotAMember) }
    }

    fn check_type(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let kind =
            MessageType::from_i32(m.msg_type).ok_or(PeerMisbehaved::MessageType(m.msg_type))?;
        let has_entries = !m.entries.is_empty();
        let has_snapshot = m.snapshot.is_some();
        let (may_have_entries, may_have_snapshot) = match kind {
            MessageType::MsgAppend => (true, false),
            MessageType::MsgSnapshot => (false, true),
            _ => (false, false),
        };
        if (has_entries && !may_have_entries) || (has_snapshot && !may_have_snapshot) {
            return Err(PeerMisbehaved::Range);
        }
        match kind {
            MessageType::MsgAppend => {
                self.check_leader(m)?;
                self.check_append(m)
            }
            MessageType::MsgHeartbeat => {
                self.check_leader(m)?;
                self.check_heartbeat(m)
            }
            MessageType::MsgSnapshot => {
                self.check_leader(m)?;
                self.check_snapshot(m)
            }
            MessageType::MsgAppendResponse => self.check_append_response(m),
            MessageType::MsgHeartbeatResponse => Ok(()),
            MessageType::MsgRequestVote => {
                // Only leadership transfer skips the lease.
                let known = m.context.is_empty() || m.context == raft::CAMPAIGN_TRANSFER;
                if known { Ok(()) } else { Err(PeerMisbehaved::Range) }
            }
            MessageType::MsgRequestPreVote => {
                if m.context.is_empty() {
                    Ok(())
                } else {
                    Err(PeerMisbehaved::Range)
                }
            }
            MessageType::MsgTimeoutNow => self.check_hand_over(m),
            MessageType::MsgRequestPreVoteResponse => Ok(()),
            MessageType::MsgRequestVoteResponse => self.check_vote(m),
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => Err(PeerMisbehaved::MessageType(m.msg_type)),
        }
    }

    fn check_leader(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let other = self.leader != raft::INVALID_ID && self.leader != m.from;
        if m.term == self.term && (other || self.role == StateRole::Leader) {
            return Err(PeerMisbehaved::TwoLeaders { term: m.term, leader: self.leader });
        }
        Ok(())
    }

    /// Only the leader hands over. One of an older term, or one forgotten, does nothing.
    fn check_hand_over(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let leads = m.term == self.term && self.leader == m.from;
        let late = m.term < self.term || (m.term == self.term && self.leader == raft::INVALID_ID);
        if leads || late {
            Ok(())
        } else {
            Err(PeerMisbehaved::TwoLeaders { term: m.term, leader: self.leader })
        }
    }

    fn check_append(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        // Every log begins with the same entry 1, so that what precedes always has a term.
        let mut previous = (m.index, m.log_term);
        if m.index == 0 || m.log_term == 0 || m.log_term > m.term {
            return Err(PeerMisbehaved::Entries);
        }
        for entry in &m.entries {
            let follows = entry.index == previous.0 + 1 && entry.term >= previous.1;
            if !follows || entry.term > m.term || !is_ours(entry) {
                return Err(PeerMisbehaved::Entries);
            }
            previous = (entry.index, entry.term);
        }
        Ok(())
    }

    fn check_heartbeat(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        if m.term >= self.term && m.commit > self.last_index {
            return Err(PeerMisbehaved::CommitBeyondLog {
                commit: m.commit,
                last_index: self.last_index,
            });
        }
        Ok(())
    }

    fn check_snapshot(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let metadata = m.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let Some(metadata) = metadata else { return Err(PeerMisbehaved::Snapshot) };
        let in_range =
            (1..=COUNTER_MAX).contains(&metadata.index) && (1..=m.term).contains(&metadata.term);
        let conf = metadata.conf_state.as_ref().map(members::of_raft).unwrap_or_default();
        // Tables come another way. Raft lets go of one that leaves this node out.
        let empty = m.snapshot.as_ref().is_none_or(|snapshot| snapshot.data.is_empty());
        if in_range && empty && conf.is_sound() { Ok(()) } else { Err(PeerMisbehaved::Snapshot) }
    }

    fn check_append_response(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let counts = self.role == StateRole::Leader && m.term == self.term;
        if counts && m.index > self.last_index {
            return Err(PeerMisbehaved::IndexBeyondLog {
                index: m.index,
                last_index: self.last_index,
            });
        }
        Ok(())
    }

    /// A candidate asks for votes only after its log is durable, and raft asserts that it wins only
    /// then.
    fn check_vote(&self, m: &Message) -> Result<(), PeerMisbehaved> {
        let counts = self.role == StateRole::Candidate && m.term == self.term;
        if counts && !self.log_durable { Err(PeerMisbehaved::UnsolicitedVote) } else { Ok(()) }
    }
}

/// What an entry says.
pub(super) enum Content {
    /// A leader's first entry: that it leads.
    Empty,
    /// The second half of a change of voters.
    LeaveJoint,
    /// A command of ours.
    Record(Box<LogRecord>),
}

impl Content {
    pub(super) fn record(self) -> Option<LogRecord> {
        match self {
            Self::Record(record) => Some(*record),
            Self::Empty | Self::LeaveJoint => None,
        }
    }
}

/// An entry that holds something this version knows. A newer one is refused rather than skipped:
/// this node waits for its upgrade and stays equal to the others.
fn is_ours(entry: &Entry) -> bool {
    entry.context.is_empty() && entry.data.len() <= RECORD_BYTES_MAX && content(entry).is_some()
}

/// `None` when this version does not know what it says.
pub(super) fn content(entry: &Entry) -> Option<Content> {
    match EntryType::from_i32(entry.entry_type)? {
        EntryType::EntryNormal if entry.data.is_empty() => Some(Content::Empty),
        EntryType::EntryNormal => {
            let record = record(&entry.data)?;
            (!votes_change(&record)).then(|| Content::Record(Box::new(record)))
        }
        EntryType::EntryConfChange => None,
        EntryType::EntryConfChangeV2 => {
            let change = <ConfChangeV2 as prost011::Message>::decode(entry.data.as_slice()).ok()?;
            if change.changes.is_empty() && change.context.is_empty() {
                return Some(Content::LeaveJoint);
            }
            let record = record(&change.context)?;
            votes_change(&record).then(|| Content::Record(Box::new(record)))
        }
    }
}

/// Whether raft must see it.
fn votes_change(record: &LogRecord) -> bool {
    let kind = record.command.as_ref().and_then(|command| command.kind.as_ref());
    matches!(kind, Some(Kind::ChangeMembers(change)) if changes_conf(change))
}

fn record(data: &[u8]) -> Option<LogRecord> {
    let record = LogRecord::decode(data).ok()?;
    record.command.as_ref().is_some_and(|command| command.kind.is_some()).then_some(record)
}
