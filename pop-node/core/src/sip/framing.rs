//! Cutting a TCP stream into messages by Content-Length (RFC 3261 §18.3).

use bytes::Bytes;

/// Why a stream cannot be read further. The shell hands `head` to the endpoint as a message (it
/// gets its 400 or 513 there), then closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// No usable Content-Length.
    #[error("no usable Content-Length")]
    ContentLength {
        /// Start line and headers.
        head: Bytes,
    },
    /// Message longer than [`super::MAX_MESSAGE_BYTES`].
    #[error("message too large")]
    TooLarge {
        /// Start line and headers, if they were complete.
        head: Bytes,
    },
}

/// The receive side of one TCP connection.
#[derive(Debug, Default)]
pub struct Stream {
    buffer: Vec<u8>,
    pongs: usize,
}

impl Stream {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one. After an error the stream yields nothing more.
    #[expect(clippy::should_implement_trait, reason = "it is fed between calls: no iterator")]
    pub fn next(&mut self) -> Option<Result<Bytes, FramingError>> {
        None
    }

    /// Takes one owed keep-alive answer: the shell writes CR LF for each (RFC 5626 §4.4.1).
    pub fn poll_pong(&mut self) -> bool {
        let owed = self.pongs > 0;
        self.pongs = self.pongs.saturating_sub(1);
        owed
    }
}
