//! Port orders: numbers on their way in or out, and what the carriers said.

use std::ops::Bound;

use prost::Message;
use proto::control::{
    NumberState, PortDirection, PortEntry, PortEvent, PortOrder, PortState, RouteCandidate, Shelf,
};
use proto::raft::{CreatePortOrder, Reason, RecordPortEvent, Rejected, outcome};

use super::numbers::PICK_MAX;
use super::numbers::key;
use super::numbers::record::{NumberRecord, ShelfKey};
use super::numbers::store::{Found, parse_all};
use super::reservations::sequence;
use super::tables::Row;
use super::{Answer, Expiry, State, Step, Store, refuse, rejected};

/// Entries kept of an order's history.
const HISTORY_MAX: usize = 32;

/// Most port orders, ever.
pub(crate) const ORDERS_MAX: u64 = 5_000_000;

/// An order. Its name is its sequence number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortRecord {
    #[prost(enumeration = "PortDirection", tag = "1")]
    pub direction: i32,
    #[prost(uint32, tag = "2")]
    pub tenant: u32,
    #[prost(uint64, repeated, tag = "3")]
    pub numbers: Vec<u64>,
    #[prost(enumeration = "PortState", tag = "4")]
    pub state: i32,
    #[prost(string, tag = "5")]
    pub other_carrier: String,
    /// 0: none.
    #[prost(uint32, tag = "6")]
    pub shelf: u32,
    #[prost(message, repeated, tag = "7")]
    pub candidates: Vec<RouteCandidate>,
    #[prost(uint64, tag = "8")]
    pub foc_ms: u64,
    #[prost(message, repeated, tag = "9")]
    pub history: Vec<PortEntry>,
    #[prost(string, tag = "10")]
    pub etag: String,
}

impl Row for PortRecord {
    const BYTE: u8 = b'o';
}

impl PortRecord {
    fn is_open(&self) -> bool {
        matches!(
            self.state(),
            PortState::Draft
                | PortState::Submitted
                | PortState::Exception
                | PortState::FocConfirmed
        )
    }

    /// When it is completed by itself.
    fn due(&self) -> Option<u64> {
        let waits = self.state() == PortState::FocConfirmed
            && self.direction() == PortDirection::In
            && self.foc_ms > 0;
        waits.then_some(self.foc_ms)
    }

    pub(super) fn expiry(&self, seq: u64) -> Option<(u64, Expiry)> {
        self.due().map(|due| (due, Expiry::Port(seq)))
    }

    /// The state an event leads to; `None` when it does not fit.
    fn after(&self, event: PortEvent) -> Option<PortState> {
        use PortState::{Completed, Draft, Exception, FocConfirmed, Submitted};
        let state = self.state();
        match event {
            PortEvent::Submitted => matches!(state, Draft | Exception).then_some(Submitted),
            PortEvent::Exception => matches!(state, Submitted | FocConfirmed).then_some(Exception),
            PortEvent::FocConfirmed => {
                matches!(state, Submitted | FocConfirmed).then_some(FocConfirmed)
            }
            PortEvent::Completed => matches!(state, Submitted | FocConfirmed).then_some(Completed),
            PortEvent::Cancelled => self.is_open().then_some(PortState::Cancelled),
            PortEvent::Rejected => self.is_open().then_some(PortState::Rejected),
            PortEvent::Snapback => {
                let may = self.is_open() || state == Completed;
                (may && self.direction() == PortDirection::Out).then_some(PortState::Snapback)
            }
            PortEvent::Unspecified => None,
        }
    }
}

impl<S: Store> State<S> {
    /// A port order.
    pub fn port_order(&self, id: &str) -> Option<PortOrder> {
        let seq = sequence("port", id)?;
        Some(self.port_view(seq, self.tables.get(key::bytes(seq))?))
    }

