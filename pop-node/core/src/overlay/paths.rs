//! All paths to all POPs: probes on each, reports about each, a route for each POP.
//!
//! Probes are frequent where media is (40 a second on the path in use, 20 on its standby) and rare
//! elsewhere. Each says when the next one comes, so silence is noticed after one and a half
//! intervals; a path that goes silent while another is heard is told to the sender over the others
//! at once. Time that this process did not live through is nobody's silence.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::id::PopId;
use proto::overlay::{Datagram, Header, PathId, PopTag, Probe, Relayed};
use proto::time::{Duration, Instant, earlier};

use super::choice::{Candidate, Choice, watched};
use super::explain::{Change, PathReport, PeerReport, Why};
use super::health::Health;
use super::history::{History, Moment};
use super::peer::Path;
use super::route::{Hop, Route};
use super::stats::LinkStats;
use crate::bgp::Hint;

/// Between probes of the path that carries calls; of its standby; of a suspect, and of all beside it.
const FAST: Duration = Duration::from_millis(25);
const STANDBY: Duration = Duration::from_millis(50);
const SUSPECT: Duration = Duration::from_millis(100);
/// Without calls: of the path they would take.
const IDLE: Duration = Duration::from_millis(250);
/// Of any other.
const SLOW: Duration = Duration::from_secs(1);
/// Peers with calls from which on fast probes become rarer, so that they cost no more together.
const FAST_PEERS: u32 = 30;
/// Media was sent or received so lately: there are calls.
const CALLS_WITHIN: Duration = Duration::from_secs(2);
/// Between reports of all paths; in between probes speak of those in use.
const FULL_REPORT: Duration = Duration::from_millis(250);
/// Decisions are made at least so often where there are calls, and elsewhere.
const DECIDE: Duration = Duration::from_millis(100);
const DECIDE_IDLE: Duration = Duration::from_secs(1);
/// Being called later than asked for by this means that this process was not running.
const OVERSLEPT: Duration = Duration::from_millis(15);
/// A probe may be overtaken on other paths by so much.
const OVERTAKEN_MAX_US: u32 = 5_000_000;
/// Other POPs that a pair is tried through.
const RELAYS_MAX: usize = 3;
/// One that the peer chose is kept for so long after its last probe.
const RELAY_FORGOTTEN: Duration = Duration::from_secs(10);
pub(super) const PATHS_MAX: usize = 32;
/// Changes remembered for each peer.
const CHANGES_MAX: usize = 64;
const COMMANDS_MAX: usize = 4_096;
/// A POP is out of sight when no path brought anything for so long. Only others' word beside it has
/// consequences, so three missed probes are enough.
const UNSEEN_AFTER: Duration = Duration::from_millis(700);

/// Facts of this POP.
#[derive(Debug, Clone)]
pub struct PathsConfig {
    /// Our id.
    pub own: PopId,
    /// Spreads probes.
    pub seed: u64,
}

/// What the shell does for the paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathCommand {
    /// Send this on the direct path `path` to `to`.
    Probe {
        /// The POP at the other end of the connection.
        to: PopId,
        /// Which connection.
        path: PathId,
        /// The datagram.
        bytes: Bytes,
    },
    /// Media for a POP goes so from now on.
    Route {
        /// Which.
        peer: PopId,
        /// How.
        route: Route,
    },
}

#[derive(Debug, Default)]
struct Peer {
    paths: BTreeMap<PathId, Path>,
    choice: Choice,
    why: Option<(Why, Instant)>,
    /// The same of the primary path alone.
    chosen: Option<(Why, Instant)>,
    changes: VecDeque<Change>,
    history: History,
    totals: BTreeMap<Why, u64>,
    /// Datagrams of media sent, as last counted, and when that grew, or what came did.
    sent: u64,
    calls_at: Option<Instant>,
    full_report: Instant,
    /// Decide again at the latest.
    decide: Instant,
    /// Which paths are late was looked at then.
    listened: Instant,
    /// When the peer sent the newest of the probes that came, in µs of its clock.
    newest_word: Option<u32>,
    /// A probe came from this process, whenever that was.
    reached: bool,
}

impl Peer {
    /// A path led to it, and none does now.
    fn is_unseen(&self, now: Instant) -> bool {
        let seen = |path: &Path| {
            let lately = path.heard_at.is_some_and(|at| now - at < UNSEEN_AFTER);
            path.up && (lately || path.due().is_some_and(|due| now < due))
        };
        self.reached && !self.paths.values().any(seen)
    }

