//! What BGP says for or against sending to an address by an upstream.

use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::message::Community;
use super::prefix::Prefix;

/// R that a new way costs at once, and when half of it is forgotten. Half of all unintelligible
/// samples lie within 10 minutes of an update (Kushman et al., CCR 2007); then 0.3 is left.
const CHANGED: f64 = 5.0;
const CHANGED_HALF_LIFE: Duration = Duration::from_secs(150);
/// For so long copies are worth it.
const SHAKY: Duration = Duration::from_secs(60);
/// So many withdrawals of a way's route in so long cost so much R.
const FLAPS: usize = 2;
pub(super) const FLAP_WINDOW: Duration = Duration::from_secs(600);
const FLAPPING: f64 = 4.0;
/// Less R than this is nothing.
const NOTHING: f64 = 0.25;

/// How urgently a way is to be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Drain {
    /// Not at all.
    #[default]
    No,
    /// Somebody asks for it: it still carries.
    Asked,
    /// RPKI says that its route is not its origin's to announce: who knows where it ends.
    Invalid,
    /// Its route is gone: what is sent there may go nowhere.
    Withdrawn,
}

/// Something BGP holds against a way.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// No route any more, since then.
    Withdrawn(Instant),
    /// RFC 8326.
    GracefulShutdown,
    /// A community that the operator reads as "leave this".
    Drain(Community),
    /// A community that the operator gave a price in R.
    Cost(Community, f64),
    /// The route goes another way, since then.
    Changed(Instant),
    /// It was withdrawn so often in 10 minutes.
    Flapping(usize),
    /// RFC 6811: this AS, or a set of them, may not originate this prefix.
    RpkiInvalid(Option<u32>, Prefix),
}

impl Reason {
    /// All, by their labels.
    pub const NAMES: &'static [&'static str] = &[
        "withdrawn",
        "graceful_shutdown",
        "drain_community",
        "cost_community",
        "changed",
        "flapping",
        "rpki_invalid",
    ];

    /// As a label of metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Withdrawn(_) => "withdrawn",
            Self::GracefulShutdown => "graceful_shutdown",
            Self::Drain(_) => "drain_community",
            Self::Cost(..) => "cost_community",
            Self::Changed(_) => "changed",
            Self::Flapping(_) => "flapping",
            Self::RpkiInvalid(..) => "rpki_invalid",
        }
    }

    /// For people.
    pub fn sentence(&self, now: Instant) -> String {
        match self {
            Self::Withdrawn(at) => {
                format!("BGP withdrew its route {} s ago", (now - *at).as_secs())
            }
            Self::GracefulShutdown => {
                "the upstream announces a graceful shutdown (65535:0)".to_owned()
            }
            Self::Drain(community) => {
                format!("its route carries {community}, which means drain")
            }
            Self::Cost(community, cost) => {
                format!("its route carries {community}, which costs {cost} of R")
            }
            Self::Changed(at) => {
                format!(
                    "BGP changed its route {} s ago, what was measured before does not count",
                    (now - *at).as_secs()
                )
            }
            Self::Flapping(times) => {
                format!("BGP withdrew its route {times} times in 10 min")
            }
            Self::RpkiInvalid(origin, prefix) => {
                let origin = origin.map_or("a set of ASes".to_owned(), |asn| format!("AS{asn}"));
                format!("its route to {prefix} is from {origin}, which RPKI does not allow")
            }
        }
    }

    /// The same thing as before, though its figures may differ.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Withdrawn(_), Self::Withdrawn(_))
            | (Self::Changed(_), Self::Changed(_))
            | (Self::Flapping(_), Self::Flapping(_)) => true,
            (one, other) => one == other,
        }
    }
}

/// What speaks against sending to an address by an upstream; nothing by default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hint {
    /// In R.
    pub risk: f64,
    /// Copies are worth it.
    pub shaky: bool,
    /// To be left while there is something else.
    pub drain: Drain,
    /// When the route became another one: what was measured before was measured elsewhere.
    pub changed: Option<Instant>,
    /// ASes between the upstream and the destination's own, both not counted; sorted.
    pub transit: Arc<[u32]>,
    /// Why.
    pub reasons: Vec<Reason>,
}

impl Hint {
    /// Is it worth telling, after `before`?
    pub(super) fn differs(&self, before: &Self) -> bool {
        let flags =
            (self.shaky, self.drain, self.changed) != (before.shaky, before.drain, before.changed);
        let reasons = self.reasons.len() != before.reasons.len()
            || !self.reasons.iter().zip(&before.reasons).all(|(a, b)| a.is_like(b));
        let risk = (self.risk - before.risk).abs() >= NOTHING;
        flags || reasons || risk || self.transit != before.transit
    }

    pub(super) fn drain(&mut self, drain: Drain, reason: Reason) {
        self.drain = self.drain.max(drain);
        self.reasons.push(reason);
    }

    pub(super) fn cost(&mut self, community: Community, cost: f64) {
        self.risk += cost;
        self.reasons.push(Reason::Cost(community, cost));
    }

    pub(super) fn changed(&mut self, at: Instant, now: Instant) {
        self.changed = Some(at);
        let lives = (now - at).as_secs_f64() / CHANGED_HALF_LIFE.as_secs_f64();
        let risk = CHANGED * 0.5_f64.powf(lives);
        if risk >= NOTHING {
            self.risk += risk;
            self.shaky |= now - at < SHAKY;
            self.reasons.push(Reason::Changed(at));
        }
    }

    pub(super) fn flapped(&mut self, times: usize) {
        if times >= FLAPS {
            self.risk += FLAPPING;
            self.reasons.push(Reason::Flapping(times));
        }
    }

    /// Withdrawn, but so is everything else: then measurement decides, with copies for a while.
    pub(super) fn withdrawn_everywhere(&mut self, since: Instant, now: Instant) {
        self.shaky |= now - since < SHAKY;
        self.reasons.push(Reason::Withdrawn(since));
    }

    /// Not its origin's to announce; to be left only where another way is not so, too.
    pub(super) fn rpki_invalid(&mut self, origin: Option<u32>, prefix: Prefix, elsewhere: bool) {
        if elsewhere {
            self.drain = self.drain.max(Drain::Invalid);
        }
        self.reasons.push(Reason::RpkiInvalid(origin, prefix));
    }

    /// Does time alone change it?
    pub(super) fn is_restless(&self) -> bool {
        self.shaky
            || self
                .reasons
                .iter()
                .any(|reason| matches!(reason, Reason::Changed(_) | Reason::Flapping(_)))
    }
}