    /// Port orders in order of their making, after the one of this id.
    pub fn port_orders(&self, after: Option<&str>) -> impl Iterator<Item = PortOrder> + '_ {
        let after = after.and_then(|id| sequence("port", id)).map(key::bytes);
        let from = match &after {
            None => Bound::Unbounded,
            Some(name) => Bound::Excluded(name.as_slice()),
        };
        let records = self.tables.range::<PortRecord>(from, Bound::Unbounded);
        records.filter_map(|(name, r)| Some(self.port_view(key::from_bytes(&name)?, r)))
    }

    fn port_view(&self, seq: u64, record: PortRecord) -> PortOrder {
        PortOrder {
            port_order_id: format!("port-{seq}"),
            direction: record.direction,
            tenant: self.tenant_name(record.tenant),
            e164: record.numbers.iter().map(|number| key::text(*number)).collect(),
            state: record.state,
            other_carrier: record.other_carrier,
            shelf: self.index.numbers.shelf(record.shelf).map(ShelfKey::to_shelf),
            candidates: record.candidates,
            foc_ms: record.foc_ms,
            history: record.history,
            etag: record.etag,
        }
    }

    pub(super) fn port_due(&self, order: u64) -> Option<u64> {
        self.tables.get::<PortRecord>(key::bytes(order))?.due()
    }

    pub(super) fn create_port_order(
        &mut self,
        create: &CreatePortOrder,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let mut numbers = parse_all(&create.e164)?;
        numbers.sort_unstable();
        if numbers.is_empty() || numbers.len() > PICK_MAX {
            return refuse(Reason::Invalid, format!("1 to {PICK_MAX} numbers in one order"));
        }
        if self.index.port_orders >= ORDERS_MAX {
            return refuse(Reason::Limit, format!("there were {ORDERS_MAX} port orders already"));
        }
        let tenant = self.tenant_slot(&create.tenant)?;
        let mut record = PortRecord {
            direction: create.direction,
            tenant,
            numbers,
            state: PortState::Draft.into(),
            other_carrier: create.other_carrier.clone(),
            etag: self.next_etag(),
            ..PortRecord::default()
        };
        match create.direction() {
            PortDirection::In => self.start_port_in(create, &mut record, now_ms, step)?,
            PortDirection::Out => self.start_port_out(&record, now_ms, step)?,
            PortDirection::Unspecified => return refuse(Reason::Invalid, "direction is missing"),
        }
        // The sequence number the numbers were marked with.
        let seq = self.next_sequence();
        self.index.port_orders += 1;
        self.tables.put_at(key::bytes(seq), &record);
        Ok(outcome::Kind::PortOrder(self.port_view(seq, record)))
    }

    fn coming_sequence(&self) -> u64 {
        self.tables.meta_u64(super::tables::Meta::Sequence).saturating_add(1)
    }

    /// ABSENT, PORTED_OUT, DECOMMISSIONED → PORTING_IN.
    fn start_port_in(
        &mut self,
        create: &CreatePortOrder,
        record: &mut PortRecord,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<(), Rejected> {
        self.check_candidates(&create.candidates)?;
        for number in &record.numbers {
            if self.look_up(*number).is_some() {
                let found = self.current(*number, now_ms, step);
                let from = [NumberState::PortedOut, NumberState::Decommissioned];
                found?.must_be(&from, "ported in")?;
            }
        }
        self.check_quota(record.tenant, record.numbers.len(), 0)?;
        let count = record.numbers.len() as u64;
        self.check_room(count, count.saturating_mul(2), count)?;
        let nowhere = Shelf::default();
        record.shelf = self.shelf_id(create.shelf.as_ref().unwrap_or(&nowhere))?;
        record.candidates.clone_from(&create.candidates);
        self.enter_tenant(&create.tenant, record.tenant);
        self.place(&record.numbers, record.shelf, now_ms);
        let order = self.coming_sequence();
        for number in &record.numbers {
            let Some(found) = self.look_up(*number) else { continue };
            let new = NumberRecord {
                tenant: record.tenant,
                order,
                candidates: record.candidates.clone(),
                ..found.record.moved(NumberState::PortingIn)
            };
            self.write_number(&found, new, step);
        }
        Ok(())
    }

    /// ACTIVE, SUSPENDED → PORTING_OUT.
    fn start_port_out(
        &mut self,
        record: &PortRecord,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<(), Rejected> {
        let mut all = Vec::with_capacity(record.numbers.len());
        for number in &record.numbers {
            let found = self.current(*number, now_ms, step)?;
            found.must_be(&[NumberState::Active, NumberState::Suspended], "ported out")?;
            if found.record.tenant != record.tenant {
                let message = format!("{} and belongs to another tenant", found.says());
                return Err(rejected(Reason::NotOwner, message));
            }
            all.push(found);
        }
        let order = self.coming_sequence();
        for found in &all {
            let new = NumberRecord {
                state: NumberState::PortingOut.into(),
                reason: String::new(),
                order,
                ..found.record.clone()
            };
            self.write_number(found, new, step);
        }
        Ok(())
    }

    pub(super) fn record_port_event(
        &mut self,
        event: &RecordPortEvent,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let id = &event.port_order_id;
        let Some(seq) = sequence("port", id) else {
            return refuse(Reason::NotFound, format!("there is no port order {id:?}"));
        };
        if self.port_due(seq).is_some_and(|due| due <= now_ms) {
            self.end_port(seq, now_ms, step);
        }
        let Some(old) = self.tables.get::<PortRecord>(key::bytes(seq)) else {
            return refuse(Reason::NotFound, format!("there is no port order {id}"));
        };
        self.must_match_etag(event.expect.as_ref(), Some(&old.etag))?;
        let Some(state) = old.after(event.event()) else {
            let (is, what) = (old.state().as_str_name(), event.event().as_str_name());
            let message = format!(
                "port order {id} is {}: {} does not fit",
                is.replace("PORT_STATE_", ""),
                what.replace("PORT_EVENT_", "")
            );
            return refuse(Reason::IllegalTransition, message);
        };
        if state == PortState::FocConfirmed && event.foc_ms == 0 {
            return refuse(Reason::Invalid, "foc_ms is missing");
        }
        let numbers = self.numbers_of_order(seq, &old)?;
        let foc_ms = if state == PortState::FocConfirmed { event.foc_ms } else { old.foc_ms };
        let new = PortRecord { state: state.into(), foc_ms, ..old.clone() };
        let new = self.write_port(seq, &old, new, (event.event(), &event.reason), now_ms);
        self.move_numbers(&new, &numbers, now_ms, step);
        step.unseen();
        Ok(outcome::Kind::PortOrder(self.port_view(seq, new)))
    }

    /// The agreed date has come.
    pub(super) fn end_port(&mut self, seq: u64, now_ms: u64, step: &mut Step) -> usize {
        let Some(old) = self.tables.get::<PortRecord>(key::bytes(seq)) else { return 0 };
        let Ok(numbers) = self.numbers_of_order(seq, &old) else { return 0 };
        let new = PortRecord { state: PortState::Completed.into(), ..old.clone() };
        let new = self.write_port(seq, &old, new, (PortEvent::Completed, ""), now_ms);
        self.move_numbers(&new, &numbers, now_ms, step);
        step.unseen();
        numbers.len()
    }

    /// All numbers of an order, which still are in its hands.
    fn numbers_of_order(&self, seq: u64, order: &PortRecord) -> Result<Vec<Found>, Rejected> {
        let mut all = Vec::with_capacity(order.numbers.len());
        for number in &order.numbers {
            let found = self.look_up(*number).filter(|found| found.record.order == seq);
            let Some(found) = found else {
                let message = format!(
                    "{} is not in the hands of port order port-{seq} any more",
                    key::shown(*number)
                );
                return Err(rejected(Reason::IllegalTransition, message));
            };
            all.push(found);
        }
        Ok(all)
    }

    fn write_port(
        &mut self,
        seq: u64,
        old: &PortRecord,
        mut new: PortRecord,
        (event, reason): (PortEvent, &str),
        now_ms: u64,
    ) -> PortRecord {
        let entry =
            PortEntry { log_time_ms: now_ms, event: event.into(), reason: reason.to_owned() };
        if new.history.len() >= HISTORY_MAX {
            new.history.remove(0);
        }
        new.history.push(entry);
        new.etag = self.next_etag();
        if let Some(due) = old.due() {
            self.index.expiries.remove(&(due, Expiry::Port(seq)));
        }
        if let Some(due) = new.due() {
            self.index.expiries.insert((due, Expiry::Port(seq)));
        }
        self.tables.put_at(key::bytes(seq), &new);
        new
    }

    /// What the new state of an order means for its numbers.
    fn move_numbers(&mut self, order: &PortRecord, all: &[Found], now_ms: u64, step: &mut Step) {
        let comes_in = order.direction() == PortDirection::In;
        for found in all {
            match (order.state(), found.state()) {
                (PortState::Completed, NumberState::PortingIn) => {
                    self.back_in_use(found, step);
                }
                (PortState::Completed, NumberState::PortingOut) => {
                    let record = NumberRecord {
                        tenant: found.record.tenant,
                        order: found.record.order,
                        ..found.record.moved(NumberState::PortedOut)
                    };
                    self.write_number(found, record, step);
                }
                (PortState::Cancelled | PortState::Rejected, NumberState::PortingIn) => {
                    self.forget_number(found, step);
                }
                (
                    PortState::Cancelled | PortState::Rejected | PortState::Snapback,
                    NumberState::PortingOut,
                ) => self.back_in_use(found, step),
                (PortState::Snapback, NumberState::PortedOut) => {
                    let record = self.rested(found, now_ms);
                    self.write_number(found, record, step);
                }
                _ => {}
            }
        }
        if comes_in && matches!(order.state(), PortState::Cancelled | PortState::Rejected) {
            for (first, last) in super::numbers::import::runs(&order.numbers) {
                self.carve(first, last);
            }
        }
    }

    fn back_in_use(&mut self, found: &Found, step: &mut Step) {
        let record =
            NumberRecord { state: NumberState::Active.into(), order: 0, ..found.record.clone() };
        self.write_number(found, record, step);
    }
}
