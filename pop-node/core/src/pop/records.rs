//! Records of calls that are over, waiting for the last quality reports of their legs.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::LegId;
use proto::time::{Duration, Instant};

use crate::call::Cdr;
use crate::media::QualityReport;

/// Which leg of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Towards the caller.
    In,
    /// Towards the callee.
    Out,
}

#[derive(Debug)]
struct Pending {
    cdr: Cdr,
    missing: BTreeMap<LegId, Which>,
    until: Instant,
}

/// At most one entry a call; each leaves after a bounded time.
#[derive(Debug)]
pub(crate) struct Records {
    limit: Duration,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    legs: BTreeMap<LegId, u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    ready: Vec<Cdr>,
}

impl Records {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            next: 0,
            pending: BTreeMap::new(),
            legs: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ready: Vec::new(),
        }
    }

    /// Takes a record that lacks the reports of `missing`.
    pub(crate) fn add(&mut self, cdr: Cdr, missing: BTreeMap<LegId, Which>, now: Instant) {
        if missing.is_empty() {
            self.ready.push(cdr);
            return;
        }
        self.next += 1;
        let until = now + self.limit;
        self.legs.extend(missing.keys().map(|leg| (*leg, self.next)));
        self.deadlines.insert((until, self.next));
        self.pending.insert(self.next, Pending { cdr, missing, until });
    }

    /// The last report of a leg.
    pub(crate) fn report(&mut self, leg: LegId, report: QualityReport) {
        let Some(id) = self.legs.remove(&leg) else { return };
        let Some(pending) = self.pending.get_mut(&id) else { return };
        match pending.missing.remove(&leg) {
            Some(Which::In) => pending.cdr.quality_in = Some(report),
            Some(Which::Out) => pending.cdr.quality_out = Some(report),
            None => {}
        }
        if pending.missing.is_empty() {
            self.finish(id);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(pending) = self.pending.remove(&id) else { return };
        self.deadlines.remove(&(pending.until, id));
        for leg in pending.missing.keys() {
            self.legs.remove(leg);
        }
        self.ready.push(pending.cdr);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(crate) fn take_ready(&mut self) -> Vec<Cdr> {
        std::mem::take(&mut self.ready)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.ready.is_empty()
    }
}
