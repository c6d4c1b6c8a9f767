//! The search for one order that explains a history of one register.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use super::history::{NEVER, Time};

/// Configurations looked at before the search gives up: seconds, some hundred MB.
const STEPS_MAX: usize = 4_000_000;

/// A register: how it changes, and what it answers.
pub trait Model {
    /// What it holds.
    type State: Clone + Eq + Hash + Debug;
    /// An operation with its answer.
    type Op: Debug;

    /// Before everything.
    fn initial(&self) -> Self::State;

    /// The states in which `op` can leave it with the answer it had; none: it cannot happen here.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Vec<Self::State>;
}

/// One operation on the register.
#[derive(Debug, Clone)]
pub struct Call<Op> {
    /// Not before.
    pub invoked: Time,
    /// Not after; [`NEVER`]: it may have happened, any time later, or not at all.
    pub returned: Time,
    /// What.
    pub op: Op,
}

/// There is no such order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// Proven.
    No(String),
    /// Not found within the bound.
    TooWide(usize),
}

/// One way taken so far.
struct Step<State> {
    call: usize,
    before: State,
    /// States this call can also lead to.
    others: Vec<State>,
}

/// Whether some order of `calls` (sorted by invocation) explains all their answers. The order
/// found, as indices, or why there is none.
pub fn linearize<M: Model>(model: &M, calls: &[Call<M::Op>]) -> Result<Vec<usize>, Stuck> {
    let mut search = Search::new(model, calls);
    search.run()
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    done: Vec<bool>,
    /// `done` in bits, to be remembered.
    bits: Vec<u64>,
    /// Calls with an answer that are not done.
    left: usize,
    /// No call before it is left.
    first: usize,
    state: M::State,
    way: Vec<Step<M::State>>,
    seen: HashSet<(Vec<u64>, M::State)>,
    /// The longest way, for the complaint.
    best: (usize, String),
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op>]) -> Self {
        Self {
            model,
            calls,
            done: vec![false; calls.len()],
            bits: vec![0; calls.len().div_ceil(64)],
            left: calls.iter().filter(|call| call.returned != NEVER).count(),
            first: 0,
            state: model.initial(),
            way: Vec::new(),
            seen: HashSet::new(),
            best: (0, String::new()),
        }
    }

    fn run(&mut self) -> Result<Vec<usize>, Stuck> {
        // The next call to try here; after a step back, the one after the call taken back.
        let mut next = self.first;
        for _ in 0..STEPS_MAX {
            if self.left == 0 {
                return Ok(self.way.iter().map(|step| step.call).collect());
            }
            next = match self.find(next) {
                Some((call, states)) => {
                    self.take(call, states);
                    self.first
                }
                None => match self.back() {
                    Some(next) => next,
                    None => return Err(Stuck::No(self.best.1.clone())),
                },
            };
        }
        Err(Stuck::TooWide(STEPS_MAX))
    }

    /// A call from `next` on that can be the next one, and leads to something new.
    fn find(&mut self, next: usize) -> Option<(usize, Vec<M::State>)> {
        // Only a call invoked before every answer that is left can come first.
        let mut horizon = NEVER;
        for (at, call) in self.calls.iter().enumerate().skip(self.first) {
            if self.done.get(at).copied().unwrap_or(true) {
                continue;
            }
            if call.invoked > horizon {
                break;
            }
            horizon = horizon.min(call.returned);
            if at < next {
                continue;
            }
            let mut states = self.model.step(&self.state, &call.op);
            self.flip(at);
            states.retain(|state| self.seen.insert((self.bits.clone(), state.clone())));
            self.flip(at);
            if !states.is_empty() {
                return Some((at, states));
            }
        }
        self.note_end(horizon);
        None
    }

    fn take(&mut self, at: usize, mut others: Vec<M::State>) {
        let Some(state) = others.pop() else { return };
        let before = std::mem::replace(&mut self.state, state);
        self.way.push(Step { call: at, before, others });
        self.mark(at, true);
    }

    /// Undoes the last step, or takes another state it can lead to; where to go on.
    fn back(&mut self) -> Option<usize> {
        let mut step = self.way.pop()?;
        if let Some(state) = step.others.pop() {
            self.state = state;
            self.way.push(step);
            return Some(self.first);
        }
        self.state = step.before;
        self.mark(step.call, false);
        Some(step.call + 1)
    }

    fn mark(&mut self, at: usize, done: bool) {
        self.flip(at);
        if let Some(place) = self.done.get_mut(at) {
            *place = done;
        }
        let answered = self.calls.get(at).is_some_and(|call| call.returned != NEVER);
        match (answered, done) {
            (true, true) => self.left -= 1,
            (true, false) => self.left += 1,
            (false, _) => {}
        }
        if !done {
            self.first = self.first.min(at);
        }
        while self.done.get(self.first) == Some(&true) {
            self.first += 1;
        }
    }

    fn flip(&mut self, at: usize) {
        if let Some(word) = self.bits.get_mut(at / 64) {
            *word ^= 1 << (at % 64);
        }
    }

    /// Nothing can follow here: what was tried, if nobody got further.
    fn note_end(&mut self, horizon: Time) {
        if !self.best.1.is_empty() && self.way.len() < self.best.0 {
            return;
        }
        let open = self
            .calls
            .iter()
            .enumerate()
            .filter(|(at, call)| self.done.get(*at) == Some(&false) && call.invoked <= horizon);
        let open: Vec<String> = open.map(|(_, call)| show(call)).collect();
        let last: Vec<String> = self
            .way
            .iter()
            .rev()
            .take(6)
            .map(|s| s.call)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .filter_map(|at| self.calls.get(at))
            .map(show)
            .collect();
        let text = format!(
            "after {} operations the register holds {:?}, and none of these can be next:\n    {}\n  \
             the last ones before:\n    {}",
            self.way.len(),
            self.state,
            open.join("\n    "),
            last.join("\n    ")
        );
        self.best = (self.way.len(), text);
    }
}

fn show<Op: Debug>(call: &Call<Op>) -> String {
    let returned =
        if call.returned == NEVER { "never".to_owned() } else { call.returned.to_string() };
    format!("[{} … {returned}] {:?}", call.invoked, call.op)
}
