//! Decisions in words.

use proto::id::PopId;
use proto::time::{Duration, Instant};

use super::choice::Candidate;
use super::health::Health;
use super::route::{Hop, Route};
use crate::bgp::{Drain, Reason};

/// Why a route is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The first path that was there.
    First,
    /// The path is no longer there.
    Gone,
    /// Silent for too long, or its connection broke.
    Down,
    /// The operator or the upstream wants it empty.
    Drained,
    /// Another path was better for long enough.
    Better,
    /// More loss than copies can repair.
    Lossy,
    /// Just switched: the old path goes on for a moment.
    Both,
    /// Silent: a copy goes another way, in case.
    Suspect,
    /// Loss that a repeat repairs.
    SomeLoss,
    /// Loss that needs another path.
    Loss,
    /// BGP changed its route lately.
    Shaky,
    /// Nothing is wrong.
    Clean,
}

impl Why {
    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Gone => "gone",
            Self::Down => "down",
            Self::Drained => "drained",
            Self::Better => "better",
            Self::Lossy => "lossy",
            Self::Both => "both",
            Self::Suspect => "suspect",
            Self::SomeLoss => "some_loss",
            Self::Loss => "loss",
            Self::Shaky => "shaky",
            Self::Clean => "clean",
        }
    }

    /// For people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::First => "it was the first path that answered",
            Self::Gone => "the path before is no longer there",
            Self::Down => "the path before went silent or its connection broke",
            Self::Drained => "the path before is being drained",
            Self::Better => "it was better than the path before for 5 s",
            Self::Lossy => "the path before lost more than copies can repair",
            Self::Both => "media just moved: the old path carries copies for a moment",
            Self::Suspect => "the path in use does not answer: copies go another way until it does",
            Self::SomeLoss => {
                "the path in use loses a little: each datagram is sent twice, 20 ms apart"
            }
            Self::Loss => "the path in use loses: copies go another way",
            Self::Shaky => "BGP changed the route of the path in use lately: copies go another way",
            Self::Clean => "the path in use is clean: nothing is sent twice any more",
        }
    }
}

/// One change of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// What it became.
    pub route: Route,
    /// Why.
    pub why: Why,
    /// What was known of each path then.
    pub candidates: Vec<Candidate>,
}

/// One path as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct PathReport {
    /// Towards the peer.
    pub sending: Candidate,
    /// What BGP holds against it.
    pub against: Vec<Reason>,
    /// Measured here, on what comes from the peer: datagrams and probes.
    pub receiving: super::LinkStats,
    /// Its connection is there.
    pub connected: bool,
    /// Nothing comes on it though it should.
    pub silent: bool,
    /// The peer says it sends its media here.
    pub used_by_peer: bool,
}

/// All paths to one POP.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerReport {
    /// Which.
    pub peer: PopId,
    /// It and this one, in the order in which paths name their upstreams.
    pub ends: [PopId; 2],
    /// How media is sent to it.
    pub route: Option<Route>,
    /// Why its last change came, since when.
    pub why: Option<(Why, Instant)>,
    /// Why its primary path is that one, since when.
    pub chosen: Option<(Why, Instant)>,
    /// What would be taken if it stays better, and when.
    pub contender: Option<(Hop, Instant)>,
    /// Each path.
    pub paths: Vec<PathReport>,
    /// What changed, oldest first.
    pub changes: Vec<Change>,
    /// How often it changed, by reason.
    pub totals: Vec<(Why, u64)>,
}

impl PeerReport {
    /// Which path carries media, why, and what would change it: sentences for people.
    pub fn explain(&self, now: Instant) -> Vec<String> {
        let Some(route) = &self.route else {
            return vec![format!("No path to {} is up.", self.peer)];
        };
        let mut lines = vec![self.lead(route, now)];
        lines.extend(self.paths.iter().map(|path| describe(path, route, now)));
        lines.push(match &self.contender {
            Some((hop, at)) => {
                let wait = (*at - now).as_secs();
                format!("Path {hop} is better; media moves there in {wait} s if it stays so.")
            }
            None => "If the path in use does not answer, copies go by another one at once, and media \
                     moves there after 0.8 s. It moves after 5 s to a path that is better by 4 of R or more, \
                     and also 10 ms shorter or with half the loss."
                .to_owned(),
        });
        let [lower, higher] = &self.ends;
        lines.push(format!(
            "Path A-B uses upstream A of {lower} and upstream B of {higher}, counted from 0; via X: POP \
             X passes it on. R is how good a G.711 call over the path can be, by its delay, queueing, \
             jitter and loss of the last seconds (ITU-T G.107): 80 and more is good, below 60 poor."
        ));
        lines
    }

    fn lead(&self, route: &Route, now: Instant) -> String {
        let mut line = format!("Media for {} goes by path {}", self.peer, route.primary);
        let because = |(why, since): (Why, Instant)| {
            format!(" (for {} s: {})", (now - since).as_secs(), why.sentence())
        };
        line += &self.chosen.map(because).unwrap_or_default();
        let twice = match (&route.copy, route.again) {
            (Some(copy), _) => format!(", and a copy of everything by {copy}"),
            (None, Some(again)) => {
                format!(", and everything goes again after {} ms", again.as_millis())
            }
            (None, None) => return line + ".",
        };
        line + &twice + &self.why.map(because).unwrap_or_default() + "."
    }
}

fn describe(path: &PathReport, route: &Route, now: Instant) -> String {
    let Candidate { hop, health, rtt, jitter, loss, risk, drain, .. } = &path.sending;
    let role = if *hop == route.primary {
        " carries media,"
    } else if route.copy.as_ref() == Some(hop) {
        " carries copies,"
    } else {
        ""
    };
    let rtt = rtt.map_or("no round trip yet".to_owned(), |rtt| {
        format!("round trip {:.1} ms", milliseconds(rtt))
    });
    let mut against =
        if *risk > 0.0 { format!(", {risk:.1} of R against it") } else { String::new() };
    against += match drain {
        Drain::No => "",
        Drain::Asked => ", used only if there is no other",
        Drain::Invalid => {
            ", by a route that may be somebody else's, used only if there is no other"
        }
        Drain::Withdrawn => ", without a route, used only if there is no other",
    };
    let reasons: Vec<String> = path.against.iter().map(|why| why.sentence(now)).collect();
    if !reasons.is_empty() {
        against += &format!(" ({})", reasons.join("; "));
    }
    let last = if matches!(health, Health::Down(_)) { ", last measured:" } else { "," };
    format!(
        "Path {hop}:{role} {}{last} {rtt}, jitter {:.1} ms, loss {:.2} %, R {:.1}{against}.",
        health.name(),
        milliseconds(*jitter),
        loss * 100.0,
        path.sending.r_factor(),
    )
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