    fn has_calls(&self, now: Instant) -> bool {
        self.calls_at.is_some_and(|at| now - at < CALLS_WITHIN)
    }

    /// Direct paths come before those through others: of these one that nothing uses goes.
    fn make_room(&mut self) {
        if self.paths.len() < PATHS_MAX {
            return;
        }
        let route = self.choice.route();
        let used = |path: &Path| {
            route.is_some_and(|r| r.primary == path.hop || r.copy.as_ref() == Some(&path.hop))
        };
        let relayed = self.paths.iter().filter(|(_, path)| path.hop.path.is_relayed());
        let idle = relayed.filter(|(_, path)| !used(path));
        let idle = idle.min_by_key(|(_, path)| (path.up, path.chosen));
        if let Some(idle) = idle.map(|(id, _)| *id) {
            self.paths.remove(&idle);
        }
    }

    /// Is this probe's word about our paths the newest? Those of other paths may overtake it.
    fn is_news(&mut self, sent_us: u32) -> bool {
        let older = self.newest_word.map(|newest| newest.wrapping_sub(sent_us));
        // Older by more than can be: the peer's clock began anew.
        let news = older.is_none_or(|older| older == 0 || older > OVERTAKEN_MAX_US);
        if news {
            self.newest_word = Some(sent_us);
        }
        news
    }

    /// When something is due.
    fn next(&self) -> Option<Instant> {
        let mut next = (!self.paths.is_empty()).then_some(self.decide);
        for path in self.paths.values().filter(|path| path.up) {
            next = earlier(next, Some(path.next_probe));
            let due = path.due().filter(|due| *due > self.listened && path.silent.is_none());
            next = earlier(next, due);
        }
        next
    }
}

/// The machine.
#[derive(Debug)]
pub struct Paths {
    config: PathsConfig,
    peers: BTreeMap<PopId, Peer>,
    commands: VecDeque<PathCommand>,
    random: u64,
    planned: Option<Instant>,
    oversleeps: u64,
    /// Peers with calls.
    busy: u32,
}

impl Paths {
    /// Without peers.
    pub fn new(config: PathsConfig) -> Self {
        let random = config.seed | 1;
        let (peers, commands) = (BTreeMap::new(), VecDeque::new());
        Self { config, peers, commands, random, planned: None, oversleeps: 0, busy: 0 }
    }

    /// A connection to a POP came up or went down.
    pub fn handle_link(&mut self, peer: &PopId, path: PathId, up: bool, now: Instant) {
        self.wake(now);
        if !up && !self.peers.contains_key(peer) {
            return;
        }
        let state = self.peers.entry(peer.clone()).or_default();
        if up && !state.paths.contains_key(&path) {
            state.make_room();
        }
        let room = state.paths.len() < PATHS_MAX;
        match state.paths.get_mut(&path) {
            Some(known) if up => {
                known.renew(now);
                known.up = true;
            }
            Some(known) => known.up = false,
            None if up && room => {
                state.paths.insert(path, Path::new(Hop::direct(path), now));
            }
            None => return,
        }
        self.choose_relays(now);
        self.decide(peer, now);
    }

    /// The POP is another process than before: nothing that was measured with that one counts.
    pub fn handle_restart(&mut self, peer: &PopId, now: Instant) {
        self.wake(now);
        if let Some(state) = self.peers.get_mut(peer) {
            let Peer { changes, history, totals, .. } = std::mem::take(state);
            *state = Peer { changes, history, totals, ..Peer::default() };
        }
    }

    /// Each pair is also tried through a few POPs that have a path of their own.
    fn choose_relays(&mut self, now: Instant) {
        let direct = |peer: &Peer| {
            let up = peer.paths.values().filter(|path| path.up && !path.hop.path.is_relayed());
            up.map(|path| path.candidate(now).rtt.unwrap_or(Duration::MAX)).min()
        };
        let linked = self.peers.iter().filter_map(|(id, peer)| Some((direct(peer)?, id.clone())));
        let mut linked: Vec<(Duration, PopId)> = linked.collect();
        linked.sort();
        for (id, peer) in &mut self.peers {
            let wanted: Vec<&PopId> = linked
                .iter()
                .map(|(_, id)| id)
                .filter(|relay| *relay != id)
                .take(RELAYS_MAX)
                .collect();
            for path in peer.paths.values_mut().filter(|path| path.hop.path.is_relayed()) {
                path.chosen = path.hop.via.as_ref().is_some_and(|via| wanted.contains(&via));
                // Or the peer chose it: then both ends measure it.
                let heard = path.heard_at.is_some_and(|at| now - at < RELAY_FORGOTTEN);
                path.up = path.chosen || heard;
            }
            for relay in wanted {
                let hop = Hop::via(relay.clone());
                let room = peer.paths.len() < PATHS_MAX;
                if room || peer.paths.contains_key(&hop.path) {
                    let path = peer.paths.entry(hop.path).or_insert_with(|| Path::new(hop, now));
                    path.chosen = true;
                }
            }
        }
    }

