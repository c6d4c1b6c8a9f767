//! What clients ask for, and whether what they were told holds.

use std::collections::{BTreeMap, BTreeSet};

use proto::control::NumberState;
use proto::raft::command::Kind;
use proto::raft::{AllocateNumber, ImportNumbers, ReleaseNumber, allocate_number, outcome};

use super::sim::{NODES, Request, Sim};

pub(super) fn number(at: u64) -> String {
    format!("+4930{at:06}")
}

/// A workload: imports, allocations, and releases of what was allocated.
pub(in super::super) fn load(sim: &mut Sim, steps: u64) {
    let mut imported = 0;
    for at in 0..steps {
        if at % 40 == 0 {
            let e164 = (0..8).map(|n| number(imported + n)).collect();
            imported += 8;
            sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
        }
        if at % 7 == 0 {
            let which = Some(allocate_number::Which::AnyOfPool("p".into()));
            let tenant = format!("tenant-{}", sim.requests.len());
            sim.request(Kind::AllocateNumber(AllocateNumber { tenant, which, candidates: vec![] }));
        }
        if at % 31 == 0 {
            let allocated = sim
                .requests
                .iter()
                .find_map(|r| allocated(r).filter(|_| sim.now.is_multiple_of(3)));
            if let Some((tenant, e164)) = allocated {
                sim.request(Kind::ReleaseNumber(ReleaseNumber { tenant, e164, expect: None }));
            }
        }
        sim.step();
    }
}

fn allocated(request: &Request) -> Option<(String, String)> {
    match request.answer.as_ref()?.kind.as_ref()? {
        outcome::Kind::Number(n) if n.state() == NumberState::Active => {
            Some((n.tenant.clone(), n.e164.clone()))
        }
        _ => None,
    }
}

/// What was answered, against what the cluster holds in the end.
pub(super) fn check(sim: &mut Sim) {
    let hashes: BTreeSet<_> = NODES.iter().map(|id| sim.replica(*id).state().hash()).collect();
    assert_eq!(hashes.len(), 1, "states differ");
    let state = sim.replica(1).state().clone();
    let released: BTreeSet<String> = sim
        .requests
        .iter()
        .filter_map(|r| match (&r.command.kind, &r.answer.as_ref()?.kind) {
            (Some(Kind::ReleaseNumber(release)), Some(outcome::Kind::Number(_))) => {
                Some(release.tenant.clone())
            }
            _ => None,
        })
        .collect();
    let mut owners = BTreeMap::new();
    for request in &sim.requests {
        match (&request.command.kind, &request.answer.as_ref().unwrap().kind) {
            (Some(Kind::ImportNumbers(import)), Some(outcome::Kind::Imported(_))) => {
                assert!(import.e164.iter().all(|n| state.number(n).is_some()), "import lost");
            }
            (Some(Kind::AllocateNumber(allocate)), Some(outcome::Kind::Number(number)))
                if !released.contains(&allocate.tenant) =>
            {
                let now = state.number(&number.e164).unwrap();
                assert_eq!(now.tenant, allocate.tenant, "allocation lost");
                assert_eq!(now.state(), NumberState::Active);
                let before = owners.insert(number.e164.clone(), allocate.tenant.clone());
                assert_eq!(before, None, "two owners");
            }
            _ => {}
        }
    }
    // Each tenant asked once: more than one number would be a request carried out twice.
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    let query = crate::state::NumberQuery { limit: usize::MAX, ..Default::default() };
    for number in state.numbers(query).numbers.into_iter().filter(|n| !n.tenant.is_empty()) {
        *held.entry(number.tenant).or_default() += 1;
    }
    assert!(held.values().all(|count| *count == 1), "carried out twice: {held:?}");
}

/// Every request sent again is answered as before, without effect.
pub(super) fn repeat_all(sim: &mut Sim) {
    let before: Vec<_> = sim.requests.iter_mut().map(|r| r.answer.take().unwrap()).collect();
    let revision = sim.replica(1).state().revision();
    sim.settle();
    for (request, before) in sim.requests.iter().zip(before) {
        let again = request.answer.as_ref().unwrap();
        assert_eq!(again.revision, before.revision);
        if !matches!(before.kind, Some(outcome::Kind::Rejected(_))) {
            assert_eq!(*again, before);
        }
    }
    assert_eq!(sim.replica(1).state().revision(), revision);
}
