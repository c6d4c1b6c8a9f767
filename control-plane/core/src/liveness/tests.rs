use super::*;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Three nodes that ask each other at every step.
struct Nodes {
    now: Instant,
    nodes: Vec<Liveness>,
    /// Nodes that are reached.
    up: [bool; 3],
    /// Which POPs each node hears.
    hears: [Vec<&'static str>; 3],
    expired: BTreeMap<&'static str, bool>,
    epoch: u64,
    held: usize,
    /// "fra1" also beats with this epoch, which nobody registered.
    shadow: Option<u64>,
}

impl Nodes {
    fn new(pops: &[&'static str]) -> Self {
        let now = Instant::from_millis(1_000);
        let hears = std::array::from_fn(|_| pops.to_vec());
        let expired = pops.iter().map(|pop| (*pop, false)).collect();
        let nodes = VOTERS.iter().map(|id| Liveness::new(*id, now)).collect();
        Self { now, nodes, up: [true; 3], hears, expired, epoch: 1, held: 0, shadow: None }
    }

    /// 100 ms, led by `leader`: what it finds comes true at once.
    fn step(&mut self, leader: usize) {
        self.now += Duration::from_millis(100);
        let (now, epoch) = (self.now, self.epoch);
        for (at, node) in self.nodes.iter_mut().enumerate().filter(|(at, _)| self.up[*at]) {
            if now.as_millis().is_multiple_of(500) {
                if let Some(epoch) = self.shadow {
                    assert!(!node.handle_beat("fra1", epoch, now), "it counts for nothing");
                }
                self.hears[at].iter().for_each(|pop| _ = node.handle_beat(pop, epoch, now));
            }
            node.handle_tick(now);
            let roster = self.expired.iter().map(|(pop, gone)| ((*pop).to_owned(), epoch, *gone));
            node.handle_roster(roster, now);
        }
        let (asked, _) = self.nodes[leader].question(now);
        for other in (0..3).filter(|at| *at != leader && self.up[*at]) {
            let said = self.nodes[other].answer(&asked, now);
            self.nodes[leader].handle_answer(VOTERS[other], &said, now);
        }
        let Judgment { found, held } = self.nodes[leader].judge(&VOTERS, now);
        self.held = held;
        for pop in found {
            let known = self.expired.iter_mut().find(|(id, _)| **id == pop.pop_id);
            *known.unwrap().1 = pop.expired;
        }
    }

    fn steps(&mut self, leader: usize, count: usize) {
        (0..count).for_each(|_| self.step(leader));
    }

    /// Steps until `pop` is as wanted; none: it never is, in a minute.
    fn until(&mut self, leader: usize, pop: &str, expired: bool) -> Option<usize> {
        (0..600).find(|_| {
            self.step(leader);
            self.expired[pop] == expired
        })
    }

    fn silence(&mut self, nodes: &[usize], pop: &str) {
        nodes.iter().for_each(|at| self.hears[*at].retain(|heard| *heard != pop));
    }
}

#[test]
fn a_pop_that_nobody_hears_expires_after_the_ttl_and_returns_with_its_beats() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    assert!(nodes.expired.values().all(|gone| !gone));
    nodes.silence(&[0, 1, 2], "fra1");
    let took = nodes.until(0, "fra1", true).unwrap();
    assert!((14..=21).contains(&took), "{took} steps of 100 ms");
    assert!(!nodes.expired["sin1"]);
    nodes.hears.iter_mut().for_each(|heard| heard.push("fra1"));
    let took = nodes.until(0, "fra1", false).unwrap();
    assert!((9..=16).contains(&took), "beats come for a second first: {took}");
}

#[test]
fn a_new_leader_knows_the_silence_already() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.steps(0, 10);
    // The leader dies, a second after the POP.
    nodes.up[0] = false;
    let took = nodes.until(1, "fra1", true).unwrap();
    assert!(took <= 12, "{took} steps of 100 ms");
}

#[test]
fn a_pop_that_a_majority_hears_never_expires() {
    for leader in 0..3 {
        let mut nodes = Nodes::new(&["fra1", "sin1"]);
        nodes.steps(leader, 30);
        nodes.silence(&[0], "fra1");
        assert_eq!(nodes.until(leader, "fra1", true), None, "led by {leader}");
    }
    // The leader alone hears it: its own ears suffice.
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[1, 2], "fra1");
    assert_eq!(nodes.until(0, "fra1", true), None);
}

#[test]
fn time_that_a_node_did_not_live_through_is_no_silence() {
    let mut nodes = Nodes::new(&["fra1"]);
    nodes.steps(0, 30);
    // All stop for a minute; then beats come again, the first one late.
    nodes.now += Duration::from_secs(60);
    nodes.hears.iter_mut().for_each(Vec::clear);
    nodes.steps(0, 18);
    assert!(!nodes.expired["fra1"]);
    nodes.hears.iter_mut().for_each(|heard| heard.push("fra1"));
    assert_eq!(nodes.until(0, "fra1", true), None);
    // One that stays away goes.
    nodes.silence(&[0, 1, 2], "fra1");
    assert!(nodes.until(0, "fra1", true).is_some());
}

