//! Operators keep numbers from use, and give them back to the carrier.

use proto::control::{Expect, NumberState, Shelf};
use proto::raft::{BlockNumbers, DecommissionNumbers, Reason, Rejected, UnblockNumbers, outcome};

use super::RUN_MAX;
use super::key;
use super::record::NumberRecord;
use super::store::{Found, parse};
use crate::state::{Answer, State, Step, Store, rejected};

impl<S: Store> State<S> {
    /// ABSENT, AVAILABLE → BLOCKED. All or none.
    pub(crate) fn block_numbers(
        &mut self,
        block: &BlockNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let numbers = run(&block.e164, block.count)?;
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for number in numbers.clone() {
            match self.current(number, now_ms, step) {
                Ok(found) => {
                    found.must_be(&[NumberState::Available], "blocked")?;
                    present.push(found);
                }
                Err(_) => absent.push(number),
            }
        }
        match (present.as_slice(), absent.as_slice()) {
            ([one], []) => one.must_match(block.expect.as_ref())?,
            _ => alone(block.expect.as_ref())?,
        }
        let count = absent.len() as u64;
        self.check_room(count, count, count + present.len() as u64)?;
        if !absent.is_empty() {
            let nowhere = Shelf::default();
            let shelf = self.shelf_id(block.shelf.as_ref().unwrap_or(&nowhere))?;
            self.place(&absent, shelf, now_ms);
            present.extend(absent.iter().filter_map(|number| self.look_up(*number)));
        }
        for found in &present {
            let record = NumberRecord {
                reason: block.reason.clone(),
                ..found.record.moved(NumberState::Blocked)
            };
            self.write_number(found, record, step);
        }
        Ok(changed(present.len()))
    }

    /// BLOCKED → AVAILABLE. All or none.
    pub(crate) fn unblock_numbers(
        &mut self,
        unblock: &UnblockNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let states = (&[NumberState::Blocked][..], "unblocked");
        let numbers = (unblock.e164.as_str(), unblock.count);
        let all = self.all_of(numbers, unblock.expect.as_ref(), states, now_ms, step)?;
        for found in &all {
            let record = found.record.moved(NumberState::Available);
            self.write_number(found, record, step);
        }
        Ok(changed(all.len()))
    }

    /// AVAILABLE, QUARANTINE, BLOCKED → DECOMMISSIONED. All or none.
    pub(crate) fn decommission_numbers(
        &mut self,
        decommission: &DecommissionNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let from = [NumberState::Available, NumberState::Quarantine, NumberState::Blocked];
        let states = (&from[..], "decommissioned");
        let numbers = (decommission.e164.as_str(), decommission.count);
        let all = self.all_of(numbers, decommission.expect.as_ref(), states, now_ms, step)?;
        self.check_room(0, 0, all.len() as u64)?;
        for found in &all {
            let until_ms = now_ms.saturating_add(self.quarantine_ms(found.shelf));
            // What rested already goes on resting no shorter.
            let until_ms = until_ms.max(found.record.until_ms);
            let record =
                NumberRecord { until_ms, ..found.record.moved(NumberState::Decommissioned) };
            self.write_number(found, record, step);
        }
        Ok(changed(all.len()))
    }

    fn all_of(
        &mut self,
        (e164, count): (&str, u32),
        expect: Option<&Expect>,
        (states, so): (&[NumberState], &str),
        now_ms: u64,
        step: &mut Step,
    ) -> Result<Vec<Found>, Rejected> {
        let numbers = run(e164, count)?;
        let mut all = Vec::new();
        for number in numbers {
            let found = self.current(number, now_ms, step)?;
            found.must_be(states, so)?;
            all.push(found);
        }
        match all.as_slice() {
            [one] => one.must_match(expect)?,
            _ => alone(expect)?,
        }
        Ok(all)
    }
}

/// What is expected is of one number.
fn alone(expect: Option<&Expect>) -> Result<(), Rejected> {
    match expect {
        Some(expect) if *expect != Expect::default() => {
            let message = "expect is for a single number that is in the inventory";
            Err(rejected(Reason::Conflict, message))
        }
        _ => Ok(()),
    }
}

fn run(e164: &str, count: u32) -> Result<std::ops::RangeInclusive<u64>, Rejected> {
    let first = parse(e164)?;
    let count = u64::from(count.max(1));
    let last = first.saturating_add(count - 1);
    if count > RUN_MAX || last > key::HIGHEST || key::length(first) != key::length(last) {
        let message = format!("a run has at most {RUN_MAX} numbers, all of one length");
        return Err(rejected(Reason::Invalid, message));
    }
    Ok(first..=last)
}

fn changed(count: usize) -> outcome::Kind {
    outcome::Kind::Changed(u32::try_from(count).unwrap_or(u32::MAX))
}
