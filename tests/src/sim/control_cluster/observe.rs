//! What only a simulation can see: inside the replicas and their messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use control_core::replica::Replica;
use control_core::state::NumberQuery;
use prost::Message as _;
use prost011::Message as _;
use proto::control::NumberState;
use proto::raft::LogRecord;
use proto::raft::allocate_number::Which;
use proto::raft::command::Kind;
use raft::prelude::{Message, MessageType};

use crate::linear::{Complaint, Rule};

/// What replicas showed so far.
#[derive(Debug, Default)]
pub struct Observed {
    /// By log index: hash of the state, log time, revision.
    states: BTreeMap<u64, ([u8; 32], u64, u64)>,
    /// By term.
    leaders: BTreeMap<u64, usize>,
    /// What each node had applied when looked at last.
    applied: BTreeMap<usize, u64>,
}

impl Observed {
    /// Equal replicas at equal log indices.
    pub fn state(&mut self, node: usize, replica: &Replica, found: &mut Vec<Complaint>) {
        let index = replica.applied();
        if self.applied.insert(node, index) == Some(index) {
            return;
        }
        let state = replica.state();
        let now = (state.hash(), state.log_time_ms(), state.revision().0);
        let known = *self.states.entry(index).or_insert(now);
        if known != now {
            found.push(Rule::Replicas.broken(format!(
                "at log index {index} node {node} differs: log time {} and {}, revision {} and {}",
                known.1, now.1, known.2, now.2
            )));
        }
    }

    /// At most one leader a term.
    pub fn leader(&mut self, node: usize, term: u64, found: &mut Vec<Complaint>) {
        let known = *self.leaders.entry(term).or_insert(node);
        if known != node {
            let what = format!("term {term} has the leaders {known} and {node}");
            found.push(Rule::Leaders.broken(what));
        }
    }

    /// Log time and revision do not fall.
    pub fn end(&self, found: &mut Vec<Complaint>) {
        let mut before = (0, 0);
        for (index, (_, log_time_ms, revision)) in &self.states {
            if *log_time_ms < before.0 || *revision < before.1 {
                found.push(Rule::LogTime.broken(format!(
                    "at log index {index} log time is {log_time_ms} after {}, revision {revision} \
                     after {}",
                    before.0, before.1
                )));
            }
            before = (*log_time_ms, *revision);
        }
    }

    /// Terms that had one.
    pub fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }
}

/// A peer's message in words.
pub fn describe(bytes: &[u8]) -> String {
    let Ok(m) = Message::decode(bytes) else { return "no message".into() };
    let kind = MessageType::from_i32(m.msg_type).map_or("?".into(), |kind| format!("{kind:?}"));
    let reject = if m.reject { ", rejected" } else { "" };
    let entries = m.entries.iter().map(|entry| format!("{}@{}", entry.index, entry.term));
    let entries: Vec<String> = entries.collect();
    format!(
        "{kind} of term {}, index {} of term {}, commit {}{reject}, entries {entries:?}",
        m.term, m.index, m.log_term, m.commit
    )
}

/// For [`super::Mutant::LocalPick`]: the replica that gets this message will take its own last free
/// number where the others take the first.
pub fn pick_another(bytes: &Bytes, replica: Option<&Replica>) -> Bytes {
    let (Ok(mut message), Some(replica)) = (Message::decode(bytes.as_ref()), replica) else {
        return bytes.clone();
    };
    for entry in &mut message.entries {
        let Ok(mut record) = LogRecord::decode(entry.data.as_slice()) else { continue };
        let kind = record.command.as_mut().and_then(|command| command.kind.as_mut());
        let Some(Kind::AllocateNumber(allocate)) = kind else { continue };
        let Some(Which::AnyOfPool(pool)) = &allocate.which else { continue };
        let query = NumberQuery {
            pool: Some(pool),
            state: Some(NumberState::Available),
            limit: usize::MAX,
            ..NumberQuery::default()
        };
        if let Some(last) = replica.state().numbers(query).numbers.pop() {
            allocate.which = Some(Which::E164(last.e164));
            entry.data = record.encode_to_vec();
        }
    }
    Bytes::from(message.encode_to_vec())
}