#[test]
fn without_a_quorum_nothing_is_found_and_without_answers_nothing_is_believed() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.up = [true, false, false];
    assert_eq!(nodes.until(0, "fra1", true), None, "alone");
    // A node that answers, but not about this POP, has not agreed.
    let now = nodes.now;
    nodes.nodes[0].handle_answer(2, &[], now);
    assert_eq!(nodes.nodes[0].judge(&VOTERS, now), Judgment::default());
}

#[test]
fn a_node_that_has_just_begun_has_no_opinion() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    // Two nodes begin anew while the POP's streams to them are not up yet.
    nodes.nodes[1] = Liveness::new(2, nodes.now);
    nodes.nodes[2] = Liveness::new(3, nodes.now);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.steps(0, 60);
    assert!(!nodes.expired["fra1"]);
    // After the grace they are no witnesses any more, and the one that is decides.
    assert!(nodes.until(0, "fra1", true).unwrap() < 60);
}

#[test]
fn a_pop_that_registers_and_never_beats_expires_after_the_grace() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.epoch = 2;
    let took = nodes.until(0, "fra1", true).unwrap();
    assert!((95..=105).contains(&took), "{took} steps of 100 ms");
    assert!(!nodes.expired["sin1"], "it beats with its new epoch");
    // Beats of the old process say nothing of the new one.
    let now = nodes.now;
    nodes.nodes[0].handle_beat("fra1", 1, now);
    nodes.steps(0, 20);
    assert!(nodes.expired["fra1"]);
}

#[test]
fn an_epoch_that_nobody_registered_hides_no_process() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.shadow = Some(u64::MAX);
    // The true one is heard beside it,
    assert_eq!(nodes.until(0, "fra1", true), None);
    // its silence is found in time,
    nodes.silence(&[0, 1, 2], "fra1");
    let took = nodes.until(0, "fra1", true).unwrap();
    assert!((14..=21).contains(&took), "{took} steps of 100 ms");
    // and it returns.
    nodes.hears.iter_mut().for_each(|heard| heard.push("fra1"));
    assert!(nodes.until(0, "fra1", false).is_some());
    // One that registers is heard as well, and who claimed too much before knows nothing of it.
    nodes.epoch = 2;
    assert_eq!(nodes.until(0, "fra1", true), None);
}

#[test]
fn a_node_that_began_with_a_false_epoch_learns_the_true_one() {
    let mut liveness = Liveness::new(1, Instant::ZERO);
    let at = |ms| Instant::ZERO + Duration::from_millis(ms);
    liveness.handle_beat("fra1", 99, at(0));
    liveness.handle_roster([("fra1".to_owned(), 7, false)], at(100));
    assert!(liveness.handle_beat("fra1", 7, at(200)));
    let asked = |epoch| [PopEpoch { pop_id: "fra1".into(), epoch }];
    let said = |liveness: &Liveness, epoch| liveness.answer(&asked(epoch), at(300))[0].hearing();
    assert_eq!(said(&liveness, 7), PopHearing::Heard);
    // A leader whose state names the next epoch already is told of its beats too.
    liveness.handle_beat("fra1", 8, at(250));
    assert_eq!(
        said(&liveness, 8),
        PopHearing::Unspecified,
        "hidden, until this node's state says so"
    );
    liveness.handle_roster([("fra1".to_owned(), 8, false)], at(260));
    assert!(liveness.handle_beat("fra1", 8, at(270)));
    assert_eq!(said(&liveness, 8), PopHearing::Heard);
    assert_eq!(said(&liveness, 7), PopHearing::Heard, "the asker lags");
}

#[test]
fn many_at_once_that_somebody_hears_are_held_and_those_nobody_hears_go() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "ord1", "sin1"]);
    nodes.steps(0, 30);
    for pop in ["iad1", "ord1"] {
        nodes.silence(&[0, 1], pop);
    }
    nodes.silence(&[0, 1, 2], "sin1");
    assert!(nodes.until(0, "sin1", true).is_some());
    assert_eq!((nodes.expired["iad1"], nodes.expired["ord1"], nodes.held), (false, false, 2));
    // Long after the storm, with one of them heard by all again, the other is one POP like others.
    nodes.hears.iter_mut().for_each(|heard| heard.push("ord1"));
    assert!(nodes.until(0, "iad1", true).is_some());
    assert_eq!(nodes.held, 0);
}

#[test]
fn questions_come_round_to_all() {
    let mut liveness = Liveness::new(1, Instant::ZERO);
    let roster = (0..2_500).map(|n| (format!("pop{n:04}"), 1, false));
    liveness.handle_roster(roster, Instant::ZERO);
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (question, urgent) = liveness.question(Instant::ZERO);
        assert!(urgent && question.len() <= QUESTION_MAX);
        asked.extend(question.into_iter().map(|pop| pop.pop_id));
    }
    assert_eq!(asked.len(), 2_500);
}
