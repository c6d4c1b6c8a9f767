//! Numbers of +1 and +44 in groups of their own, each with its replicas, disks, faults and log,
//! behind the one function that says who keeps what.

use std::collections::{BTreeMap, BTreeSet};

use proto::control::{Block, NumberPick, NumberState, Shelf};
use proto::raft::command::Kind;
use proto::raft::{
    AllocateNumbers, ExtendReservation, ImportBlocks, ImportNumbers, Reason, ReserveNumbers,
    outcome,
};

use super::sim::{NODES, STORM, Sim};
use crate::group::{self, GroupError, GroupId, Groups};

const ONE: GroupId = GroupId(1);
const UK: GroupId = GroupId(44);

struct Mesh {
    groups: Groups,
    sims: BTreeMap<GroupId, Sim>,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let groups = Groups::new([("1", ONE), ("44", UK)]).unwrap();
        let sims = groups.all().into_iter();
        let sims = sims.map(|id| (id, Sim::of_group(id, seed * 100 + u64::from(id.0), STORM)));
        Self { sims: sims.collect(), groups }
    }

    /// Where it went, and which request of that group it is.
    fn send(&mut self, kind: Kind) -> Result<(GroupId, usize), GroupError> {
        let group = self.groups.of(&group::keys(&kind))?.expect("about something");
        let sim = self.sims.get_mut(&group).unwrap();
        sim.request(kind);
        Ok((group, sim.requests.len() - 1))
    }

    fn step(&mut self) {
        self.sims.values_mut().for_each(Sim::step);
    }

    fn settle(&mut self) {
        self.sims.values_mut().for_each(Sim::settle);
    }

    fn outcome(&self, (group, request): (GroupId, usize)) -> &outcome::Kind {
        let answer = self.sims[&group].requests[request].answer.as_ref().expect("settled");
        answer.kind.as_ref().unwrap()
    }
}

fn block(first: &str, count: u64, country: &str) -> Kind {
    let shelf = Some(Shelf { pool: "p".into(), country: country.into(), ..Shelf::default() });
    let blocks = vec![Block { first: first.into(), count, shelf, ..Block::default() }];
    Kind::ImportBlocks(ImportBlocks { blocks })
}

fn any_of(country: &str) -> Option<NumberPick> {
    let shelf = Some(Shelf { country: country.into(), ..Shelf::default() });
    Some(NumberPick { shelf, count: 1, ..NumberPick::default() })
}

fn allocate(tenant: String, country: &str) -> Kind {
    let pick = any_of(country);
    Kind::AllocateNumbers(AllocateNumbers { tenant, pick, ..AllocateNumbers::default() })
}

fn import(e164: &[&str]) -> Kind {
    let e164 = e164.iter().map(|e164| (*e164).to_owned()).collect();
    Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 })
}

const SHELVES: [(&str, &str, GroupId); 3] = [
    ("+12125550100", "US", ONE),
    ("+441632960000", "GB", UK),
    ("+4930901820", "DE", GroupId::ROOT),
];

#[test]
fn each_group_keeps_its_own_numbers_through_faults() {
    for seed in 1..=4 {
        let mut mesh = Mesh::new(seed);
        for (first, country, group) in SHELVES {
            assert_eq!(mesh.send(block(first, 40, country)).unwrap().0, group);
        }
        let mut asked = Vec::new();
        for at in 0..300 {
            if at % 5 == 0 {
                let (_, country, group) = SHELVES[(at / 5) % 3];
                let sent = mesh.send(allocate(format!("tenant-{at}"), country)).unwrap();
                assert_eq!(sent.0, group);
                asked.push(sent);
            }
            mesh.step();
        }
        mesh.settle();
        check(&mesh, &asked);
    }
}

/// Numbers are where they belong, given once each; the groups went on by themselves.
fn check(mesh: &Mesh, asked: &[(GroupId, usize)]) {
    let mut given = BTreeSet::new();
    for sent in asked {
        match mesh.outcome(*sent) {
            outcome::Kind::Numbers(list) => {
                for number in &list.numbers {
                    let key = group::of_number(&number.e164).unwrap();
                    assert_eq!(mesh.groups.of(&[key]), Ok(Some(sent.0)));
                    assert!(given.insert(number.e164.clone()), "given twice");
                }
            }
            // It was carried out before the import.
            outcome::Kind::Rejected(rejected) => {
                assert_eq!(rejected.reason(), Reason::PoolExhausted, "{rejected:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // How many were carried out after the import is up to the storm.
    assert!(given.len() > 15, "{} were given", given.len());
    for (group, sim) in &mesh.sims {
        let hashes: BTreeSet<_> = NODES.iter().map(|id| sim.replica(*id).state().hash()).collect();
        assert_eq!(hashes.len(), 1, "replicas of group {group} differ");
        let state = sim.replica(1).state();
        assert_eq!(state.group(), *group);
        assert_eq!(state.number_counts().total(), 40);
        // Watchers of a group see its revisions, without a gap (`Sim::watch`), and no others.
        assert!(NODES.iter().all(|id| sim.nodes[id].watched == state.revision().0));
        let active = state.number_counts().of(NumberState::Active);
        let mut own = given.iter().filter_map(|e164| group::of_number(e164));
        let own = own.by_ref().filter(|key| mesh.groups.of(&[*key]) == Ok(Some(*group)));
        assert_eq!(own.count() as u64, active);
    }
}

#[test]
fn nothing_spans_two_groups() {
    let mut mesh = Mesh::new(9);
    let spans = GroupError::Spans(ONE, UK);
    assert_eq!(mesh.send(import(&["+12125550100", "+441632960000"])), Err(spans));
    let run = block("+19999999999", 2, "US");
    assert_eq!(mesh.send(run), Err(GroupError::Spans(GroupId::ROOT, ONE)));
    let anywhere = mesh.send(allocate("acme".into(), ""));
    assert_eq!(anywhere, Err(GroupError::Vague(GroupId::ROOT, ONE)));
    // To the wrong replicas by a client with an old table.
    let late = group::keys(&import(&["+441632960000"]));
    assert_eq!(mesh.groups.check(ONE, &late), Err(GroupError::Elsewhere(UK, ONE)));
    assert!(mesh.sims.values().all(|sim| sim.requests.is_empty()));
}

#[test]
fn a_reservation_is_found_by_its_id_alone() {
    let mut mesh = Mesh::new(10);
    mesh.send(block("+441632960000", 10, "GB")).unwrap();
    mesh.settle();
    let (tenant, pick) = ("acme".to_owned(), any_of("GB"));
    let reserve = ReserveNumbers { tenant: tenant.clone(), pick, duration_ms: 0 };
    let sent = mesh.send(Kind::ReserveNumbers(reserve)).unwrap();
    mesh.settle();
    let outcome::Kind::Reservation(held) = mesh.outcome(sent).clone() else { panic!("not held") };
    let reservation_id = held.reservation_id.clone();
    let extend = ExtendReservation { reservation_id, tenant, duration_ms: 0 };
    let sent = mesh.send(Kind::ExtendReservation(extend)).unwrap();
    assert_eq!(sent.0, UK);
    mesh.settle();
    assert!(matches!(mesh.outcome(sent), outcome::Kind::Reservation(_)));
}
