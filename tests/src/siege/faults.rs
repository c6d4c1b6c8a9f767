//! What happens to whom.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use chaos::lab::process::Signal;
use chaos::rng::Rng;

use super::field::{Field, NODES};
use super::nodes::Nodes;

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// kill -9, and a start later.
    Kill(usize),
    /// Of all at once.
    KillAll,
    /// SIGSTOP, SIGCONT later.
    Stop(usize),
    /// The cable is out.
    Unplug(usize),
    /// The second does not get what the first sends.
    OneWay(usize, usize),
    /// Nobody gets what it sends, but for the clients.
    Mute(usize),
    /// No byte fits on its disk.
    DiskFull(usize),
}

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<&'static str, u32>);

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u32 = self.0.values().sum();
        let each: Vec<String> = self.0.iter().map(|(what, n)| format!("{n} {what}")).collect();
        write!(f, "{total} faults: {}", each.join(", "))
    }
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill -9",
            Self::KillAll => "kill -9 of all",
            Self::Stop(_) => "SIGSTOP",
            Self::Unplug(_) => "link down",
            Self::OneWay(..) => "one-way cut",
            Self::Mute(_) => "muted",
            Self::DiskFull(_) => "full disk",
        }
    }

    fn begin(self, field: &Field, nodes: &mut Nodes) -> Result<()> {
        match self {
            Self::Kill(node) => nodes.kill(node),
            Self::KillAll => (0..NODES).for_each(|node| nodes.kill(node)),
            Self::Stop(node) => nodes.signal(node, Signal::STOP)?,
            Self::Unplug(node) => field.plug(node, false)?,
            Self::OneWay(from, to) => field.hears(from, to, false)?,
            Self::Mute(node) => others(node).try_for_each(|to| field.hears(node, to, false))?,
            Self::DiskFull(node) => nodes.fill_disk(node)?,
        }
        Ok(())
    }

    fn end(self, field: &Field, nodes: &mut Nodes) -> Result<()> {
        match self {
            Self::Kill(node) => nodes.launch(node),
            Self::KillAll => (0..NODES).try_for_each(|node| nodes.launch(node)),
            Self::Stop(node) => nodes.signal(node, Signal::CONT),
            Self::Unplug(node) => field.plug(node, true),
            Self::OneWay(from, to) => field.hears(from, to, true),
            Self::Mute(node) => others(node).try_for_each(|to| field.hears(node, to, true)),
            Self::DiskFull(node) => nodes.free_disk(node),
        }
    }
}

fn others(node: usize) -> impl Iterator<Item = usize> {
    (0..NODES).filter(move |other| *other != node)
}

fn draw(rng: &mut Rng) -> (Fault, Duration) {
    let node = index(rng, NODES);
    let other = (node + 1 + index(rng, NODES - 1)) % NODES;
    let fault = match rng.below(13) {
        0..=3 => Fault::Kill(node),
        4 => Fault::KillAll,
        5 | 6 => Fault::Stop(node),
        7 | 8 => Fault::Unplug(node),
        9 => Fault::OneWay(node, other),
        10 | 11 => Fault::Mute(node),
        _ => Fault::DiskFull(node),
    };
    (fault, Duration::from_millis(200 + rng.below(3_000)))
}

pub(super) fn index(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or(0)
}

/// One fault after the other, a third of them with another one of another kind at the same time;
/// in between, nodes have time to find each other, mostly.
pub(super) async fn rage(
    field: &Field,
    nodes: &mut Nodes,
    mut rng: Rng,
    during: Duration,
) -> Result<Tally> {
    let (end, mut tally) = (Instant::now() + during, Tally::default());
    while Instant::now() < end {
        pause(1_500, &mut rng).await;
        let (first, lasts) = draw(&mut rng);
        let mut faults = vec![first];
        let (second, _) = draw(&mut rng);
        if rng.below(3) == 0 && second.name() != first.name() {
            faults.push(second);
        }
        for fault in &faults {
            *tally.0.entry(fault.name()).or_default() += 1;
            fault.begin(field, nodes)?;
        }
        tokio::time::sleep(lasts).await;
        for fault in &faults {
            fault.end(field, nodes)?;
        }
        nodes.check()?;
    }
    Ok(tally)
}

async fn pause(most: u64, rng: &mut Rng) {
    tokio::time::sleep(Duration::from_millis(rng.below(most))).await;
}
