//! The inventory as one would keep it on paper: a line for each number, every rule said once, no
//! index, no range. What `apply` must come to.

use std::collections::{BTreeMap, BTreeSet};

use proto::control::{NumberState, PortEvent};
use proto::raft::Reason;

use super::super::quarantine::{QUARANTINE_MS, RESERVATION_MS};
use super::DAY;

pub(super) type Result<T = ()> = std::result::Result<T, Reason>;

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub state: NumberState,
    /// Owner, or the last one.
    pub tenant: Option<u8>,
    pub generation: u64,
    pub until: u64,
    pub pool: u8,
    /// Of the reservation or the port order.
    pub paper: u64,
    /// Shows the tenant's bundle.
    pub shows: bool,
}

/// A reservation.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub tenant: u8,
    pub numbers: BTreeSet<u64>,
    pub until: u64,
    pub extended: u8,
}

/// A port order: 0 draft, 1 submitted, 2 exception, 3 FOC, 4 completed, 5 closed.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub comes_in: bool,
    pub numbers: BTreeSet<u64>,
    pub step: u8,
    pub foc: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Paper {
    pub now: u64,
    pub lines: BTreeMap<u64, Line>,
    pub held: BTreeMap<u64, Held>,
    pub orders: BTreeMap<u64, Order>,
    /// The last reservation or order.
    pub papers: u64,
    /// The highest generation of a number that is gone.
    pub gone: u64,
    /// Tenants whose bundle is approved. Pool 1 asks for one.
    pub approved: BTreeSet<u8>,
}

/// Tenant 2 may have so many in use, and so many reserved.
pub(super) const QUOTA: (usize, usize) = (3, 2);

use NumberState::{
    Active, Available, Blocked, Decommissioned, Pending, PortedOut, PortingIn, PortingOut,
    Quarantine, Reserved, Suspended,
};

fn in_use(state: NumberState) -> bool {
    [Pending, Active, Suspended, PortingIn, PortingOut].contains(&state)
}

fn owner(state: NumberState, tenant: Option<u8>) -> Option<u8> {
    tenant.filter(|_| in_use(state) || state == Reserved)
}

