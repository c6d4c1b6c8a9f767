//! What clients asked and what they were told, with the times of both.

use std::collections::BTreeMap;

use proto::control::{Number, NumberState};
use proto::raft::Reason;

/// A point in time; only its order counts.
pub type Time = u64;

/// Of an operation without answer.
pub const NEVER: Time = Time::MAX;

/// The revision of an answer that names none.
pub const UNSEEN: u64 = u64::MAX;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Numbers enter the inventory, all or none.
    Import {
        /// Their pool.
        pool: String,
        /// Which.
        e164: Vec<String>,
        /// As a carrier's block: they follow each other.
        block: bool,
    },
    /// A given number for a tenant.
    Allocate {
        /// Whose it becomes.
        tenant: String,
        /// Which.
        e164: String,
    },
    /// Any free number of a pool.
    AllocateAny {
        /// Whose it becomes.
        tenant: String,
        /// Out of this pool.
        pool: String,
    },
    /// So many free numbers of a pool at once, all or none.
    AllocateSome {
        /// Whose they become.
        tenant: String,
        /// Out of this pool.
        pool: String,
        /// How many.
        count: usize,
    },
    /// Numbers are held for a while, all or none.
    Reserve {
        /// For whom.
        tenant: String,
        /// Out of this pool; when none are named.
        pool: String,
        /// Which; else any.
        e164: Vec<String>,
        /// How many.
        count: usize,
        /// How long by log time.
        duration_ms: u64,
    },
    /// A reservation lasts longer.
    Extend {
        /// Whose it is said to be.
        tenant: String,
        /// Which.
        id: String,
        /// From now on.
        duration_ms: u64,
    },
    /// A reservation ends.
    Cancel {
        /// Whose it is said to be.
        tenant: String,
        /// Which.
        id: String,
    },
    /// All numbers of a reservation are allocated.
    AllocateReserved {
        /// Whose they become.
        tenant: String,
        /// Which reservation.
        id: String,
    },
    /// A tenant gives a number back.
    Release {
        /// Whose it is.
        tenant: String,
        /// Which.
        e164: String,
    },
    /// Reads a number.
    Get {
        /// Which.
        e164: String,
        /// As the asked node has it; else linearizable.
        local: bool,
    },
    /// Writes a trunk that holds `value`.
    PutTrunk {
        /// Which.
        id: String,
        /// To tell it from the one before.
        value: u32,
    },
    /// Removes a trunk.
    DeleteTrunk {
        /// Which.
        id: String,
    },
    /// Reads a trunk.
    GetTrunk {
        /// Which.
        id: String,
        /// As the asked node has it; else linearizable.
        local: bool,
    },
}

impl Request {
    /// Changes nothing.
    pub const fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::GetTrunk { .. })
    }

    /// The reservation it names.
    pub fn reservation(&self) -> Option<&str> {
        match self {
            Self::Extend { id, .. }
            | Self::Cancel { id, .. }
            | Self::AllocateReserved { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Answered by the asked node alone: may be old, never false.
    pub const fn is_local(&self) -> bool {
        matches!(self, Self::Get { local: true, .. } | Self::GetTrunk { local: true, .. })
    }
}

/// A number as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Held {
    /// Which.
    pub e164: String,
    /// Its state.
    pub state: i32,
    /// Owner, or the last one in quarantine.
    pub tenant: String,
    /// Grows at each change of owner.
    pub generation: u64,
    /// End of quarantine, or of the reservation, by log time.
    pub until_ms: u64,
    /// That holds it.
    pub reservation: String,
}

impl Held {
    /// Its state.
    pub fn state(&self) -> NumberState {
        NumberState::try_from(self.state).unwrap_or_default()
    }
}

impl From<Number> for Held {
    fn from(number: Number) -> Self {
        Self {
            e164: number.e164,
            state: number.state,
            tenant: number.tenant,
            generation: number.generation,
            until_ms: number.quarantine_until_ms.max(number.until_ms),
            reservation: number.reservation_id,
        }
    }
}

/// A reservation as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Its name.
    pub id: String,
    /// What it holds.
    pub e164: Vec<String>,
    /// Its end by log time.
    pub until_ms: u64,
    /// How often it was extended.
    pub extensions: u32,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done, and there is nothing to show.
    Done,
    /// So many numbers came in.
    Imported(u32),
    /// The number after the operation, or as read; `None`: there is none.
    Number(Option<Held>),
    /// The numbers after the operation.
    Numbers(Vec<Held>),
    /// The reservation after the operation, or as it was before it ended.
    Reservation(Reserved),
    /// What the trunk holds; `None`: there is none.
    Trunk(Option<u32>),
    /// Not done, for this reason.
    Rejected(Reason),
}

