//! Choosing free numbers, inside `apply`: however many ask at once, each gets another one.

use std::ops::Bound;

use proto::control::{NumberPick, Shelf};
use proto::raft::{Reason, Rejected};

use super::PICK_MAX;
use super::key;
use super::record::ShelfKey;
use super::store::{Found, parse_all};
use crate::state::{State, Step, Store, rejected};

impl<S: Store> State<S> {
    /// Shelves that fit a filter, in order of pool, country, type, area, carrier.
    pub(crate) fn shelves<'a>(
        &'a self,
        filter: &'a Shelf,
    ) -> impl Iterator<Item = (&'a ShelfKey, u32)> + 'a {
        let from = ShelfKey {
            pool: filter.pool.clone(),
            country: String::new(),
            kind: i32::MIN,
            area: String::new(),
            carrier: String::new(),
        };
        let later = self.index.numbers.shelves.range((Bound::Included(from), Bound::Unbounded));
        let near = later.take_while(|(key, _)| filter.pool.is_empty() || key.pool == filter.pool);
        near.filter(|(key, _)| key.fits(filter)).map(|(key, id)| (key, *id))
    }

    /// The lowest free numbers of the first shelves that fit: `count`, or all there are.
    pub(crate) fn free_numbers(&self, filter: &Shelf, prefix: &str, count: usize) -> Vec<u64> {
        let windows = key::windows(prefix);
        let free = self.shelves(filter).filter_map(|(_, id)| self.index.numbers.free.get(&id));
        let found = free.flat_map(|free| {
            let ranges = windows.iter().flat_map(|window| free.within(window.clone()));
            ranges.flatten()
        });
        found.take(count).collect()
    }

    /// The numbers a request asks for, as they are now. Free ones are chosen, named ones are not
    /// judged.
    pub(crate) fn pick(
        &mut self,
        pick: Option<&NumberPick>,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<Vec<Found>, Rejected> {
        let none = NumberPick::default();
        let pick = pick.unwrap_or(&none);
        let count = usize::try_from(pick.count.max(1)).unwrap_or(usize::MAX);
        if pick.e164.len() > PICK_MAX || count > PICK_MAX {
            let message = format!("more than {PICK_MAX} numbers in one request");
            return Err(rejected(Reason::Invalid, message));
        }
        if !pick.e164.is_empty() {
            let numbers = parse_all(&pick.e164)?;
            return numbers.into_iter().map(|n| self.current(n, now_ms, step)).collect();
        }
        let anywhere = Shelf::default();
        let filter = pick.shelf.as_ref().unwrap_or(&anywhere);
        let numbers = self.free_numbers(filter, &pick.prefix, count);
        if numbers.len() < count {
            return Err(exhausted(filter, numbers.len(), count));
        }
        Ok(numbers.into_iter().filter_map(|number| self.look_up(number)).collect())
    }
}

fn exhausted(filter: &Shelf, free: usize, count: usize) -> Rejected {
    let place = if filter.pool.is_empty() {
        "the inventory".to_owned()
    } else {
        format!("pool {}", filter.pool)
    };
    let message = format!(
        "{place} has {free} free numbers that fit, not {count}: import more, or ask for others"
    );
    rejected(Reason::PoolExhausted, message)
}
