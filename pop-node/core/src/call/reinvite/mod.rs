//! Offer/answer exchanges within an answered call (RFC 3261 §14, RFC 3264 §8).
//!
//! A re-INVITE of the near peer becomes a `MediaUpdate` to the other half, which re-INVITEs its own
//! peer; the result comes back the same way. One exchange at a time: whatever meets a running one
//! gets 491 (glare, §14.1) or, while an INVITE of the same peer is unanswered, 500 with Retry-After
//! (§14.2). An offer that changes neither codecs nor direction is answered here. An UPDATE with an
//! offer (RFC 3311) is treated alike, but for the ACK. A refresh of the session timer (RFC 4028) is
//! a re-INVITE without an update behind it.

mod far;
mod near;

use proto::call::call_message::Kind;
use proto::call::{Media, MediaUpdate, MediaUpdateAnswer, MediaUpdateReject};
use proto::time::{Duration, Instant};

use super::leg::{FarMedia, Leg, SDP};
use super::session::Session;
use super::timer::{self, Terms};
use super::{EndCause, Half, Offer, Side, State, media, plain, too_short};
use crate::media::Direction;
use crate::pop::Refusal;
use crate::pop::core::Core;
use crate::pop::index::Handle;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::{Description, RemoteMedia, both, reversed};
use crate::sip::{ClientTx, FailReason, HeaderName, Method, Request, Response, ServerTx};

/// An UPDATE must be answered before its client gives up (Timer F, RFC 3261 §17.1.2.2).
const UPDATE_LIMIT: Duration = Duration::from_secs(25);

/// The one exchange that may run.
#[derive(Debug)]
pub(crate) enum Exchange {
    Idle,
    /// We sent a 2xx; the ACK is due, with an answer if the 2xx `offered`.
    AwaitingAck {
        tx: ServerTx,
        first: bool,
        offered: bool,
    },
    /// The other half was told; its answer is due.
    AwaitingFar {
        then: Then,
        deadline: Instant,
    },
    /// We sent a re-INVITE for the other half's update.
    Inviting {
        invite: Box<Invite>,
        deadline: Instant,
    },
}

/// What to do with the other half's answer.
#[derive(Debug)]
pub(crate) enum Then {
    /// Answer the near peer's INVITE.
    Answer(Box<Pending>),
    /// Nothing but media: the near peer has its answer.
    Settle,
    /// The near peer cancelled its INVITE: take the update back.
    Undo,
}

/// An INVITE of the near peer.
#[derive(Debug, Clone)]
struct Asked {
    tx: ServerTx,
    request: Request,
}

#[derive(Debug)]
pub(crate) struct Pending {
    asked: Asked,
    offer: SessionDescription,
    remote: RemoteMedia,
}

/// An INVITE of ours, and the update it is for; none: a refresh.
#[derive(Debug)]
pub(crate) struct Draft {
    request: Request,
    media: Option<Media>,
    /// Sent again with credentials or a longer interval already.
    challenged: bool,
    /// Sent over a new connection already.
    moved: bool,
    /// Calls the peer over to this POP.
    calls_over: bool,
}

#[derive(Debug)]
pub(crate) struct Invite {
    tx: ClientTx,
    draft: Draft,
}

