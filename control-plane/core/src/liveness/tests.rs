use super::*;

const VOTERS: [u64; 3] = [1, 2, 3];

fn named(pop: &str, epoch: u64, expired: bool) -> Pop {
    Pop { pop_id: pop.into(), epoch, expired, ..Pop::default() }
}

/// Three nodes that ask each other at every step.
struct Nodes {
    now: Instant,
    nodes: Vec<Liveness>,
    /// Nodes that are reached.
    up: [bool; 3],
    /// Which POPs each node hears.
    hears: [Vec<&'static str>; 3],
    expired: BTreeMap<&'static str, bool>,
    fenced: BTreeSet<&'static str>,
    /// What each POP does not see, as it says with its beats.
    unseen: BTreeMap<&'static str, Vec<String>>,
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
        let (fenced, unseen) = (BTreeSet::new(), BTreeMap::new());
        let up = [true; 3];
        Self { now, nodes, up, hears, expired, fenced, unseen, epoch: 1, held: 0, shadow: None }
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
                for pop in self.hears[at].iter().filter(|pop| !self.fenced.contains(*pop)) {
                    node.handle_beat(pop, epoch, now);
                    let nothing = Vec::new();
                    node.handle_word(pop, epoch, self.unseen.get(pop).unwrap_or(&nothing));
                }
            }
            node.handle_tick(now);
            let fenced = &self.fenced;
            let roster = self.expired.iter().map(|(pop, gone)| Pop {
                fenced: fenced.contains(pop),
                ..named(pop, epoch, *gone)
            });
            node.handle_roster(roster, now);
        }
        let (asked, _) = self.nodes[leader].question(now);
        for other in (0..3).filter(|at| *at != leader && self.up[*at]) {
            let said = self.nodes[other].answer(&asked, now);
            self.nodes[leader].handle_answer(VOTERS[other], &said, now);
        }
        let Judgment { record, held } = self.nodes[leader].judge(&VOTERS, now);
        self.held = held;
        for over in &record.fenced {
            let (pop, _) = self.expired.iter().find(|(id, _)| **id == over.pop_id).unwrap();
            assert!(self.fenced.insert(pop), "once: {pop}");
            let expires = record.found.iter().any(|pop| pop.pop_id == over.pop_id && pop.expired);
            assert!(expires || self.expired[pop], "who is over expired");
        }
        for pop in record.found {
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

    /// These say that they do not see it.
    fn blame(&mut self, witnesses: &[&'static str], pop: &str) {
        for witness in witnesses {
            self.unseen.entry(witness).or_default().push(pop.to_owned());
        }
    }

    /// Its process dies, and the kernel closes its connections.
    fn kill(&mut self, pop: &str) {
        self.silence(&[0, 1, 2], pop);
        self.nodes.iter_mut().for_each(|node| node.handle_broken(pop, self.epoch, self.now));
    }

    /// Steps until `pop` is given up; none: it never is, in a minute.
    fn until_fenced(&mut self, leader: usize, pop: &str) -> Option<usize> {
        (0..600).find(|_| {
            self.step(leader);
            self.fenced.contains(pop)
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
    liveness.handle_roster([named("fra1", 7, false)], at(100));
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
    liveness.handle_roster([named("fra1", 8, false)], at(260));
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
    let roster = (0..2_500).map(|n| named(&format!("pop{n:04}"), 1, false));
    liveness.handle_roster(roster, Instant::ZERO);
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        let (question, urgent) = liveness.question(Instant::ZERO);
        assert!(urgent && question.len() <= QUESTION_MAX);
        asked.extend(question.into_iter().map(|pop| pop.pop_id));
    }
    assert_eq!(asked.len(), 2_500);
}

#[test]
fn a_pop_that_neither_nodes_nor_pops_see_is_given_up() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.blame(&["iad1", "sin1"], "fra1");
    let took = nodes.until_fenced(0, "fra1").unwrap();
    assert!((14..=21).contains(&took), "{took} steps of 100 ms");
    assert!(nodes.expired["fra1"]);
    // Its beats do not count any more, a new registration does.
    nodes.hears.iter_mut().for_each(|heard| heard.push("fra1"));
    assert_eq!(nodes.until(0, "fra1", false), None);
    assert_eq!(nodes.fenced.len(), 1);
}

#[test]
fn a_process_that_died_is_given_up_before_its_silence_is_long() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.kill("fra1");
    nodes.blame(&["iad1", "sin1"], "fra1");
    let took = nodes.until_fenced(0, "fra1").unwrap();
    assert!((5..=7).contains(&took), "{took} steps of 100 ms");
    // A stream that breaks while its process goes on is made anew in time.
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.blame(&["iad1", "sin1"], "fra1");
    nodes.nodes.iter_mut().for_each(|node| node.handle_broken("fra1", 1, nodes.now));
    nodes.steps(0, 20);
    assert!(nodes.fenced.is_empty() && !nodes.expired["fra1"]);
    // And one that broke towards one node says little.
    nodes.nodes[0].handle_broken("fra1", 1, nodes.now);
    nodes.silence(&[0], "fra1");
    assert_eq!(nodes.until(0, "fra1", true), None);
}

#[test]
fn a_pop_cut_off_from_the_control_plane_that_others_see_is_not_given_up() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.blame(&["iad1"], "fra1");
    assert!(nodes.until(0, "fra1", true).is_some());
    assert_eq!(nodes.until_fenced(0, "fra1"), None, "one of two does not suffice");
    // Until they do not see it either, however long it has been expired.
    nodes.blame(&["sin1"], "fra1");
    assert!(nodes.until_fenced(0, "fra1").unwrap() <= 6);
}

