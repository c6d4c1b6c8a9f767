//! Totals since start, for the shell's metrics.

use crate::sdp::offer_answer::NegotiationError;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal),* $(,)?) => {
        /// Why a call or message was refused or dropped before it became a call of ours. Each has
        /// a counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name),*
        }

        impl Refusal {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

refusals! {
    /// 401 to a request without credentials: the normal first step of digest.
    AuthChallenge = "auth_challenge",
    /// 403: wrong user or password.
    AuthWrong = "auth_wrong",
    /// 404: the number called is none.
    BadNumber = "bad_number",
    /// 400, 415 or 488: the body of an INVITE is of no use.
    BadOffer = "bad_offer",
    /// 503: an operator wants this POP to take no new calls.
    Cordoned = "cordoned",
    /// 503: a newer process registered as this POP.
    Fenced = "fenced",
    /// A capsule of another POP that cannot be read: its half is not guarded here.
    BadCapsule = "bad_capsule",
    /// A message between POPs that is malformed or not expected.
    BadPeerMessage = "bad_peer_message",
    /// A capsule longer than any half needs.
    CapsuleTooLong = "capsule_too_long",
    /// 405 or 501.
    MethodNotAllowed = "method_not_allowed",
    /// 481.
    NoDialog = "no_dialog",
    /// 503: no media port left.
    NoPort = "no_port",
    /// 404: no route.
    NoRoute = "no_route",
    /// 403: from an address we call, but which may not call us.
    NotACaller = "not_a_caller",
    /// 503: as many calls as we take.
    Overload = "overload",
    /// 422: a session timer shorter than we take (RFC 4028 §6).
    SessionInterval = "session_interval",
    /// 503: we are shutting down.
    ShuttingDown = "shutting_down",
    /// A setup, capsule or rejoining call of a POP with an outdated epoch.
    StaleEpoch = "stale_epoch",
    /// 503: the trunk has all the calls it may have.
    TrunkFull = "trunk_full",
    /// Silence: from an address of no trunk.
    UnknownSource = "unknown_source",
}

/// Totals since start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PopCounters {
    /// Calls that came in at this POP, refused ones not included.
    pub calls_in: u64,
    /// Calls refused with a record: for want of a route, or for a limit.
    pub calls_refused: u64,
    /// Attempts to leave at this POP.
    pub calls_out: u64,
    /// Calls answered, counted where they came in.
    pub calls_answered: u64,
    /// Candidates given up for the next one.
    pub candidates_failed: u64,
    /// Keys out of band (INFO) that could not be passed on.
    pub infos_dropped: u64,
    /// Media ports that another program had; others were taken.
    pub ports_taken: u64,
    /// Refreshes of session timers, and questions whether a peer is still there.
    pub probes: u64,
    /// Records written.
    pub cdrs: u64,
    /// Re-INVITEs refused for glare (491).
    pub glare: u64,
    /// 2xx to a cancelled or already answered INVITE: acknowledged and ended at once.
    pub stray_answers: u64,
    /// Capsules sent to guardians.
    pub capsules_sent: u64,
    /// Halves of lost or drained POPs taken over.
    pub halves_taken: u64,
    /// Their peers that followed.
    pub halves_arrived: u64,
    /// Halves of lost POPs that could not be saved.
    pub halves_lost: u64,
    /// The longest time from taking over to the peer's answer, in ms.
    pub takeover_ms_max: u64,
    /// Halves of ours that other POPs took because this one is drained.
    pub halves_handed_over: u64,
    /// Halves that were to be handed over and could not be.
    pub halves_kept: u64,
    /// Calls whose halves lost the stream between them and found another.
    pub calls_rejoined: u64,
    refused: [u64; Refusal::ALL.len()],
    answers_refused: [u64; NegotiationError::ALL.len()],
}

impl PopCounters {
    /// How many were refused for `reason`.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many answers to our offers were of no use for `reason`.
    pub fn answers_refused(&self, reason: NegotiationError) -> u64 {
        self.answers_refused.get(reason as usize).copied().unwrap_or(0)
    }

    pub(crate) fn refuse_answer(&mut self, reason: NegotiationError) {
        if let Some(counter) = self.answers_refused.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    pub(crate) fn refuse(&mut self, reason: Refusal) {
        if let Some(counter) = self.refused.get_mut(reason as usize) {
            *counter += 1;
        }
    }
}
