//! The client of RPKI caches: RPKI-to-Router version 1 (RFC 8210), or 0 (RFC 6810) with an old cache.
//!
//! One connection at a time, in the order the operator gave. What a cache told is used when it told
//! all of it (End of Data), until it expires, whoever told it; a new address of interest has
//! everything asked anew, for only records that cover such an address are kept. Nothing is ever held
//! against a route because a cache is lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::rpki::{Vrp, Vrps};

/// Records kept, and changes of one answer: a few for each address of interest.
const VRPS_MAX: usize = 65_536;
/// A cache that owes an answer, or more of it, and says nothing for so long is left.
const SILENT: Duration = Duration::from_secs(60);
/// An answer that is not over after so long never will be.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// Between two times that all is asked again for new addresses.
const ALL_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// A cache that knew version 0 only may have been replaced after so long.
const OLD_FOR: Duration = Duration::from_secs(24 * 3_600);
/// RFC 8210 §12: the cache does not know our version.
const UNSUPPORTED_VERSION: u16 = 4;

/// When to ask again and how long to believe (RFC 8210 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Ask for changes after so long.
    pub refresh: Duration,
    /// What was told is forgotten after so long.
    pub expire: Duration,
}

impl Timing {
    /// In seconds, as far as the cache says; brought into the bounds of RFC 8210 §6.
    pub fn new(refresh: Option<u32>, expire: Option<u32>) -> Self {
        let seconds = |value: Option<u32>, default: u32, least: u32, most: u32| {
            Duration::from_secs(value.unwrap_or(default).clamp(least, most).into())
        };
        let expire = seconds(expire, 7_200, 600, 172_800);
        // In time for another try before it is forgotten.
        Self { refresh: seconds(refresh, 3_600, 1, 86_400).min(expire / 2), expire }
    }
}

/// What a cache says, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pdu {
    /// Serial Notify: there is news.
    Notify(State),
    /// Cache Response: what was asked for follows.
    Response {
        /// Session ID.
        session: u16,
    },
    /// IPv4 Prefix or IPv6 Prefix.
    Record {
        /// Which.
        vrp: Vrp,
        /// Or withdrawn.
        announced: bool,
    },
    /// End of Data.
    End {
        /// It is so up to there.
        state: State,
        /// From when to when.
        timing: Timing,
    },
    /// Cache Reset: it cannot tell what changed since.
    Reset,
    /// Error Report, with this code.
    Error(u16),
    /// Router keys.
    Other,
}

/// Which state of a cache's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Session ID.
    pub session: u16,
    /// Serial number, wraps.
    pub serial: u32,
}

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// Reset Query: everything.
    All,
    /// Serial Query: what changed since.
    Since(State),
}

/// Why a connection to a cache is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Leave {
    /// The other end closed it, or it broke.
    #[error("closed by the cache, or broken")]
    Closed,
    /// It reports an error.
    #[error("the cache reports error {0} (RFC 8210 §12)")]
    Error(u16),
    /// Not RTR.
    #[error("what it says cannot be read as RTR (RFC 8210 §5)")]
    Malformed,
    /// It owes an answer.
    #[error("no answer, or no end of it")]
    Silent,
    /// More records than anybody needs.
    #[error("more than 65536 records for addresses of interest")]
    TooMany,
    /// The cache cannot be reached.
    #[error("cannot be reached")]
    Unreachable,
    /// A PDU that nothing asked for, of another session or version.
    #[error("a PDU that does not belong there (RFC 8210 §8)")]
    Unexpected,
    /// It speaks version 0 only: so do we, next time.
    #[error("it knows an older version only: again with that")]
    Version,
}

impl Leave {
    /// All, by their labels in metrics.
    pub const NAMES: &'static [&'static str] = &[
        "closed",
        "error",
        "malformed",
        "silent",
        "too_many",
        "unexpected",
        "unreachable",
        "version",
    ];

    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Error(_) => "error",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
            Self::TooMany => "too_many",
            Self::Unexpected => "unexpected",
            Self::Unreachable => "unreachable",
            Self::Version => "version",
        }
    }
}

#[derive(Debug, Clone)]
enum Phase {
    /// No connection.
    Away,
    /// Nothing is owed.
    Idle,
    /// A query is under way.
    Asked { query: Query, since: Instant },
    /// An answer comes: what it says of wanted prefixes.
    Told { vrps: Vrps, session: u16, begun: Instant, heard: Instant },
}

