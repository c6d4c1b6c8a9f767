//! The number inventory: AVAILABLE → ACTIVE → QUARANTINE → AVAILABLE.
//!
//! `generation` grows at each change of owner and fences users of before. Watchers see ACTIVE
//! numbers only: those are what calls are routed by, and an inventory may hold millions.

use std::collections::BTreeSet;

use proto::control::{Number, NumberState, Resource, RouteCandidate, resource, resource_key};
use proto::e164::redact;
use proto::raft::{
    AllocateNumber, ImportNumbers, Reason, Rejected, ReleaseNumber, allocate_number, outcome,
};

use super::{Answer, Expiry, Index, State, Step, refuse, rejected};

/// A released number rests so long before somebody else may get it, and its calls.
pub(crate) const QUARANTINE_MS: u64 = 45 * 24 * 3_600_000;

/// Most numbers of an inventory.
pub(crate) const NUMBERS_MAX: u64 = 20_000_000;

impl State {
    /// All or none.
    pub(super) fn import_numbers(&mut self, import: &ImportNumbers, step: &mut Step) -> Answer {
        let counts = self.index.counts;
        let total = counts.available + counts.active + counts.quarantine;
        if total.saturating_add(import.e164.len() as u64) > NUMBERS_MAX {
            return refuse(Reason::Limit, format!("more than {NUMBERS_MAX} numbers"));
        }
        let mut seen = BTreeSet::new();
        for (at, e164) in import.e164.iter().enumerate() {
            let shown = redact(e164, 4);
            if self.tables.contains::<Number>(e164) {
                let message = format!("number {} ({shown}) is in the inventory already", at + 1);
                return refuse(Reason::AlreadyExists, message);
            }
            if !seen.insert(e164) {
                let message = format!("number {} ({shown}) is twice in this request", at + 1);
                return refuse(Reason::Invalid, message);
            }
        }
        for e164 in &import.e164 {
            let number = Number {
                e164: e164.clone(),
                state: NumberState::Available.into(),
                pool: import.pool.clone(),
                ..Number::default()
            };
            self.write_number(None, number, step);
        }
        let imported = u32::try_from(import.e164.len()).unwrap_or(u32::MAX);
        Ok(outcome::Kind::Imported(imported))
    }

    pub(super) fn allocate_number(
        &mut self,
        allocate: &AllocateNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        self.check_candidates(&allocate.candidates)?;
        let picked = match &allocate.which {
            Some(allocate_number::Which::E164(e164)) => {
                self.specific(e164, &allocate.tenant, now_ms)
            }
            Some(allocate_number::Which::AnyOfPool(pool)) => self.lowest_free(pool),
            None => Err(rejected(Reason::Invalid, "neither a number nor a pool is named")),
        };
        let old = picked?;
        let number = Number {
            state: NumberState::Active.into(),
            tenant: allocate.tenant.clone(),
            generation: old.generation.saturating_add(1),
            candidates: allocate.candidates.clone(),
            quarantine_until_ms: 0,
            ..old.clone()
        };
        self.write_number(Some(&old), number.clone(), step);
        Ok(outcome::Kind::Number(number))
    }

    fn specific(&self, e164: &str, tenant: &str, now_ms: u64) -> Result<Number, Rejected> {
        let number = self.find_number(e164)?;
        let shown = redact(e164, 4);
        match number.state() {
            NumberState::Available => Ok(number),
            NumberState::Active if number.tenant == tenant => Err(rejected(
                Reason::NumberAllocated,
                format!("{shown} is allocated to this tenant already"),
            )),
            NumberState::Active => Err(rejected(
                Reason::NumberAllocated,
                format!("{shown} is allocated to another tenant"),
            )),
            // The last owner may have it back; everybody else waits.
            NumberState::Quarantine
                if number.tenant == tenant || number.quarantine_until_ms <= now_ms =>
            {
                Ok(number)
            }
            _ => Err(rejected(
                Reason::IllegalTransition,
                format!(
                    "{shown} is in QUARANTINE until {} (ms since 1970): choose another",
                    number.quarantine_until_ms
                ),
            )),
        }
    }

