//! AVAILABLE → RESERVED for a while, and back.

use prost::Message;
use proto::control::{NumberState, Reservation};
use proto::raft::{
    CancelReservation, ExtendReservation, Reason, Rejected, ReserveNumbers, outcome,
};

use super::numbers::key;
use super::numbers::record::NumberRecord;
use super::numbers::store::{Found, parse_all};
use super::tables::{Meta, Row};
use super::{Answer, Expiry, State, Step, Store, refuse, rejected};

/// Longest time from now a reservation may end.
pub const RESERVATION_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// How often a reservation may be extended.
pub(crate) const EXTENSIONS_MAX: u32 = 2;

/// Numbers held for a tenant. Its name is its sequence number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReservationRecord {
    #[prost(uint32, tag = "1")]
    pub tenant: u32,
    /// In order.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub until_ms: u64,
    #[prost(uint32, tag = "4")]
    pub extensions: u32,
}

impl Row for ReservationRecord {
    const BYTE: u8 = b'v';
}

/// The sequence number in an id such as "res-7".
pub(super) fn sequence(prefix: &str, id: &str) -> Option<u64> {
    let seq = id.strip_prefix(prefix)?.strip_prefix('-')?.parse::<u64>().ok()?;
    // One text for each, as everywhere.
    (id == format!("{prefix}-{seq}")).then_some(seq)
}

impl<S: Store> State<S> {
    /// A reservation that holds numbers.
    pub fn reservation(&self, id: &str) -> Option<Reservation> {
        let seq = sequence("res", id)?;
        Some(self.reservation_view(seq, &self.tables.get(key::bytes(seq))?))
    }

