//! Call streams of peers that may go on with another QUIC stream.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use proto::call::StreamHello;
use proto::id::PopId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{MOVED, Pair, give_up};
use crate::link::registry::Instance;

/// Attempts that may wait for the task of a call stream.
const ATTEMPTS_MAX: usize = 4;
/// A hello on its way for longer than this belongs to no connection that lives.
const REMEMBERED: Duration = Duration::from_secs(15);

/// A call stream: peer, its process, its number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) peer: PopId,
    pub(super) session: Instance,
    pub(super) number: u64,
}

/// A QUIC stream for a call stream, with what came on it.
pub(super) struct Resumed {
    pub(super) pair: Pair,
    pub(super) rest: BytesMut,
    pub(super) hello: StreamHello,
}

/// What a hello means.
pub(super) enum Greeted {
    /// A call stream begins.
    New(Box<Resumed>, mpsc::Receiver<Resumed>),
    /// One goes on: its task has the QUIC stream.
    GoesOn,
    /// A newer attempt came before this one; or too many wait.
    Late(Pair),
    /// Of a process before this one, or of a call that is over.
    Unknown(Pair),
}

struct Slot {
    attempt: u32,
    /// `None`: it ended.
    task: Option<mpsc::Sender<Resumed>>,
}

/// The table. Those that ended stay for a while, so that none begins twice.
#[derive(Default)]
pub(in crate::link) struct Resumable {
    slots: HashMap<Key, Slot>,
    ended: VecDeque<(Instant, Key)>,
}

impl Resumable {
    /// A QUIC stream said hello.
    pub(super) fn greet(&mut self, key: &Key, resumed: Resumed) -> Greeted {
        self.forget();
        let attempt = resumed.hello.attempt;
        let Some(slot) = self.slots.get_mut(key) else {
            if resumed.hello.acked > 0 || resumed.hello.received > 0 {
                return Greeted::Unknown(resumed.pair);
            }
            let (task, resumptions) = mpsc::channel(ATTEMPTS_MAX);
            self.slots.insert(key.clone(), Slot { attempt, task: Some(task) });
            return Greeted::New(Box::new(resumed), resumptions);
        };
        let Some(task) = &slot.task else { return Greeted::Unknown(resumed.pair) };
        if attempt <= slot.attempt {
            return Greeted::Late(resumed.pair);
        }
        match task.try_send(resumed) {
            Ok(()) => {
                slot.attempt = attempt;
                Greeted::GoesOn
            }
            Err(mpsc::error::TrySendError::Full(resumed)) => Greeted::Late(resumed.pair),
            Err(mpsc::error::TrySendError::Closed(resumed)) => Greeted::Unknown(resumed.pair),
        }
    }

    /// The call stream is over.
    pub(super) fn end(&mut self, key: &Key) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.task = None;
            self.ended.push_back((Instant::now(), key.clone()));
        }
    }

    fn forget(&mut self) {
        let now = Instant::now();
        while let Some((at, key)) = self.ended.front()
            && now.duration_since(*at) > REMEMBERED
        {
            self.slots.remove(key);
            self.ended.pop_front();
        }
    }
}

/// Of the attempts that wait the newest; the others are given up.
pub(super) fn newest(mut resumed: Resumed, waiting: &mut mpsc::Receiver<Resumed>) -> Resumed {
    while let Ok(newer) = waiting.try_recv() {
        give_up(&mut resumed.pair, MOVED);
        resumed = newer;
    }
    resumed
}
