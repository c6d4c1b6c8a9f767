//! Two POPs, several paths between them, virtual time, and media on whatever route they choose.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proto::id::PopId;
use proto::overlay::{Datagram, Header, Heard, PathId, Probe};
use proto::time::{Duration, Instant};

use super::*;

/// One path, both directions alike.
#[derive(Debug, Clone)]
struct Wire {
    delay: Duration,
    /// Of 10,000.
    loss: u32,
    /// Nothing passes from POP 0, from POP 1.
    dead: [bool; 2],
}

#[derive(Debug)]
enum Packet {
    Probe(Bytes),
    Media { path_sequence: u16, lane_sequence: u16, made: u64 },
}

/// Media as one end sends and receives it.
#[derive(Default)]
struct End {
    route: Option<Route>,
    lane: u16,
    sequences: BTreeMap<PathId, u16>,
    sent: u64,
    window: LaneWindow,
    received: BTreeMap<PathId, PathStats>,
    /// When something new arrived last, the longest wait, and how much arrived.
    last: Option<Instant>,
    gap: Duration,
    arrived: u64,
    datagrams_sent: u64,
    switches: u64,
}

struct World {
    now: Instant,
    ids: [PopId; 2],
    pops: [Paths; 2],
    ends: [End; 2],
    wires: BTreeMap<PathId, Wire>,
    flying: BTreeMap<(Instant, u64), (usize, PathId, Packet)>,
    count: u64,
    random: u64,
    media: Instant,
    asked: Instant,
    probe_bytes: u64,
}

const MEDIA_EVERY: Duration = Duration::from_millis(4);
const ASK_EVERY: Duration = Duration::from_millis(100);

fn wire(ms: u64) -> Wire {
    Wire { delay: Duration::from_millis(ms), loss: 0, dead: [false; 2] }
}

fn probe_header(path: PathId, path_sequence: u16, send_time_us: u32) -> Header {
    let lane_sequence = 0;
    Header { probe: true, lane: 0, path, path_sequence, lane_sequence, send_time_us, relayed: None }
}

fn id(lower: u8, higher: u8) -> PathId {
    PathId::direct(lower, higher).unwrap()
}

impl World {
    fn new(seed: u64, wires: &[(PathId, Wire)]) -> Self {
        let mut world = Self::empty(seed, wires);
        world.run(Duration::from_secs(10));
        world.reset();
        world
    }

    fn empty(seed: u64, wires: &[(PathId, Wire)]) -> Self {
        let ids: [PopId; 2] = ["fra1".parse().unwrap(), "sin1".parse().unwrap()];
        let pops = ids.clone().map(|own| Paths::new(PathsConfig { own, seed }));
        let mut world = Self {
            now: Instant::from_millis(5),
            ids,
            pops,
            ends: [End::default(), End::default()],
            wires: wires.iter().cloned().collect(),
            flying: BTreeMap::new(),
            count: 0,
            random: seed,
            media: Instant::ZERO,
            asked: Instant::ZERO,
            probe_bytes: 0,
        };
        for (path, _) in wires {
            for n in 0..2 {
                let peer = world.ids[1 - n].clone();
                world.pops[n].handle_link(&peer, *path, true, world.now);
            }
        }
        world
    }

    /// Forgets what was counted.
    fn reset(&mut self) {
        for end in &mut self.ends {
            (end.gap, end.arrived, end.sent, end.datagrams_sent, end.switches) =
                (Duration::ZERO, 0, 0, 0, 0);
        }
    }

    fn random(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(self.random >> 33).unwrap()
    }

    fn fly(&mut self, from: usize, path: PathId, packet: Packet) {
        let lost = self.random() % 10_000;
        let jitter = Duration::from_micros(u64::from(self.random() % 500));
        let Some(wire) = self.wires.get(&path) else { return };
        if wire.dead[from] || lost < wire.loss {
            return;
        }
        self.count += 1;
        self.flying.insert((self.now + wire.delay + jitter, self.count), (1 - from, path, packet));
    }

