//! The task around [`pop_core::overlay::Paths`]: probes in and out, routes to the media threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pop_core::media::PathCounts;
use pop_core::overlay::{PathCommand, Paths, PathsConfig, PeerReport, Route};
use proto::id::PopId;
use proto::overlay::{Datagram, PathId, PopTag};
use tokio::sync::{mpsc, oneshot};

use super::registry::Registry;
use crate::clock::Clock;
use crate::drops::{Drops, Reason};
use crate::media;

/// Inputs that may wait: 40 ms of 200 peers at full rate.
pub(super) const INPUTS_MAX: usize = 4_096;
/// Inputs taken before timers get their turn.
const INPUTS_PER_TURN: usize = 256;
/// Between looks at what media threads counted.
const COUNTS: Duration = Duration::from_millis(100);

/// What connections tell.
#[derive(Debug)]
pub(super) enum Input {
    Up(PopId, PathId),
    Down(PopId, PathId),
    /// A probe for us, and the POP at the other end of the connection.
    Probe(PopId, Bytes),
    Report(oneshot::Sender<Vec<PeerReport>>),
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
    /// Routes the media threads had no room for.
    held: BTreeMap<PopId, Route>,
    /// An answer of the media threads under way.
    counts: Option<oneshot::Receiver<Vec<PathCounts>>>,
}

impl Keeper {
    pub(super) fn new(
        config: PathsConfig,
        registry: Arc<Registry>,
        (media, clock, drops): (media::Handle, Clock, Drops),
        inputs: mpsc::Receiver<Input>,
    ) -> Self {
        Self {
            own: PopTag::of(&config.own),
            paths: Paths::new(config),
            registry,
            media,
            clock,
            drops,
            inputs,
            peers: BTreeMap::new(),
            held: BTreeMap::new(),
            counts: None,
        }
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
            self.execute();
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Up(peer, path) => {
                self.peers.insert(PopTag::of(&peer), peer.clone());
                self.paths.handle_link(&peer, path, true, now);
            }
            Input::Down(peer, path) => self.paths.handle_link(&peer, path, false, now),
            Input::Probe(peer, bytes) => {
                if !self.probe(&peer, &bytes) {
                    self.drops.count(Reason::ProbeUnknown);
                }
            }
            // Nobody waits any more: fine.
            Input::Report(answer) => drop(answer.send(self.paths.report(now))),
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
