//! Links between POPs, the call streams on them, and what breaks.

use std::collections::BTreeSet;

use pop_core::pop::{CallStream, LinkState, StreamEvent};
use proto::time::Duration;

use super::super::control::TICK;
use super::super::net::{IDLE_TIMEOUT, Pair, RECONNECT, REGIONS, Way, delay, pair};
use super::super::plan::{Fault, Mutation};
use super::super::pop::{Wire, pop_id};
use super::{Due, World};

impl World {
    pub(super) fn open_stream(&mut self, region: usize, stream: CallStream) {
        let Some((wire, peer)) = self.pops.get(region).and_then(|node| node.wire(&stream)) else {
            return;
        };
        let ends = pair(region, peer);
        let Some(link) = self.links.get_mut(&ends).filter(|link| link.up) else {
            self.trace.note(self.now, format_args!("{region}: no link to {peer}"), &[]);
            if let Some(node) = self.pops.get_mut(region) {
                node.pop.handle_call_stream(stream, StreamEvent::Failed, self.now);
            }
            return;
        };
        link.streams.insert(wire, BTreeSet::new());
        // A stream of an open connection is open at once.
        let link = (ends, link.generation);
        self.schedule(self.now, Due::Stream { to: region, link, wire, event: StreamEvent::Opened });
        self.send_on_stream(region, &stream, StreamEvent::Opened);
    }

    pub(super) fn send_on_stream(
        &mut self,
        region: usize,
        stream: &CallStream,
        event: StreamEvent,
    ) {
        let Some((wire, to)) = self.pops.get(region).and_then(|node| node.wire(stream)) else {
            return;
        };
        let ends = pair(region, to);
        let cut = self.net.is_cut(region, to);
        let Some(link) = self.links.get_mut(&ends).filter(|link| link.up) else { return };
        let Some(deaf) = link.streams.get_mut(&wire) else { return };
        if event == StreamEvent::Closed {
            // Who finishes a stream is told nothing more about it.
            deaf.insert(region);
        }
        if cut {
            link.waiting.push((to, wire, event));
            return;
        }
        let link = (ends, link.generation);
        let at = self.net.ordered(region, to, Way::Calls, self.now);
        self.schedule(at, Due::Stream { to, link, wire, event });
    }

