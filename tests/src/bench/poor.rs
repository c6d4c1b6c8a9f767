//! A mesh whose direct paths are as often poor as those of a global voice service: which poor calls the
//! overlay fixes, in virtual time.
//!
//! After VIA (Jiang et al., SIGCOMM 2016): a path is poor above 320 ms of round trip, 1.2 % of loss or
//! 12 ms of jitter; one in five is; half of these could be fixed through another site.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use chaos::rng::Rng;
use pop_core::overlay::{PathCommand, Paths, PathsConfig, Route};
use proto::id::PopId;
use proto::overlay::{Datagram, PathId};
use proto::time::Instant;

use super::{Figure, Table, Target};

const POPS: usize = 16;
const MESHES: u64 = 3;
const POOR: f64 = 0.2;
/// Until loss is known well enough to act on, and damping is over.
const SETTLE: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(1);

/// What a way is like, both directions alike.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Round trip, ms.
    rtt: f64,
    /// Share, 0 to 1.
    loss: f64,
    /// Ms.
    jitter: f64,
}

impl Way {
    fn is_poor(self) -> bool {
        self.rtt > 320.0 || self.loss > 0.012 || self.jitter > 12.0
    }

    /// One after the other.
    fn then(self, next: Self) -> Self {
        Self {
            rtt: self.rtt + next.rtt,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - next.loss),
            jitter: self.jitter.hypot(next.jitter),
        }
    }
}

/// Who hears whom, through whom, and what.
type Flight = (usize, usize, Option<usize>, Bytes);

struct Mesh {
    now: Instant,
    ids: Vec<PopId>,
    pops: Vec<Paths>,
    /// By both ends, the lower first.
    ways: BTreeMap<(usize, usize), Way>,
    routes: BTreeMap<(usize, usize), Route>,
    /// By arrival.
    flying: BTreeMap<(Instant, u64), Flight>,
    count: u64,
    random: Rng,
    media: Instant,
    spoken: u64,
}

/// As far as the earth is wide, and now and then poor.
fn ways(random: &mut Rng) -> BTreeMap<(usize, usize), Way> {
    let places: Vec<(f64, f64)> =
        (0..POPS).map(|_| (random.next_f64() * 160.0, random.next_f64() * 80.0)).collect();
    let mut ways = BTreeMap::new();
    for (a, (x, y)) in places.iter().enumerate() {
        for (b, (u, v)) in places.iter().enumerate().skip(a + 1) {
            let mut way = Way {
                rtt: 10.0 + (x - u).hypot(y - v),
                loss: random.next_f64() * 0.004,
                jitter: random.next_f64() * 3.0,
            };
            if random.next_f64() < POOR {
                match random.below(3) {
                    0 => way.rtt = 350.0 + random.next_f64() * 150.0,
                    1 => way.loss = 0.015 + random.next_f64() * 0.045,
                    _ => way.jitter = 15.0 + random.next_f64() * 25.0,
                }
            }
            ways.insert((a, b), way);
        }
    }
    ways
}

impl Mesh {
    fn new(seed: u64) -> Result<Self> {
        let (now, direct) = (Instant::from_millis(1_000), PathId::direct(0, 0).context("a path")?);
        let ids = (0..POPS).map(|n| format!("pop{n:02}").parse().context("an id"));
        let ids = ids.collect::<Result<Vec<PopId>>>()?;
        let mut random = Rng::new(seed);
        let mut pops = Vec::new();
        for (seed, own) in (seed..).zip(&ids) {
            let mut machine = Paths::new(PathsConfig { own: own.clone(), seed });
            for peer in ids.iter().filter(|peer| *peer != own) {
                machine.handle_link(peer, direct, true, now);
            }
            pops.push(machine);
        }
        Ok(Self {
            now,
            ids,
            pops,
            ways: ways(&mut random),
            routes: BTreeMap::new(),
            flying: BTreeMap::new(),
            count: 0,
            random,
            media: now,
            spoken: 0,
        })
    }

    fn index(&self, id: &PopId) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    fn way(&self, a: usize, b: usize) -> Option<Way> {
        self.ways.get(&(a.min(b), a.max(b))).copied()
    }

    fn through(&self, a: usize, relay: usize, b: usize) -> Option<Way> {
        Some(self.way(a, relay)?.then(self.way(relay, b)?))
    }

    fn drain(&mut self) -> Result<()> {
        for from in 0..self.pops.len() {
            while let Some(command) = self.pops.get_mut(from).and_then(Paths::poll_command) {
                match command {
                    PathCommand::Probe { to, bytes, .. } => self.fly(from, &to, bytes)?,
                    PathCommand::Route { peer, route } => {
                        let to = self.index(&peer).context("a peer")?;
                        self.routes.insert((from, to), route);
                    }
                }
            }
        }
        Ok(())
    }