impl Exchange {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Idle | Self::AwaitingAck { .. } => None,
            Self::AwaitingFar { deadline, .. } | Self::Inviting { deadline, .. } => Some(*deadline),
        }
    }

    pub(super) fn unacknowledged(&self) -> Option<ServerTx> {
        match self {
            Self::AwaitingAck { tx, .. } => Some(*tx),
            Self::Idle | Self::AwaitingFar { .. } | Self::Inviting { .. } => None,
        }
    }

    pub(super) fn first_unacknowledged(&self) -> Option<ServerTx> {
        match self {
            Self::AwaitingAck { tx, first: true, .. } => Some(*tx),
            Self::AwaitingAck { .. }
            | Self::Idle
            | Self::AwaitingFar { .. }
            | Self::Inviting { .. } => None,
        }
    }

    /// The other half is another one from now on, and knows nothing of what it was asked.
    pub(super) fn forget_far(&mut self, core: &mut Core, now: Instant) {
        if let Self::AwaitingFar { .. } = self
            && let Self::AwaitingFar { then: Then::Answer(pending), .. } =
                std::mem::replace(self, Self::Idle)
        {
            // It asks again (RFC 3261 §14.1).
            refuse(&pending.asked, 491, core, now);
        }
    }

    /// A dialog that ends answers what is pending in it (RFC 3261 §15.1.2), and takes back what
    /// it asked.
    pub(super) fn refuse_pending(&mut self, core: &mut Core, now: Instant) {
        match self {
            Self::AwaitingFar { then: Then::Answer(pending), .. } => {
                core.respond(pending.asked.tx, plain(&pending.asked.request, 487), now);
            }
            // A peer that rang but never answers would keep the transaction forever.
            Self::Inviting { invite, .. } => core.abandon(invite.tx, now),
            Self::Idle | Self::AwaitingAck { .. } | Self::AwaitingFar { .. } => {}
        }
        if !matches!(self, Self::AwaitingAck { .. }) {
            *self = Self::Idle;
        }
    }
}

impl Then {
    fn is_for_update(&self) -> bool {
        matches!(self, Self::Answer(pending) if pending.asked.request.method == Method::Update)
    }
}

impl Draft {
    fn new(request: Request, media: Option<Media>) -> Self {
        Self { request, media, challenged: false, moved: false, calls_over: false }
    }

    /// Calls the peer over to this POP.
    pub(super) fn of_move(request: Request) -> Self {
        Self { calls_over: true, ..Self::new(request, None) }
    }

    /// The update it was for, if any, came to nothing.
    fn fail(&self, status: u16, half: &Half, core: &mut Core) {
        if self.media.is_some() {
            reject_update(status, half, core);
        }
    }
}

/// Answers an INVITE of the near peer with no.
fn refuse(asked: &Asked, status: u16, core: &mut Core, now: Instant) {
    core.respond(asked.tx, plain(&asked.request, status), now);
    core.index.remove(&Handle::Server(asked.tx));
}

fn reject_update(status: u16, half: &Half, core: &mut Core) {
    let reason = crate::sip::reason_phrase(status).to_owned();
    let reject = MediaUpdateReject { status: u32::from(status), reason };
    half.tell(Kind::UpdateReject(reject), core);
}

/// All we could do on a leg, what is in use first.
pub(super) fn full_offer(half: &Half, direction: Direction) -> Description {
    let used = half.leg.agreed.map(|agreed| agreed.codec);
    let first: Vec<_> = used.or(half.far.map(|far| far.codec)).into_iter().collect();
    Description {
        codecs: media::preferred(&first, &half.leg.allowed),
        telephone_event: half.far.is_none_or(|far| far.telephone_event),
        comfort_noise: half.far.is_some_and(|far| far.comfort_noise),
        direction,
        ptime_ms: half.far.map_or(media::PTIME_MS, |far| far.ptime_ms),
        opus: half.far.and_then(|far| far.opus).unwrap_or_default(),
        redundant: false,
    }
}

/// Our answer to an offer, in the name of the far party: its codec if that was offered, else the
/// offer's first and this POP transcodes.
pub(super) fn answer_description(
    remote: &RemoteMedia,
    leg: &Leg,
    far: FarMedia,
    answer: &Media,
) -> Description {
    let common = remote.codecs.iter().map(|n| n.codec).filter(|c| leg.allowed.contains(c));
    let common = leg.treatment.order(common.collect());
    let needed = common.first().filter(|_| leg.treatment.low_bandwidth);
    let same = needed.or_else(|| common.iter().find(|codec| **codec == far.codec)).copied();
    let codec = same.or(common.first().copied());
    let same = codec == Some(far.codec);
    Description {
        codecs: codec.into_iter().collect(),
        telephone_event: far.telephone_event,
        // Whoever transcodes makes noise of it.
        comfort_noise: far.comfort_noise || !same,
        direction: both(media::direction(answer), reversed(remote.direction)),
        ptime_ms: media::ptime_ms(answer),
        opus: media::opus(answer),
        redundant: false,
    }
}
