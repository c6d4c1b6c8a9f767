//! Executing the commands of the call machine, in their order.

use pop_core::pop::{CallStream, PopCommand, StreamEvent};
use pop_core::sip::{Flow, Transport};

use super::{COMMANDS_PER_TURN, Signaling};
use crate::drops::Reason;
use crate::media;
use crate::resolve::{Query, Resolver};

impl Signaling {
    /// Until there is none left, the turn's budget is used, or the media thread is behind.
    pub(super) fn execute(&mut self) {
        self.more = false;
        while let Some(order) = self.held.pop_front() {
            if let Err(media::Busy(order)) = self.outputs.media.order(order) {
                self.held.push_front(*order);
                return;
            }
        }
        for _ in 0..COMMANDS_PER_TURN {
            if !self.held.is_empty() {
                return;
            }
            let Some(command) = self.pop.poll_command() else { return };
            self.carry_out(command);
        }
        self.more = true;
    }

    fn carry_out(&mut self, command: PopCommand) {
        match command {
            PopCommand::SendSip { flow, bytes } => self.send_sip(flow, bytes),
            PopCommand::OpenStream { stream } => self.open_stream(stream),
            PopCommand::SendCall { stream, message } => {
                let taken = self.streams.get(&stream).is_some_and(|outbox| outbox.send(message));
                if !taken {
                    self.fail_stream(stream);
                }
            }
            PopCommand::CloseStream { stream } => {
                // Finishes after what was sent.
                self.streams.remove(&stream);
            }
            PopCommand::Media(command) => self.order(media::Order::Command(command)),
            PopCommand::Resolve { query, host, port, transport } => {
                self.resolve(Query { number: query, host, port, transport });
            }
            PopCommand::Cdr(cdr) => self.outputs.cdr.write(&cdr),
        }
    }

    /// Gives the media thread an order, or holds it until there is room. What is held is bounded
    /// by the links that come and go meanwhile: commands wait.
    pub(super) fn order(&mut self, order: media::Order) {
        if !self.held.is_empty() {
            self.held.push_back(order);
        } else if let Err(media::Busy(order)) = self.outputs.media.order(order) {
            self.held.push_back(*order);
        }
    }

    fn send_sip(&mut self, flow: Flow, bytes: bytes::Bytes) {
        let sent = match flow.transport {
            Transport::Udp => self.outputs.udp.send(flow, &bytes),
            Transport::Tcp => self.outputs.tcp.send(flow, bytes),
        };
        if !sent {
            self.pop.handle_transport_error(flow, self.clock.now());
        }
    }

    fn open_stream(&mut self, stream: CallStream) {
        if !self.links.contains_key(&stream.peer) {
            let now = self.clock.now();
            self.pop.handle_call_stream(stream, StreamEvent::Failed, now);
            return;
        }
        let outbox = self.outputs.links.open(stream.clone());
        self.streams.insert(stream, outbox);
    }

    /// The peer takes nothing any more: tell the call, once.
    fn fail_stream(&mut self, stream: CallStream) {
        if self.streams.remove(&stream).is_some() {
            self.outputs.drops.count(Reason::CallStreamFull);
            let now = self.clock.now();
            self.pop.handle_call_stream(stream, StreamEvent::Failed, now);
        }
    }

    fn resolve(&mut self, query: Query) {
        let answer = Resolver::literal(&query).or_else(|| self.outputs.resolver.ask(query));
        if let Some(answer) = answer {
            self.pop.handle_resolved(answer.number, answer.result, self.clock.now());
        }
    }
}