    fn fly(&mut self, from: usize, next: &PopId, bytes: Bytes) -> Result<()> {
        let next = self.index(next).context("a peer")?;
        let tag = Datagram::decode(&bytes)?.header.relayed.map(|ends| ends.to);
        let target = tag
            .and_then(|tag| self.ids.iter().position(|id| proto::overlay::PopTag::of(id) == tag));
        let (to, via, way) = match target.filter(|target| *target != next) {
            Some(target) => (target, Some(next), self.through(from, next, target)),
            None => (next, None, self.way(from, next)),
        };
        let way = way.context("no way")?;
        if self.random.next_f64() < way.loss {
            return Ok(());
        }
        // Spread evenly, so that neighbors differ by the jitter in the mean (a third of the width).
        let late = self.random.next_f64() * way.jitter * 3.0;
        let takes = Duration::from_secs_f64((way.rtt / 2.0 + late) / 1e3);
        self.count += 1;
        self.flying.insert((self.now + takes, self.count), (to, from, via, bytes));
        Ok(())
    }

    fn land(&mut self, (to, from, via, bytes): &Flight) -> Result<()> {
        let datagram = Datagram::decode(bytes)?;
        let from = self.ids.get(*from).context("a POP")?;
        let via = via.and_then(|via| self.ids.get(via));
        let machine = self.pops.get_mut(*to).context("a POP")?;
        machine.handle_probe((from, via), &datagram, self.now);
        Ok(())
    }

    /// Everybody has calls with everybody.
    fn speak(&mut self) {
        self.media = self.now + Duration::from_secs(1);
        self.spoken += 1;
        for (own, machine) in self.ids.iter().zip(&mut self.pops) {
            for peer in self.ids.iter().filter(|peer| *peer != own) {
                machine.handle_media(peer, self.spoken, std::iter::empty(), self.now);
            }
        }
    }

    fn run(&mut self, span: Duration) -> Result<()> {
        let end = self.now + span;
        while self.now < end {
            self.drain()?;
            self.now += STEP;
            while self.flying.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                if let Some((_, landed)) = self.flying.pop_first() {
                    self.land(&landed)?;
                }
            }
            if self.media <= self.now {
                self.speak();
            }
            for machine in &mut self.pops {
                if machine.poll_timeout().is_some_and(|at| at <= self.now) {
                    machine.handle_timeout(self.now);
                }
            }
        }
        Ok(())
    }

    /// What calls from `a` to `b` get by the route in use.
    fn felt(&self, a: usize, b: usize) -> Option<Way> {
        let route = self.routes.get(&(a, b))?;
        let of = |hop: &pop_core::overlay::Hop| match &hop.via {
            Some(relay) => self.through(a, self.index(relay)?, b),
            None => self.way(a, b),
        };
        let mut felt = of(&route.primary)?;
        // A copy elsewhere is lost by itself; one on the same path, later, with single losses, too.
        if let Some(copy) = &route.copy {
            felt.loss *= of(copy)?.loss;
        } else if route.again.is_some() {
            felt.loss *= felt.loss;
        }
        Some(felt)
    }
}

/// Of all directions: poor without an overlay; of these fixable by somebody who knows all; fixed; and those
/// for which another POP passes anything on.
#[derive(Default)]
struct Tally {
    all: u32,
    poor: u32,
    fixable: u32,
    fixed: u32,
    spoilt: u32,
    relayed: u32,
}

impl Tally {
    fn add(&mut self, mesh: &Mesh) {
        for (a, b) in (0..POPS).flat_map(|a| (0..POPS).map(move |b| (a, b))) {
            let Some(direct) = mesh.way(a, b).filter(|_| a != b) else { continue };
            let felt = mesh.felt(a, b).unwrap_or(direct);
            let through = (0..POPS).filter_map(|relay| mesh.through(a, relay, b));
            let fixable = through.into_iter().any(|way| !way.is_poor());
            let route = mesh.routes.get(&(a, b));
            let hops = route.into_iter().flat_map(|r| std::iter::once(&r.primary).chain(&r.copy));
            self.all += 1;
            self.poor += u32::from(direct.is_poor());
            self.fixable += u32::from(direct.is_poor() && fixable);
            self.fixed += u32::from(direct.is_poor() && fixable && !felt.is_poor());
            self.spoilt += u32::from(!direct.is_poor() && felt.is_poor());
            self.relayed += u32::from(hops.into_iter().any(|hop| hop.via.is_some()));
        }
    }
}

pub(super) fn poor(table: &mut Table) -> Result<()> {
    let mut tally = Tally::default();
    for seed in 1..=MESHES {
        let mut mesh = Mesh::new(seed)?;
        mesh.run(SETTLE)?;
        tally.add(&mesh);
    }
    let percent = |part: u32, of: u32| f64::from(part) * 100.0 / f64::from(of);
    let mut tell = |name: &str, ours: f64, target: Target| {
        let name = format!("{MESHES} meshes of {POPS} POPs, one direct path in five poor: {name}");
        table.add(Figure { name, peer: None, ours, target, unit: "%" });
    };
    tell("poor calls without overlay", percent(tally.poor, tally.all), Target::Told);
    tell("… of these fixable", percent(tally.fixable, tally.poor), Target::Told);
    tell("fixable poor calls fixed", percent(tally.fixed, tally.fixable), Target::AtLeast(50.0));
    tell("good calls made poor", percent(tally.spoilt, tally.all - tally.poor), Target::Told);
    tell("calls that another POP passes on", percent(tally.relayed, tally.all), 30.0.into());
    Ok(())
}
