//! Messages on a QUIC stream, and what its errors mean for the call stream.

use bytes::{Buf, BytesMut};
use prost::Message;
use proto::call::call_message::Kind;
use proto::call::{CallMessage, StreamHello};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, WriteError};

use super::MOVED;
use super::resume::Resumed;
use crate::link::peer;

/// A longer message is refused: the stream fails.
pub const MESSAGE_BYTES_MAX: u32 = 64 << 10;

/// How a QUIC stream of a call stream ended.
pub(super) enum Step {
    /// We dropped the outbox: everything was sent.
    Ours,
    /// The peer finished.
    Peers,
    /// It broke for good, or carried what is none.
    Broken,
    /// Its connection broke, or another path is preferred.
    Lost,
    /// The peer goes on with this one.
    Handed(Box<Resumed>),
}

pub(super) async fn write(send: &mut SendStream, message: &CallMessage) -> Result<(), WriteError> {
    send.write_all(&message.encode_length_delimited_to_vec()).await
}

/// A connection that a path took with it; not one that a process closed at its end.
pub(super) fn is_path(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed => true,
        ConnectionError::ApplicationClosed(close) => peer::is_of_one_path(close.error_code),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => false,
    }
}

pub(super) fn write_failed(error: &WriteError) -> Step {
    match error {
        WriteError::ConnectionLost(error) if is_path(error) => Step::Lost,
        WriteError::Stopped(MOVED) => Step::Lost,
        _ => Step::Broken,
    }
}

pub(super) fn read_failed(error: &ReadError) -> Step {
    match error {
        ReadError::ConnectionLost(error) if is_path(error) => Step::Lost,
        ReadError::Reset(MOVED) => Step::Lost,
        _ => Step::Broken,
    }
}

/// No hello came on a QUIC stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHello {
    /// The call stream goes on with another one.
    Moved,
    /// Something else came, or nothing.
    Other,
}

/// The first message, which must be a hello.
pub(super) async fn read_hello(
    receive: &mut RecvStream,
    buffer: &mut BytesMut,
) -> Result<StreamHello, NoHello> {
    loop {
        match next_message(buffer) {
            Ok(Some(CallMessage { kind: Some(Kind::Hello(hello)) })) => return Ok(hello),
            Ok(Some(_)) | Err(Malformed) => return Err(NoHello::Other),
            Ok(None) => {}
        }
        match receive.read_chunk(MESSAGE_BYTES_MAX as usize, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Err(ReadError::Reset(MOVED)) => return Err(NoHello::Moved),
            Ok(None) | Err(_) => return Err(NoHello::Other),
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Malformed;

/// A varint of at most three bytes says how long the message is ([`MESSAGE_BYTES_MAX`]).
pub(super) fn next_message(buffer: &mut BytesMut) -> Result<Option<CallMessage>, Malformed> {
    let prefix = buffer.iter().take(3).position(|byte| byte & 0x80 == 0);
    let Some(prefix) = prefix.map(|last| last + 1) else {
        return if buffer.len() < 3 { Ok(None) } else { Err(Malformed) };
    };
    let mut peek = buffer.as_ref();
    let length = prost::decode_length_delimiter(&mut peek).map_err(|_| Malformed)?;
    if length > MESSAGE_BYTES_MAX as usize {
        return Err(Malformed);
    }
    if buffer.len() < prefix + length {
        return Ok(None);
    }
    buffer.advance(prefix);
    let message = buffer.split_to(length);
    CallMessage::decode(message.as_ref()).map(Some).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proto::call::CallReject;

    use super::*;

    fn reject(reason: &str) -> CallMessage {
        let reject = CallReject { status: 486, reason: reason.to_owned() };
        CallMessage { kind: Some(Kind::Reject(reject)) }
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let sent = [reject(""), reject(&"long ".repeat(100)), reject("last")];
        let bytes: Vec<u8> =
            sent.iter().flat_map(Message::encode_length_delimited_to_vec).collect();
        for step in [1, 2, 3, 7, bytes.len()] {
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = next_message(&mut buffer).unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, sent, "cut every {step}");
        }
    }

    #[test]
    fn endless_and_huge_lengths_and_garbage_are_refused() {
        for bytes in [&[0xff, 0xff, 0xff, 0x01][..], &[0x81, 0x80, 0x04], &[0x02, 0xff, 0xff]] {
            assert_eq!(next_message(&mut BytesMut::from(bytes)), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(next_message(&mut BytesMut::from(&[0x81, 0x80][..])), Ok(None));
    }
}
