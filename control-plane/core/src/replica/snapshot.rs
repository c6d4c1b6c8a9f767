//! All tables as bytes, for a follower that is behind the log.

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::{ConfState, Snapshot, SnapshotMetadata};

use super::api::Position;
use crate::state::State;

/// Layout below.
const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// [`State::hash`] of what follows.
    #[prost(bytes = "bytes", tag = "2")]
    hash: Bytes,
    #[prost(message, repeated, tag = "3")]
    entries: Vec<ImageEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageEntry {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// A snapshot for raft to send.
pub(super) fn take(state: &State, at: Position, conf_state: &ConfState) -> Snapshot {
    let entry = |(key, value): (&[u8], &[u8])| ImageEntry {
        key: key.to_vec(),
        value: Bytes::copy_from_slice(value),
    };
    let image = Image {
        version: VERSION,
        hash: Bytes::copy_from_slice(&state.hash()),
        entries: state.entries().map(entry).collect(),
    };
    Snapshot {
        data: image.encode_to_vec(),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state.clone()),
            index: at.index,
            term: at.term,
        }),
    }
}

/// The state in a snapshot; `None` when it is damaged or of a layout this version cannot read.
pub(super) fn open(data: &[u8]) -> Option<State> {
    let image = Image::decode(data).ok().filter(|image| image.version == VERSION)?;
    let entries = image.entries.into_iter().map(|entry| (entry.key, entry.value));
    let state = State::from_tables(entries).ok()?;
    (state.hash() == *image.hash).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_trip_and_notices_damage() {
        let state = State::bootstrap(&[1, 2, 3]);
        let at = Position { index: 7, term: 2 };
        let snapshot = take(&state, at, &ConfState::default());
        assert_eq!(snapshot.get_metadata().index, 7);
        let copy = open(&snapshot.data).unwrap();
        assert_eq!(copy.hash(), state.hash());
        assert_eq!(copy.voters(), [1, 2, 3]);
        for at in 0..snapshot.data.len() {
            let mut damaged = snapshot.data.clone();
            damaged[at] ^= 1;
            assert!(open(&damaged).is_none(), "byte {at}");
        }
    }
}
