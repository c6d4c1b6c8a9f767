//! A mesh of 200 POPs with three upstreams each, in virtual time, as one of them sees it: what it probes,
//! and what it costs to choose the path to every other.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pop_core::bgp::Hint;
use pop_core::overlay::{PathCommand, Paths, PathsConfig};
use proto::id::PopId;
use proto::overlay::{Datagram, PathId};
use proto::time::Instant;

use super::micro::cpu;
use super::{Figure, Table, Target, percentile};

const POPS: u32 = 200;
const UPSTREAMS: u8 = 3;
/// Until everything is measured, and while it is looked at.
const SETTLE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(20);
const ROWS: u32 = 20;
const STEP: Duration = Duration::from_millis(1);
/// Of each probe: IPv4, UDP, a short header of QUIC with its tag, a DATAGRAM frame.
const OVERHEAD_BYTES: usize = 20 + 8 + 30 + 3;

/// One POP, and of each other one what it says to this one.
struct Mesh {
    now: Instant,
    own: (PopId, Paths),
    others: BTreeMap<PopId, Paths>,
    /// By arrival: for which of the others, or for us from it.
    flying: BTreeMap<(Instant, u64), (PopId, bool, Bytes)>,
    count: u64,
    /// Bytes of our probes on paths of our own, and through others.
    sent: [usize; 2],
    media: Instant,
    calls: Option<u64>,
    cpu: Duration,
}

fn id(n: u32) -> Result<PopId> {
    format!("pop{n:03}").parse().context("an id")
}

fn paths() -> impl Iterator<Item = PathId> {
    let all = (0..UPSTREAMS).flat_map(|lower| (0..UPSTREAMS).map(move |higher| (lower, higher)));
    all.filter_map(|(lower, higher)| PathId::direct(lower, higher))
}

impl Mesh {
    fn new() -> Result<Self> {
        let now = Instant::from_millis(1_000);
        let own = id(0)?;
        let machine = |own: &PopId, seed| Paths::new(PathsConfig { own: own.clone(), seed });
        let mut mesh = Self {
            now,
            own: (own.clone(), machine(&own, 7)),
            others: BTreeMap::new(),
            flying: BTreeMap::new(),
            count: 0,
            sent: [0; 2],
            media: now,
            calls: None,
            cpu: Duration::ZERO,
        };
        for n in 1..POPS {
            let (other, mut machine) = (id(n)?, machine(&id(n)?, u64::from(n)));
            for path in paths() {
                machine.handle_link(&own, path, true, now);
                mesh.own.1.handle_link(&other, path, true, now);
            }
            mesh.others.insert(other, machine);
        }
        Ok(mesh)
    }

    /// One way, by POP and path: 10 to 130 ms.
    fn delay(&self, other: &PopId, path: PathId) -> Duration {
        let n = other.as_str().bytes().fold(0_u64, |sum, byte| sum * 10 + u64::from(byte % 16));
        let noise = self.count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        let far = Duration::from_millis(10 + n % 100 + u64::from(path.0) % 20);
        far + Duration::from_micros(noise)
    }

    fn fly(&mut self, other: PopId, to_us: bool, path: PathId, bytes: Bytes) {
        self.count += 1;
        let at = self.now + self.delay(&other, path);
        self.flying.insert((at, self.count), (other, to_us, bytes));
    }

    fn drain(&mut self) {
        while let Some(command) = self.own.1.poll_command() {
            let PathCommand::Probe { to, path, bytes } = command else { continue };
            let relayed = Datagram::decode(&bytes).is_ok_and(|d| d.header.relayed.is_some());
            if let Some(sent) = self.sent.get_mut(usize::from(relayed)) {
                *sent += bytes.len() + OVERHEAD_BYTES;
            }
            // What another POP passes on is counted, and goes no further here.
            if !relayed {
                self.fly(to, false, path, bytes);
            }
        }
        let mut said = Vec::new();
        for (other, machine) in &mut self.others {
            while let Some(command) = machine.poll_command() {
                if let PathCommand::Probe { path, bytes, .. } = command {
                    said.push((other.clone(), path, bytes));
                }
            }
        }
        for (other, path, bytes) in said {
            self.fly(other, true, path, bytes);
        }
    }

