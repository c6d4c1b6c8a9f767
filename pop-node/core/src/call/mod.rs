//! Calls: a back-to-back user agent (RFC 7092) in two halves.
//!
//! The half where the call came in ([`Side::Ingress`]) hunts through the candidates; the half where
//! it leaves ([`Side::Egress`]) calls a trunk. They speak `proto::call` messages, over a stream when
//! they are at two POPs and by internal mail when at one, so that there is one kind of call only.
//! After the answer both halves are the same machine:
//!
//! ```text
//!   ingress  Hunting ───────────┐
//!                               ├─▶ Talking ─▶ Ending ─▶ Over
//!   egress   Opening ▶ Resolving ▶ Inviting ┘ └──────────▲
//! ```
//!
//! Invariants: a half that ends has told the other half (unless that told it), closed its leg and
//! handed in its record, in `Half::finish`, once; only `Ending` lives on, for the last SIP
//! transaction of the dialog. Transcoding, where needed, is at the ingress.
//!
//! Deliberately absent: REFER, following redirections, preconditions (RFC 3312), a new offer before
//! the answer.
//! Stories: `pop/tests`.

mod adopt;
mod capsule;
mod cdr;
mod egress;
mod ending;
mod half;
mod info;
mod ingress;
mod leg;
mod liveness;
mod media;
mod reinvite;
mod reliable;
mod session;
pub(crate) mod timer;

use proto::call::call_message::Kind;
use proto::call::{CallSetup, Capsule, MediaLoss};
use proto::id::{CallId, LegId};
use proto::time::Instant;

pub(crate) use adopt::{Arrived, Taking, farewell};
pub(crate) use capsule::{Kept, Name};
pub use cdr::{Cdr, CdrRole, EndCause};
pub(crate) use half::{Begun, Half, Record};
pub(crate) use ingress::{Hunt, Offer};
pub(crate) use leg::{Leg, Opening, SDP};
pub(crate) use media::{security, trunk_codecs};
pub(crate) use reliable::Reliable;

use crate::media::MediaCommand;
use crate::pop::CallStream;
use crate::pop::Phase;
use crate::pop::core::{Core, Resolved};
use crate::sip::{
    ClientTx, FailReason, Flow, HeaderName, Method, Request, Response, ServerTx, Text,
};

/// A half of a call at this POP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallKey(pub(crate) u64);

/// How to reach the other half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    Local(CallKey),
    Remote(CallStream),
}

/// Which half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Egress,
    Ingress,
}

/// Whatever can happen to a call.
#[derive(Debug)]
pub(crate) enum Input {
    Ack {
        tx: ServerTx,
        request: Request,
    },
    AckMissing {
        tx: ServerTx,
    },
    Cancelled {
        tx: ServerTx,
    },
    Failed {
        tx: ClientTx,
        reason: FailReason,
    },
    Far(Kind),
    FarLost,
    /// A link that was waited for is there.
    LinkUp,
    /// The half was to go on at another POP, and its peer did not follow or not for good.
    Kept,
    /// The half goes on at another POP.
    Moved,
    /// The media port of the leg is ours.
    Opened,
    /// Another program has the media port of the leg.
    PortTaken,
    PrackMissing {
        tx: ServerTx,
    },
    Request {
        tx: ServerTx,
        flow: Flow,
        request: Request,
    },
    Resolved(Resolved),
    Response {
        tx: ClientTx,
        response: Response,
    },
    Shutdown,
    /// The media of the leg stopped although its peer may send.
    Silent,
    Timeout,
}

/// The other half asks for a leg here.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) key: CallKey,
    /// To the half that asks.
    pub(crate) back: Link,
    /// Ours.
    pub(crate) leg: LegId,
    /// Of the half that asks, at the same POP.
    pub(crate) peer_leg: Option<LegId>,
    pub(crate) call_id: CallId,
    pub(crate) setup: CallSetup,
}

#[derive(Debug)]
enum State {
    Hunting(Box<Hunt>),
    Opening(Box<egress::Preparing>),
    Resolving(Box<egress::Resolving>),
    Inviting(Box<egress::Inviting>),
    Talking(Box<session::Session>),
    Ending(Box<ending::Ending>),
    Over,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) half: Half,
    state: State,
}

impl Call {
    /// A call that came in: tries the first candidate.
    pub(crate) fn ingress(half: Half, hunt: Hunt, core: &mut Core, now: Instant) -> Self {
        let mut call = Self { half, state: State::Over };
        call.state = Box::new(hunt).start(&mut call.half, core, now);
        call
    }