    fn drain(&mut self, n: usize) {
        while let Some(command) = self.pops[n].poll_command() {
            match command {
                PathCommand::Probe { path, bytes, .. } => {
                    self.probe_bytes += u64::try_from(bytes.len()).unwrap();
                    self.fly(n, path, Packet::Probe(bytes));
                }
                PathCommand::Route { route, .. } => {
                    let end = &mut self.ends[n];
                    let before = end.route.replace(route.clone());
                    end.switches += u64::from(before.is_some_and(|b| b.primary != route.primary));
                }
            }
        }
    }

    fn send_media(&mut self, n: usize) {
        let end = &mut self.ends[n];
        let Some(route) = end.route.clone() else { return };
        end.lane = end.lane.wrapping_add(1);
        end.sent += 1;
        let (lane_sequence, made) = (end.lane, self.now.as_nanos());
        for hop in std::iter::once(&route.primary).chain(&route.copy) {
            let end = &mut self.ends[n];
            end.datagrams_sent += 1;
            let sequence = end.sequences.entry(hop.path).or_default();
            *sequence = sequence.wrapping_add(1);
            let path_sequence = *sequence;
            self.fly(n, hop.path, Packet::Media { path_sequence, lane_sequence, made });
        }
    }

    fn land(&mut self, to: usize, path: PathId, packet: &Packet) {
        let from = self.ids[1 - to].clone();
        match packet {
            Packet::Probe(bytes) => {
                let datagram = Datagram::decode(bytes).unwrap();
                assert!(self.pops[to].handle_probe((&from, None), &datagram, self.now));
            }
            Packet::Media { path_sequence, lane_sequence, made } => {
                let end = &mut self.ends[to];
                let sent = u32::try_from(made / 1_000).unwrap_or(0);
                end.received.entry(path).or_default().received(*path_sequence, sent, self.now);
                if end.window.is_new(*lane_sequence) {
                    let last = end.last.replace(self.now);
                    end.gap = end.gap.max(last.map_or(Duration::ZERO, |last| self.now - last));
                    end.arrived += 1;
                }
            }
        }
    }

    fn ask(&mut self) {
        for n in 0..2 {
            let peer = self.ids[1 - n].clone();
            let end = &self.ends[n];
            let received = end.received.iter().map(|(path, stats)| (*path, stats.stats()));
            let received: Vec<_> = received.collect();
            self.pops[n].handle_media(&peer, end.datagrams_sent, received.into_iter(), self.now);
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            for n in 0..2 {
                self.drain(n);
            }
            let timers = self.pops.iter_mut().filter_map(Paths::poll_timeout).min();
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = [timers, arrival, Some(self.media), Some(self.asked)];
            let next = next.into_iter().flatten().min().unwrap().max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            while self.flying.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                let (_, (to, path, packet)) = self.flying.pop_first().unwrap();
                self.land(to, path, &packet);
            }
            if self.media <= self.now {
                self.media = self.now + MEDIA_EVERY;
                (0..2).for_each(|n| self.send_media(n));
            }
            if self.asked <= self.now {
                self.asked = self.now + ASK_EVERY;
                self.ask();
            }
            for n in 0..2 {
                if self.pops[n].poll_timeout().is_some_and(|at| at <= self.now) {
                    self.pops[n].handle_timeout(self.now);
                }
            }
        }
    }

    fn primary(&self, n: usize) -> String {
        self.ends[n].route.as_ref().unwrap().primary.to_string()
    }

    fn residual_loss(&self, n: usize) -> f64 {
        let sent = self.ends[1 - n].sent;
        #[allow(clippy::cast_precision_loss, reason = "small")]
        let lost = sent.saturating_sub(self.ends[n].arrived) as f64 / sent as f64;
        lost
    }
}

fn two_disjoint() -> Vec<(PathId, Wire)> {
    vec![(id(0, 0), wire(20)), (id(1, 1), wire(25))]
}