/// One operation of one client. A retry under the same request id belongs to the same operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Who.
    pub client: usize,
    /// First asked.
    pub invoked: Time,
    /// First answered, or [`NEVER`].
    pub returned: Time,
    /// What was asked.
    pub request: Request,
    /// What was answered; `None`: nobody knows whether it happened.
    pub answer: Option<Answer>,
    /// Revision of the state the answer speaks of, or a later one; or [`UNSEEN`].
    pub revision: u64,
    /// Log time when it was answered, or later.
    pub log_time_ms: u64,
    /// Names a mutation.
    pub request_id: String,
    /// What later tries under the same request id were told.
    pub echoes: Vec<Answer>,
}

/// Everything clients saw in a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In order of invocation.
    pub operations: Vec<Operation>,
}

impl History {
    /// Somebody asks; the index names the operation.
    pub fn invoke(
        &mut self,
        client: usize,
        now: Time,
        request: Request,
        request_id: String,
    ) -> usize {
        self.operations.push(Operation {
            client,
            invoked: now,
            returned: NEVER,
            request,
            answer: None,
            revision: 0,
            log_time_ms: u64::MAX,
            request_id,
            echoes: Vec::new(),
        });
        self.operations.len() - 1
    }

    /// The answer came, or came once more. `true`: for the first time.
    pub fn answer(&mut self, at: usize, now: Time, answer: Answer, seen: (u64, u64)) -> bool {
        let Some(operation) = self.operations.get_mut(at) else { return false };
        if operation.answer.is_some() {
            if !operation.request.is_read() {
                operation.echoes.push(answer);
            }
            return false;
        }
        operation.returned = now;
        operation.answer = Some(answer);
        (operation.revision, operation.log_time_ms) = seen;
        true
    }

    /// Log time that was surely reached before each operation: what an earlier answer told.
    pub fn floors(&self) -> Vec<u64> {
        let told = |o: &&Operation| o.answer.is_some() && o.log_time_ms != u64::MAX;
        let mut by_return: Vec<&Operation> = self.operations.iter().filter(told).collect();
        by_return.sort_by_key(|operation| operation.returned);
        let (mut by_return, mut floor) = (by_return.into_iter().peekable(), 0);
        let floor_of = |operation: &Operation| {
            while let Some(done) = by_return.next_if(|done| done.returned < operation.invoked) {
                floor = done.log_time_ms.max(floor);
            }
            floor
        };
        self.operations.iter().map(floor_of).collect()
    }

    /// What each reservation was told to hold.
    pub fn reserved<'a>(&'a self) -> BTreeMap<&'a str, &'a Reserved> {
        let made = |(operation, answer): (&'a Operation, &'a Answer)| match (operation, answer) {
            (Operation { request: Request::Reserve { .. }, .. }, Answer::Reservation(made)) => {
                Some((made.id.as_str(), made))
            }
            _ => None,
        };
        self.answered().filter_map(made).collect()
    }

    /// Operations that were answered.
    pub fn answered(&self) -> impl Iterator<Item = (&Operation, &Answer)> {
        self.operations.iter().filter_map(|o| Some((o, o.answer.as_ref()?)))
    }
}
