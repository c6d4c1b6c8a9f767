//! The record of a call (CDR).
//!
//! The POP where the call came in writes the one that is billed (`Ingress` or `Local`); the POP
//! where it left writes its half (`Egress`), to be compared with it.

use proto::e164::E164;
use proto::id::{CallId, PopId, TrunkId};
use proto::time::Instant;

use crate::codec::Codec;
use crate::media::QualityReport;

/// Which part of the call this POP had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CdrRole {
    /// It left here; it came in elsewhere.
    Egress,
    /// It came in here, and left elsewhere or not at all.
    Ingress,
    /// It came in and left here.
    Local,
}

/// Why a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndCause {
    /// Our 2xx was never acknowledged.
    AckMissing,
    /// The callee hung up.
    CalleeHungUp,
    /// The caller gave up before the answer.
    CallerCancelled,
    /// The caller hung up.
    CallerHungUp,
    /// A leg no longer knew the dialog, or did not answer in it.
    DialogLost,
    /// The stream to the other POP broke.
    LinkLost,
    /// No media could be agreed on although the call was answered.
    NoMedia,
    /// No route to the number.
    NoRoute,
    /// The POP that had the leg was lost, and the peer did not follow to another one.
    NotMoved,
    /// As many calls as this POP or the trunk takes, or no media port.
    Overload,
    /// The other POP ended it for a reason of its own; the status says more.
    PeerEnded,
    /// Nobody answered in time.
    RingTimeout,
    /// Refused by the callee or, at last, by all candidates.
    Rejected,
    /// The peer of a leg answers nothing any more: no probe, no refresh, no PRACK.
    PeerVanished,
    /// The peer should have refreshed the session and did not (RFC 4028 §10).
    SessionExpired,
    /// This POP was shut down.
    Shutdown,
}

impl EndCause {
    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckMissing => "ack_missing",
            Self::CalleeHungUp => "callee_hung_up",
            Self::CallerCancelled => "caller_cancelled",
            Self::CallerHungUp => "caller_hung_up",
            Self::DialogLost => "dialog_lost",
            Self::LinkLost => "link_lost",
            Self::NoMedia => "no_media",
            Self::NoRoute => "no_route",
            Self::NotMoved => "not_moved",
            Self::Overload => "overload",
            Self::PeerEnded => "peer_ended",
            Self::PeerVanished => "peer_vanished",
            Self::RingTimeout => "ring_timeout",
            Self::Rejected => "rejected",
            Self::SessionExpired => "session_expired",
            Self::Shutdown => "shutdown",
        }
    }

    /// Why the other half ended the call, by the name it gave.
    pub(crate) fn of_other_half(name: &str) -> Self {
        let told = [Self::NoMedia, Self::NotMoved, Self::PeerVanished, Self::SessionExpired];
        told.into_iter().find(|cause| cause.name() == name).unwrap_or(Self::PeerEnded)
    }
}

/// What is known of a call when it is over. Times are on the POP's own clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Cdr {
    /// The call, the same at each POP.
    pub call_id: CallId,
    /// Who writes.
    pub pop: PopId,
    /// Which part it had.
    pub role: CdrRole,
    /// Caller; `None`: anonymous.
    pub from: Option<E164>,
    /// Called number.
    pub to: E164,
    /// Where it came in, if here.
    pub trunk_in: Option<TrunkId>,
    /// Where it left, or was last tried.
    pub trunk_out: Option<TrunkId>,
    /// The POP with the other half, if another.
    pub peer: Option<PopId>,
    /// INVITE or setup received.
    pub started: Instant,
    /// First 18x.
    pub ringing: Option<Instant>,
    /// 2xx.
    pub answered: Option<Instant>,
    /// End.
    pub ended: Instant,
    /// Why it ended.
    pub cause: EndCause,
    /// SIP status: 200 after an answer, else what the caller was told.
    pub status: u16,
    /// Candidates tried.
    pub attempts: u32,
    /// The POP that had a half of the call before this one took it over.
    pub moved_from: Option<PopId>,
    /// Codec towards the caller (for `Egress`: of the overlay).
    pub codec_in: Option<Codec>,
    /// Codec towards the callee (for `Ingress`: of the overlay).
    pub codec_out: Option<Codec>,
    /// What the leg to the caller received.
    pub quality_in: Option<QualityReport>,
    /// What the leg to the callee received.
    pub quality_out: Option<QualityReport>,
}