/// What is known, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtrReport {
    /// Which of the caches is connected.
    pub cache: Option<usize>,
    /// Protocol version.
    pub version: u8,
    /// What it told to the end, and when.
    pub told: Option<(State, Instant)>,
    /// Records kept.
    pub records: usize,
    /// When they are forgotten unless told anew.
    pub expires: Option<Instant>,
}

/// The machine.
#[derive(Debug)]
pub struct Rtr {
    interest: Arc<BTreeSet<IpAddr>>,
    vrps: Arc<Vrps>,
    /// Told to the end then.
    fresh: Option<Instant>,
    timing: Timing,
    /// Which of the caches is, or was, connected, and its version of the protocol.
    cache: usize,
    version: u8,
    /// Since when that is not the newest.
    old: Option<Instant>,
    /// It answered in that version.
    agreed: bool,
    /// What was told by it, in this or an earlier connection.
    state: Option<State>,
    notified: Option<State>,
    phase: Phase,
    query: Option<Query>,
    asked_all: Option<Instant>,
}

impl Rtr {
    /// Nothing known.
    pub fn new() -> Self {
        Self {
            interest: Arc::default(),
            vrps: Arc::default(),
            fresh: None,
            timing: Timing::new(None, None),
            cache: 0,
            version: 1,
            old: None,
            agreed: false,
            state: None,
            notified: None,
            phase: Phase::Away,
            query: None,
            asked_all: None,
        }
    }

    /// What is known, for [`super::Bgp::set_vrps`].
    pub const fn vrps(&self) -> &Arc<Vrps> {
        &self.vrps
    }

    /// Protocol version of queries.
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// Addresses that matter: all of them, each time.
    pub fn set_interest(&mut self, addresses: &Arc<BTreeSet<IpAddr>>, now: Instant) {
        self.interest = addresses.clone();
        self.catch_up(now);
    }

    /// A connection to this cache, by its number, is there.
    pub fn connect(&mut self, cache: usize, now: Instant) {
        if cache != self.cache {
            // Another's serial numbers mean nothing to it.
            (self.cache, self.version, self.old, self.state) = (cache, 1, None, None);
        }
        if self.version == 0 && now - *self.old.get_or_insert(now) >= OLD_FOR {
            (self.version, self.old) = (1, None);
        }
        (self.agreed, self.notified) = (false, None);
        let query = match self.state {
            Some(state) if !self.vrps.lacks(&self.interest) => Query::Since(state),
            _ => Query::All,
        };
        self.ask(query, now);
    }

    /// The connection is gone, for that reason. What is known stays until it expires.
    pub fn disconnect(&mut self, why: Leave) {
        (self.phase, self.query) = (Phase::Away, None);
        match why {
            Leave::Version => self.version = 0,
            // Perhaps because of what was asked.
            Leave::Error(_) | Leave::Unexpected | Leave::TooMany => self.state = None,
            _ => {}
        }
    }

    fn ask(&mut self, query: Query, now: Instant) {
        if query == Query::All {
            self.asked_all = Some(now);
        }
        // What is told of from now on is newer than the answer, or in it.
        self.notified = None;
        (self.phase, self.query) = (Phase::Asked { query, since: now }, Some(query));
    }

    /// Asks for what is missing, if nothing is owed and it is time.
    fn catch_up(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        let refresh = self.fresh.map(|at| at + self.timing.refresh);
        let news = self.notified.is_some_and(|notified| Some(notified) != self.state);
        match self.state {
            _ if self.vrps.lacks(&self.interest) => {
                if self.asked_all.is_none_or(|at| now - at >= ALL_AGAIN_EVERY) {
                    self.ask(Query::All, now);
                }
            }
            Some(state) if news || refresh.is_none_or(|at| at <= now) => {
                self.ask(Query::Since(state), now);
            }
            Some(_) => {}
            None => self.ask(Query::All, now),
        }
    }

