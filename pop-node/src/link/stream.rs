//! A call stream: one QUIC stream that carries length-delimited `CallMessage`s of one call.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use pop_core::pop::{CallStream, StreamEvent};
use prost::Message;
use proto::call::CallMessage;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;

use super::Event;
use crate::drops::{Drops, Reason};

/// A longer message is refused: the stream fails.
pub const MESSAGE_BYTES_MAX: u32 = 64 << 10;
/// Messages that may wait for the peer's flow control. A call sends about five in its life.
const OUTBOX_MAX: usize = 64;
/// The peer must grant a stream, or take what was sent before the end, within this.
const PATIENCE: Duration = Duration::from_secs(3);
/// Code of resets and stops; the reason is in the messages.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// Where our messages of one call stream go. Dropping it finishes the stream after them.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<CallMessage>);

impl Outbox {
    /// Never waits; false if the peer takes nothing any more: the stream is of no use.
    #[must_use]
    pub fn send(&self, message: CallMessage) -> bool {
        self.0.try_send(message).is_ok()
    }
}

/// Opens a stream on `connection`; `Opened` or `Failed` follows as an event.
pub fn open(
    stream: CallStream,
    connection: Connection,
    events: mpsc::Sender<Event>,
    drops: Drops,
) -> Outbox {
    let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
    tokio::spawn(async move {
        let talk = Talk { stream, messages, events, drops };
        match tokio::time::timeout(PATIENCE, connection.open_bi()).await {
            Ok(Ok(pair)) => talk.run(pair).await,
            Ok(Err(_)) | Err(_) => talk.tell(StreamEvent::Failed).await,
        }
    });
    Outbox(outbox)
}

/// Takes a stream the peer opened; `Accepted` follows as an event.
pub(super) fn accept(
    stream: CallStream,
    pair: (SendStream, RecvStream),
    events: mpsc::Sender<Event>,
    drops: Drops,
) {
    let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
    tokio::spawn(async move {
        let accepted = Event::Accepted { stream: stream.clone(), outbox: Outbox(outbox) };
        if events.send(accepted).await.is_ok() {
            Talk { stream, messages, events, drops }.run(pair).await;
        }
    });
}

/// How a stream ended.
enum End {
    /// We dropped the outbox: everything was sent.
    Ours,
    /// The peer finished.
    Peers,
    /// It broke, or carried what is none.
    Broken,
}

struct Talk {
    stream: CallStream,
    messages: mpsc::Receiver<CallMessage>,
    events: mpsc::Sender<Event>,
    drops: Drops,
}

impl Talk {
    async fn run(mut self, (mut send, mut receive): (SendStream, RecvStream)) {
        self.tell(StreamEvent::Opened).await;
        match self.talk(&mut send, &mut receive).await {
            End::Ours => {
                finish(send).await;
                // Nobody here reads any more.
                let _ = receive.stop(ABANDONED);
            }
            End::Peers => {
                self.tell(StreamEvent::Closed).await;
                finish(send).await;
            }
            End::Broken => {
                let _ = send.reset(ABANDONED);
                let _ = receive.stop(ABANDONED);
                self.tell(StreamEvent::Failed).await;
            }
        }
    }

    /// Until one side is through. Reading a chunk is cancel-safe; writing is never cancelled.
    async fn talk(&mut self, send: &mut SendStream, receive: &mut RecvStream) -> End {
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                message = self.messages.recv() => {
                    let Some(message) = message else { return End::Ours };
                    if send.write_all(&message.encode_length_delimited_to_vec()).await.is_err() {
                        return End::Broken;
                    }
                }
                chunk = receive.read_chunk(MESSAGE_BYTES_MAX as usize, true) => match chunk {
                    Ok(Some(chunk)) => {
                        buffer.extend_from_slice(&chunk.bytes);
                        if !self.take_messages(&mut buffer).await {
                            self.drops.count(Reason::CallStreamMalformed);
                            return End::Broken;
                        }
                    }
                    Ok(None) if buffer.is_empty() => return End::Peers,
                    Ok(None) | Err(_) => return End::Broken,
                },
            }
        }
    }

    /// Tells every whole message; false if the bytes cannot be one.
    async fn take_messages(&self, buffer: &mut BytesMut) -> bool {
        loop {
            match next_message(buffer) {
                Ok(Some(message)) => self.tell(StreamEvent::Message(message)).await,
                Ok(None) => return true,
                Err(Malformed) => return false,
            }
        }
    }

    async fn tell(&self, event: StreamEvent) {
        // Nobody listens any more: the process is ending.
        let _ = self.events.send(Event::Call { stream: self.stream.clone(), event }).await;
    }
}

async fn finish(mut send: SendStream) {
    if send.finish().is_ok() {
        // Until the peer has everything, or is gone.
        let _ = tokio::time::timeout(PATIENCE, send.stopped()).await;
    }
}

#[derive(Debug, PartialEq)]
struct Malformed;

/// A varint of at most three bytes says how long the message is ([`MESSAGE_BYTES_MAX`]).
fn next_message(buffer: &mut BytesMut) -> Result<Option<CallMessage>, Malformed> {
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
    use proto::call::{CallReject, call_message::Kind};

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