/// The better standby shares an upstream with the primary, and that upstream dies: what shares none is
/// watched as closely, and is where copies go.
#[test]
fn an_upstream_that_takes_the_standby_with_it_is_noticed_as_fast() {
    // With a tenth lost on all that is left, what is left is suspect now and then, too.
    let loss = [(0, 180), (100, 180), (1_000, 400)];
    for (seed, (loss, limit)) in (1..=24_u64).flat_map(|seed| loss.map(|loss| (seed, loss))) {
        let other = Wire { loss, ..wire(25) };
        let upstreams =
            [((0, 0), wire(20)), ((0, 1), wire(21)), ((1, 0), other.clone()), ((1, 1), other)];
        let all: Vec<_> = upstreams.map(|((a, b), wire)| (id(a, b), wire)).into();
        let mut world = World::new(seed, &all);
        world.run(Duration::from_millis(2_000 + seed * 37));
        assert_eq!(world.primary(0), "0-0");
        world.reset();
        for theirs in 0..2 {
            world.wires.get_mut(&id(0, theirs)).unwrap().dead = [true; 2];
        }
        // Also when the primary is given up, media goes where it was heard, not to the dead standby.
        world.run(Duration::from_secs(4));
        let gap = world.ends[0].gap.max(world.ends[1].gap);
        assert!(gap < Duration::from_millis(limit), "seed {seed}, loss {loss}: {gap:?}");
    }
}

#[test]
fn a_clean_link_carries_nothing_twice_and_stays_for_an_hour_of_noise() {
    let mut world = World::new(7, &two_disjoint());
    for minute in 0..60_u64 {
        for (n, wire) in world.wires.values_mut().enumerate() {
            // Ten percent more or less.
            let noise = (minute * 7 + u64::try_from(n).unwrap() * 3) % 5;
            wire.delay = Duration::from_millis(18 + noise + 5 * u64::try_from(n).unwrap());
        }
        world.run(Duration::from_secs(60));
    }
    for end in &world.ends {
        assert_eq!((end.datagrams_sent, end.switches), (end.sent, 0));
    }
}

#[test]
fn a_dead_path_costs_a_tenth_of_a_second_in_both_directions() {
    let mut gaps = Vec::new();
    for seed in 0..40 {
        let mut world = World::new(seed, &two_disjoint());
        // At any moment between two probes.
        world.run(Duration::from_millis(1_000 + seed * 3));
        world.reset();
        world.wires.get_mut(&id(0, 0)).unwrap().dead = [true; 2];
        world.run(Duration::from_secs(5));
        assert_eq!((world.primary(0), world.primary(1)), ("1-1".to_owned(), "1-1".to_owned()));
        gaps.extend(world.ends.iter().map(|end| end.gap));
    }
    gaps.sort();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    assert!(median <= Duration::from_millis(120), "{gaps:?}");
    assert!(worst <= Duration::from_millis(400), "{gaps:?}");
}

#[test]
fn when_one_direction_dies_only_that_one_moves() {
    let mut world = World::new(3, &two_disjoint());
    world.wires.get_mut(&id(0, 0)).unwrap().dead = [true, false];
    world.run(Duration::from_secs(10));
    assert_eq!((world.primary(0), world.primary(1)), ("1-1".to_owned(), "0-0".to_owned()));
    assert!(world.ends.iter().all(|end| end.gap <= Duration::from_millis(200)));
    assert_eq!(world.ends[1].route.as_ref().unwrap().copy, None, "nor is it sent twice for long");
}

#[test]
fn when_everything_is_silent_no_path_is_to_blame() {
    let mut world = World::new(4, &two_disjoint());
    for wire in world.wires.values_mut() {
        wire.dead = [true; 2];
    }
    world.run(Duration::from_secs(2));
    for wire in world.wires.values_mut() {
        wire.dead = [false; 2];
    }
    world.run(Duration::from_secs(10));
    assert!(world.ends.iter().all(|end| end.switches == 0));
}

#[test]
fn loss_on_the_primary_is_repaired_by_the_other_path() {
    for (loss, residual) in [(500, 0.003), (1_000, 0.011)] {
        let mut world = World::new(5, &two_disjoint());
        world.wires.get_mut(&id(0, 0)).unwrap().loss = loss;
        world.run(Duration::from_secs(3));
        world.reset();
        world.run(Duration::from_secs(30));
        for n in 0..2 {
            assert!(world.residual_loss(n) <= residual, "{loss}: {}", world.residual_loss(n));
        }
    }
}

#[test]
fn a_flapping_path_is_left_and_not_gone_back_to() {
    let mut world = World::new(6, &two_disjoint());
    for half in 0..120 {
        world.wires.get_mut(&id(0, 0)).unwrap().dead = [half % 2 == 0; 2];
        world.run(Duration::from_millis(2_500));
    }
    for end in &world.ends {
        assert!(end.switches <= 6, "{}", end.switches);
    }
}

