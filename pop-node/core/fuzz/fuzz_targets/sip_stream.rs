//! A TCP stream is cut the same way however it arrives, and never grows without bound.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pop_core::sip::framing::{FramingError, Stream};

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = cut(bytes, bytes.len().max(1));
    assert_eq!(cut(bytes, usize::from(piece) + 1), whole);
});

/// The messages and the number of pongs owed when `bytes` arrive in pieces.
fn cut(bytes: &[u8], piece: usize) -> (Vec<Result<Bytes, FramingError>>, usize) {
    let mut stream = Stream::new();
    let mut messages = Vec::new();
    let mut pongs = 0;
    for piece in bytes.chunks(piece) {
        stream.push(piece);
        messages.extend(std::iter::from_fn(|| stream.next()));
        pongs += std::iter::from_fn(|| stream.poll_pong().then_some(())).count();
    }
    (messages, pongs)
}
