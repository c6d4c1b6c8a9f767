//! Cutting a TCP stream into messages by Content-Length (RFC 3261 §18.3).
//!
//! Bound: one message and one read are buffered, never more. Deliberately not here: guessing where
//! a message without Content-Length ends.

use bytes::{Buf, Bytes, BytesMut};

use super::header::HeaderName;
use super::lex;
use super::parse::MAX_MESSAGE_BYTES;

/// Longest start line and headers; RFC 4475's longest valid message has 3.5 KiB of them.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Why a stream cannot be read further. The shell hands [`FramingError::head`] to the endpoint like
/// a message (which gets its 400, 413 or 513 there), then closes the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Content-Length is missing, no number, or two differ.
    #[error("no usable Content-Length")]
    ContentLength {
        /// Start line and headers.
        head: Bytes,
    },
    /// A message longer than [`MAX_MESSAGE_BYTES`], or headers without end.
    #[error("message too large")]
    TooLarge {
        /// Start line and headers, if they were complete.
        head: Bytes,
    },
}

impl FramingError {
    /// What came before the fault; empty if there is nothing that could be answered.
    pub const fn head(&self) -> &Bytes {
        match self {
            Self::ContentLength { head } | Self::TooLarge { head } => head,
        }
    }
}

/// The receive side of one TCP connection.
#[derive(Debug, Default)]
pub struct Stream {
    buffer: BytesMut,
    /// Bytes of the buffer known to hold no end of headers.
    searched: usize,
    pongs: usize,
    broken: bool,
}

impl Stream {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes. Drain [`Stream::next`] before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole message, if there is one. After an error the stream yields nothing more.
    #[expect(clippy::should_implement_trait, reason = "it is fed between calls: no iterator")]
    pub fn next(&mut self) -> Option<Result<Bytes, FramingError>> {
        if self.broken || !self.skip_keep_alive() {
            return None;
        }
        let found = self.cut()?;
        if found.is_err() {
            self.broken = true;
            self.buffer = BytesMut::new();
        }
        Some(found)
    }

    /// Takes one owed keep-alive answer: the shell writes CR LF for each (RFC 5626 §4.4.1).
    pub fn poll_pong(&mut self) -> bool {
        let owed = self.pongs > 0;
        self.pongs = self.pongs.saturating_sub(1);
        owed
    }

    /// CR LF CR LF between messages is a ping; a single CR LF is a pong, or stray (§7.5).
    /// False while the buffer may hold half of one.
    fn skip_keep_alive(&mut self) -> bool {
        const PING: &[u8] = b"\r\n\r\n";
        while self.searched == 0 {
            if self.buffer.starts_with(PING) {
                self.buffer.advance(4);
                self.pongs = self.pongs.saturating_add(1);
            } else if PING.starts_with(&self.buffer) {
                return false;
            } else if self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            } else if self.buffer.starts_with(b"\n") {
                self.buffer.advance(1);
            } else {
                return true;
            }
        }
        true
    }

    fn cut(&mut self) -> Option<Result<Bytes, FramingError>> {
        let Some(head_bytes) = self.find_head() else {
            let endless = self.buffer.len() > MAX_HEAD_BYTES;
            return endless.then(|| Err(FramingError::TooLarge { head: Bytes::new() }));
        };
        let (head, _) = self.buffer.split_at(head_bytes);
        let head_of = |head: &[u8]| Bytes::copy_from_slice(head);
        if head_bytes > MAX_HEAD_BYTES {
            return Some(Err(FramingError::TooLarge { head: Bytes::new() }));
        }
        let Some(length) = content_length(head) else {
            return Some(Err(FramingError::ContentLength { head: head_of(head) }));
        };
        if length > MAX_MESSAGE_BYTES {
            return Some(Err(FramingError::TooLarge { head: head_of(head) }));
        }
        let total = head_bytes + length;
        if self.buffer.len() < total {
            return None;
        }
        self.searched = 0;
        Some(Ok(self.buffer.split_to(total).freeze()))
    }

    /// Length of start line and headers with their empty line; remembers how far it looked.
    fn find_head(&mut self) -> Option<usize> {
        let from = self.searched;
        let fresh = self.buffer.get(from..)?;
        let mut previous_at = None;
        for (at, byte) in fresh.iter().enumerate() {
            if *byte != b'\n' {
                continue;
            }
            let line_is_empty = previous_at.is_some_and(|before: usize| {
                at == before + 1 || (at == before + 2 && fresh.get(at - 1) == Some(&b'\r'))
            });
            if line_is_empty {
                // The search starts here again until the body is complete.
                self.searched = from + previous_at.unwrap_or_default();
                return Some(from + at + 1);
            }
            previous_at = Some(at);
        }
        // Look again from the last line feed: the empty line may follow it.
        self.searched = from + previous_at.unwrap_or_default();
        None
    }
}

