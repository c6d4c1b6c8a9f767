//! What a peer may say. raft-rs panics on bytes that make no sense to it, so everything that could
//! reach such a place is refused here.

/// How a peer broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Bytes do not decode.
    #[error("sent bytes that are no raft message")]
    Encoding,
}