    /// A POP is no longer of this mesh.
    pub fn forget(&mut self, peer: &PopId, now: Instant) {
        self.peers.remove(peer);
        self.choose_relays(now);
    }

    /// Something outside of the measurements speaks against a path, or no longer does. Decided on
    /// when time has come, which is now: what comes together is looked at together.
    pub fn handle_hint(&mut self, peer: &PopId, path: PathId, hint: Hint, now: Instant) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if let Some(known) = state.paths.get_mut(&path) {
            if known.hold_against(hint) {
                state.choice.forget(&known.hop);
            }
            state.decide = now;
        }
    }

    /// What media threads counted: datagrams sent to the peer, and received on each path.
    pub fn handle_media(
        &mut self,
        peer: &PopId,
        sent: u64,
        received: impl Iterator<Item = (PathId, LinkStats)>,
        now: Instant,
    ) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let mut active = sent != state.sent;
        state.sent = sent;
        for (id, totals) in received {
            if let Some(path) = state.paths.get_mut(&id) {
                let before = path.received().received;
                path.count_media(totals);
                active |= path.received().received > before;
            }
        }
        if active {
            let first = !state.has_calls(now);
            state.calls_at = Some(now);
            if first {
                // The rare probes of an idle pair would be waited for too long.
                for path in state.paths.values_mut() {
                    path.next_probe = now;
                }
                self.decide(peer, now);
            }
        }
    }

    /// A probe: `from` is who made it, `via` the POP that passed it on. False if nobody known made it.
    pub fn handle_probe(
        &mut self,
        (from, via): (&PopId, Option<&PopId>),
        datagram: &Datagram<'_>,
        now: Instant,
    ) -> bool {
        self.wake(now);
        let Some(Ok(probe)) = datagram.probe() else { return false };
        let header = &datagram.header;
        let Some(state) = self.peers.get_mut(from) else { return false };
        state.reached = true;
        let room = state.paths.len() < PATHS_MAX;
        if let Some(via) = via.filter(|via| room && PathId::via(via) == header.path) {
            let chosen = || Path::new(Hop::via(via.clone()), now);
            state.paths.entry(header.path).or_insert_with(chosen).up = true;
        }
        // One through a relay has the relay's name at both ends.
        let Some(path) = state.paths.get_mut(&header.path) else { return false };
        path.hear(header.path_sequence, header.send_time_us, &probe, now);
        let news = state.is_news(header.send_time_us);
        for heard in probe.heard.iter().filter(|_| news) {
            if let Some(path) = state.paths.get_mut(&heard.path) {
                path.tell(*heard, now);
            }
        }
        let told = news && probe.heard.iter().any(|heard| heard.silent);
        // What is late beside a path that is heard is silent.
        let alarmed = self.listen(from, now);
        if told || alarmed {
            self.decide(from, now);
        }
        if alarmed {
            self.probe(from, alarmed, now);
        }
        true
    }

    fn decide(&mut self, peer: &PopId, now: Instant) {
        let busy = self.busy;
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.decide = now + if state.has_calls(now) { DECIDE } else { DECIDE_IDLE };
        for path in state.paths.values_mut() {
            path.observe(now);
            let deadline = path.health.deadline().filter(|at| *at > now);
            state.decide = deadline.map_or(state.decide, |at| at.min(state.decide));
        }
        let candidates: Vec<_> = state.paths.values().map(|path| path.candidate(now)).collect();
        let before = state.choice.route().map(|route| route.primary.clone());
        let decided = state.choice.decide(&candidates, now);
        set_intervals(state, &candidates, busy, now);
        let reasons = state.paths.values().map(|path| path.against.reasons.as_slice());
        let seen = candidates.iter().zip(reasons);
        state.history.observe(seen, state.choice.route(), now);
        let Some(why) = decided else { return };
        let Some(route) = state.choice.route().cloned() else { return };
        state.why = Some((why, now));
        if before.as_ref() != Some(&route.primary) {
            state.chosen = state.why;
        }
        *state.totals.entry(why).or_default() += 1;
        if state.changes.len() >= CHANGES_MAX {
            state.changes.pop_front();
        }
        state.changes.push_back(Change { at: now, route: route.clone(), why, candidates });
        self.push(PathCommand::Route { peer: peer.clone(), route });
    }

    fn push(&mut self, command: PathCommand) {
        let bounded = matches!(command, PathCommand::Probe { .. });
        if !bounded || self.commands.len() < COMMANDS_MAX {
            self.commands.push_back(command);
        }
    }

    /// Whatever comes first after this process did not run: what is late now, it made late.
    fn wake(&mut self, now: Instant) {
        let Some(planned) = self.planned.filter(|planned| now - *planned > OVERSLEPT) else {
            return;
        };
        self.planned = None;
        self.oversleeps += 1;
        let paths = self.peers.values_mut().flat_map(|peer| peer.paths.values_mut());
        paths.for_each(|path| path.forgive(now - planned, now));
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        self.planned = None;
        let busy = self.peers.values().filter(|peer| peer.has_calls(now)).count();
        self.busy = u32::try_from(busy).unwrap_or(u32::MAX);
        let due = self.peers.iter().filter(|(_, peer)| peer.next().is_some_and(|at| at <= now));
        for peer in due.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let alarmed = self.listen(&peer, now);
            if alarmed || self.peers.get(&peer).is_some_and(|state| now >= state.decide) {
                self.decide(&peer, now);
            }
            self.probe(&peer, alarmed, now);
        }
    }

    /// Marks the paths that fell silent while another one is heard. True if there are new ones.
    fn listen(&mut self, peer: &PopId, now: Instant) -> bool {
        let Some(state) = self.peers.get_mut(peer) else { return false };
        state.listened = now;
        let newest = state.paths.values().filter_map(|path| path.heard_at).max();
        let mut alarmed = false;
        for path in state.paths.values_mut().filter(|path| path.up && path.silent.is_none()) {
            let late = path.due().is_some_and(|due| due <= now);
            // When nothing is heard at all, the peer is gone, or we are: no path is to blame.
            if late && newest > path.heard_at {
                path.silent = Some(now);
                alarmed = true;
            }
        }
        alarmed
    }

    fn probe(&mut self, peer: &PopId, alarmed: bool, now: Instant) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        let full = alarmed || now >= state.full_report;
        let is_due = |path: &&Path| {
            let tell = alarmed && path.is_usable() && path.silent.is_none();
            path.up && (tell || path.next_probe <= now)
        };
        let due = state.paths.values().filter(is_due);
        let due: Vec<(PathId, Duration)> = due.map(|p| (p.hop.path, p.interval)).collect();
        if due.is_empty() {
            return;
        }
        if full {
            state.full_report = now + FULL_REPORT;
        }
        let reports = reports(state, full);
        for (id, interval) in due {
            self.send(peer, id, interval, reports.clone(), now);
        }
    }

    fn send(
        &mut self,
        peer: &PopId,
        id: PathId,
        interval: Duration,
        heard: Vec<proto::overlay::Heard>,
        now: Instant,
    ) {
        let spread = self.next_random();
        let Some(path) = self.peers.get_mut(peer).and_then(|state| state.paths.get_mut(&id)) else {
            return;
        };
        // Up to a fifth earlier than announced, so that probes of many do not march in step.
        path.next_probe = now + interval.mul_f64(1.0 - 0.2 * spread);
        let (path_sequence, echo) = path.send(now);
        let via = path.hop.via.clone();
        let ends = Relayed { from: PopTag::of(&self.config.own), to: PopTag::of(peer) };
        #[allow(clippy::cast_possible_truncation, reason = "the send time wraps at 32 bits")]
        let header = Header {
            probe: true,
            lane: 0,
            path: id,
            path_sequence,
            lane_sequence: 0,
            send_time_us: now.as_micros() as u32,
            relayed: via.is_some().then_some(ends),
        };
        let interval_ms = u16::try_from(interval.as_millis()).unwrap_or(u16::MAX);
        let bytes = Probe { interval_ms, echo, heard }.encode(&header);
        let (to, path) = match via {
            None => (peer.clone(), Some(id)),
            Some(relay) => {
                let direct = self.peers.get(&relay).and_then(|r| r.choice.route()?.direct);
                (relay, direct)
            }
        };
        if let Some(path) = path {
            self.push(PathCommand::Probe { to, path, bytes });
        }
    }

    fn next_random(&mut self) -> f64 {
        // Xorshift: enough to spread probes.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from(u32::try_from(self.random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let mut next = None;
        for peer in self.peers.values() {
            next = earlier(next, peer.next());
        }
        self.planned = next;
        next
    }

    /// What to do next.
    pub fn poll_command(&mut self) -> Option<PathCommand> {
        self.commands.pop_front()
    }

    /// How often this process was found not to have run when it should have.
    pub const fn oversleeps(&self) -> u64 {
        self.oversleeps
    }

    /// The round trip of the path in use to each POP, where it is measured.
    pub fn round_trips(&self) -> impl Iterator<Item = (&PopId, Duration)> {
        self.peers.iter().filter_map(|(id, peer)| {
            let primary = peer.choice.route()?.primary.path;
            Some((id, peer.paths.get(&primary)?.rtt()?))
        })
    }

    /// POPs that a path led to and none does now, by what came and by connections that broke.
    pub fn unseen(&self, now: Instant) -> impl Iterator<Item = &PopId> {
        self.peers.iter().filter(move |(_, peer)| peer.is_unseen(now)).map(|(id, _)| id)
    }

    /// The paths to a POP as they were at `at`; `None` if nothing is known from then.
    pub fn past(&self, peer: &str, at: Instant) -> Option<Moment> {
        let (_, peer) = self.peers.iter().find(|(id, _)| id.as_str() == peer)?;
        peer.history.at(at)
    }

    /// Everything about the paths to one POP, or to all.
    pub fn report(&self, now: Instant) -> Vec<PeerReport> {
        self.peers.iter().map(|(id, peer)| report((&self.config.own, id), peer, now)).collect()
    }
}