    /// A call that shall leave here; `None` if it was rejected at once.
    pub(crate) fn egress(begin: Begin, core: &mut Core, now: Instant) -> Option<Self> {
        let (half, state) = egress::begin(begin, core, now)?;
        Some(Self { half, state })
    }

    /// So much of what the other half sends is lost on its way to our peer's ear.
    pub(crate) fn tell_loss(&self, percent: u8, core: &mut Core) {
        self.half.tell(Kind::Loss(MediaLoss { percent: percent.into() }), core);
    }

    pub(crate) fn handle(&mut self, input: Input, core: &mut Core, now: Instant) {
        let half = &mut self.half;
        // The same in all states: it is for the media plane.
        if let Input::Far(Kind::Loss(MediaLoss { percent })) = input {
            let percent = u8::try_from(percent.min(100)).unwrap_or(100);
            return core.media(MediaCommand::ExpectLoss { leg: half.leg.id, percent });
        }
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Hunting(hunt) => hunt.handle(half, input, core, now),
            State::Opening(opening) => opening.handle(half, input, core, now),
            State::Resolving(resolving) => resolving.handle(half, input, core, now),
            State::Inviting(inviting) => inviting.handle(half, input, core, now),
            State::Talking(session) => session.handle(half, input, core, now),
            State::Ending(ending) => ending.handle(half, input, core, now),
            State::Over => State::Over,
        };
    }

    /// The half as data; `None` if it is not answered, or over.
    pub(crate) fn capsule(&self) -> Option<Capsule> {
        match &self.state {
            State::Talking(session) => session.capsule(&self.half),
            _ => None,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Hunting(hunt) => hunt.deadline(),
            State::Opening(opening) => Some(opening.deadline()),
            State::Resolving(resolving) => Some(resolving.deadline()),
            State::Inviting(inviting) => Some(inviting.deadline()),
            State::Talking(session) => session.deadline(),
            State::Ending(_) | State::Over => None,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Hunting(_) | State::Opening(_) | State::Resolving(_) | State::Inviting(_) => {
                Phase::SettingUp
            }
            State::Talking(_) => Phase::Answered,
            State::Ending(_) | State::Over => Phase::Ending,
        }
    }
}

/// The methods we take (RFC 3261 §20.5).
pub(crate) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK";

/// A response without more to say; 405 names what is allowed (RFC 3261 §21.4.6).
pub(crate) fn plain(request: &Request, status: u16) -> Response {
    let response = Response::to_request(request, status);
    match status {
        405 => response.with_header(HeaderName::Allow, ALLOW),
        415 => response.with_header(HeaderName::Accept, SDP),
        _ => response,
    }
}

/// 200 to OPTIONS (RFC 3261 §11.2).
pub(crate) fn capabilities(request: &Request) -> Response {
    Response::to_request(request, 200)
        .with_header(HeaderName::Allow, ALLOW)
        .with_header(HeaderName::Accept, SDP)
        .with_header(HeaderName::Supported, timer::SUPPORTED)
}

/// 422 (RFC 4028 §6).
pub(crate) fn too_short(request: &Request, timing: &crate::pop::Timing) -> Response {
    let mut response = plain(request, 422);
    response.headers.push(HeaderName::MinSe, timer::min_se(timing));
    response
}

/// What a request gets that is served nowhere in particular.
pub(crate) fn other_request(request: &Request) -> Response {
    match &request.method {
        Method::Options => capabilities(request),
        // For no reliable response of ours (RFC 3262 §3).
        Method::Prack => plain(request, 481),
        Method::Other(_) => plain(request, 501),
        _ => plain(request, 405),
    }
}

/// The status of a message between POPs, as one of SIP.
pub(crate) fn status(number: u32, default: u16) -> u16 {
    u16::try_from(number).ok().filter(|s| (300..700).contains(s)).unwrap_or(default)
}

/// `Reason` of a BYE or CANCEL (RFC 3326).
pub(crate) fn reason(status: u16, text: &str) -> String {
    let words = text.chars().map(|c| if c == '_' { ' ' } else { c });
    let clean: String = words.filter(|c| c.is_ascii_alphanumeric() || *c == ' ').collect();
    format!("SIP ;cause={status} ;text=\"{clean}\"")
}

/// Whether a request in a dialog is of its peer.
fn is_of(dialog: &crate::sip::Dialog, request: &Request) -> bool {
    dialog.remote.tag().unwrap_or_default() == request.headers.from_tag().unwrap_or_default()
}

/// The tag of a response's To: which fork it is of.
fn fork(response: &Response) -> Text {
    response.headers.to_tag().unwrap_or_default()
}

/// The next value of a small mixing generator: enough for weights, never for secrets.
pub(crate) const fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