    /// Reservations in order of their making, after the one of this id.
    pub fn reservations(&self, after: Option<&str>) -> impl Iterator<Item = Reservation> + '_ {
        let after = after.and_then(|id| sequence("res", id)).map(key::bytes);
        let from = match &after {
            None => std::ops::Bound::Unbounded,
            Some(name) => std::ops::Bound::Excluded(name.as_slice()),
        };
        let records = self.tables.range::<ReservationRecord>(from, std::ops::Bound::Unbounded);
        records.filter_map(|(name, r)| Some(self.reservation_view(key::from_bytes(&name)?, &r)))
    }

    fn reservation_view(&self, seq: u64, record: &ReservationRecord) -> Reservation {
        Reservation {
            reservation_id: format!("res-{seq}"),
            tenant: self.tenant_name(record.tenant),
            e164: record.numbers.iter().map(|number| key::text(*number)).collect(),
            until_ms: record.until_ms,
            extensions: record.extensions,
        }
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        let seq = self.tables.meta_u64(Meta::Sequence).saturating_add(1);
        self.tables.put_meta_u64(Meta::Sequence, seq);
        seq
    }

    pub(super) fn reserve_numbers(
        &mut self,
        reserve: &ReserveNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let picked = self.pick(reserve.pick.as_ref(), now_ms, step)?;
        for found in &picked {
            found.must_be(&[NumberState::Available], "reserved")?;
        }
        let tenant = self.tenant_slot(&reserve.tenant)?;
        self.check_quota(tenant, 0, picked.len())?;
        let untouched = picked.iter().filter(|found| !found.touched).count();
        self.check_room(0, 0, untouched as u64)?;
        let usual = picked.first().map(|found| self.reservation_ms(found.shelf));
        let until_ms = end(reserve.duration_ms, usual, now_ms)?;
        self.enter_tenant(&reserve.tenant, tenant);
        let seq = self.next_sequence();
        let mut numbers: Vec<u64> = picked.iter().map(|found| found.number).collect();
        numbers.sort_unstable();
        let reservation = ReservationRecord { tenant, numbers, until_ms, extensions: 0 };
        self.write_reservation(seq, None, Some(&reservation));
        for found in &picked {
            let record = NumberRecord {
                tenant,
                reservation: seq,
                ..found.record.moved(NumberState::Reserved)
            };
            self.write_number(found, record, step);
        }
        Ok(outcome::Kind::Reservation(self.reservation_view(seq, &reservation)))
    }

    pub(super) fn extend_reservation(
        &mut self,
        extend: &ExtendReservation,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let (seq, old) = self.live_reservation(&extend.reservation_id, &extend.tenant, now_ms)?;
        if old.extensions >= EXTENSIONS_MAX {
            let message = format!(
                "reservation res-{seq} was extended {EXTENSIONS_MAX} times: allocate its numbers"
            );
            return refuse(Reason::Limit, message);
        }
        let first = old.numbers.first().and_then(|number| self.look_up(*number));
        let usual = first.map(|found| self.reservation_ms(found.shelf));
        // Extending never makes it shorter.
        let until_ms = end(extend.duration_ms, usual, now_ms)?.max(old.until_ms);
        let extensions = old.extensions + 1;
        let new = ReservationRecord { until_ms, extensions, ..old.clone() };
        self.write_reservation(seq, Some(&old), Some(&new));
        step.unseen();
        Ok(outcome::Kind::Reservation(self.reservation_view(seq, &new)))
    }

    pub(super) fn cancel_reservation(
        &mut self,
        cancel: &CancelReservation,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let (seq, old) = self.live_reservation(&cancel.reservation_id, &cancel.tenant, now_ms)?;
        let view = self.reservation_view(seq, &old);
        self.end_reservation(seq, step);
        Ok(outcome::Kind::Reservation(view))
    }

    /// The numbers of a reservation, or the named ones of it, for its tenant to allocate.
    pub(super) fn reserved(
        &self,
        id: &str,
        tenant: &str,
        named: &[String],
        now_ms: u64,
    ) -> Result<Vec<Found>, Rejected> {
        let (_, record) = self.live_reservation(id, tenant, now_ms)?;
        let numbers = if named.is_empty() { record.numbers.clone() } else { parse_all(named)? };
        if let Some(other) = numbers.iter().find(|n| record.numbers.binary_search(n).is_err()) {
            let message = format!("{} is not held by reservation {id}", key::shown(*other));
            return Err(rejected(Reason::IllegalTransition, message));
        }
        Ok(numbers.into_iter().filter_map(|number| self.look_up(number)).collect())
    }

    /// Allocated numbers are held no more.
    pub(super) fn take_from_reservations(&mut self, taken: &[Found]) {
        let Some(seq) = taken.first().map(|found| found.record.reservation) else { return };
        let Some(old) = self.tables.get::<ReservationRecord>(key::bytes(seq)) else { return };
        let gone: std::collections::BTreeSet<u64> = taken.iter().map(|f| f.number).collect();
        let mut new = old.clone();
        new.numbers.retain(|number| !gone.contains(number));
        let new = (!new.numbers.is_empty()).then_some(new);
        self.write_reservation(seq, Some(&old), new.as_ref());
    }

    /// All numbers that are left of it go back. Says how many.
    pub(super) fn end_reservation(&mut self, seq: u64, step: &mut Step) -> usize {
        let Some(old) = self.tables.get::<ReservationRecord>(key::bytes(seq)) else { return 0 };
        for number in &old.numbers {
            let Some(found) = self.look_up(*number) else { continue };
            if found.state() == NumberState::Reserved && found.record.reservation == seq {
                let record = found.record.moved(NumberState::Available);
                self.write_number(&found, record, step);
            }
        }
        self.write_reservation(seq, Some(&old), None);
        old.numbers.len()
    }

    fn live_reservation(
        &self,
        id: &str,
        tenant: &str,
        now_ms: u64,
    ) -> Result<(u64, ReservationRecord), Rejected> {
        let known = sequence("res", id)
            .and_then(|seq| Some((seq, self.tables.get::<ReservationRecord>(key::bytes(seq))?)));
        let Some((seq, record)) = known.filter(|(_, record)| record.until_ms > now_ms) else {
            let message = format!("there is no reservation {id:?}, or it ended: reserve again");
            return Err(rejected(Reason::NotFound, message));
        };
        if record.tenant != self.tenant_id(tenant) {
            let message = format!("reservation {id} is of another tenant");
            return Err(rejected(Reason::NotOwner, message));
        }
        Ok((seq, record))
    }

    fn write_reservation(
        &mut self,
        seq: u64,
        old: Option<&ReservationRecord>,
        new: Option<&ReservationRecord>,
    ) {
        if let Some(old) = old {
            self.index.expiries.remove(&(old.until_ms, Expiry::Reservation(seq)));
        }
        match new {
            Some(new) => {
                self.index.expiries.insert((new.until_ms, Expiry::Reservation(seq)));
                self.tables.put_at(key::bytes(seq), new);
            }
            None => self.tables.delete::<ReservationRecord>(key::bytes(seq)),
        }
    }
}

fn end(asked_ms: u64, usual_ms: Option<u64>, now_ms: u64) -> Result<u64, Rejected> {
    let duration = match asked_ms {
        0 => usual_ms.unwrap_or(super::quarantine::RESERVATION_MS),
        asked => asked,
    };
    if duration > RESERVATION_MAX_MS {
        let message = format!("a reservation lasts at most {RESERVATION_MAX_MS} ms");
        return Err(rejected(Reason::Invalid, message));
    }
    Ok(now_ms.saturating_add(duration))
}