impl Paper {
    pub(super) fn advance(&mut self, now: u64) {
        self.now = now;
        let due = |until: u64| until <= now;
        let over: Vec<u64> =
            self.held.iter().filter(|(_, h)| due(h.until)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end_reservation(id));
        let dated = self.orders.iter().filter(|(_, o)| o.comes_in && o.step == 3 && due(o.foc));
        for id in dated.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.event(id, PortEvent::Completed, 0).expect("an order that waits for its date");
        }
        let ends = |l: &Line| [Quarantine, Pending].contains(&l.state) && due(l.until);
        let over: Vec<u64> = self.lines.iter().filter(|(_, l)| ends(l)).map(|(n, _)| *n).collect();
        over.into_iter().for_each(|n| self.set(n, Available, None));
    }

    /// Moves a number on; what it had is gone, its generation grows when its owner changes.
    fn set(&mut self, number: u64, state: NumberState, tenant: Option<u8>) {
        let line = self.lines.get_mut(&number).expect("known");
        if owner(line.state, line.tenant) != owner(state, tenant) {
            line.generation += 1;
        }
        let (generation, pool) = (line.generation, line.pool);
        *line = Line { state, tenant, generation, until: 0, pool, paper: 0, shows: false };
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut Line)) {
        change(self.lines.get_mut(&number).expect("known"));
    }

    fn line(&self, number: u64) -> Result<&Line> {
        self.lines.get(&number).ok_or(Reason::NotFound)
    }

    fn must(&self, number: u64, states: &[NumberState]) -> Result {
        let is = self.line(number)?.state;
        if states.contains(&is) { Ok(()) } else { Err(Reason::IllegalTransition) }
    }

    fn must_own(&self, number: u64, tenant: u8) -> Result {
        if self.line(number)?.tenant == Some(tenant) { Ok(()) } else { Err(Reason::NotOwner) }
    }

    fn quota(&self, tenant: u8, more: usize, more_reserved: usize) -> Result {
        let count = |wanted: fn(NumberState) -> bool| {
            let own = self.lines.values().filter(|l| l.tenant == Some(tenant) && wanted(l.state));
            own.count()
        };
        let numbers = more > 0 && count(in_use) + more > QUOTA.0;
        let reserved = more_reserved > 0 && count(|s| s == Reserved) + more_reserved > QUOTA.1;
        if tenant == 2 && (numbers || reserved) { Err(Reason::Quota) } else { Ok(()) }
    }

    fn met(&self, pool: u8, tenant: u8, shows: bool) -> bool {
        pool != 1 || (shows && self.approved.contains(&tenant))
    }

    pub(super) fn import(&mut self, first: u64, count: u64, pool: u8) -> Result {
        if count == 0 || first.to_string().len() != (first + count - 1).to_string().len() {
            return Err(Reason::Invalid);
        }
        for number in first..first + count {
            match self.lines.get(&number) {
                Some(l) if l.state == Decommissioned && l.until <= self.now => {}
                Some(_) => return Err(Reason::AlreadyExists),
                None => {}
            }
        }
        for number in first..first + count {
            let generation = self.lines.get(&number).map_or(self.gone, |l| l.generation);
            self.lines.insert(number, free(generation, pool));
        }
        Ok(())
    }

    fn lowest(&self, pool: u8, count: usize) -> Result<Vec<u64>> {
        let free = self.lines.iter().filter(|(_, l)| l.state == Available && l.pool == pool);
        let found: Vec<u64> = free.map(|(n, _)| *n).take(count).collect();
        if found.len() == count { Ok(found) } else { Err(Reason::PoolExhausted) }
    }

    pub(super) fn any(&mut self, t: u8, pool: u8, count: usize, shows: bool) -> Result<Vec<u64>> {
        let numbers = self.lowest(pool, count)?;
        self.grant(t, &numbers, shows)?;
        Ok(numbers)
    }

    pub(super) fn named(&mut self, t: u8, numbers: &[u64], shows: bool) -> Result {
        numbers.iter().try_for_each(|n| self.line(*n).map(|_| ()))?;
        for number in numbers {
            let line = self.line(*number)?;
            let (state, own) = (line.state, line.tenant == Some(t));
            if in_use(state) {
                return Err(Reason::NumberAllocated);
            }
            if state != Available && !(state == Quarantine && own) {
                return Err(Reason::IllegalTransition);
            }
        }
        self.grant(t, numbers, shows)
    }

    fn grant(&mut self, t: u8, numbers: &[u64], shows: bool) -> Result {
        self.quota(t, numbers.len(), 0)?;
        let unmet = |n: &u64| !self.met(self.lines[n].pool, t, shows);
        if numbers.iter().any(|n| self.lines[n].state == Quarantine && unmet(n)) {
            return Err(Reason::RequirementsUnmet);
        }
        for number in numbers {
            let met = self.met(self.lines[number].pool, t, shows);
            self.set(*number, if met { Active } else { Pending }, Some(t));
            let until = if met { 0 } else { self.now + 30 * DAY };
            self.change(*number, |l| (l.until, l.shows) = (until, shows));
        }
        Ok(())
    }

    pub(super) fn reserve(&mut self, t: u8, pool: u8, count: usize) -> Result<Vec<u64>> {
        let numbers = self.lowest(pool, count)?;
        self.quota(t, 0, count)?;
        self.papers += 1;
        let (paper, until) = (self.papers, self.now + RESERVATION_MS);
        let all = numbers.iter().copied().collect();
        self.held.insert(paper, Held { tenant: t, numbers: all, until, extended: 0 });
        for number in &numbers {
            self.set(*number, Reserved, Some(t));
            self.change(*number, |l| l.paper = paper);
        }
        Ok(numbers)
    }

    fn reservation(&mut self, id: u64, t: u8) -> Result<&mut Held> {
        let held = self.held.get_mut(&id).ok_or(Reason::NotFound)?;
        if held.tenant == t { Ok(held) } else { Err(Reason::NotOwner) }
    }

    pub(super) fn take_reserved(&mut self, t: u8, id: u64, shows: bool) -> Result<Vec<u64>> {
        let numbers: Vec<u64> = self.reservation(id, t)?.numbers.iter().copied().collect();
        self.grant(t, &numbers, shows)?;
        self.held.remove(&id);
        Ok(numbers)
    }

    pub(super) fn extend(&mut self, t: u8, id: u64) -> Result {
        let until = self.now + RESERVATION_MS;
        let held = self.reservation(id, t)?;
        if held.extended == 2 {
            return Err(Reason::Limit);
        }
        held.extended += 1;
        held.until = held.until.max(until);
        Ok(())
    }

    pub(super) fn cancel(&mut self, t: u8, id: u64) -> Result {
        self.reservation(id, t)?;
        self.end_reservation(id);
        Ok(())
    }

    fn end_reservation(&mut self, id: u64) {
        let held = self.held.remove(&id).expect("held");
        held.numbers.into_iter().for_each(|n| self.set(n, Available, None));
    }

    pub(super) fn release(&mut self, t: u8, number: u64, generation: u64) -> Result {
        let expected = self.line(number)?.generation;
        if generation != 0 && generation != expected {
            return Err(Reason::Conflict);
        }
        self.must(number, &[Active, Suspended, Pending])?;
        self.must_own(number, t)?;
        if self.line(number)?.state == Pending {
            self.set(number, Available, None);
        } else {
            self.rest(number);
        }
        Ok(())
    }

    fn rest(&mut self, number: u64) {
        let (tenant, until) = (self.lines[&number].tenant, self.now + QUARANTINE_MS);
        self.set(number, Quarantine, tenant);
        self.change(number, |l| l.until = until);
    }

    pub(super) fn suspend(&mut self, number: u64, resume: bool) -> Result {
        let (from, to) = if resume { (Suspended, Active) } else { (Active, Suspended) };
        self.must(number, &[from])?;
        self.change(number, |l| l.state = to);
        Ok(())
    }

    pub(super) fn transfer(&mut self, t: u8, to: u8, number: u64) -> Result {
        self.must(number, &[Active])?;
        self.must_own(number, t)?;
        if t == to {
            return Err(Reason::Invalid);
        }
        self.quota(to, 1, 0)?;
        if !self.met(self.lines[&number].pool, to, false) {
            return Err(Reason::RequirementsUnmet);
        }
        self.set(number, Active, Some(to));
        Ok(())
    }

    pub(super) fn activate(&mut self, t: u8, number: u64) -> Result {
        self.must(number, &[Pending])?;
        self.must_own(number, t)?;
        if !self.met(self.lines[&number].pool, t, true) {
            return Err(Reason::RequirementsUnmet);
        }
        self.change(number, |l| (l.state, l.until, l.shows) = (Active, 0, true));
        Ok(())
    }

    pub(super) fn reject(&mut self, number: u64) -> Result {
        self.must(number, &[Pending])?;
        self.set(number, Available, None);
        Ok(())
    }

    /// The tenant's bundle is approved, or is not any more.
    pub(super) fn judge(&mut self, t: u8, approved: bool) {
        if !approved {
            self.approved.remove(&t);
            return;
        }
        self.approved.insert(t);
        for line in self.lines.values_mut() {
            if line.state == Pending && line.tenant == Some(t) && line.shows {
                (line.state, line.until) = (Active, 0);
            }
        }
    }

    pub(super) fn block(&mut self, first: u64, count: u64, pool: u8) -> Result {
        let run = first..first + count;
        let known = run.clone().filter_map(|n| self.lines.get(&n));
        if known.into_iter().any(|l| l.state != Available) {
            return Err(Reason::IllegalTransition);
        }
        for number in run {
            let gone = self.gone;
            self.lines.entry(number).or_insert_with(|| free(gone, pool));
            self.set(number, Blocked, None);
        }
        Ok(())
    }

    /// All of a run, or none.
    pub(super) fn run(
        &mut self,
        (first, count): (u64, u64),
        from: &[NumberState],
        to: NumberState,
    ) -> Result {
        (first..first + count).try_for_each(|n| self.must(n, from))?;
        for number in first..first + count {
            let rests = self.lines[&number].until.max(self.now + QUARANTINE_MS);
            self.set(number, to, None);
            if to == Decommissioned {
                self.change(number, |l| l.until = rests);
            }
        }
        Ok(())
    }

    pub(super) fn port_in(&mut self, t: u8, numbers: &BTreeSet<u64>, pool: u8) -> Result {
        let known = numbers.iter().filter_map(|n| self.lines.get(n));
        if known.into_iter().any(|l| ![PortedOut, Decommissioned].contains(&l.state)) {
            return Err(Reason::IllegalTransition);
        }
        self.quota(t, numbers.len(), 0)?;
        self.order(true, numbers);
        for number in numbers {
            let gone = self.gone;
            self.lines.entry(*number).or_insert_with(|| free(gone, pool)).pool = pool;
            self.set(*number, PortingIn, Some(t));
            let paper = self.papers;
            self.change(*number, |l| l.paper = paper);
        }
        Ok(())
    }

    pub(super) fn port_out(&mut self, t: u8, numbers: &BTreeSet<u64>) -> Result {
        for number in numbers {
            self.must(*number, &[Active, Suspended])?;
            self.must_own(*number, t)?;
        }
        self.order(false, numbers);
        for number in numbers {
            let paper = self.papers;
            self.change(*number, |l| (l.state, l.paper) = (PortingOut, paper));
        }
        Ok(())
    }

    fn order(&mut self, comes_in: bool, numbers: &BTreeSet<u64>) {
        self.papers += 1;
        let order = Order { comes_in, numbers: numbers.clone(), step: 0, foc: 0 };
        self.orders.insert(self.papers, order);
    }

    pub(super) fn event(&mut self, id: u64, event: PortEvent, foc: u64) -> Result {
        let order = self.orders.get(&id).ok_or(Reason::NotFound)?.clone();
        let open = order.step < 4;
        let (fits, step) = match event {
            PortEvent::Submitted => ([0, 2].contains(&order.step), 1),
            PortEvent::Exception => ([1, 3].contains(&order.step), 2),
            PortEvent::FocConfirmed => ([1, 3].contains(&order.step), 3),
            PortEvent::Completed => ([1, 3].contains(&order.step), 4),
            PortEvent::Cancelled | PortEvent::Rejected => (open, 5),
            PortEvent::Snapback => (!order.comes_in && order.step <= 4, 5),
            PortEvent::Unspecified => (false, 0),
        };
        let in_hand = |n: &u64| self.lines.get(n).is_some_and(|l| l.paper == id);
        if !fits || !order.numbers.iter().all(in_hand) {
            return Err(Reason::IllegalTransition);
        }
        let kept = self.orders.get_mut(&id).expect("known");
        kept.step = step;
        if event == PortEvent::FocConfirmed {
            kept.foc = foc;
        }
        for number in &order.numbers {
            let line = self.lines[number].clone();
            match (event, line.state) {
                (PortEvent::Completed, PortingOut) => {
                    self.set(*number, PortedOut, line.tenant);
                    self.change(*number, |l| l.paper = id);
                }
                (PortEvent::Cancelled | PortEvent::Rejected, PortingIn) => {
                    self.gone = self.gone.max(line.generation);
                    self.lines.remove(number);
                }
                (PortEvent::Snapback, PortedOut) => self.rest(*number),
                (
                    PortEvent::Completed
                    | PortEvent::Cancelled
                    | PortEvent::Rejected
                    | PortEvent::Snapback,
                    _,
                ) => self.change(*number, |l| (l.state, l.paper) = (Active, 0)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn free(generation: u64, pool: u8) -> Line {
    Line { state: Available, tenant: None, generation, until: 0, pool, paper: 0, shows: false }
}