    fn lowest_free(&self, pool: &str) -> Result<Number, Rejected> {
        let lowest = self.index.free.get(pool).and_then(BTreeSet::first);
        lowest.and_then(|e164| self.tables.get::<Number>(e164)).ok_or_else(|| {
            rejected(
                Reason::PoolExhausted,
                format!("pool {pool} has no free number: import more or choose another pool"),
            )
        })
    }

    pub(super) fn release_number(
        &mut self,
        release: &ReleaseNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let old = self.find_number(&release.e164)?;
        let shown = redact(&release.e164, 4);
        if old.state() != NumberState::Active {
            let message = format!("{shown} is not ACTIVE but {}", old.state().as_str_name());
            return refuse(Reason::IllegalTransition, message);
        }
        if old.tenant != release.tenant {
            return refuse(Reason::NotOwner, format!("{shown} belongs to another tenant"));
        }
        let number = Number {
            state: NumberState::Quarantine.into(),
            generation: old.generation.saturating_add(1),
            candidates: Vec::new(),
            quarantine_until_ms: now_ms.saturating_add(QUARANTINE_MS),
            ..old.clone()
        };
        self.write_number(Some(&old), number.clone(), step);
        Ok(outcome::Kind::Number(number))
    }

    /// The rest of a released number is over.
    pub(super) fn end_quarantine(&mut self, e164: &str, step: &mut Step) {
        let Some(old) = self.tables.get::<Number>(e164) else { return };
        let number = Number {
            state: NumberState::Available.into(),
            tenant: String::new(),
            quarantine_until_ms: 0,
            ..old.clone()
        };
        self.write_number(Some(&old), number, step);
    }

    fn find_number(&self, e164: &str) -> Result<Number, Rejected> {
        self.tables.get::<Number>(e164).ok_or_else(|| {
            let shown = redact(e164, 4);
            rejected(Reason::NotFound, format!("{shown} is not in the inventory: import it first"))
        })
    }

    /// The only place that writes a number: table, indices and event together.
    fn write_number(&mut self, old: Option<&Number>, number: Number, step: &mut Step) {
        if let Some(old) = old {
            self.index.remove_number(old);
        }
        self.index.add_number(&number);
        self.tables.put(&number);
        if number.state() == NumberState::Active {
            step.put(Resource { kind: Some(resource::Kind::Number(number)) });
        } else if old.is_some_and(|old| old.state() == NumberState::Active) {
            step.delete(resource_key::Kind::E164(number.e164));
        } else {
            step.unseen();
        }
    }
}

impl Index {
    pub(super) fn add_number(&mut self, number: &Number) {
        match number.state() {
            NumberState::Available => {
                self.counts.available += 1;
                self.free.entry(number.pool.clone()).or_default().insert(number.e164.clone());
            }
            NumberState::Active => {
                self.counts.active += 1;
                self.active.insert(number.e164.clone());
                self.use_trunks(&number.candidates);
            }
            NumberState::Quarantine => {
                self.counts.quarantine += 1;
                let expiry = Expiry::Quarantine(number.e164.clone());
                self.expiries.insert((number.quarantine_until_ms, expiry));
            }
            _ => {}
        }
    }

    fn remove_number(&mut self, number: &Number) {
        match number.state() {
            NumberState::Available => {
                self.counts.available = self.counts.available.saturating_sub(1);
                if let Some(free) = self.free.get_mut(&number.pool) {
                    free.remove(&number.e164);
                    if free.is_empty() {
                        self.free.remove(&number.pool);
                    }
                }
            }
            NumberState::Active => {
                self.counts.active = self.counts.active.saturating_sub(1);
                self.active.remove(&number.e164);
                let candidates: &[RouteCandidate] = &number.candidates;
                self.unuse_trunks(candidates);
            }
            NumberState::Quarantine => {
                self.counts.quarantine = self.counts.quarantine.saturating_sub(1);
                let expiry = Expiry::Quarantine(number.e164.clone());
                self.expiries.remove(&(number.quarantine_until_ms, expiry));
            }
            _ => {}
        }
    }
}