#[test]
fn timers_forgive_the_time_this_process_slept_through() {
    let mut world = World::new(8, &two_disjoint());
    // POP 0 does not run for 300 ms, and nothing waits for it.
    let wake = world.now + Duration::from_millis(300);
    let (peer, mut before) = (world.ids[1].clone(), world.pops[0].report(world.now));
    assert_eq!(before.remove(0).peer, peer);
    world.pops[0].handle_timeout(wake);
    assert_eq!(world.pops[0].oversleeps(), 1);
    let report = world.pops[0].report(wake).remove(0);
    assert!(report.paths.iter().all(|path| !path.silent), "{report:?}");
}

#[test]
fn what_came_while_this_process_slept_accuses_nobody() {
    let mut world = World::new(12, &two_disjoint());
    world.wires.get_mut(&id(1, 1)).unwrap().delay = Duration::from_millis(60);
    world.run(Duration::from_secs(20));
    // POP 0 sleeps for 300 ms; what came meanwhile is read before any timer is looked at, and
    // that of one path before that of the other.
    let from = world.ids[1].clone();
    let asleep = world.now;
    world.pops[0].poll_timeout();
    let wake = asleep + Duration::from_millis(300);
    let mut arrived = Vec::new();
    while world.now < wake {
        let pop1 = &mut world.pops[1];
        world.now = pop1.poll_timeout().unwrap().max(world.now);
        pop1.handle_timeout(world.now);
        while let Some(command) = pop1.poll_command() {
            if let PathCommand::Probe { path, bytes, .. } = command {
                arrived.push((path, bytes));
            }
        }
    }
    arrived.sort_by_key(|(path, _)| *path);
    assert!(arrived.iter().any(|(path, _)| *path == id(0, 0)), "{arrived:?}");
    for (_, bytes) in &arrived {
        let datagram = Datagram::decode(bytes).unwrap();
        world.pops[0].handle_probe((&from, None), &datagram, wake);
        let report = world.pops[0].report(wake).remove(0);
        assert!(report.paths.iter().all(|path| !path.silent), "{report:?}");
    }
    assert_eq!(world.pops[0].oversleeps(), 1);
}

#[test]
fn old_words_that_come_late_change_nothing() {
    let mut world = World::new(13, &two_disjoint());
    let (from, now) = (world.ids[1].clone(), world.now);
    let probe = |sent_us: u32, path_sequence: u16, silent: bool| {
        let heard = Heard { path: id(0, 0), silent, ..Default::default() };
        let header = probe_header(id(1, 1), path_sequence, sent_us);
        Probe { interval_ms: 1_000, echo: None, heard: vec![heard] }.encode(&header)
    };
    let mut take = |bytes: Bytes| {
        let datagram = Datagram::decode(&bytes).unwrap();
        assert!(world.pops[0].handle_probe((&from, None), &datagram, now));
        let report = world.pops[0].report(now).remove(0);
        report.paths[0].sending.health
    };
    assert_eq!(take(probe(4_000_000_000, 20_000, false)), Health::Good);
    assert_eq!(
        take(probe(3_999_900_000, 20_001, true)),
        Health::Good,
        "overtaken by the one before"
    );
    assert_eq!(take(probe(4_000_000_001, 20_002, true)), Health::Suspect(now));
}

#[test]
fn direct_paths_find_room_and_a_restarted_peer_begins_anew() {
    let mut world = World::new(14, &two_disjoint());
    let peer = world.ids[1].clone();
    for n in 0..40 {
        let relay: PopId = format!("pop{n}").parse().unwrap();
        let header = probe_header(PathId::via(&relay), 1, 1);
        let bytes = Probe { interval_ms: 100, echo: None, heard: vec![] }.encode(&header);
        let datagram = Datagram::decode(&bytes).unwrap();
        world.pops[0].handle_probe((&peer, Some(&relay)), &datagram, world.now);
    }
    let paths = |world: &World| world.pops[0].report(world.now).remove(0).paths;
    assert_eq!(paths(&world).len(), 32);
    world.pops[0].handle_link(&peer, id(2, 2), true, world.now);
    assert_eq!(paths(&world).len(), 32);
    assert!(paths(&world).iter().any(|path| path.sending.hop.path == id(2, 2)));
    world.pops[0].handle_restart(&peer, world.now);
    world.pops[0].handle_link(&peer, id(1, 1), true, world.now);
    assert_eq!(paths(&world).len(), 1);
    assert_eq!(paths(&world)[0].sending.health, Health::Unmeasured);
    // A POP that left the mesh is forgotten, also when its connections end later.
    world.pops[0].forget(&peer, world.now);
    world.pops[0].handle_link(&peer, id(1, 1), false, world.now);
    assert!(world.pops[0].report(world.now).is_empty());
}

