//! The copy a POP keeps on disk, to serve calls when no control node answers.
//!
//! A mark with a version, the SHA-256 of the rest, then one encoded `WatchResponse` that holds the
//! whole snapshot.

use prost::Message as _;
use proto::control::resource::Kind as ResourceKind;
use proto::control::watch_response::Kind as WatchKind;
use proto::control::{Resource, SnapshotPart, WatchResponse};
use proto::id::Revision;
use sha2::{Digest as _, Sha256};

use super::{View, ViewUpdate};

const MARK: &[u8; 8] = b"vxview\x00\x01";
const HASH_BYTES: usize = 32;

/// Why a disk copy is of no use: begin without one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Not a copy of a view, or of another version.
    #[error("this is not a view of a version we read")]
    Mark,
    /// Torn or damaged.
    #[error("the view is damaged: its hash differs")]
    Hash,
    /// The hash is right, the content is not.
    #[error("the view does not decode")]
    Content,
}

impl View {
    /// The disk copy.
    pub fn encode(&self) -> Vec<u8> {
        let resources = self.resources().map(|kind| Resource { kind: Some(kind) }).collect();
        let part = SnapshotPart { revision: self.revision.0, resources, last: true };
        let content = WatchResponse {
            cluster_id: self.cluster_id.clone(),
            kind: Some(WatchKind::Snapshot(part)),
        };
        let content = content.encode_to_vec();
        let mut bytes = Vec::with_capacity(MARK.len() + HASH_BYTES + content.len());
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(Sha256::digest(&content).as_slice());
        bytes.extend_from_slice(&content);
        bytes
    }

    /// Reads a disk copy.
    pub fn decode(bytes: &[u8]) -> Result<Self, DiskError> {
        let rest = bytes.strip_prefix(MARK).ok_or(DiskError::Mark)?;
        let (hash, content) = rest.split_at_checked(HASH_BYTES).ok_or(DiskError::Hash)?;
        if Sha256::digest(content).as_slice() != hash {
            return Err(DiskError::Hash);
        }
        let content = WatchResponse::decode(content).map_err(|_| DiskError::Content)?;
        let Some(WatchKind::Snapshot(part)) = content.kind else { return Err(DiskError::Content) };
        let mut view = Self::default();
        let update = ViewUpdate::Snapshot {
            cluster_id: content.cluster_id,
            revision: Revision(part.revision),
            resources: part.resources,
        };
        view.apply(update).map_err(|_| DiskError::Content)?;
        Ok(view)
    }

    fn resources(&self) -> impl Iterator<Item = ResourceKind> {
        let pops = self.pops.values().cloned().map(ResourceKind::Pop);
        let trunks = self.trunks.values().cloned().map(ResourceKind::Trunk);
        let routes = self.routes.values().cloned().map(ResourceKind::Route);
        let numbers = self.numbers.values().cloned().map(ResourceKind::Number);
        pops.chain(trunks).chain(routes).chain(numbers)
    }
}