    fn land(&mut self, (other, to_us, bytes): &(PopId, bool, Bytes)) -> Result<()> {
        let datagram = Datagram::decode(bytes)?;
        if *to_us {
            let before = cpu()?;
            let known = self.own.1.handle_probe((other, None), &datagram, self.now);
            self.cpu += cpu()? - before;
            ensure!(known, "a probe of nobody");
        } else if let Some(machine) = self.others.get_mut(other) {
            machine.handle_probe((&self.own.0, None), &datagram, self.now);
        }
        Ok(())
    }

    /// Media to everybody, once a second, if there are calls.
    fn speak(&mut self) {
        self.media = self.now + Duration::from_secs(1);
        let Some(calls) = &mut self.calls else { return };
        *calls += 1;
        for (other, machine) in &mut self.others {
            self.own.1.handle_media(other, *calls, std::iter::empty(), self.now);
            machine.handle_media(&self.own.0, *calls, std::iter::empty(), self.now);
        }
    }

    fn run(&mut self, span: Duration) -> Result<()> {
        let end = self.now + span;
        while self.now < end {
            self.drain();
            let timers = self.others.values_mut().filter_map(Paths::poll_timeout).min();
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = [self.own.1.poll_timeout(), timers, arrival, Some(self.media)];
            // What is due within a step is done together.
            self.now = next.into_iter().flatten().min().unwrap_or(end).max(self.now + STEP);
            while self.flying.first_key_value().is_some_and(|((at, _), _)| *at <= self.now) {
                if let Some((_, landed)) = self.flying.pop_first() {
                    self.land(&landed)?;
                }
            }
            if self.media <= self.now {
                self.speak();
            }
            let before = cpu()?;
            self.own.1.handle_timeout(self.now);
            self.cpu += cpu()? - before;
            self.others.values_mut().for_each(|machine| machine.handle_timeout(self.now));
        }
        Ok(())
    }

    /// Mbit/s of probes at one POP, both ways: all POPs do as this one does, so what it sends it also gets,
    /// and it passes on as many as others pass on for it.
    #[allow(clippy::cast_precision_loss, reason = "bytes of a few seconds")]
    fn rate(&mut self) -> Result<(f64, f64)> {
        (self.sent, self.cpu) = ([0; 2], Duration::ZERO);
        self.run(LOOK)?;
        let [direct, relayed] = self.sent;
        let bytes = 2 * (direct + relayed) + 2 * relayed;
        let seconds = LOOK.as_secs_f64();
        Ok((bytes as f64 * 8.0 / 1e6 / seconds, self.cpu.as_secs_f64() * 100.0 / seconds))
    }

    /// CPU time of choosing the path to every POP anew, ms; something speaks against one of each.
    fn rows(&mut self) -> Result<Vec<f64>> {
        let first = paths().next().context("a path")?;
        let mut took = Vec::new();
        for round in 0..ROWS {
            self.run(Duration::from_millis(300))?;
            let hint = Hint { risk: f64::from(round % 2), ..Hint::default() };
            for other in self.others.keys() {
                self.own.1.handle_hint(other, first, hint.clone(), self.now);
            }
            let before = cpu()?;
            self.own.1.handle_timeout(self.now);
            took.push((cpu()? - before).as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        Ok(took)
    }
}

pub(super) fn row(table: &mut Table) -> Result<()> {
    let mut mesh = Mesh::new()?;
    mesh.run(SETTLE)?;
    let reports = mesh.own.1.report(mesh.now);
    let routed = reports.iter().filter(|report| report.route.is_some()).count();
    ensure!(routed == mesh.others.len(), "{routed} of {} POPs have a route", mesh.others.len());
    let mut tell = |name: &str, ours: f64, target: Target, unit| {
        let name = format!("200 POPs, 3 upstreams each: {name}");
        table.add(Figure { name, peer: None, ours, target, unit });
    };
    let (idle, cpu) = mesh.rate()?;
    tell("probes at a POP, both ways, no calls", idle, 12.0.into(), "Mbit/s");
    tell("… CPU of its machine", cpu, Target::Told, "%");
    mesh.calls = Some(0);
    mesh.run(SETTLE)?;
    let (busy, cpu) = mesh.rate()?;
    tell("probes at a POP, both ways, calls with all", busy, 12.0.into(), "Mbit/s");
    tell("… CPU of its machine", cpu, Target::Told, "%");
    let rows = mesh.rows()?;
    tell("row of 199 paths chosen anew, p50", percentile(&rows, 0.5), Target::Told, "ms");
    tell("… worst", percentile(&rows, 1.0), 50.0.into(), "ms");
    Ok(())
}