#[test]
fn hints_that_come_together_are_decided_on_together() {
    let wires =
        [(id(0, 0), wire(20)), (id(0, 1), wire(25)), (id(1, 0), wire(26)), (id(1, 1), wire(30))];
    let mut world = World::new(16, &wires);
    assert_eq!(world.primary(0), "0-0");
    let (peer, now) = (world.ids[1].clone(), world.now);
    let drained = crate::bgp::Hint { drain: crate::bgp::Drain::Asked, ..Default::default() };
    // Both ways of the upstream; between them media would go from one to the other.
    for path in [id(0, 0), id(0, 1)] {
        world.pops[0].handle_hint(&peer, path, drained.clone(), now);
    }
    world.reset();
    world.run(Duration::from_millis(50));
    assert_eq!((world.primary(0).as_str(), world.ends[0].switches), ("1-0", 1));
}

#[test]
fn what_was_measured_on_a_route_says_nothing_about_the_next_one() {
    let mut world = World::new(17, &two_disjoint());
    world.wires.get_mut(&id(0, 0)).unwrap().loss = 400;
    world.run(Duration::from_secs(20));
    let path = |world: &World| world.pops[0].report(world.now).remove(0).paths[0].sending.clone();
    assert!(path(&world).loss > 0.01 && path(&world).rtt.is_some(), "{:?}", path(&world));
    let (peer, before) = (world.ids[1].clone(), world.primary(0));
    // What BGP says beside that changes nothing.
    let mut hint = crate::bgp::Hint { risk: 1.0, ..Default::default() };
    world.pops[0].handle_hint(&peer, id(0, 0), hint.clone(), world.now);
    assert!(path(&world).rtt.is_some());
    hint.changed = Some(world.now);
    let wire = world.wires.get_mut(&id(0, 0)).unwrap();
    (wire.loss, wire.delay) = (0, wire.delay + Duration::from_millis(8));
    world.pops[0].handle_hint(&peer, id(0, 0), hint.clone(), world.now);
    let seen = path(&world);
    assert_eq!((seen.rtt, seen.loss, seen.bursts, seen.health), (None, 0.0, 0, Health::Good));
    world.reset();
    // Not the mean of both ways: 16 ms more at once, also if a probe was under way.
    let mut first = None;
    for _ in 0..100 {
        world.run(Duration::from_millis(5));
        first = first.or(path(&world).rtt);
    }
    assert!(first.is_some_and(|rtt| rtt >= Duration::from_millis(55)), "{first:?}");
    world.run(Duration::from_millis(1_500));
    let seen = path(&world);
    assert!(seen.loss < 0.005, "{seen:?}");
    assert_eq!((world.primary(0), world.ends[0].switches), (before, 0), "no switch by itself");
    // The same change told again is no other one.
    world.pops[0].handle_hint(&peer, id(0, 0), hint, world.now);
    assert!(path(&world).rtt.is_some());
}

