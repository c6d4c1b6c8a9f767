//! What the paths to a POP looked like at any moment of the last hour.
//!
//! Kept in few bytes: a mesh of 200 POPs has ten paths to each, looked at 360 times an hour.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use super::choice::Candidate;
use super::route::{Hop, Route};
use crate::bgp::Reason;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// One hour of them.
const LOOKS_MAX: usize = 360;
/// Paths that have a number; more of them in an hour begin a new history.
const HOPS_MAX: usize = 255;
/// No path.
const NONE: u8 = u8::MAX;
/// Of round trips: up to 3.2 s.
const RTT_UNIT_US: u32 = 50;

/// One look at all paths to a POP.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// When.
    pub at: Instant,
    /// How media was sent.
    pub route: Option<Route>,
    /// Each path.
    pub paths: Vec<Seen>,
}

/// One path then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As [`super::Hop`] prints it.
    pub path: String,
    /// As [`super::Health::name`].
    pub state: &'static str,
    /// Round trip in µs; 0: not measured.
    pub rtt_us: u32,
    /// Lost, of 10,000.
    pub loss: u16,
    /// R (G.107) times two.
    pub r: u8,
    /// What BGP held against it, as [`Reason::name`].
    pub against: Vec<&'static str>,
}

/// One path of a look.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hop: u8,
    /// Of [`STATES`].
    state: u8,
    /// [`RTT_UNIT_US`]; 0: not measured.
    rtt: u16,
    loss: u16,
    r: u8,
    /// A bit for each of [`Reason::NAMES`].
    against: u8,
}

/// One look; its entries come after those of the look before.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    entries: u8,
    primary: u8,
    copy: u8,
    /// In ms; 0: nothing is sent again.
    again: u8,
    /// The direct path.
    direct: u8,
}

const STATES: [&str; 4] = ["good", "unmeasured", "suspect", "down"];
const _: () = assert!(Reason::NAMES.len() <= 8, "one bit each");

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "R is 0 to 100, loss 0 to 1, round trips are cut"
)]
impl Entry {
    fn of(hop: u8, path: &Candidate, reasons: &[Reason]) -> Self {
        let micros = |rtt: Duration| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        // Measured is never nothing.
        let rtt = |rtt| (micros(rtt) / RTT_UNIT_US).clamp(1, u16::MAX.into()) as u16;
        let name = path.health.name();
        let state = STATES.iter().position(|state| *state == name).unwrap_or_default() as u8;
        let names = || reasons.iter().map(Reason::name);
        let bits = (0..).zip(Reason::NAMES).filter(|(_, name)| names().any(|n| n == **name));
        Self {
            hop,
            state,
            rtt: path.rtt.map_or(0, rtt),
            loss: (path.loss.clamp(0.0, 1.0) * 10_000.0) as u16,
            r: (path.r_factor().clamp(0.0, 100.0) * 2.0) as u8,
            against: bits.fold(0, |all, (bit, _)| all | 1 << bit),
        }
    }

    fn seen(self, hops: &[Hop]) -> Seen {
        let bits = (0..).zip(Reason::NAMES).filter(|(bit, _)| self.against & (1 << bit) != 0);
        Seen {
            path: hops.get(usize::from(self.hop)).map(Hop::to_string).unwrap_or_default(),
            state: STATES.get(usize::from(self.state)).copied().unwrap_or_default(),
            rtt_us: u32::from(self.rtt) * RTT_UNIT_US,
            loss: self.loss,
            r: self.r,
            against: bits.map(|(_, name)| *name).collect(),
        }
    }
}

/// The looks at one POP, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    looks: VecDeque<Look>,
    entries: VecDeque<Entry>,
    /// By number.
    hops: Vec<Hop>,
}

impl History {
    /// Keeps a look, if it is time for one. `paths` with what BGP holds against each.
    pub(super) fn observe<'a>(
        &mut self,
        paths: impl Iterator<Item = (&'a Candidate, &'a [Reason])>,
        route: Option<&Route>,
        now: Instant,
    ) {
        if self.looks.back().is_some_and(|last| now - last.at < EVERY) {
            return;
        }
        if self.looks.len() >= LOOKS_MAX
            && let Some(oldest) = self.looks.pop_front()
        {
            self.entries.drain(..usize::from(oldest.entries).min(self.entries.len()));
        }
        if self.hops.len() + super::paths::PATHS_MAX * 2 > HOPS_MAX {
            *self = Self::default();
        }
        let mut entries = 0;
        for (path, reasons) in paths.take(super::paths::PATHS_MAX) {
            let hop = self.number(&path.hop);
            self.entries.push_back(Entry::of(hop, path, reasons));
            entries += 1;
        }
        let primary = route.map_or(NONE, |route| self.number(&route.primary));
        let copy = route.and_then(|route| route.copy.as_ref());
        let copy = copy.map_or(NONE, |copy| self.number(copy));
        let direct = route.and_then(|route| route.direct);
        let direct = direct.map_or(NONE, |direct| self.number(&Hop::direct(direct)));
        let again = route.and_then(|route| route.again);
        let again = again.map_or(0, |again| u8::try_from(again.as_millis()).unwrap_or(u8::MAX));
        self.looks.push_back(Look { at: now, entries, primary, copy, again, direct });
    }

    fn number(&mut self, hop: &Hop) -> u8 {
        let known = self.hops.iter().position(|known| known == hop);
        let number = known.unwrap_or_else(|| {
            self.hops.push(hop.clone());
            self.hops.len() - 1
        });
        u8::try_from(number).unwrap_or(NONE)
    }

    /// The last look at or before `at`.
    pub(super) fn at(&self, at: Instant) -> Option<Moment> {
        let after = self.looks.iter().rev().take_while(|look| look.at > at).count();
        let index = self.looks.len().checked_sub(after + 1)?;
        let look = *self.looks.get(index)?;
        let before = self.looks.range(..index).map(|look| usize::from(look.entries)).sum();
        let entries = self.entries.iter().skip(before).take(usize::from(look.entries));
        let hop = |number: u8| self.hops.get(usize::from(number)).cloned();
        let again = (look.again > 0).then(|| Duration::from_millis(look.again.into()));
        let route = hop(look.primary).map(|primary| Route {
            primary,
            copy: hop(look.copy),
            again,
            direct: hop(look.direct).map(|hop| hop.path),
        });
        let paths = entries.map(|entry| entry.seen(&self.hops)).collect();
        Some(Moment { at: look.at, route, paths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One hour of ten paths to each of 200 POPs, as an upper bound: rings of a power of two.
    #[test]
    fn an_hour_of_a_large_mesh_takes_few_megabytes() {
        let (look, entry) = (size_of::<Look>(), size_of::<Entry>());
        assert_eq!((look, entry), (16, 8));
        let looks = LOOKS_MAX.next_power_of_two() * look;
        let entries = (LOOKS_MAX * 10).next_power_of_two() * entry;
        let bytes = 200 * (looks + entries + HOPS_MAX * size_of::<Hop>());
        println!("{entry} bytes a path and look, {look} a look; 200 POPs: {bytes}");
        assert!(bytes < 12_000_000, "{bytes}");
    }
}
