//! How many numbers are in which state, and whether everything adds up.

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::control::NumberState;

use super::index::{Counts, STATES, state_place};
use super::key;
use super::record::{Block, BlockRecord, NumberRecord};
use crate::state::{Index, State, Store};

/// Numbers by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberCounts {
    states: Counts,
}

impl NumberCounts {
    /// How many are in this state.
    pub fn of(&self, state: NumberState) -> u64 {
        let at = |place: usize| self.states.get(place).copied().unwrap_or_default();
        match state {
            NumberState::Unspecified => 0,
            // Untouched ones are AVAILABLE too.
            NumberState::Available => at(0) + at(1),
            state => at(state_place(state)),
        }
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.states.iter().sum()
    }

    fn add(&mut self, other: &Counts) {
        for (sum, more) in self.states.iter_mut().zip(other) {
            *sum += more;
        }
    }
}

impl<S: Store> State<S> {
    /// How many numbers are in each state.
    pub fn number_counts(&self) -> NumberCounts {
        let mut all = NumberCounts::default();
        self.index.numbers.counts.values().for_each(|counts| all.add(counts));
        all
    }

    /// The same for each pool.
    pub fn pool_counts(&self) -> BTreeMap<String, NumberCounts> {
        let mut pools: BTreeMap<String, NumberCounts> = BTreeMap::new();
        for (shelf, counts) in &self.index.numbers.counts {
            let pool = self.index.numbers.shelf(*shelf).map(|shelf| shelf.pool.as_str());
            pools.entry(pool.unwrap_or_default().to_owned()).or_default().add(counts);
        }
        pools
    }

    /// Everything that must hold of the inventory whatever happened; says what does not. Walks all
    /// records: for tests and checks of a data directory.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut next = 0;
        let mut inventory = 0;
        let blocks = self.tables.range::<BlockRecord>(Bound::Unbounded, Bound::Unbounded);
        for (name, record) in blocks {
            let block = Block::read(&name, record).ok_or("a block has no end")?;
            if block.first < next || block.last > key::HIGHEST {
                return Err(format!("the block at {} overlaps another", key::shown(block.first)));
            }
            next = block.last + 1;
            inventory += block.record.count;
        }
        let records = self.tables.range::<NumberRecord>(Bound::Unbounded, Bound::Unbounded);
        let mut sums: BTreeMap<(u32, usize), u64> = BTreeMap::new();
        for (name, record) in records {
            let number = key::from_bytes(&name).ok_or("a number has no name")?;
            let shown = key::shown(number);
            let found = self.look_up(number).ok_or_else(|| format!("{shown} is in no block"))?;
            if found.state() == NumberState::Unspecified || found.state() != record.state() {
                return Err(format!("{shown} is in no state"));
            }
            if super::record::owned(record.state()) != (record.owner() != 0) {
                return Err(format!("{} without an owner", found.says()));
            }
            *sums.entry((found.shelf, state_place(record.state()))).or_default() += 1;
        }
        let counted = self.number_counts().total();
        if inventory != counted || inventory != self.index.numbers.inventory {
            return Err(format!("{inventory} numbers in blocks, {counted} counted"));
        }
        for (shelf, counts) in &self.index.numbers.counts {
            for place in 1..STATES {
                let sum = sums.remove(&(*shelf, place)).unwrap_or_default();
                if counts.get(place) != Some(&sum) {
                    return Err(format!("shelf {shelf}, state {place}: {sum}, but {counts:?}"));
                }
            }
        }
        if let Some(((shelf, place), sum)) = sums.first_key_value() {
            return Err(format!("shelf {shelf}, state {place}: {sum} not counted"));
        }
        self.check_index()
    }

    /// The indices are what the tables say.
    fn check_index(&self) -> Result<(), String> {
        let again = Index::load(&self.tables).map_err(|error| error.to_string())?;
        if again == self.index {
            return Ok(());
        }
        let (is, should) = (format!("{:?}", self.index), format!("{again:?}"));
        let differ = is.bytes().zip(should.bytes()).take_while(|(a, b)| a == b).count();
        let part = |text: &str| {
            let shown = text.get(differ.saturating_sub(80)..).unwrap_or_default();
            shown.chars().take(240).collect::<String>()
        };
        Err(format!("an index is {:?} but should be {:?}", part(&is), part(&should)))
    }
}
