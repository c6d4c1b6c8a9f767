//! Lists of numbers, page by page, with bounded work for each.

use std::ops::Bound;

use proto::control::{Block as BlockView, Number, NumberState, NumberType, Shelf, Tag};

use super::index::OwnerKey;
use super::key;
use super::record::{Block, BlockRecord, NumberRecord};
use crate::state::{State, Store};

/// Blocks, ranges and numbers looked at for one page at most.
const WORK_MAX: usize = 20_000;

/// Which numbers to list.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NumberQuery<'a> {
    /// Only this pool.
    pub pool: Option<&'a str>,
    /// Only this country.
    pub country: Option<&'a str>,
    /// Only this area.
    pub area: Option<&'a str>,
    /// Only this type.
    pub kind: Option<NumberType>,
    /// Only of this carrier.
    pub carrier: Option<&'a str>,
    /// Only this state.
    pub state: Option<NumberState>,
    /// Only of this owner or last owner.
    pub tenant: Option<&'a str>,
    /// Only numbers that begin with these digits (without "+").
    pub prefix: Option<&'a str>,
    /// Only numbers that, or whose block, have this tag; with any value if its value is empty.
    pub tag: Option<&'a Tag>,
    /// Where the page before ended.
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
}

/// Some numbers, and where to go on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NumberPage {
    /// In order of number; of one tenant, in order of state, type, country and number.
    pub numbers: Vec<Number>,
    /// `after` of the next page, if there may be one.
    pub next: Option<String>,
}

/// One page in the making.
struct Page<'a> {
    query: NumberQuery<'a>,
    shelf: Shelf,
    numbers: Vec<Number>,
    work: usize,
}

impl Page<'_> {
    fn is_over(&self) -> bool {
        self.numbers.len() >= self.query.limit || self.work >= WORK_MAX
    }

    fn wants_tag(&self, record: &NumberRecord, block: &BlockRecord) -> bool {
        let Some(want) = self.query.tag else { return true };
        let has = |tag: &Tag| tag.key == want.key && (want.value.is_empty() || tag == want);
        record.tags.iter().any(has) || block.tags.iter().any(has)
    }
}

impl<S: Store> State<S> {
    /// A number ("+" and digits).
    pub fn number(&self, e164: &str) -> Option<Number> {
        let found = self.look_up(key::parse(e164)?)?;
        Some(self.view(found.number, found.shelf, &found.record))
    }

    /// Some free numbers, as an allocation would choose them.
    pub fn available(&self, filter: &Shelf, prefix: &str, count: usize) -> Vec<Number> {
        let numbers = self.free_numbers(filter, prefix, count).into_iter();
        let found = numbers.filter_map(|number| self.look_up(number));
        found.map(|found| self.view(found.number, found.shelf, &found.record)).collect()
    }

    /// Numbers of the inventory. A page may be short, even empty, with more to come.
    pub fn numbers(&self, query: NumberQuery<'_>) -> NumberPage {
        let shelf = Shelf {
            pool: query.pool.unwrap_or_default().to_owned(),
            country: query.country.unwrap_or_default().to_owned(),
            area: query.area.unwrap_or_default().to_owned(),
            r#type: query.kind.unwrap_or_default().into(),
            carrier: query.carrier.unwrap_or_default().to_owned(),
        };
        let mut page = Page { query, shelf, numbers: Vec::new(), work: 0 };
        let next = match query.tenant {
            Some(tenant) => self.list_tenant(&mut page, tenant),
            None => self.list_blocks(&mut page),
        };
        NumberPage { numbers: page.numbers, next }
    }