    pub(super) fn stream_event(&mut self, to: usize, ends: Pair, wire: Wire, event: StreamEvent) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&ends) else { return };
        let Some(deaf) = link.streams.get_mut(&wire) else { return };
        if deaf.contains(&to) {
            return;
        }
        if matches!(event, StreamEvent::Closed | StreamEvent::Failed) {
            deaf.insert(to);
            if deaf.len() == 2 {
                link.streams.remove(&wire);
            }
        }
        let from = if to == ends.0 { ends.1 } else { ends.0 };
        if self.miss(to, from, wire, event.clone()) {
            return;
        }
        self.trace.note(now, format_args!("stream {from} > {to} {} {event:?}", wire.number), &[]);
        self.on_pop(to, |node| {
            let stream = node.named(wire, from);
            node.pop.handle_call_stream(stream, event, now);
        });
    }

    /// Some time after a cut or a heal: a connection that was silent too long is gone; a way that
    /// is free gets a new one.
    pub(super) fn check_link(&mut self, ends: Pair, change: u64) {
        let (a, b) = ends;
        let cut = self.net.is_cut(a, b);
        let Some(link) = self.links.get_mut(&ends) else { return };
        if link.changes != change || link.up != cut {
            return;
        }
        link.up = !cut;
        link.generation += 1;
        link.waiting.clear();
        let state = if link.up { LinkState::Up } else { LinkState::Down };
        let streams: Vec<Wire> = link.streams.keys().copied().collect();
        self.trace.note(self.now, format_args!("link {a} - {b} {state:?}"), &[]);
        for wire in streams {
            self.stream_event(a, ends, wire, StreamEvent::Failed);
            self.stream_event(b, ends, wire, StreamEvent::Failed);
        }
        let now = self.now;
        self.on_pop(a, |node| node.pop.handle_link(pop_id(b), state, now));
        self.on_pop(b, |node| node.pop.handle_link(pop_id(a), state, now));
    }

    pub(super) fn changed(&mut self, ends: Pair, check_after: Duration) {
        let Some(link) = self.links.get_mut(&ends) else { return };
        link.changes += 1;
        let change = link.changes;
        self.schedule(self.now + check_after, Due::LinkCheck { ends, change });
    }

    // ------------------------------------------------------------ faults

    pub(super) fn break_down(&mut self, fault: Fault) {
        self.trace.note(self.now, format_args!("{fault:?}"), &[]);
        let lasts = match fault {
            Fault::Cut(ends, lasts) => {
                self.net.cut(ends);
                self.changed(ends, IDLE_TIMEOUT);
                lasts
            }
            Fault::CutRaft(ends, lasts) => {
                self.net.cut_raft(ends);
                lasts
            }
            Fault::Crash(node, lasts) => {
                self.crash(node);
                lasts
            }
            Fault::KillPop(region, verdict, lasts) | Fault::PausePop(region, verdict, lasts) => {
                self.stop_pop(region, verdict);
                lasts
            }
            Fault::Drain(region, lasts) => {
                self.operator.steer(region, true, self.now);
                lasts
            }
            Fault::CrashAll(lasts) => {
                (0..REGIONS).for_each(|node| self.crash(node));
                lasts
            }
        };
        self.schedule(self.now + lasts, Due::Healed(fault));
    }

    pub(super) fn heal(&mut self, fault: Fault) {
        self.trace.note(self.now, format_args!("healed {fault:?}"), &[]);
        match fault {
            Fault::Cut(ends, _) => self.heal_link(ends),
            Fault::CutRaft(ends, _) => self.net.heal_raft(ends),
            Fault::Crash(node, _) => self.start(node),
            Fault::KillPop(region, ..) => self.restart_pop(region),
            Fault::PausePop(region, ..) => self.wake_pop(region),
            Fault::Drain(region, _) => self.operator.steer(region, false, self.now),
            Fault::CrashAll(_) => (0..REGIONS).for_each(|node| self.start(node)),
        }
    }

    pub(super) fn heal_link(&mut self, ends: Pair) {
        self.net.heal(ends);
        let waiting = match self.links.get_mut(&ends) {
            Some(link) => std::mem::take(&mut link.waiting),
            None => return,
        };
        // A connection that lived through it sends again what waited.
        for (to, wire, event) in waiting {
            let from = if to == ends.0 { ends.1 } else { ends.0 };
            let generation = self.links.get(&ends).map_or(0, |link| link.generation);
            let at = self.net.ordered(from, to, Way::Calls, self.now);
            self.schedule(at, Due::Stream { to, link: (ends, generation), wire, event });
        }
        self.changed(ends, RECONNECT);
    }

    pub(super) fn crash(&mut self, node: usize) {
        let Some(control) = self.control.get_mut(node) else { return };
        control.crash();
        if self.plan.mutation == Some(Mutation::ForgetfulDisk) {
            control.disk.forget();
        }
        let watchers: Vec<(usize, u64)> = self
            .pops
            .iter()
            .filter_map(|p| p.watching.filter(|(n, _, _)| *n == node).map(|w| (p.region, w.2)))
            .collect();
        for (pop, connection) in watchers {
            let at = self.now + delay(node, pop);
            self.schedule(at, Due::WatchClosed { pop, connection });
        }
    }

    pub(super) fn start(&mut self, node: usize) {
        let Some(control) = self.control.get_mut(node) else { return };
        if control.replica.is_some() {
            return;
        }
        control.start();
        let life = control.life;
        self.schedule(self.now + TICK, Due::Tick { node, life });
    }
}
