//! The root machine of a POP.

mod commands;
mod config;
mod counters;
mod ports;

use std::collections::VecDeque;
use std::net::SocketAddr;

use proto::id::{Epoch, PopId, Revision};
use proto::time::Instant;

pub use commands::{
    CallStream, CallSummary, Initiator, LinkState, Phase, PopCommand, ResolveError, StreamEvent,
};
pub use config::{Limits, PopConfig, Timing};
pub use counters::{PopCounters, Refusal};

use crate::media::MediaEvent;
use crate::sip::{Counters as SipCounters, Flow};
use crate::view::{Gap, View, ViewUpdate};

/// A POP: SIP, routing, calls and their records, without IO.
#[derive(Debug)]
pub struct Pop {
    config: PopConfig,
    view: View,
    commands: VecDeque<PopCommand>,
    counters: PopCounters,
    sip: SipCounters,
}

impl Pop {
    /// A POP without a view: it refuses all calls until it has one.
    pub fn new(config: PopConfig, now: Instant) -> Self {
        let _ = now;
        Self {
            config,
            view: View::default(),
            commands: VecDeque::new(),
            counters: PopCounters::default(),
            sip: SipCounters::default(),
        }
    }

    /// One received SIP message.
    pub fn handle_sip(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        let _ = (flow, bytes, now);
    }

    /// A send on `flow`, or its connection, failed.
    pub fn handle_transport_error(&mut self, flow: Flow, now: Instant) {
        let _ = (flow, now);
    }

    /// What the control plane sent. On a gap nothing changes: a snapshot is needed.
    pub fn handle_view(&mut self, update: ViewUpdate, now: Instant) -> Result<Revision, Gap> {
        let _ = now;
        self.view.apply(update)
    }

    /// Takes a whole view, as read from disk.
    pub fn restore_view(&mut self, view: View) {
        self.view = view;
    }

    /// Something happened to a call stream.
    pub fn handle_call_stream(&mut self, stream: CallStream, event: StreamEvent, now: Instant) {
        let _ = (stream, event, now);
    }

    /// A link came up or went down.
    pub fn handle_link(&mut self, peer: PopId, state: LinkState, now: Instant) {
        let _ = (peer, state, now);
    }

    /// The media plane has something to tell.
    pub fn handle_media_event(&mut self, event: MediaEvent, now: Instant) {
        let _ = (event, now);
    }

    /// The answer to a [`PopCommand::Resolve`].
    pub fn handle_resolved(
        &mut self,
        query: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
        now: Instant,
    ) {
        let _ = (query, result, now);
    }

    /// The epoch of a new registration.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.config.epoch = epoch;
    }

    /// Ends all calls and refuses new ones; done when [`is_idle`](Self::is_idle).
    pub fn shutdown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next effect to execute.
    pub fn poll_command(&mut self) -> Option<PopCommand> {
        self.commands.pop_front()
    }

    /// Totals of calls and refusals.
    pub fn counters(&self) -> &PopCounters {
        &self.counters
    }

    /// Totals of SIP: of the endpoint below the calls.
    pub fn sip_counters(&self) -> &SipCounters {
        &self.sip
    }

    /// The view calls are routed by.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// All calls, by age.
    pub fn calls(&self) -> Vec<CallSummary> {
        Vec::new()
    }

    /// Calls not yet over.
    pub fn active_calls(&self) -> usize {
        0
    }

    /// Nothing left: no call, transaction, media port, unwritten record or command.
    pub fn is_idle(&self) -> bool {
        self.commands.is_empty()
    }
}
