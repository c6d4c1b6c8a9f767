//! What need not be said, because a later message of the same turn says it too.

use raft::prelude::{Message, MessageType};

/// Leaves out what a later message to the same node says too: a commit index alone before an
/// append, an acknowledgement before a higher one. To raft the earlier one got lost.
pub(super) fn without_repeated(messages: Vec<Message>) -> impl Iterator<Item = Message> {
    let mut kept: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages.into_iter().rev() {
        if !kept.iter().any(|later| repeats(later, &message)) {
            kept.push(message);
        }
    }
    kept.into_iter().rev()
}

/// Whether `later` says all that `m` does.
fn repeats(later: &Message, m: &Message) -> bool {
    let is = |kind: MessageType| m.msg_type == kind as i32;
    let alone = (is(MessageType::MsgAppend) && m.entries.is_empty() && later.commit >= m.commit)
        || (is(MessageType::MsgAppendResponse)
            && !(m.reject || later.reject)
            && later.index >= m.index);
    alone && (m.to, m.term, m.msg_type) == (later.to, later.term, later.msg_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::prelude::Entry;

    fn message(to: u64, kind: MessageType, index: u64) -> Message {
        let mut message = Message { to, term: 3, index, commit: index, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn kept(messages: &[Message]) -> Vec<usize> {
        let kept = without_repeated(messages.to_vec());
        kept.map(|k| messages.iter().position(|m| *m == k).unwrap()).collect()
    }

    #[test]
    fn a_commit_index_goes_with_the_append_that_follows() {
        let commit = |to, index| message(to, MessageType::MsgAppend, index);
        let append = |to, index| Message { entries: vec![Entry::default()], ..commit(to, index) };
        assert_eq!(kept(&[commit(2, 7), commit(3, 7), append(2, 8), append(3, 8)]), [2, 3]);
        assert_eq!(kept(&[commit(2, 7), append(3, 8)]), [0, 1], "another node");
        assert_eq!(kept(&[append(2, 7), append(2, 8)]), [0, 1], "entries are never left out");
        assert_eq!(kept(&[commit(2, 9), append(2, 8)]), [0, 1], "a lower commit index");
    }

    #[test]
    fn the_highest_acknowledgement_stands_for_those_before() {
        let ack = |index| message(1, MessageType::MsgAppendResponse, index);
        let no = |index| Message { reject: true, ..ack(index) };
        assert_eq!(kept(&[ack(7), ack(8), ack(9)]), [2]);
        assert_eq!(kept(&[ack(9), ack(8)]), [0, 1], "the order of a peer's words");
        assert_eq!(kept(&[no(7), ack(8), no(9)]), [0, 1, 2], "a refusal says more");
        let beat = message(1, MessageType::MsgHeartbeatResponse, 0);
        assert_eq!(kept(&[beat.clone(), ack(8)]), [0, 1]);
    }
}
