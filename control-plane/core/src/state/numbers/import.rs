//! ABSENT → AVAILABLE, and DECOMMISSIONED → AVAILABLE once its rest is over.

use proto::control::{self, NumberState, Shelf, Tag};
use proto::raft::{ImportBlocks, ImportNumbers, Reason, Rejected, outcome};

use super::RUN_MAX;
use super::key::{self, shown};
use super::record::{Block, BlockRecord, NumberRecord};
use super::store::{Found, parse, parse_all};
use crate::state::tables::Meta;
use crate::state::{Answer, State, Step, Store, rejected};

/// A range to import.
struct Run<'a> {
    first: u64,
    last: u64,
    shelf: &'a Shelf,
    tags: &'a [Tag],
}

/// Consecutive numbers of a sorted list, as (first, last).
pub(crate) fn runs(sorted: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in sorted {
        match runs.last_mut() {
            // 9 → 10 are neighbours as integers only: a block has one length.
            Some((_, last)) if *last + 1 == number && key::length(*last) == key::length(number) => {
                *last = number;
            }
            _ => runs.push((number, number)),
        }
    }
    runs
}

impl<S: Store> State<S> {
    /// A list of numbers; neighbours become one block.
    pub(crate) fn import_numbers(
        &mut self,
        import: &ImportNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let mut numbers = parse_all(&import.e164)?;
        numbers.sort_unstable();
        let shelf = Shelf { pool: import.pool.clone(), ..Shelf::default() };
        let run = |(first, last)| Run { first, last, shelf: &shelf, tags: &[] };
        let runs: Vec<Run<'_>> = runs(&numbers).into_iter().map(run).collect();
        self.import(&runs, now_ms, step)
    }

    /// Ranges.
    pub(crate) fn import_blocks(
        &mut self,
        import: &ImportBlocks,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let nowhere = Shelf::default();
        let mut runs = Vec::with_capacity(import.blocks.len());
        for (at, block) in import.blocks.iter().enumerate() {
            let (first, last) = range(block).ok_or_else(|| {
                let message = format!("block {} has no first number, or no end", at + 1);
                rejected(Reason::Invalid, message)
            })?;
            let shelf = block.shelf.as_ref().unwrap_or(&nowhere);
            runs.push(Run { first, last, shelf, tags: &block.tags });
        }
        runs.sort_unstable_by_key(|run| run.first);
        let twice = runs.iter().zip(runs.iter().skip(1)).find(|(a, b)| a.last >= b.first);
        if let Some((_, run)) = twice {
            let message = format!("{} is in two blocks of this request", shown(run.first));
            return Err(rejected(Reason::Invalid, message));
        }
        self.import(&runs, now_ms, step)
    }

    /// All or none. The runs are in order and do not overlap.
    fn import(&mut self, runs: &[Run<'_>], now_ms: u64, step: &mut Step) -> Answer {
        let numbers = runs.iter().map(|run| run.last - run.first + 1).fold(0, u64::saturating_add);
        // A block in the middle of another one splits it.
        self.check_room(numbers, (runs.len() as u64).saturating_mul(2), 0)?;
        let mut again = Vec::new();
        for run in runs {
            again.extend(self.returning(run, now_ms)?);
            if again.len() as u64 > RUN_MAX {
                let message = format!("more than {RUN_MAX} numbers come back in one request");
                return Err(rejected(Reason::Limit, message));
            }
        }
        let mut shelves = Vec::with_capacity(runs.len());
        for run in runs {
            shelves.push(self.shelf_id(run.shelf)?);
        }
        self.take_back(runs, shelves, &again, now_ms, step);
        let imported = u32::try_from(numbers).unwrap_or(u32::MAX);
        Ok(outcome::Kind::Imported(imported))
    }

    /// The numbers of a run that were here before and may come again.
    fn returning(&self, run: &Run<'_>, now_ms: u64) -> Result<Vec<Found>, Rejected> {
        let here = |found: &Found| {
            let says = found.says();
            Err(rejected(Reason::AlreadyExists, format!("{says}: it is in the inventory already")))
        };
        let mut again = Vec::new();
        for block in self.blocks_in(run.first, run.last) {
            let (from, to) = (run.first.max(block.first), run.last.min(block.last));
            let mut next = from;
            for (number, record) in self.touched_in(from, to) {
                let found = super::store::found(number, &block.record, Some(record));
                if found.state() != NumberState::Decommissioned || found.record.until_ms > now_ms {
                    return here(&found);
                }
                if number != next || again.len() as u64 >= RUN_MAX {
                    break;
                }
                next = number + 1;
                again.push(found);
            }
            if next <= to {
                return here(&super::store::found(next, &block.record, None));
            }
        }
        Ok(again)
    }

    fn take_back(
        &mut self,
        runs: &[Run<'_>],
        shelves: Vec<u32>,
        again: &[Found],
        now_ms: u64,
        step: &mut Step,
    ) {
        step.unseen();
        for found in again {
            self.index.remove_number(found.number, found.shelf, &found.record);
        }
        let generation = self.tables.meta_u64(Meta::Generation);
        for (run, shelf) in runs.iter().zip(shelves) {
            if !again.is_empty() {
                self.carve(run.first, run.last);
            }
            let count = run.last - run.first + 1;
            let tags = run.tags.to_vec();
            let record = BlockRecord { count, shelf, tags, imported_ms: now_ms, generation };
            self.put_block(&Block { first: run.first, last: run.last, record });
        }
        for found in again {
            let mut record = found.record.moved(NumberState::Available);
            record.version = record.version.saturating_add(1);
            if let Some(block) = self.block_of(found.number) {
                self.index.add_number(found.number, block.record.shelf, &record);
            }
            self.tables.put_at(key::bytes(found.number), &record);
        }
    }

    /// Puts numbers that are absent, or here no more, on a shelf of their own: for numbers that
    /// come one by one. What they were stays with them. `numbers` is sorted.
    pub(crate) fn place(&mut self, numbers: &[u64], shelf: u32, now_ms: u64) {
        let generation = self.tables.meta_u64(Meta::Generation);
        for (first, last) in runs(numbers) {
            let touched: Vec<(u64, NumberRecord)> = self.touched_in(first, last).collect();
            for (number, record) in &touched {
                if let Some(block) = self.block_of(*number) {
                    self.index.remove_number(*number, block.record.shelf, record);
                }
            }
            self.carve(first, last);
            let count = last - first + 1;
            let record =
                BlockRecord { count, shelf, tags: Vec::new(), imported_ms: now_ms, generation };
            self.put_block(&Block { first, last, record });
            for (number, record) in &touched {
                self.index.add_number(*number, shelf, record);
                self.index.unset_free(*number, shelf);
            }
        }
    }
}

/// First and last number; `None` when it has none, or not all of one length.
fn range(block: &control::Block) -> Option<(u64, u64)> {
    let first = parse(&block.first).ok()?;
    let last = first.checked_add(block.count.checked_sub(1)?)?;
    (key::length(first) == key::length(last) && last <= key::HIGHEST).then_some((first, last))
}
