//! The task around [`pop_core::overlay::Paths`]: probes in and out, routes to the media threads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pop_core::bgp::Hint;
use pop_core::media::PathCounts;
use pop_core::overlay::{Moment, PathCommand, Paths, PathsConfig, PeerReport, Route};
use proto::id::PopId;
use proto::overlay::{Datagram, PathId, PopTag};
use proto::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

use super::registry::{Instance, Registry};
use crate::clock::Clock;
use crate::drops::{Drops, Reason};
use crate::media;

/// Inputs that may wait: 40 ms of 200 peers at full rate.
pub(super) const INPUTS_MAX: usize = 4_096;
/// Inputs taken before timers get their turn.
const INPUTS_PER_TURN: usize = 256;
/// Between looks at what media threads counted.
const COUNTS: Duration = Duration::from_millis(100);
/// Between looks at which POPs are out of sight.
const UNSEEN: Duration = Duration::from_millis(50);
/// A change of a round trip that nobody hears.
const TELL_MIN: Duration = Duration::from_millis(1);

/// What connections tell.
#[derive(Debug)]
pub(super) enum Input {
    /// The connections with a POP are not what they were: the registry has them.
    Changed(PopId),
    /// The other POPs of the view.
    Known(Vec<PopId>),
    /// A probe for us, and the POP at the other end of the connection.
    Probe(PopId, Bytes),
    /// From an upstream of ours to an address.
    Hints(Vec<(u8, IpAddr, Hint)>),
    Report(oneshot::Sender<Vec<PeerReport>>),
    /// The paths to a POP at a moment.
    Past(String, Instant, oneshot::Sender<Option<Moment>>),
}

/// What others follow.
#[derive(Clone)]
pub(super) struct Known {
    /// Addresses at the other ends of paths.
    pub(super) remotes: watch::Receiver<BTreeSet<IpAddr>>,
    /// POPs that a path led to and none does now.
    pub(super) unseen: watch::Receiver<BTreeSet<PopId>>,
}

pub(super) struct Keeper {
    paths: Paths,
    own: PopTag,
    registry: Arc<Registry>,
    media: media::Handle,
    clock: Clock,
    drops: Drops,
    inputs: mpsc::Receiver<Input>,
    /// POPs by their tags.
    peers: BTreeMap<PopTag, PopId>,
    /// Those of the view.
    known: Vec<PopId>,
    /// The connections the paths know of.
    connected: BTreeMap<PopId, (Instance, BTreeMap<PathId, usize>)>,
    own_id: PopId,
    /// Our upstream and their address, of each direct path.
    ways: BTreeMap<(PopId, PathId), (u8, IpAddr)>,
    hints: BTreeMap<(u8, IpAddr), Hint>,
    remotes: watch::Sender<BTreeSet<IpAddr>>,
    unseen: watch::Sender<BTreeSet<PopId>>,
    /// When that was looked at.
    looked: Instant,
    /// Routes the media threads had no room for.
    held: BTreeMap<PopId, Route>,
    /// Round trips the media threads know.
    told: BTreeMap<PopId, Duration>,
    /// An answer of the media threads under way.
    counts: Option<oneshot::Receiver<Vec<PathCounts>>>,
}

impl Keeper {
    pub(super) fn new(
        config: PathsConfig,
        registry: Arc<Registry>,
        (media, clock, drops): (media::Handle, Clock, Drops),
        inputs: mpsc::Receiver<Input>,
    ) -> (Self, Known) {
        let (remotes, addresses) = watch::channel(BTreeSet::new());
        let (unseen, out_of_sight) = watch::channel(BTreeSet::new());
        let keeper = Self {
            own: PopTag::of(&config.own),
            own_id: config.own.clone(),
            ways: BTreeMap::new(),
            hints: BTreeMap::new(),
            remotes,
            unseen,
            looked: Instant::ZERO,
            paths: Paths::new(config),
            registry,
            media,
            clock,
            drops,
            inputs,
            peers: BTreeMap::new(),
            known: Vec::new(),
            connected: BTreeMap::new(),
            held: BTreeMap::new(),
            told: BTreeMap::new(),
            counts: None,
        };
        (keeper, Known { remotes: addresses, unseen: out_of_sight })
    }

