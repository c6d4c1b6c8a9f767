//! One router's connection.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pop_core::bgp::{FrameError, Hangup, Message, Prefix, Reassembly, Session, Update};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{Counters, Decoder, Input};

/// Bytes read at once: some 600 messages, a millisecond or two of parsing.
const READ_BYTES: usize = 64 << 10;

pub(super) struct Reader {
    socket: TcpStream,
    session: Session,
    interest: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    inputs: mpsc::Sender<Input>,
    counters: Arc<Counters>,
    stream: Reassembly,
    decoder: Decoder,
}

/// What was in the bytes of one read.
#[derive(Default)]
struct Batch(Vec<Message>);

impl Reader {
    pub(super) fn new(
        socket: TcpStream,
        session: Session,
        interest: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
        (inputs, counters): (mpsc::Sender<Input>, Arc<Counters>),
    ) -> Self {
        let (stream, decoder) = (Reassembly::default(), Decoder::default());
        Self { socket, session, interest, inputs, counters, stream, decoder }
    }

    pub(super) async fn run(mut self) {
        let why = self.read().await;
        // The station is ending, too.
        drop(self.inputs.send(Input::Ended(self.session, why)).await);
    }

    async fn read(&mut self) -> Hangup {
        loop {
            self.stream.buffer().reserve(READ_BYTES);
            match self.socket.read_buf(self.stream.buffer()).await {
                Ok(0) | Err(_) => return Hangup::Closed,
                Ok(_) => {}
            }
            let mut batch = Batch::default();
            let framed = self.drain(&mut batch);
            let heard = Input::Heard { session: self.session, messages: batch.0 };
            if self.inputs.send(heard).await.is_err() {
                return Hangup::Closed;
            }
            if let Err(error) = framed {
                return error.into();
            }
        }
    }

    fn drain(&mut self, batch: &mut Batch) -> Result<(), FrameError> {
        let interest = self.interest.borrow().clone();
        let wants = |prefix: &Prefix| interest.range(prefix.range()).next().is_some();
        while let Some(frame) = self.stream.next_frame()? {
            self.counters.messages.fetch_add(1, Ordering::Relaxed);
            batch.add(self.decoder.decode(frame, wants));
        }
        Ok(())
    }
}

impl Batch {
    /// Routes that nobody wants are only counted: one message says how many.
    fn add(&mut self, message: Message) {
        if let (
            Some(Message::Routes { peer: before, update: sum }),
            Message::Routes { peer, update },
        ) = (self.0.last_mut(), &message)
            && before == peer
            && update.announced.is_empty()
            && update.withdrawn.is_empty()
        {
            let Update { announced_total, withdrawn_total, .. } = update;
            sum.announced_total = sum.announced_total.saturating_add(*announced_total);
            sum.withdrawn_total = sum.withdrawn_total.saturating_add(*withdrawn_total);
            return;
        }
        self.0.push(message);
    }
}
