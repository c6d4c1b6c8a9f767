//! How long numbers rest and are held, by country and type; and the end of a rest.

use proto::control::{NumberPolicy, NumberState};
use proto::raft::{Done, NumberPolicyKey, PutNumberPolicy, Reason, outcome};

use super::numbers::record::{NumberRecord, ShelfKey};
use super::numbers::store::Found;
use super::tables::Record;
use super::{Answer, State, Step, Store, refuse};

/// A released number rests so long before somebody else may get it, and its calls.
pub(crate) const QUARANTINE_MS: u64 = 45 * 24 * 3_600_000;

/// A reserved number is held so long.
pub(crate) const RESERVATION_MS: u64 = 30 * 60_000;

/// Most policies and requirements.
pub(crate) const RULES_MAX: usize = 10_000;

impl Record for NumberPolicy {
    const TABLE: u8 = b'w';
    fn name(&self) -> String {
        name(&self.country, self.r#type)
    }
}

fn name(country: &str, kind: i32) -> String {
    format!("{country}\0{kind}")
}

impl<S: Store> State<S> {
    /// The policies, by country and type.
    pub fn number_policies(&self) -> impl Iterator<Item = NumberPolicy> + '_ {
        self.tables.scan(None)
    }

    pub(super) fn put_number_policy(&mut self, put: &PutNumberPolicy, step: &mut Step) -> Answer {
        let Some(policy) = &put.policy else {
            return refuse(Reason::Invalid, "policy is missing");
        };
        let old = self.tables.get::<NumberPolicy>(policy.name());
        self.must_match_etag(put.expect.as_ref(), old.as_ref().map(|old| old.etag.as_str()))?;
        if old.is_none() && self.number_policies().nth(RULES_MAX).is_some() {
            return refuse(Reason::Limit, format!("there are {RULES_MAX} policies already"));
        }
        let policy = NumberPolicy { etag: self.next_etag(), ..policy.clone() };
        self.tables.put(&policy);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_number_policy(
        &mut self,
        key: &NumberPolicyKey,
        step: &mut Step,
    ) -> Answer {
        let name = name(&key.country, key.r#type);
        if !self.tables.contains::<NumberPolicy>(&name) {
            return refuse(Reason::NotFound, "there is no policy for this country and type");
        }
        self.tables.delete::<NumberPolicy>(&name);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    /// The most exact policy of a shelf that says something about this.
    fn rule<T>(&self, shelf: u32, says: impl Fn(&NumberPolicy) -> Option<T>) -> Option<T> {
        let (country, kind) = match self.index.numbers.shelf(shelf) {
            Some(ShelfKey { country, kind, .. }) => (country.as_str(), *kind),
            None => ("", 0),
        };
        let places = [(country, kind), (country, 0), ("", kind), ("", 0)];
        let mut policies = places.into_iter().filter_map(|(country, kind)| {
            self.tables.get::<NumberPolicy>(name(country, kind)).and_then(|p| says(&p))
        });
        policies.next()
    }

    pub(super) fn quarantine_ms(&self, shelf: u32) -> u64 {
        self.rule(shelf, |policy| policy.quarantine_ms).unwrap_or(QUARANTINE_MS)
    }

    pub(super) fn reservation_ms(&self, shelf: u32) -> u64 {
        let says = |policy: &NumberPolicy| Some(policy.reservation_ms).filter(|ms| *ms > 0);
        self.rule(shelf, says).unwrap_or(RESERVATION_MS)
    }

    /// The record of a number that begins to rest; its last owner is remembered.
    pub(super) fn rested(&self, found: &Found, now_ms: u64) -> NumberRecord {
        NumberRecord {
            tenant: found.record.tenant,
            until_ms: now_ms.saturating_add(self.quarantine_ms(found.shelf)),
            ..found.record.moved(NumberState::Quarantine)
        }
    }

    /// QUARANTINE is over, or nobody met the requirements in time.
    pub(super) fn end_number(&mut self, number: u64, step: &mut Step) {
        let Some(found) = self.look_up(number) else { return };
        if matches!(found.state(), NumberState::Quarantine | NumberState::Pending) {
            let record = found.record.moved(NumberState::Available);
            self.write_number(&found, record, step);
        }
    }
}