    pub(super) async fn run(mut self) {
        let mut look = tokio::time::interval(COUNTS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.paths.poll_timeout().map(|at| self.clock.deadline(at));
            tokio::select! {
                biased;
                // What came is read before it is called late.
                input = self.inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                    for _ in 0..INPUTS_PER_TURN {
                        let Ok(input) = self.inputs.try_recv() else { break };
                        self.take(input);
                    }
                }
                Some(counts) = answer(&mut self.counts) => self.count(counts),
                () = sleep_until(wake) => {}
                _ = look.tick(), if self.counts.is_none() => {
                    self.counts = self.media.path_counts();
                }
            }
            let now = self.clock.now();
            if self.paths.poll_timeout().is_some_and(|at| at <= now) {
                self.paths.handle_timeout(now);
            }
            if now - self.looked >= UNSEEN {
                self.looked = now;
                self.look_around(now);
            }
            self.execute();
        }
    }

    fn look_around(&self, now: Instant) {
        let unseen: BTreeSet<PopId> = self.paths.unseen(now).cloned().collect();
        self.unseen.send_if_modified(|known| {
            let changed = *known != unseen;
            if changed {
                tracing::info!(pops = ?unseen, "POPs out of sight");
            }
            *known = unseen;
            changed
        });
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Changed(peer) => self.compare(&peer, now),
            Input::Known(known) => self.know(known, now),
            Input::Probe(peer, bytes) => {
                if !self.probe(&peer, &bytes) {
                    self.drops.count(Reason::ProbeUnknown);
                }
            }
            Input::Hints(hints) => {
                for (upstream, address, hint) in hints {
                    self.hint((upstream, address), hint);
                }
            }
            // Nobody waits any more: fine.
            Input::Past(peer, at, answer) => drop(answer.send(self.paths.past(&peer, at))),
            Input::Report(answer) => drop(answer.send(self.paths.report(now))),
        }
    }

    /// Whatever happened since the last look, in whatever order it was told.
    fn compare(&mut self, peer: &PopId, now: Instant) {
        let (instance, ids) = self.registry.state(peer);
        if !ids.is_empty() {
            self.peers.insert(PopTag::of(peer), peer.clone());
        }
        let (process, known) =
            self.connected.entry(peer.clone()).or_insert_with(|| (instance, BTreeMap::new()));
        if *process != instance {
            (*process, *known) = (instance, BTreeMap::new());
            self.paths.handle_restart(peer, now);
        }
        for path in known.keys().filter(|path| !ids.contains_key(path)) {
            self.paths.handle_link(peer, *path, false, now);
        }
        let is_new = |(path, id): &(&PathId, &usize)| known.get(path) != Some(id);
        let new: Vec<PathId> = ids.iter().filter(is_new).map(|(path, _)| *path).collect();
        for path in &new {
            self.paths.handle_link(peer, *path, true, now);
        }
        *known = ids;
        for path in new {
            self.locate(peer.clone(), path);
        }
    }

    fn know(&mut self, known: Vec<PopId>, now: Instant) {
        let before = std::mem::replace(&mut self.known, known);
        for peer in before.iter().filter(|peer| !self.known.contains(peer)) {
            tracing::info!(%peer, "no longer of this mesh: its paths are forgotten");
            self.peers.remove(&PopTag::of(peer));
            self.connected.remove(peer);
            self.held.remove(peer);
            self.paths.forget(peer, now);
            self.ways.retain(|(other, _), _| other != peer);
        }
        self.tell_remotes();
        // One that is back may have been connected all the time.
        let back = self.known.iter().filter(|peer| !before.contains(peer)).cloned();
        for peer in back.collect::<Vec<_>>() {
            self.compare(&peer, now);
        }
    }

    /// Where a path that came up leads, and what is held against that.
    fn locate(&mut self, peer: PopId, path: PathId) {
        let connection = self.registry.get(&peer, path);
        let (Some((lower, higher)), Some(connection)) = (path.upstreams(), connection) else {
            return;
        };
        let ours = if self.own_id < peer { lower } else { higher };
        let way = (ours, connection.remote_address().ip().to_canonical());
        // Also that nothing is: what was held against another address is no matter of this one.
        let hint = self.hints.get(&way).cloned().unwrap_or_default();
        self.paths.handle_hint(&peer, path, hint, self.clock.now());
        self.ways.insert((peer, path), way);
        self.tell_remotes();
    }

    fn tell_remotes(&self) {
        let addresses: BTreeSet<IpAddr> = self.ways.values().map(|(_, address)| *address).collect();
        self.remotes.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    fn hint(&mut self, way: (u8, IpAddr), hint: Hint) {
        let now = self.clock.now();
        for ((peer, path), _) in self.ways.iter().filter(|(_, at)| **at == way) {
            tracing::debug!(%peer, path = path.0, risk = hint.risk, drain = ?hint.drain, "BGP");
            self.paths.handle_hint(peer, *path, hint.clone(), now);
        }
        if hint == Hint::default() {
            self.hints.remove(&way);
        } else {
            self.hints.insert(way, hint);
        }
    }

    fn probe(&mut self, peer: &PopId, bytes: &Bytes) -> bool {
        let Ok(datagram) = Datagram::decode(bytes) else { return false };
        let (from, via) = match datagram.header.relayed {
            None => (Some(peer), None),
            Some(ends) if ends.to == self.own => (self.peers.get(&ends.from), Some(peer)),
            Some(_) => (None, None),
        };
        let Some(from) = from.cloned() else { return false };
        self.paths.handle_probe((&from, via), &datagram, self.clock.now())
    }

    fn count(&mut self, counts: Vec<PathCounts>) {
        let now = self.clock.now();
        for PathCounts { peer, sent, received } in counts {
            self.paths.handle_media(&peer, sent, received.into_iter(), now);
        }
        self.tell_round_trips();
    }

    /// To the media threads, for their ratings; only what changed by more than a tenth.
    fn tell_round_trips(&mut self) {
        for (peer, now) in self.paths.round_trips() {
            let told = self.told.get(peer);
            let same = told.is_some_and(|told| told.abs_diff(now) <= *told / 10 + TELL_MIN);
            let order = media::Order::RoundTrip(peer.clone(), now);
            // Busy: next time.
            if !same && self.media.order(order).is_ok() {
                self.told.insert(peer.clone(), now);
            }
        }
    }

    fn execute(&mut self) {
        for (peer, route) in std::mem::take(&mut self.held) {
            self.route(peer, route);
        }
        while let Some(command) = self.paths.poll_command() {
            match command {
                PathCommand::Probe { to, path, bytes } => {
                    let connection = self.registry.get(&to, path);
                    // A connection that just broke is told of by its task.
                    let sent = connection.map(|connection| connection.send_datagram(bytes));
                    if !matches!(sent, Some(Ok(()))) {
                        self.drops.count(Reason::NoLink);
                    }
                }
                PathCommand::Route { peer, route } => {
                    self.held.remove(&peer);
                    self.route(peer, route);
                }
            }
        }
    }

    fn route(&mut self, peer: PopId, route: Route) {
        self.registry.prefer(&peer, route.direct);
        tracing::debug!(%peer, primary = %route.primary, copy = route.copy.is_some(), "route");
        if self.media.order(media::Order::Route(peer.clone(), route.clone())).is_err() {
            self.held.insert(peer, route);
        }
    }
}

async fn answer<T>(pending: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match pending {
        Some(receiver) => {
            let answer = receiver.await;
            *pending = None;
            answer.ok()
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