fn report((own, id): (&PopId, &PopId), peer: &Peer, now: Instant) -> PeerReport {
    let paths = peer.paths.values().filter(|path| path.up || !path.hop.path.is_relayed());
    PeerReport {
        peer: id.clone(),
        ends: [own.min(id).clone(), own.max(id).clone()],
        route: peer.choice.route().cloned(),
        why: peer.why,
        chosen: peer.chosen,
        contender: peer.choice.contender().map(|(hop, at)| (hop.clone(), at)),
        paths: paths
            .map(|path| PathReport {
                sending: path.candidate(now),
                against: path.against.reasons.clone(),
                receiving: path.received(),
                connected: path.up,
                silent: path.silent.is_some(),
                used_by_peer: path.used_by_peer,
            })
            .collect(),
        changes: peer.changes.iter().cloned().collect(),
        totals: peer.totals.iter().map(|(why, count)| (*why, *count)).collect(),
    }
}

/// How often each path is probed: by the part it plays.
fn set_intervals(peer: &mut Peer, candidates: &[Candidate], busy: u32, now: Instant) {
    let calls = peer.has_calls(now);
    let crowd = (busy / FAST_PEERS).max(1);
    let route = peer.choice.route();
    let watched = route.map(|route| watched(candidates, &route.primary)).unwrap_or_default();
    // Before the primary is given up it must be known where to go.
    let primary = route.and_then(|route| candidates.iter().find(|c| c.hop == route.primary));
    let doubt = primary.is_some_and(|path| matches!(path.health, Health::Suspect(_)));
    for path in peer.paths.values_mut() {
        let used = route.is_some_and(|route| route.primary == path.hop)
            || route.is_some_and(|route| route.copy.as_ref() == Some(&path.hop))
            || path.used_by_peer;
        path.interval = match (calls, path.is_usable()) {
            (true, true) if used => FAST * crowd,
            (true, true) if watched.iter().flatten().any(|hop| *hop == path.hop) => STANDBY * crowd,
            (_, false) if matches!(path.health.health(), Health::Suspect(_)) => SUSPECT,
            (true, true) if doubt => SUSPECT,
            (true, false) => IDLE,
            (false, true) if used => IDLE,
            (false, false) | (_, true) => SLOW,
        };
        // One that was planned when nobody cared is due earlier now.
        path.next_probe = path.next_probe.min(now + path.interval);
    }
}

/// What the peer is told of its paths.
fn reports(peer: &Peer, full: bool) -> Vec<proto::overlay::Heard> {
    let route = peer.choice.route();
    let used = |path: &Path| route.is_some_and(|route| route.primary == path.hop);
    let told = peer.paths.values().filter(|path| {
        path.up && (full || path.used_by_peer || used(path) || path.silent.is_some())
    });
    told.map(|path| path.report(used(path))).collect()
}