#[test]
fn the_view_of_any_moment_of_the_last_hour_is_kept() {
    let mut world = World::new(15, &two_disjoint());
    let reasons = vec![crate::bgp::Reason::Changed(world.now), crate::bgp::Reason::Flapping(2)];
    let (peer, hint) = (world.ids[1].clone(), crate::bgp::Hint { reasons, ..Default::default() });
    world.pops[0].handle_hint(&peer, id(0, 0), hint, world.now);
    world.run(Duration::from_secs(60));
    let cut = world.now;
    world.wires.get_mut(&id(0, 0)).unwrap().dead = [true; 2];
    world.run(Duration::from_secs(60));
    let then = world.pops[0].past("sin1", cut).unwrap();
    assert!(cut - then.at <= Duration::from_secs(10), "{then:?}");
    let states = |moment: &Moment| moment.paths.iter().map(|p| p.state).collect::<Vec<_>>();
    assert_eq!(states(&then), ["good", "good"]);
    assert_eq!(then.route.as_ref().unwrap().primary.to_string(), "0-0");
    assert!((40_000..45_000).contains(&then.paths[0].rtt_us), "{then:?}");
    assert_eq!(then.paths[0].against, ["changed", "flapping"]);
    let now = world.pops[0].past("sin1", world.now).unwrap();
    assert_eq!(states(&now), ["down", "good"]);
    assert_eq!(now.route.unwrap().primary.to_string(), "1-1");
    assert_eq!(world.pops[0].past("sin1", Instant::ZERO), None);
    // An hour of them, no more.
    for minute in 2..80 {
        world.pops[0].handle_timeout(cut + Duration::from_secs(60 * minute));
    }
    let now = cut + Duration::from_secs(60 * 79);
    assert_eq!(world.pops[0].past("iad1", now), None);
    assert!(world.pops[0].past("sin1", now).is_some());
}

#[test]
fn decisions_are_told_in_words() {
    let mut world = World::new(9, &two_disjoint());
    let words = |world: &World| {
        let report = world.pops[0].report(world.now).remove(0);
        report.explain(world.now).join("\n")
    };
    assert!(words(&world).contains("Media for sin1 goes by path 0-0 (for "), "{}", words(&world));
    world.wires.get_mut(&id(0, 0)).unwrap().dead = [true; 2];
    world.run(Duration::from_secs(3));
    let said = words(&world);
    assert!(said.contains("Media for sin1 goes by path 1-1 (for "), "{said}");
    assert!(said.contains("the path before went silent"), "{said}");
    assert!(said.contains("Path 0-0: down"), "{said}");
    assert!(said.contains("upstream A of fra1 and upstream B of sin1"), "{said}");
    // What is done about a loss says nothing of why media is where it is.
    for wire in world.wires.values_mut() {
        (wire.dead, wire.loss) = ([false; 2], 100);
    }
    world.run(Duration::from_secs(3));
    let said = words(&world);
    let both = "silent or its connection broke), and everything goes again after 20 ms (for ";
    assert!(said.contains(both), "{said}");
    let changes = world.pops[0].report(world.now).remove(0).changes;
    let why: Vec<&str> = changes.iter().map(|change| change.why.name()).collect();
    assert!(why.windows(2).any(|two| two == ["suspect", "down"]), "{why:?}");
}

#[test]
fn probes_of_an_idle_pair_are_few() {
    let mut world = World::new(10, &two_disjoint());
    world.probe_bytes = 0;
    world.ends.iter_mut().for_each(|end| end.route = None);
    world.run(Duration::from_secs(13));
    world.probe_bytes = 0;
    world.run(Duration::from_secs(10));
    // Both POPs together; a mesh of 200 has 199 pairs at each.
    let bits_per_second = world.probe_bytes * 8 / 10 / 2;
    assert!(bits_per_second * 199 < 12_000_000, "{bits_per_second}");
}

#[test]
fn a_relay_that_only_the_peer_chose_is_measured_by_both() {
    let mut world = World::new(11, &two_disjoint());
    let relay: PopId = "iad1".parse().unwrap();
    let path = PathId::via(&relay);
    let names = |world: &World| -> Vec<PathId> {
        let report = world.pops[1].report(world.now).remove(0);
        report.paths.iter().map(|path| path.sending.hop.path).collect()
    };
    assert!(!names(&world).contains(&path));
    // Only fra1 has a link to iad1.
    world.pops[0].handle_link(&relay, id(0, 0), true, world.now);
    world.pops[0].handle_timeout(world.now);
    let from = world.ids[0].clone();
    let mut passed = 0;
    while let Some(command) = world.pops[0].poll_command() {
        if let PathCommand::Probe { to, bytes, .. } = command
            && to == relay
            && let Ok(datagram) = Datagram::decode(&bytes)
            && datagram.header.relayed.is_some()
        {
            passed += 1;
            assert!(world.pops[1].handle_probe((&from, Some(&relay)), &datagram, world.now));
        }
    }
    assert_eq!(passed, 1);
    assert!(names(&world).contains(&path));
}

