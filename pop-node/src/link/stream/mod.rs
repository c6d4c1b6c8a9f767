//! A call stream: length-delimited `CallMessage`s of one call, on one QUIC stream after another.
//!
//! A call stream outlives its connection. Each side counts what it has of the other; when a path
//! fails, the POP that opened it opens a QUIC stream on another path, both say how much they have,
//! and what is missing is sent again. To the calls it looks as if nothing had happened. It fails
//! when the other process is gone, or no path comes up in time.

mod resume;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pop_core::pop::{CallStream, StreamEvent};
use proto::call::call_message::Kind;
use proto::call::{CallMessage, StreamAck, StreamHello};
use proto::overlay::PathId;
use quinn::{Connection, RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::registry::{Connections, Instance};
use super::{Context, Event};
use crate::drops::Reason;
pub(super) use resume::Resumable;
use resume::{Greeted, Key, Resumed};
pub use wire::MESSAGE_BYTES_MAX;
use wire::{
    Malformed, NoHello, Step, is_path, next_message, read_failed, read_hello, write, write_failed,
};

/// Messages that may wait for the peer's flow control. A call sends about five in its life.
const OUTBOX_MAX: usize = 64;
/// Messages the peer has not confirmed: as long as paths fail, all are kept.
const UNACKED_MAX: usize = 256;
/// The peer must grant a stream, say hello, or take what was sent before the end, within this.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long a call stream waits for another path.
const RESUME: Duration = Duration::from_secs(10);
/// And so long while there is none at all.
const ALONE: Duration = Duration::from_secs(2);
/// Code of resets and stops; the reason is in the messages.
const ABANDONED: VarInt = VarInt::from_u32(1);
/// Code of resets and stops of a QUIC stream whose call stream goes on elsewhere.
const MOVED: VarInt = VarInt::from_u32(2);

type Pair = (SendStream, RecvStream);

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

/// Opens a call stream; `Opened` or `Failed` follows as an event.
pub(super) fn open(context: Arc<Context>, stream: CallStream) -> Outbox {
    let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
    tokio::spawn(async move {
        let connections = context.registry.watch(&stream.peer);
        let end = Talk::new(context, stream, messages, connections).initiate().await;
        end.close().await;
    });
    Outbox(outbox)
}

/// Takes a QUIC stream the peer opened: a new call stream (`Accepted` follows as an event), or one
/// that goes on.
pub(super) async fn accept(context: Arc<Context>, stream: CallStream, mut pair: Pair) {
    let mut buffer = BytesMut::new();
    let greeting = timeout(PATIENCE, read_hello(&mut pair.1, &mut buffer)).await;
    let session = |hello: &StreamHello| {
        Instance::try_from(hello.session.as_slice()).map_err(|_| NoHello::Other)
    };
    let hello = match greeting {
        Ok(Ok(hello)) => session(&hello).map(|session| (session, hello)),
        Ok(Err(none)) => Err(none),
        Err(_) => Err(NoHello::Other),
    };
    let (session, hello) = match hello {
        Ok(hello) => hello,
        // The peer gave this attempt up: nothing is wrong.
        Err(NoHello::Moved) => return give_up(&mut pair, MOVED),
        Err(NoHello::Other) => {
            context.drops.count(Reason::CallStreamMalformed);
            return abandon(&mut pair);
        }
    };
    let key = Key { peer: stream.peer.clone(), session, number: hello.number };
    let greeted = context.resumable().greet(&key, Resumed { pair, rest: buffer, hello });
    match greeted {
        Greeted::GoesOn => {}
        Greeted::Late(mut pair) => give_up(&mut pair, MOVED),
        Greeted::Unknown(mut pair) => abandon(&mut pair),
        Greeted::New(begun, mut resumptions) => {
            let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
            let accepted = Event::Accepted { stream: stream.clone(), outbox: Outbox(outbox) };
            if context.events.send(accepted).await.is_err() {
                return;
            }
            let connections = context.registry.watch(&stream.peer);
            let mut talk = Talk::new(context.clone(), stream, messages, connections);
            talk.number = key.number;
            let end = talk.answer(&mut resumptions, *begun).await;
            // Before the QUIC stream ends: the peer may use its number no more.
            context.resumable().end(&key);
            while let Ok(mut late) = resumptions.try_recv() {
                abandon(&mut late.pair);
            }
            end.close().await;
        }
    }
}

fn abandon(pair: &mut Pair) {
    give_up(pair, ABANDONED);
}

/// Not by dropping it: that would finish it.
fn give_up((send, receive): &mut Pair, code: VarInt) {
    let _ = send.reset(code);
    let _ = receive.stop(code);
}

/// How the call stream ended, to be closed in peace.
struct Over(Option<Pair>, bool);

impl Over {
    async fn close(self) {
        let Some((mut send, mut receive)) = self.0 else { return };
        if self.1 && send.finish().is_ok() {
            // Until the peer has everything, or is gone.
            let _ = timeout(PATIENCE, send.stopped()).await;
        } else {
            let _ = send.reset(ABANDONED);
        }
        // Nobody here reads any more.
        let _ = receive.stop(ABANDONED);
    }
}

struct Talk {
    context: Arc<Context>,
    stream: CallStream,
    number: u64,
    messages: mpsc::Receiver<CallMessage>,
    /// The outbox is dropped; what is left is to be sent.
    ending: bool,
    connections: watch::Receiver<Connections>,
    /// The process at the other end.
    instance: Instance,
    /// Sent, but for all we know not received.
    unacked: VecDeque<CallMessage>,
    acked: u32,
    received: u32,
    /// QUIC streams tried so far: of two hellos the one with the higher number counts.
    attempt: u32,
}

impl Talk {
    fn new(
        context: Arc<Context>,
        stream: CallStream,
        messages: mpsc::Receiver<CallMessage>,
        connections: watch::Receiver<Connections>,
    ) -> Self {
        let instance = connections.borrow().instance();
        Self {
            context,
            number: stream.number,
            stream,
            messages,
            ending: false,
            connections,
            instance,
            unacked: VecDeque::new(),
            acked: 0,
            received: 0,
            attempt: 0,
        }
    }

    async fn initiate(mut self) -> Over {
        let mut first = true;
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let Some((path, mut pair, buffer)) = self.connect(first, deadline).await else {
                return self.failed(None).await;
            };
            if first {
                self.tell(StreamEvent::Opened).await;
            }
            first = false;
            match self.talk(&mut pair, buffer, Some(path), None).await {
                Step::Lost => give_up(&mut pair, MOVED),
                Step::Handed(_) => {}
                Step::Ours => match self.finished(&mut pair.0, Some(path), None).await {
                    Finish::Done => return Over(Some(pair), true),
                    Finish::Again | Finish::Handed(_) => give_up(&mut pair, MOVED),
                },
                Step::Peers => return self.closed(pair).await,
                Step::Broken => return self.failed(Some(pair)).await,
            }
            deadline = Instant::now() + RESUME;
        }
    }

    async fn answer(mut self, resumptions: &mut mpsc::Receiver<Resumed>, begun: Resumed) -> Over {
        self.tell(StreamEvent::Opened).await;
        let mut next = Some(begun);
        loop {
            let resumed = match next.take() {
                Some(resumed) => resumed,
                None => match self.wait_for(resumptions).await {
                    Some(resumed) => resumed,
                    None => return self.failed(None).await,
                },
            };
            let Resumed { mut pair, rest, hello } = resume::newest(resumed, resumptions);
            let fits = self.forget_acked(hello.received);
            if !fits
                || self.greet(&mut pair.0).await.is_err()
                || self.again(&mut pair.0).await.is_err()
            {
                abandon(&mut pair);
                if fits {
                    continue;
                }
                return self.failed(None).await;
            }
            match self.talk(&mut pair, rest, None, Some(&mut *resumptions)).await {
                Step::Lost => give_up(&mut pair, MOVED),
                Step::Handed(resumed) => {
                    give_up(&mut pair, MOVED);
                    next = Some(*resumed);
                }
                Step::Ours => {
                    match self.finished(&mut pair.0, None, Some(&mut *resumptions)).await {
                        Finish::Done => return Over(Some(pair), true),
                        Finish::Again => give_up(&mut pair, MOVED),
                        Finish::Handed(resumed) => {
                            give_up(&mut pair, MOVED);
                            next = Some(*resumed);
                        }
                    }
                }
                Step::Peers => return self.closed(pair).await,
                Step::Broken => return self.failed(Some(pair)).await,
            }
        }
    }

    async fn wait_for(&mut self, resumptions: &mut mpsc::Receiver<Resumed>) -> Option<Resumed> {
        let deadline = Instant::now() + RESUME;
        let mut alone = None;
        loop {
            if self.is_gone() {
                return None;
            }
            let until = deadline.min(self.patience(&mut alone));
            tokio::select! {
                resumed = resumptions.recv() => return resumed,
                changed = self.connections.changed() => changed.ok()?,
                () = tokio::time::sleep_until(until) => return None,
            }
        }
    }

    /// While no path is there at all, less time is given.
    fn patience(&self, alone: &mut Option<Instant>) -> Instant {
        let now = Instant::now();
        if self.connections.borrow().preferred().is_some() {
            *alone = None;
            now + RESUME
        } else {
            *alone.get_or_insert(now) + ALONE
        }
    }

    /// Is the other process another one than that of the call?
    fn is_gone(&self) -> bool {
        let connections = self.connections.borrow();
        connections.preferred().is_some() && connections.instance() != self.instance
    }

    /// A QUIC stream on the preferred path, with both hellos said.
    async fn connect(
        &mut self,
        first: bool,
        deadline: Instant,
    ) -> Option<(PathId, Pair, BytesMut)> {
        let mut alone = None;
        loop {
            let found =
                self.connections.borrow_and_update().preferred().map(|(p, c)| (p, c.clone()));
            if self.is_gone() || Instant::now() >= deadline {
                return None;
            }
            if let Some((path, connection)) = found
                && let Ok(reached) = timeout(PATIENCE, self.reach(first, connection)).await
            {
                match reached {
                    Ok((pair, buffer)) => return Some((path, pair, buffer)),
                    Err(true) => {}
                    Err(false) => return None,
                }
            }
            let until = deadline.min(self.patience(&mut alone));
            if Instant::now() >= until {
                return None;
            }
            // Another path is preferred soon; the same is tried again after a moment.
            let pause = until.min(Instant::now() + Duration::from_millis(200));
            let _ = tokio::time::timeout_at(pause, self.connections.changed()).await;
        }
    }

    /// Opens and greets. `Err(true)`: worth another try.
    async fn reach(
        &mut self,
        first: bool,
        connection: Connection,
    ) -> Result<(Pair, BytesMut), bool> {
        let pair = connection.open_bi().await.map_err(|_| true)?;
        let mut attempt = Attempt(Some(pair));
        let mut buffer = BytesMut::new();
        let (send, receive) = attempt.0.as_mut().ok_or(true)?;
        self.greet(send).await.map_err(|_| true)?;
        if first {
            // Nothing to be sent again: no need to wait a round trip.
            return attempt.succeed().map(|pair| (pair, buffer));
        }
        match read_hello(receive, &mut buffer).await {
            Ok(hello) if self.forget_acked(hello.received) => {
                self.again(send).await.map_err(|_| true)?;
                attempt.succeed().map(|pair| (pair, buffer))
            }
            // Another attempt was before this one, or is under way.
            Err(NoHello::Moved) => Err(true),
            // The peer knows no such call stream, or has what we never sent.
            Ok(_) | Err(NoHello::Other) => Err(connection.close_reason().is_some()),
        }
    }

    async fn greet(&mut self, send: &mut SendStream) -> Result<(), WriteError> {
        self.attempt = self.attempt.saturating_add(1);
        let hello = StreamHello {
            attempt: self.attempt,
            session: self.context.instance.to_vec(),
            number: self.number,
            received: self.received,
            acked: self.acked,
        };
        write(send, &CallMessage { kind: Some(Kind::Hello(hello)) }).await
    }

    /// Sends what the peer does not have.
    async fn again(&self, send: &mut SendStream) -> Result<(), WriteError> {
        for message in &self.unacked {
            write(send, message).await?;
        }
        Ok(())
    }

    /// False if the peer says it has more than was sent, or less than it said before.
    fn forget_acked(&mut self, received: u32) -> bool {
        let news = received.wrapping_sub(self.acked);
        let known = usize::try_from(news).is_ok_and(|news| news <= self.unacked.len());
        if known {
            self.unacked.drain(..usize::try_from(news).unwrap_or(0));
            self.acked = received;
        }
        known
    }

    /// Until one side is through or the QUIC stream is of no use. Reading a chunk is cancel-safe;
    /// writing is never cancelled.
    async fn talk(
        &mut self,
        (send, receive): &mut Pair,
        mut buffer: BytesMut,
        path: Option<PathId>,
        mut resumptions: Option<&mut mpsc::Receiver<Resumed>>,
    ) -> Step {
        // What came with the hello.
        if let Err(step) = self.take_messages(&mut buffer, send).await {
            return step;
        }
        loop {
            if self.ending {
                return Step::Ours;
            }
            tokio::select! {
                message = self.messages.recv() => {
                    let Some(message) = message else {
                        self.ending = true;
                        continue;
                    };
                    if self.unacked.len() >= UNACKED_MAX {
                        self.context.drops.count(Reason::CallStreamFull);
                        return Step::Broken;
                    }
                    self.unacked.push_back(message.clone());
                    if let Err(error) = write(send, &message).await {
                        return write_failed(&error);
                    }
                }
                chunk = receive.read_chunk(MESSAGE_BYTES_MAX as usize, true) => match chunk {
                    Ok(Some(chunk)) => {
                        buffer.extend_from_slice(&chunk.bytes);
                        if let Err(step) = self.take_messages(&mut buffer, send).await {
                            return step;
                        }
                    }
                    Ok(None) if buffer.is_empty() => return Step::Peers,
                    Ok(None) => return Step::Broken,
                    Err(error) => return read_failed(&error),
                },
                changed = self.connections.changed(), if path.is_some() => {
                    let preferred = self.connections.borrow().preferred().map(|(path, _)| path);
                    if changed.is_err() || self.is_gone() {
                        return Step::Broken;
                    }
                    if preferred.is_some() && preferred != path {
                        return Step::Lost;
                    }
                }
                Some(resumed) = next(&mut resumptions) => return Step::Handed(Box::new(resumed)),
            }
        }
    }

    /// Tells every whole message and confirms them.
    async fn take_messages(
        &mut self,
        buffer: &mut BytesMut,
        send: &mut SendStream,
    ) -> Result<(), Step> {
        let before = self.received;
        loop {
            match next_message(buffer) {
                Ok(Some(CallMessage { kind: Some(Kind::Ack(ack)) })) => {
                    if !self.forget_acked(ack.received) {
                        return Err(self.malformed());
                    }
                }
                // The answer to ours, said when the stream was new.
                Ok(Some(CallMessage { kind: Some(Kind::Hello(hello)) })) => {
                    if hello.received != self.acked && !self.forget_acked(hello.received) {
                        return Err(self.malformed());
                    }
                }
                Ok(Some(message)) => {
                    self.received = self.received.wrapping_add(1);
                    self.tell(StreamEvent::Message(message)).await;
                }
                Ok(None) if self.received == before => return Ok(()),
                Ok(None) => {
                    let ack = StreamAck { received: self.received };
                    let ack = CallMessage { kind: Some(Kind::Ack(ack)) };
                    // A peer that finished reads no more: its last words count.
                    let _ = write(send, &ack).await;
                    return Ok(());
                }
                Err(Malformed) => return Err(self.malformed()),
            }
        }
    }

    fn malformed(&self) -> Step {
        self.context.drops.count(Reason::CallStreamMalformed);
        Step::Broken
    }

    /// After our last words: they may have to be said again on another path.
    async fn finished(
        &mut self,
        send: &mut SendStream,
        path: Option<PathId>,
        mut resumptions: Option<&mut mpsc::Receiver<Resumed>>,
    ) -> Finish {
        // Fails only if the peer stopped it.
        let _ = send.finish();
        let said = self.unacked.is_empty();
        let again = |needed: bool| if needed { Finish::Again } else { Finish::Done };
        let stopped = send.stopped();
        tokio::pin!(stopped);
        let deadline = Instant::now() + RESUME;
        loop {
            tokio::select! {
                stopped = &mut stopped => return match stopped {
                    Err(quinn::StoppedError::ConnectionLost(error)) => {
                        again(!said && is_path(&error))
                    }
                    // The peer goes on elsewhere: there it hears the rest.
                    Ok(Some(MOVED)) => again(!said),
                    Ok(_) | Err(_) => Finish::Done,
                },
                Some(resumed) = next(&mut resumptions) => return Finish::Handed(Box::new(resumed)),
                changed = self.connections.changed(), if path.is_some() => {
                    let preferred = self.connections.borrow().preferred().map(|(path, _)| path);
                    if changed.is_err() || self.is_gone() {
                        return Finish::Done;
                    }
                    if preferred.is_some() && preferred != path {
                        return again(!said);
                    }
                }
                () = tokio::time::sleep_until(deadline) => return Finish::Done,
            }
        }
    }

    async fn failed(self, pair: Option<Pair>) -> Over {
        self.tell(StreamEvent::Failed).await;
        Over(pair, false)
    }

    async fn closed(self, pair: Pair) -> Over {
        self.tell(StreamEvent::Closed).await;
        Over(Some(pair), true)
    }

    async fn tell(&self, event: StreamEvent) {
        // Nobody listens any more: the process is ending.
        let _ = self.context.events.send(Event::Call { stream: self.stream.clone(), event }).await;
    }
}

/// A QUIC stream that is not yet the call stream's. Given up, also when its time is over, it says
/// that the call goes on: dropped as it is, it would be finished, and the peer would take that for
/// the end of the call.
struct Attempt(Option<Pair>);

impl Attempt {
    fn succeed(mut self) -> Result<Pair, bool> {
        self.0.take().ok_or(true)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(pair) = &mut self.0 {
            give_up(pair, MOVED);
        }
    }
}

/// What became of our last words.
enum Finish {
    /// The peer has them, or nobody needs them.
    Done,
    /// Their path failed.
    Again,
    /// The peer goes on with this one.
    Handed(Box<Resumed>),
}

async fn next(resumptions: &mut Option<&mut mpsc::Receiver<Resumed>>) -> Option<Resumed> {
    match resumptions {
        Some(resumptions) => resumptions.recv().await,
        None => std::future::pending().await,
    }
}
