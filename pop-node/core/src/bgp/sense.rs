//! Does what a table says make sense? A feed may go wrong in the middle of a session: the router
//! is configured anew, or somebody feeds it nonsense. Then measurement alone decides.

use proto::time::{Duration, Instant};

/// So many withdrawals and no announcement between them are made up, if there are more of them than
/// there were routes, or they do not end: FRR sends a withdrawal for each update of its pre-policy
/// table if it does not keep one (`soft-reconfiguration inbound`). An upstream that loses its own
/// upstreams withdraws each route once, in one go.
const MADE_UP: u64 = 100;
const ENDLESS: Duration = Duration::from_secs(60);
/// Routes are compared with what they were at the beginning of such a window.
const WINDOW: Duration = Duration::from_secs(60);
/// Of fewer routes nothing can be said.
const ROUTES_MIN: usize = 16;
/// So many in ten are all of them.
const ALL_OF_TEN: usize = 9;

/// Why nothing that was told of a neighbor is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distrust {
    /// A message that cannot be read: what it said is missing.
    Malformed,
    /// Withdrawals that mean nothing.
    OnlyWithdraws,
    /// The AS paths of all routes became longer or shorter at once.
    LengthsChanged,
    /// All routes belong to other ASes at once.
    OriginsChanged,
}

impl Distrust {
    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OnlyWithdraws => "only_withdraws",
            Self::LengthsChanged => "lengths_changed",
            Self::OriginsChanged => "origins_changed",
        }
    }

    /// For people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "a message that cannot be read: what it said is missing",
            Self::OnlyWithdraws => "withdrawals only, more than there can be",
            Self::LengthsChanged => {
                "the AS paths of all routes changed their length within a minute"
            }
            Self::OriginsChanged => "all routes changed their origin AS within a minute",
        }
    }
}

/// What a route is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Trait {
    length: u16,
    origin: Option<u32>,
}

impl Trait {
    pub(super) fn of(as_path: &[u32]) -> Self {
        let length = u16::try_from(as_path.len()).unwrap_or(u16::MAX);
        Self { length, origin: as_path.last().copied() }
    }
}

/// Follows one table of one session.
#[derive(Debug, Default)]
pub(super) struct Sense {
    announced: u64,
    withdrawn: u64,
    /// Withdrawals without an announcement between: since when, how many, how many there can be.
    run: Option<(Instant, u64, u64)>,
    window: Option<Instant>,
    /// Routes that changed within the window, and how many must have for the next look.
    changes: usize,
    next_look: usize,
}

impl Sense {
    /// UPDATEs came, with so many routes for anywhere.
    pub(super) fn count(&mut self, announced: u32, withdrawn: u32, now: Instant) {
        let (announced, withdrawn) = (u64::from(announced), u64::from(withdrawn));
        if announced > 0 {
            self.run = None;
        } else if withdrawn > 0 {
            let there = self.announced.saturating_sub(self.withdrawn);
            let (_, sum, _) = self.run.get_or_insert((now, 0, there));
            *sum += withdrawn;
        }
        self.announced += announced;
        self.withdrawn += withdrawn;
    }

    pub(super) const fn announced(&self) -> u64 {
        self.announced
    }

    /// Nothing but withdrawals since the session began?
    pub(super) const fn is_made_up(&self) -> bool {
        self.announced == 0 && self.withdrawn >= MADE_UP
    }

    /// A route is another one than before.
    pub(super) const fn changed(&mut self) {
        self.changes += 1;
    }

    /// A session that withdraws more than it ever announced, or does nothing else.
    pub(super) fn only_withdraws(&self, now: Instant) -> bool {
        self.run.is_some_and(|(since, withdrawn, there)| {
            withdrawn >= MADE_UP && (withdrawn > there || now - since >= ENDLESS)
        })
    }

    /// Is it time to compare all of so many routes?
    pub(super) const fn is_worth_a_look(&self, routes: usize) -> bool {
        let all = routes * ALL_OF_TEN / 10;
        let due = if self.next_look > all { self.next_look } else { all };
        routes >= ROUTES_MIN && self.changes >= due
    }

    /// Compares them: each as it was at the beginning of the window, and as it is.
    pub(super) fn look(
        &mut self,
        routes: impl Iterator<Item = (Trait, Trait)>,
    ) -> Option<Distrust> {
        let (mut all, mut lengths, mut origins) = (0, 0, 0);
        for (before, after) in routes {
            all += 1;
            lengths += usize::from(before.length != after.length);
            origins += usize::from(before.origin != after.origin);
        }
        // Whoever changes one route all the time does not have all of them compared each time.
        self.next_look = self.changes + all / 16 + 1;
        let most = |some: usize| all >= ROUTES_MIN && some * 10 >= all * ALL_OF_TEN;
        match (most(origins), most(lengths)) {
            (true, _) => Some(Distrust::OriginsChanged),
            (_, true) => Some(Distrust::LengthsChanged),
            _ => None,
        }
    }

    /// True if a window ended: then routes are what they are now.
    pub(super) fn roll(&mut self, now: Instant) -> bool {
        let over = self.window.is_none_or(|since| now - since >= WINDOW);
        if over {
            (self.window, self.changes, self.next_look) = (Some(now), 0, 0);
        }
        over
    }
}
