//! Which number of a tenant to show when it calls a destination.
//!
//! One of the destination's country, then one as near to it as its digits tell (areas share
//! prefixes), then the lowest. ACTIVE numbers of the asked types only. Each step is a look at two
//! neighbours in an index, however many numbers the tenant has.

use proto::control::{Number, NumberState, NumberType};

use super::index::OwnerKey;
use super::key;
use super::record::ShelfKey;
use crate::state::{State, Store};

/// What to look for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallerIdQuery<'a> {
    /// Whose numbers.
    pub tenant: &'a str,
    /// "+" and digits.
    pub destination: &'a str,
    /// Countries (ISO 3166-1 alpha-2) in order of preference, the destination's first.
    pub countries: Vec<&'a str>,
    /// Empty: LOCAL, NATIONAL and MOBILE.
    pub types: Vec<NumberType>,
}

const USUAL: [NumberType; 4] =
    [NumberType::Local, NumberType::National, NumberType::Mobile, NumberType::Unspecified];

impl<S: Store> State<S> {
    /// The number to show; `None` when the tenant has none that fits.
    pub fn caller_id(&self, query: &CallerIdQuery<'_>) -> Option<Number> {
        let tenant = Some(self.tenant_id(query.tenant)).filter(|id| *id != 0)?;
        let destination = key::parse(query.destination)?;
        let types = if query.types.is_empty() { &USUAL[..] } else { &query.types };
        query.countries.iter().find_map(|country| {
            let near =
                types.iter().flat_map(|kind| self.neighbours(tenant, country, *kind, destination));
            // The longest common prefix; of those the lowest number.
            let best = near.max_by_key(|number| {
                (key::common_prefix(*number, destination), std::cmp::Reverse(*number))
            })?;
            let found = self.look_up(best)?;
            Some(self.view(best, found.shelf, &found.record))
        })
    }

    /// Of each length, the numbers just below and above the destination cut or filled to that
    /// length: no other of that length shares more digits with it.
    fn neighbours(
        &self,
        tenant: u32,
        country: &str,
        kind: NumberType,
        destination: u64,
    ) -> Vec<u64> {
        let shelf = ShelfKey {
            pool: String::new(),
            country: country.to_owned(),
            kind: kind.into(),
            area: String::new(),
            carrier: String::new(),
        };
        let head = OwnerKey::head(tenant, NumberState::Active, &shelf);
        let owners = &self.index.numbers.owners;
        let fits = |number: &u64| {
            let found = self.look_up(*number);
            let shelf = found.and_then(|found| self.index.numbers.shelf(found.shelf));
            // The index holds two letters; other countries share a place.
            shelf.is_some_and(|shelf| shelf.country == country)
        };
        let mut near = Vec::new();
        for digits in 1..=15 {
            let (low, high) = (10u64.pow(digits - 1), 10u64.pow(digits) - 1);
            let at = resized(destination, digits);
            let below = owners.highest(head, low..=at);
            let above = owners.lowest(head, at + 1..=high);
            near.extend([below, above].into_iter().flatten().filter(fits));
            // Of those that share as many digits, the lowest is asked for.
            let shared = near.iter().map(|n| key::common_prefix(*n, destination)).max();
            if let Some(lowest) = shared.and_then(|shared| lowest_sharing(at, digits, shared)) {
                near.extend(owners.lowest(head, lowest..=high).filter(fits));
            }
        }
        near
    }
}

/// Cut, or filled with 0, to so many digits.
fn resized(number: u64, digits: u32) -> u64 {
    let has = key::length(number);
    if has > digits { number / 10u64.pow(has - digits) } else { number * 10u64.pow(digits - has) }
}

/// The lowest number of a length that begins with the same `shared` digits.
fn lowest_sharing(at: u64, digits: u32, shared: u32) -> Option<u64> {
    let unit = 10u64.pow(digits.checked_sub(shared)?);
    Some((at / unit * unit).max(10u64.pow(digits - 1)))
}