    /// Blocks, by number, after the one that begins with `after`.
    pub fn blocks<'a>(
        &'a self,
        filter: &'a Shelf,
        after: Option<&str>,
    ) -> impl Iterator<Item = BlockView> + 'a {
        let from = after.and_then(key::parse).map(key::bytes);
        let from = from.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_slice()));
        let records = self.tables.range::<BlockRecord>(from, Bound::Unbounded);
        records.filter_map(|(name, record)| {
            let key = self.index.numbers.shelf(record.shelf).filter(|key| key.fits(filter))?;
            Some(BlockView {
                first: key::text(key::from_bytes(&name)?),
                count: record.count,
                shelf: Some(key.to_shelf()),
                tags: record.tags,
                imported_ms: record.imported_ms,
            })
        })
    }

    /// By owner. A place is two numbers in hex.
    fn list_tenant(&self, page: &mut Page<'_>, tenant: &str) -> Option<String> {
        let id = Some(self.tenant_id(tenant)).filter(|id| *id != 0)?;
        let all = match page.query.state {
            Some(state) => OwnerKey::tenant_state(id, state),
            None => OwnerKey::tenant(id),
        };
        let windows = key::windows(page.query.prefix.unwrap_or_default());
        let (first, last) = all.into_inner();
        let from = match page.query.after.and_then(place) {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        if let Bound::Excluded(after) = from
            && after >= last
        {
            return None;
        }
        for owner in self.index.numbers.owners.range(from, last) {
            page.work += 1;
            let number = owner.1;
            if windows.iter().any(|window| window.contains(&number))
                && let Some(block) = self.block_of(number)
                && self.index.numbers.shelf(block.record.shelf).is_some_and(|s| s.fits(&page.shelf))
                && let Some(record) = self.tables.get::<NumberRecord>(key::bytes(number))
            {
                self.take(page, number, &block.record, &record);
            }
            if page.is_over() {
                return Some(format!("{:x}-{:x}", owner.0, owner.1));
            }
        }
        None
    }

    /// By number. A place is the next number to look at.
    fn list_blocks(&self, page: &mut Page<'_>) -> Option<String> {
        let from = page.query.after.and_then(|after| after.parse().ok()).unwrap_or(1u64);
        for window in key::windows(page.query.prefix.unwrap_or_default()) {
            let (first, last) = (from.max(*window.start()), *window.end());
            if first > last {
                continue;
            }
            for block in self.blocks_in(first, last) {
                page.work += 1;
                let (first, last) = (first.max(block.first), last.min(block.last));
                let shelf = self.index.numbers.shelf(block.record.shelf);
                if shelf.is_some_and(|shelf| shelf.fits(&page.shelf))
                    && let Some(next) = self.list_block(page, &block, (first, last))
                {
                    return Some(next.to_string());
                }
                if page.is_over() {
                    return Some((last + 1).to_string());
                }
            }
        }
        None
    }

    /// Where to go on inside of this block, if the page is over before its end.
    fn list_block(
        &self,
        page: &mut Page<'_>,
        block: &Block,
        (first, last): (u64, u64),
    ) -> Option<u64> {
        if page.query.state.is_some_and(|state| state != NumberState::Available) {
            for (number, record) in self.touched_in(first, last) {
                page.work += 1;
                self.take(page, number, &block.record, &record);
                if page.is_over() && number < last {
                    return Some(number + 1);
                }
            }
            return None;
        }
        let mut next = first;
        while next <= last {
            if page.is_over() {
                return Some(next);
            }
            page.work += 1;
            // Numbers in use can be many in a row: go to the next free one.
            if page.query.state.is_some() {
                let free = self.index.numbers.free.get(&block.record.shelf);
                let range = free.and_then(|free| free.within(next..=last).next());
                next = *range?.start();
            }
            let record = self.tables.get::<NumberRecord>(key::bytes(next));
            let found = super::store::found(next, &block.record, record);
            self.take(page, next, &block.record, &found.record);
            next += 1;
        }
        None
    }

    fn take(&self, page: &mut Page<'_>, number: u64, block: &BlockRecord, record: &NumberRecord) {
        let state = page.query.state.is_none_or(|state| record.state() == state);
        if state && page.wants_tag(record, block) {
            page.numbers.push(self.view(number, block.shelf, record));
        }
    }
}

fn place(text: &str) -> Option<OwnerKey> {
    let (head, number) = text.split_once('-')?;
    let read = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(OwnerKey(read(head)?, read(number)?))
}