#[test]
fn a_pop_that_beats_is_not_given_up_whatever_others_say() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.blame(&["iad1", "sin1"], "fra1");
    nodes.silence(&[1], "fra1");
    assert_eq!(nodes.until_fenced(0, "fra1"), None);
    assert!(!nodes.expired["fra1"]);
}

#[test]
fn without_another_pop_alive_nobody_is_given_up() {
    let mut nodes = Nodes::new(&["fra1", "sin1"]);
    nodes.steps(0, 30);
    nodes.blame(&["sin1"], "fra1");
    nodes.blame(&["fra1"], "sin1");
    nodes.kill("fra1");
    nodes.kill("sin1");
    assert_eq!(nodes.until_fenced(0, "fra1"), None);
    assert!(nodes.expired.values().all(|gone| *gone) && nodes.fenced.is_empty());
}

#[test]
fn a_whole_region_is_given_up_at_once() {
    let mut nodes = Nodes::new(&["fra1", "fra2", "iad1", "sin1"]);
    nodes.steps(1, 30);
    // With the control node of the region; the others elect another leader.
    nodes.up[0] = false;
    for pop in ["fra1", "fra2"] {
        nodes.kill(pop);
        nodes.blame(&["iad1", "sin1"], pop);
    }
    let took = nodes.until_fenced(1, "fra2").unwrap();
    assert!((5..=8).contains(&took), "{took} steps of 100 ms");
    assert!(nodes.fenced.contains("fra1") && nodes.fenced.len() == 2);
}

#[test]
fn a_pop_that_misses_everybody_blames_nobody() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1", "syd1"]);
    nodes.steps(0, 30);
    // No path of syd1 works, but its beats come.
    ["fra1", "iad1", "sin1"].iter().for_each(|pop| nodes.blame(&["syd1"], pop));
    assert_eq!(nodes.until_fenced(0, "fra1"), None);
    // Those it misses go on seeing one that the control nodes do not hear; two of three do not.
    nodes.silence(&[0, 1, 2], "fra1");
    nodes.blame(&["iad1"], "fra1");
    assert_eq!(nodes.until_fenced(0, "fra1"), None, "two would be a majority with syd1's word");
    assert!(nodes.expired["fra1"]);
}

#[test]
fn a_paused_leader_gives_nobody_up() {
    let mut nodes = Nodes::new(&["fra1", "iad1", "sin1"]);
    nodes.steps(0, 30);
    nodes.now += Duration::from_secs(30);
    // All POPs left the nodes that slept, and come back after a while; an old word is there, too.
    nodes.blame(&["iad1", "sin1"], "fra1");
    let (now, hears) = (nodes.now, nodes.hears.clone());
    nodes.nodes.iter_mut().for_each(|node| node.handle_tick(now));
    for pop in ["fra1", "iad1", "sin1"] {
        nodes.kill(pop);
    }
    nodes.steps(0, 15);
    assert!(nodes.fenced.is_empty() && nodes.expired.values().all(|gone| !gone));
    nodes.hears = hears;
    assert_eq!(nodes.until_fenced(0, "fra1"), None);
    assert!(nodes.expired.values().all(|gone| !gone));
}

#[test]
fn a_storm_that_some_node_hears_gives_nobody_up() {
    let mut nodes = Nodes::new(&["fra1", "fra2", "iad1", "sin1"]);
    nodes.steps(1, 30);
    // The region of node 0 is cut off with it: only node 0 hears its POPs.
    for pop in ["fra1", "fra2"] {
        nodes.silence(&[1, 2], pop);
        nodes.blame(&["iad1", "sin1"], pop);
    }
    assert_eq!(nodes.until_fenced(1, "fra1"), None);
    assert_eq!(nodes.held, 2);
    // When node 0 is gone from sight, nobody hears them.
    nodes.up[0] = false;
    assert!(nodes.until_fenced(1, "fra1").is_some());
}
