//! What goes into and comes out of [`Pop`](super::Pop) besides SIP: plain data.

use std::fmt;

use bytes::Bytes;
use proto::call::CallMessage;
use proto::call::call_message::Kind;
use proto::id::{CallId, PopId, TrunkId};
use proto::time::Instant;

use super::records::Which;
use crate::call::{Cdr, CdrRole};
use crate::media::{MediaCommand, QualityReport, Timeline};
use crate::sip::{Flow, Transport};

/// Which end opened a call stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Initiator {
    /// We did.
    Local,
    /// The peer did.
    Remote,
}

/// The call signaling stream of one call to another POP.
///
/// `number` is never used twice for a peer and initiator in the life of a process; the core numbers
/// the streams it opens, the shell those the peer opens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallStream {
    /// The other POP.
    pub peer: PopId,
    /// Which stream.
    pub number: u64,
    /// Who opened it.
    pub initiator: Initiator,
}

/// What happened to a call stream. After `Closed` or `Failed` nothing more comes.
#[derive(Clone, PartialEq)]
pub enum StreamEvent {
    /// It is open. Messages may be sent before; the shell keeps them until then.
    Opened,
    /// The peer sent a message.
    Message(CallMessage),
    /// The peer ended it.
    Closed,
    /// It could not be opened, or broke, or carried something malformed.
    Failed,
}

/// Whether the link to a POP works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// A connection is up.
    Up,
    /// There is none; all its streams are gone.
    Down,
}

/// Why a name gave no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No such name, or no address of a family we have.
    #[error("the name has no address")]
    NotFound,
    /// No answer in time.
    #[error("no name server answered")]
    Timeout,
}

/// An effect for the shell to execute, in order.
#[derive(Clone, PartialEq)]
pub enum PopCommand {
    /// Send one SIP message. On `connection: 0` over TCP, reuse a connection to `remote` or open
    /// one; report failure with `handle_transport_error`.
    SendSip {
        /// Where to.
        flow: Flow,
        /// The message.
        bytes: Bytes,
    },
    /// Open a call stream; messages for it follow at once.
    OpenStream {
        /// The stream.
        stream: CallStream,
    },
    /// Send a message on a call stream.
    SendCall {
        /// The stream.
        stream: CallStream,
        /// The message.
        message: CallMessage,
    },
    /// Finish a call stream after what was sent; its later events are ignored.
    CloseStream {
        /// The stream.
        stream: CallStream,
    },
    /// An order to the media plane.
    Media(MediaCommand),
    /// Find the addresses of a name, best first (SRV when `port` is 0; RFC 3263).
    Resolve {
        /// Names the answer.
        query: u64,
        /// The name.
        host: String,
        /// 0: SRV, or 5060.
        port: u16,
        /// For the SRV name.
        transport: Transport,
    },
    /// A call ended: write its record.
    Cdr(Box<Cdr>),
}

/// A call as operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct CallSummary {
    /// The call.
    pub call_id: CallId,
    /// Which half this POP has.
    pub role: CdrRole,
    /// How far it is.
    pub phase: Phase,
    /// Where it came in.
    pub trunk_in: Option<TrunkId>,
    /// Where it leaves.
    pub trunk_out: Option<TrunkId>,
    /// The POP with the other half.
    pub peer: Option<PopId>,
    /// Since when.
    pub started: Instant,
    /// Since when there is an answer.
    pub answered: Option<Instant>,
    /// MOS of what the half's leg received in its last 5 s.
    pub mos: Option<f64>,
    /// Whether it would outlive this POP.
    pub guard: CallGuard,
}

/// What becomes of a call when this POP is lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallGuard {
    /// Who would take it over, the first that is not lost itself.
    pub guardians: Vec<Guardian>,
    /// The POP that had it before.
    pub moved_from: Option<PopId>,
    /// Its peer is still being called over.
    pub arriving: bool,
    /// Its other half is out of reach.
    pub orphan: bool,
}

/// A POP that guards a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guardian {
    /// Which.
    pub pop: PopId,
    /// It has the call as it is now.
    pub fresh: bool,
}

/// Guarding in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardFigures {
    /// Halves of other POPs that this one would take over.
    pub held: usize,
    /// Bytes of their capsules.
    pub held_bytes: usize,
    /// Answered halves here that no other POP has as they are.
    pub unguarded: usize,
}

/// What a leg of a call received, from its beginning until now.
#[derive(Debug, Clone, PartialEq)]
pub struct LegTimeline {
    /// Which leg.
    pub which: Which,
    /// Points of 5 s and more.
    pub timeline: Timeline,
    /// The latest report.
    pub quality: Option<QualityReport>,
}

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// No answer yet.
    SettingUp,
    /// Answered.
    Answered,
    /// Over for the user; last SIP messages are under way.
    Ending,
}

/// Without numbers: these are logged.
const fn kind(message: &CallMessage) -> &'static str {
    match &message.kind {
        Some(Kind::Setup(_)) => "setup",
        Some(Kind::Progress(_)) => "progress",
        Some(Kind::Answer(_)) => "answer",
        Some(Kind::Reject(_)) => "reject",
        Some(Kind::Cancel(_)) => "cancel",
        Some(Kind::Bye(_)) => "bye",
        Some(Kind::Info(_)) => "info",
        Some(Kind::Update(_)) => "update",
        Some(Kind::UpdateAnswer(_)) => "update_answer",
        Some(Kind::UpdateReject(_)) => "update_reject",
        Some(Kind::Hello(_)) => "hello",
        Some(Kind::Ack(_)) => "ack",
        Some(Kind::Loss(_)) => "loss",
        Some(Kind::Guard(_)) => "guard",
        Some(Kind::Rejoin(_)) => "rejoin",
        Some(Kind::Moved(_)) => "moved",
        None => "nothing",
    }
}

impl fmt::Debug for StreamEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => f.write_str("Opened"),
            Self::Message(message) => write!(f, "Message({})", kind(message)),
            Self::Closed => f.write_str("Closed"),
            Self::Failed => f.write_str("Failed"),
        }
    }
}

impl fmt::Debug for PopCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SendSip { flow, bytes } => {
                let word = bytes.split(|b| *b == b' ').next().unwrap_or_default();
                let word = String::from_utf8_lossy(word);
                write!(f, "SendSip({word}…, {} B to {flow:?})", bytes.len())
            }
            Self::OpenStream { stream } => write!(f, "OpenStream({stream:?})"),
            Self::SendCall { stream, message } => {
                write!(f, "SendCall({} on {stream:?})", kind(message))
            }
            Self::CloseStream { stream } => write!(f, "CloseStream({stream:?})"),
            Self::Media(command) => write!(f, "Media({command:?})"),
            Self::Resolve { query, host, port, transport } => {
                write!(f, "Resolve({query}, {host}:{port} {transport:?})")
            }
            Self::Cdr(cdr) => write!(f, "Cdr({cdr:?})"),
        }
    }
}