#[test]
fn a_mesh_of_two_hundred_costs_a_pop_less_than_twelve_megabits() {
    let own: PopId = "pop0".parse().unwrap();
    for calls in [false, true] {
        let mut paths = Paths::new(PathsConfig { own: own.clone(), seed: 1 });
        let peers: Vec<PopId> = (1..200).map(|n| format!("pop{n}").parse().unwrap()).collect();
        let start = Instant::from_millis(1);
        for peer in &peers {
            for upstreams in 0..9 {
                paths.handle_link(peer, id(upstreams / 3, upstreams % 3), true, start);
            }
        }
        let (mut now, mut bytes, mut sent) = (start, 0, 0);
        // The first three seconds are no measure.
        while now < Instant::from_millis(13_000) {
            now = paths.poll_timeout().unwrap().max(now);
            paths.handle_timeout(now);
            if calls && now.as_millis() / 1_000 != sent {
                sent = now.as_millis() / 1_000;
                for peer in &peers {
                    paths.handle_media(peer, sent, std::iter::empty(), now);
                }
            }
            while let Some(command) = paths.poll_command() {
                if let PathCommand::Probe { bytes: probe, .. } = command
                    && now >= Instant::from_millis(3_000)
                {
                    // IPv4, UDP and QUIC around it: 28 and some 30.
                    bytes += probe.len() + 58;
                }
            }
        }
        // As much comes back.
        let bits_per_second = bytes * 8 / 10 * 2;
        assert!(bits_per_second < 12_000_000, "calls {calls}: {bits_per_second}");
    }
}

proptest! {
    #[test]
    fn any_probe_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut world = World::empty(1, &two_disjoint());
        if let Ok(datagram) = Datagram::decode(&bytes) {
            let peer = world.ids[1].clone();
            world.pops[0].handle_probe((&peer, None), &datagram, world.now);
        }
    }
}

/// Which POPs POP `n` does not see.
fn unseen(world: &World, n: usize) -> Vec<&str> {
    world.pops[n].unseen(world.now).map(PopId::as_str).collect()
}

#[test]
fn a_pop_is_out_of_sight_when_no_path_brings_anything() {
    let (one, two) = (id(0, 0), id(1, 1));
    let mut world = World::new(1, &[(one, wire(10)), (two, wire(40))]);
    assert_eq!(unseen(&world, 0), [""; 0]);
    let cut = |world: &mut World, path, dead| world.wires.get_mut(&path).unwrap().dead = dead;
    // One of two paths: no.
    cut(&mut world, one, [true; 2]);
    world.run(Duration::from_secs(5));
    assert_eq!(unseen(&world, 0), [""; 0]);
    // Nothing comes from the other POP: it is out of sight, we are not for it.
    cut(&mut world, two, [false, true]);
    world.run(Duration::from_millis(500));
    assert_eq!(unseen(&world, 0), [""; 0], "not yet");
    world.run(Duration::from_millis(500));
    assert_eq!((unseen(&world, 0), unseen(&world, 1)), (vec!["sin1"], vec![]));
    cut(&mut world, two, [false, false]);
    world.run(Duration::from_secs(2));
    assert_eq!(unseen(&world, 0), [""; 0]);
    // Connections that broke need no silence; another process with that name was never seen.
    let (now, peer) = (world.now, world.ids[1].clone());
    for path in [one, two] {
        world.pops[0].handle_link(&peer, path, false, now);
    }
    assert_eq!(unseen(&world, 0), ["sin1"]);
    world.pops[0].handle_restart(&peer, now);
    assert_eq!(unseen(&world, 0), [""; 0]);
}

#[test]
fn a_pop_that_slept_finds_nobody_out_of_sight() {
    let (one, two) = (id(0, 0), id(1, 1));
    let mut world = World::new(2, &[(one, wire(10)), (two, wire(40))]);
    // POP 0 does not run for a while; what came meanwhile is read first.
    world.now += Duration::from_secs(3);
    let now = world.now;
    world.pops[0].handle_timeout(now);
    assert_eq!(unseen(&world, 0), [""; 0]);
}