/// The Content-Length among the header lines; `None` if missing, malformed or contradictory.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found = None;
    let mut lines = head.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let Some((name, value)) = lex::split_once(line, b':') else { continue };
        let name = std::str::from_utf8(lex::trim(name)).unwrap_or_default();
        if line.first().copied().is_some_and(lex::is_space)
            || HeaderName::new(name) != HeaderName::ContentLength
        {
            continue;
        }
        let mut value = lex::trim(value);
        if value.is_empty()
            && let Some(fold) =
                lines.next_if(|next| next.starts_with(b" ") || next.starts_with(b"\t"))
        {
            value = lex::trim(fold);
        }
        let length = lex::number(value)?;
        if found.is_some_and(|before| before != length) {
            return None;
        }
        found = Some(length);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &[u8] = b"OPTIONS sip:a@h SIP/2.0\r\nv: x\r\nL : 3\r\n\r\nabc";
    const TWO: &[u8] = b"OPTIONS sip:b@h SIP/2.0\nContent-Length:\n 0\n\n";

    fn drain(stream: &mut Stream) -> Vec<Bytes> {
        std::iter::from_fn(|| stream.next()).map(|item| item.expect("whole message")).collect()
    }

    #[test]
    fn cuts_messages_and_counts_pings() {
        let mut stream = Stream::new();
        stream.push(b"\r\n\r\n");
        stream.push(&[ONE, b"\r\n\r\n\r\n", TWO].concat());
        assert_eq!(drain(&mut stream), [ONE, TWO]);
        assert!(stream.poll_pong());
        assert!(stream.poll_pong());
        assert!(!stream.poll_pong());
    }

    #[test]
    fn refuses_what_it_cannot_cut() {
        let mut stream = Stream::new();
        stream.push(b"INVITE sip:a@h SIP/2.0\r\nv: x\r\n\r\n");
        let error = stream.next().expect("found").expect_err("no length");
        assert!(matches!(error, FramingError::ContentLength { .. }));
        assert!(error.head().starts_with(b"INVITE"));
        stream.push(ONE);
        assert_eq!(stream.next(), None);

        let mut stream = Stream::new();
        stream.push(b"INVITE sip:a@h SIP/2.0\r\nl: 3\r\nl: 4\r\n\r\nabcd");
        assert!(matches!(stream.next(), Some(Err(FramingError::ContentLength { .. }))));

        let mut stream = Stream::new();
        stream.push(b"INVITE sip:a@h SIP/2.0\r\nl: 99999999999\r\n\r\n");
        assert!(matches!(stream.next(), Some(Err(FramingError::TooLarge { .. }))));

        let mut stream = Stream::new();
        stream.push(&vec![b'x'; MAX_HEAD_BYTES + 1]);
        assert!(matches!(stream.next(), Some(Err(FramingError::TooLarge { .. }))));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(1_usize..40, 1..20)) {
            let wire = [ONE, TWO, b"\r\n", ONE, b"\r\n\r\n", TWO].concat();
            let mut stream = Stream::new();
            let mut seen = Vec::new();
            let mut rest: &[u8] = &wire;
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                stream.push(piece);
                seen.extend(drain(&mut stream));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, vec![ONE, TWO, ONE, TWO]);
            prop_assert!(stream.poll_pong());
            prop_assert!(!stream.poll_pong());
        }

        #[test]
        fn garbage_never_panics(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut stream = Stream::new();
            for piece in &pieces {
                stream.push(piece);
                while stream.next().is_some() {}
            }
        }
    }
}
