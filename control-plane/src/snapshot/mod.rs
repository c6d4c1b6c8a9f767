//! Tables on their way to a member that is behind the log: a file in checksummed pieces, on a
//! connection of its own, gone on with after a break where the receiver has it up to.
//!
//! - [`courier`]: the leader's end. Reads the file piece by piece; at most a few are under way.
//! - [`inbox`]: the receiver's end. Writes them to a file; a whole and right one is handed to raft.
//!
//! The log of the receiver goes only when the file is durable in the place of its tables
//! (`wal/spool.rs`). Deliberately not here: who is behind (raft knows), and where tables come from
//! (`wal/spool.rs`).

pub mod courier;
pub mod inbox;

use bytes::Bytes;
use proto::control::FileChunk;

/// Pieces sent and not acknowledged.
pub const WINDOW: usize = 4;

/// A piece with its checksum.
pub fn chunk(offset: u64, data: &Bytes) -> FileChunk {
    FileChunk { offset, crc32c: crc32c::crc32c(data), data: data.to_vec() }
}

/// Whether a piece is as it was sent.
pub fn is_sound(chunk: &FileChunk) -> bool {
    crc32c::crc32c(&chunk.data) == chunk.crc32c
}

#[cfg(test)]
mod tests;
