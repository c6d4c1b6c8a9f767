//! The indices of blocks and numbers from their tables, in one walk over both.

use prost::Message;

use super::index::{expiry, state_place};
use super::key;
use super::record::{Block, BlockRecord, NumberRecord, ShelfRecord};
use crate::state::store::Store;
use crate::state::tables::{Row, Tables};
use crate::state::tenants::TenantRecord;
use crate::state::{Expiry, Index, TableError};

impl Index {
    /// Fills what depends on shelves, tenants, blocks and numbers. `due` takes their expiries.
    pub(crate) fn load_numbers<S: Store>(
        &mut self,
        tables: &Tables<S>,
        due: &mut Vec<(u64, Expiry)>,
    ) -> Result<(), TableError> {
        for (at, (name, value)) in tables.raw::<ShelfRecord>().enumerate() {
            self.load_shelf(&name, value.as_ref()).ok_or(damaged::<ShelfRecord>(at))?;
        }
        for (at, (name, value)) in tables.raw::<TenantRecord>().enumerate() {
            self.load_tenant(&name, value.as_ref()).ok_or(damaged::<TenantRecord>(at))?;
        }
        let mut numbers = tables.raw::<NumberRecord>().enumerate().peekable();
        for (at, (name, value)) in tables.raw::<BlockRecord>().enumerate() {
            let block = BlockRecord::decode(value.as_ref()).ok();
            let block = block.and_then(|record| Block::read(&name, record));
            let block = block.filter(|block| self.numbers.shelf(block.record.shelf).is_some());
            let block = block.ok_or(damaged::<BlockRecord>(at))?;
            let shelf = block.record.shelf;
            self.numbers.blocks += 1;
            self.numbers.grow(shelf, block.record.count);
            let mut free = block.first;
            let last = key::bytes(block.last);
            while let Some((at, (name, value))) =
                numbers.next_if(|(_, (name, _))| **name <= *last.as_slice())
            {
                let number = key::from_bytes(&name).filter(|number| *number >= block.first);
                let record = NumberRecord::decode(value.as_ref()).ok();
                let (number, record) = number.zip(record).ok_or(damaged::<NumberRecord>(at))?;
                self.load_number(number, shelf, &record, due);
                if state_place(record.state()) != 1 {
                    self.load_free(shelf, free, number.saturating_sub(1));
                    free = number + 1;
                }
            }
            self.load_free(shelf, free, block.last);
        }
        match numbers.next() {
            // In no block.
            Some((at, _)) => Err(damaged::<NumberRecord>(at)),
            None => Ok(()),
        }
    }

    fn load_shelf(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let id = u32::from_be_bytes(name.try_into().ok()?);
        let shelf = ShelfRecord::decode(value).ok()?.shelf.unwrap_or_default();
        self.numbers.add_shelf(id, &shelf);
        Some(())
    }

    fn load_tenant(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let record = TenantRecord::decode(value).ok()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        self.numbers.tenants.insert(record.id, name);
        Some(())
    }

    fn load_free(&mut self, shelf: u32, first: u64, last: u64) {
        if first <= last {
            self.numbers.free.entry(shelf).or_default().insert(first, last);
        }
    }

    fn load_number(
        &mut self,
        number: u64,
        shelf: u32,
        record: &NumberRecord,
        due: &mut Vec<(u64, Expiry)>,
    ) {
        self.count_number(shelf, record);
        let owner = self.owner_key(number, shelf, record);
        owner.into_iter().for_each(|key| self.numbers.owners.insert(key));
        self.add_number_uses(record);
        due.extend(expiry(number, record));
    }
}

fn damaged<R: Row>(entry: usize) -> TableError {
    TableError { table: char::from(R::BYTE), entry }
}