    /// The cache said this in that version. True if [`Self::vrps`] changed.
    pub fn handle(&mut self, version: u8, pdu: Pdu, now: Instant) -> Result<bool, Leave> {
        if !self.agree(version, pdu)? {
            return Ok(false);
        }
        match (std::mem::replace(&mut self.phase, Phase::Away), pdu) {
            (phase, Pdu::Notify(state)) => {
                (self.phase, self.notified) = (phase, Some(state));
                self.catch_up(now);
            }
            (Phase::Told { vrps, session, begun, .. }, Pdu::Other) => {
                self.phase = Phase::Told { vrps, session, begun, heard: now };
            }
            (phase, Pdu::Other) => self.phase = phase,
            (Phase::Asked { query, .. }, Pdu::Response { session }) => {
                self.phase = self.begin(query, session, now)?;
            }
            (Phase::Asked { query: Query::Since(_), .. }, Pdu::Reset) => {
                self.ask(Query::All, now);
            }
            (Phase::Told { mut vrps, session, begun, .. }, Pdu::Record { vrp, announced }) => {
                if vrps.wants(&vrp.prefix) {
                    vrps.change(vrp, announced);
                }
                if vrps.len() > VRPS_MAX {
                    return Err(Leave::TooMany);
                }
                self.phase = Phase::Told { vrps, session, begun, heard: now };
            }
            (Phase::Told { vrps, session, .. }, Pdu::End { state, timing })
                if state.session == session =>
            {
                return Ok(self.end(vrps, (state, timing), now));
            }
            _ => return Err(Leave::Unexpected),
        }
        Ok(false)
    }

    /// RFC 8210 §7: the first answer settles the version; false for what comes before it.
    fn agree(&mut self, version: u8, pdu: Pdu) -> Result<bool, Leave> {
        match pdu {
            Pdu::Error(UNSUPPORTED_VERSION) if !self.agreed && self.version > 0 => {
                Err(Leave::Version)
            }
            Pdu::Error(code) => Err(Leave::Error(code)),
            Pdu::Notify(_) if !self.agreed => Ok(false),
            _ if self.agreed && version != self.version => Err(Leave::Unexpected),
            _ if version > self.version => Err(Leave::Unexpected),
            _ => {
                (self.agreed, self.version) = (true, version);
                Ok(true)
            }
        }
    }

    fn begin(&self, query: Query, session: u16, now: Instant) -> Result<Phase, Leave> {
        let vrps = match query {
            Query::All => Vrps::new(self.interest.clone()),
            // What changed in another session's data changes nothing in this one's.
            Query::Since(state) if state.session != session => return Err(Leave::Unexpected),
            Query::Since(_) => Vrps::clone(&self.vrps),
        };
        Ok(Phase::Told { vrps, session, begun: now, heard: now })
    }

    fn end(&mut self, vrps: Vrps, (state, timing): (State, Timing), now: Instant) -> bool {
        (self.phase, self.state, self.timing) = (Phase::Idle, Some(state), timing);
        self.fresh = Some(now);
        let changed = *self.vrps != vrps;
        if changed {
            self.vrps = Arc::new(vrps);
        }
        self.catch_up(now);
        changed
    }

    /// Forgets what is too old, also without a cache. True if [`Self::vrps`] changed.
    pub fn expire(&mut self, now: Instant) -> bool {
        let expired = self.expires().is_some_and(|at| at <= now);
        if expired {
            (self.fresh, self.state, self.vrps) = (None, None, Arc::default());
        }
        expired
    }

    /// Time has come: asks what is due, and leaves a cache that says nothing.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Leave> {
        let is_late = match &self.phase {
            Phase::Asked { since, .. } => now - *since >= SILENT,
            Phase::Told { begun, heard, .. } => {
                now - *heard >= SILENT || now - *begun >= ANSWER_MAX
            }
            Phase::Away | Phase::Idle => false,
        };
        self.catch_up(now);
        if is_late { Err(Leave::Silent) } else { Ok(()) }
    }

    fn expires(&self) -> Option<Instant> {
        self.fresh.map(|at| at + self.timing.expire)
    }

    /// What to send, if anything.
    pub fn poll_query(&mut self) -> Option<Query> {
        self.query.take()
    }

    /// Everything that is known.
    pub fn report(&self) -> RtrReport {
        RtrReport {
            cache: (!matches!(self.phase, Phase::Away)).then_some(self.cache),
            version: self.version,
            told: self.state.zip(self.fresh),
            records: self.vrps.len(),
            expires: self.expires(),
        }
    }
}

impl Default for Rtr {
    fn default() -> Self {
        Self::new()
    }
}
