//! Whether the POP's own prefixes are announced, and how: by how the POP is.
//!
//! The order a drain needs: first the routes say that they go away (RFC 8326), so that whoever has
//! another way uses it; when the last call has moved, they are withdrawn. A POP that says nothing,
//! or must not serve, has its routes withdrawn, and is steady for a while before they are back.

use proto::time::{Duration, Instant};

/// A POP that says nothing for so long is gone.
const SILENT: Duration = Duration::from_secs(3);
/// Routes that were withdrawn for its sake are back when it is well for so long.
const STEADY: Duration = Duration::from_secs(5);
/// A drained POP is empty when it has no call for so long.
const EMPTY: Duration = Duration::from_secs(3);

macro_rules! standings {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// What a POP says of itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Standing {
            $($(#[$doc])* $name,)+
        }

        impl Standing {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As its page says it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

standings! {
    /// Takes calls.
    Serving = "serving",
    /// Takes no new calls; those it has stay.
    Cordoned = "cordoned",
    /// Its calls move to other POPs.
    Draining = "draining",
    /// A newer process has its name.
    Fenced = "fenced",
    /// It does not know yet whose calls to take.
    NoView = "no_view",
}

/// How the routes to the POP's prefixes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// There.
    Announced,
    /// There, for those who have no other way (65535:0, RFC 8326).
    Leaving,
    /// Not there.
    Withdrawn,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Announcer {
    /// Nothing is known at first: routes are then left as they are.
    now_is: Option<Announcement>,
    /// Withdrawn for the POP's sake: it must be steady first.
    distrusted: bool,
    /// Drained to the last call: one that is still ending does not bring the routes back.
    emptied: bool,
    /// Since when the POP says nothing; says that it is well; has no call.
    silent: Option<Instant>,
    well: Option<Instant>,
    empty: Option<Instant>,
}

impl Announcer {
    /// What the POP says, with its number of calls, or that it says nothing: how routes are to be;
    /// `None`: as they are.
    pub fn look(&mut self, said: Option<(Standing, u64)>, now: Instant) -> Option<Announcement> {
        let since = |since: &mut Option<Instant>, holds: bool| {
            *since = if holds { since.or(Some(now)) } else { None };
            since.map(|since| now - since)
        };
        let silent = since(&mut self.silent, said.is_none());
        let serves =
            matches!(said, Some((Standing::Serving | Standing::Cordoned | Standing::Draining, _)));
        let well = since(&mut self.well, serves);
        let empty = since(&mut self.empty, matches!(said, Some((Standing::Draining, 0))));
        let draining = matches!(said, Some((Standing::Draining, _)));
        self.emptied = (self.emptied && (draining || said.is_none()))
            || empty.is_some_and(|empty| empty >= EMPTY);
        let wanted = match said {
            None if silent.is_some_and(|silent| silent >= SILENT) => Announcement::Withdrawn,
            None => return self.now_is,
            Some((Standing::Fenced | Standing::NoView, _)) => Announcement::Withdrawn,
            Some(_) if self.distrusted && well.is_none_or(|well| well < STEADY) => {
                return self.now_is;
            }
            Some((Standing::Draining, _)) if self.emptied => Announcement::Withdrawn,
            Some((Standing::Draining | Standing::Cordoned, _)) => Announcement::Leaving,
            Some((Standing::Serving, _)) => Announcement::Announced,
        };
        self.distrusted = match wanted {
            Announcement::Withdrawn => self.distrusted || !serves,
            Announcement::Announced | Announcement::Leaving => false,
        };
        self.now_is = Some(wanted);
        self.now_is
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<(Standing, u64)> = Some((Standing::Serving, 7));

    /// Looks once a second; how routes are after each, if that is known.
    fn story(looks: &[(u32, Option<(Standing, u64)>)]) -> Vec<(u32, Announcement)> {
        let (mut announcer, mut now) = (Announcer::default(), Instant::from_millis(1_000_000));
        let mut told: Vec<(u32, Announcement)> = Vec::new();
        for (seconds, said) in looks {
            for _ in 0..*seconds {
                let is = announcer.look(*said, now);
                now += Duration::from_secs(1);
                let Some(is) = is else { continue };
                match told.last_mut() {
                    Some((times, before)) if *before == is => *times += 1,
                    _ => told.push((1, is)),
                }
            }
        }
        told
    }

    #[test]
    fn a_pop_that_serves_is_announced_and_one_that_is_gone_is_not() {
        use Announcement::{Announced, Withdrawn};
        assert_eq!(story(&[(9, OK)]), [(9, Announced)]);
        // Routes of an announcer before this one stay until it is clear that the POP is gone.
        assert_eq!(story(&[(5, None)]), [(2, Withdrawn)]);
        assert_eq!(story(&[(2, None), (1, OK)]), [(1, Announced)]);
        // Two seconds of silence are none.
        assert_eq!(story(&[(3, OK), (3, None), (3, OK)]), [(9, Announced)]);
        let back = story(&[(3, OK), (9, None), (9, OK)]);
        assert_eq!(back, [(6, Announced), (6 + 5, Withdrawn), (4, Announced)]);
        // It comes and goes.
        let restless: Vec<_> = (0..10).flat_map(|_| [(4, None), (4, OK)]).collect();
        let all = [&[(3, OK)][..], &restless].concat();
        assert_eq!(story(&all), [(6, Announced), (77, Withdrawn)]);
    }

    #[test]
    fn a_drain_asks_first_and_withdraws_when_the_last_call_has_moved() {
        use Announcement::{Announced, Leaving, Withdrawn};
        let draining = |calls| Some((Standing::Draining, calls));
        let drain =
            [(2, OK), (10, draining(3)), (1, draining(0)), (1, draining(1)), (9, draining(0))];
        assert_eq!(story(&drain), [(2, Announced), (10 + 2 + 3, Leaving), (6, Withdrawn)]);
        // Called off when it is empty: it was never ill.
        let called_off = [&drain[..], &[(2, OK)]].concat();
        assert_eq!(story(&called_off).last(), Some(&(2, Announced)));
        // An announcer that begins while it drains.
        assert_eq!(story(&[(3, draining(2))]), [(3, Leaving)]);
        let straggler = [&drain[..], &[(2, draining(1))]].concat();
        assert_eq!(story(&straggler).last(), Some(&(8, Withdrawn)));
        let cordoned = Some((Standing::Cordoned, 0));
        assert_eq!(
            story(&[(2, OK), (60, cordoned), (1, OK)]),
            [(2, Announced), (60, Leaving), (1, Announced)]
        );
    }

    #[test]
    fn who_must_not_serve_is_withdrawn_at_once() {
        use Announcement::{Announced, Withdrawn};
        for standing in [Standing::Fenced, Standing::NoView] {
            let looks = [(2, OK), (1, Some((standing, 3))), (6, OK)];
            assert_eq!(story(&looks), [(2, Announced), (6, Withdrawn), (1, Announced)]);
        }
    }
}
