//! POPs and carriers: the datagrams they exchange, and what POPs want done.

use std::net::SocketAddr;

use bytes::Bytes;
use pop_core::call::{Cdr, CdrRole};
use pop_core::media::{MediaCommand, MediaTransmit, Received, Verdict};
use pop_core::pop::{PopCommand, StreamEvent};
use pop_core::sip::Flow;
use pop_core::srtp::TRAILER_BYTES_MAX;

use super::super::carrier::Carrier;
use super::super::net::{REGIONS, carrier_sip, pair, pop_sip};
use super::super::plan::Mutation;
use super::super::pop::{PopNode, Socket, region_of};
use super::{Due, World};

impl World {
    /// Near the carrier, all UDP of a region is on one wire.
    pub(super) fn send_udp(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if self.is_deaf_to(to, &bytes) {
            return;
        }
        if let Some(at) = self.net.near(self.now) {
            self.schedule(at, Due::Udp { from, to, bytes });
        }
    }

    pub(super) fn udp(&mut self, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let now = self.now;
        self.trace.note(now, format_args!("udp {from} > {to}"), bytes);
        let Some(region) = (0..REGIONS).find(|r| pop_sip(*r).ip() == to.ip()) else {
            let Some(region) = (0..REGIONS).find(|r| carrier_sip(*r).ip() == to.ip()) else {
                return;
            };
            let Some(carrier) = self.carriers.get_mut(region) else { return };
            if to == carrier_sip(region) {
                carrier.handle_sip(from, bytes, now);
            } else {
                carrier.handle_rtp(to.port(), bytes);
            }
            self.drain_carrier(region);
            return;
        };
        if to == pop_sip(region) {
            self.on_pop(region, |node| node.pop.handle_sip(Flow::udp(to, from), bytes, now));
            return;
        }
        let length = bytes.len();
        let mut packet = bytes.to_vec();
        packet.resize(length + TRAILER_BYTES_MAX, 0);
        let mut forward = None;
        self.on_pop(region, |node| match node.sockets.get(&to).copied() {
            Some((leg, Socket::Rtp)) => {
                let received = Received::new(&mut packet, length);
                if let Verdict::Forward { leg, dst, length } =
                    node.media.handle_rtp(leg, from, received, now)
                {
                    let source = node.address(leg, Socket::Rtp);
                    forward = source.map(|source| (source, dst, length));
                }
            }
            Some((leg, Socket::Rtcp)) => node.media.handle_rtcp(leg, from, bytes, now),
            None => {}
        });
        if let Some((source, destination, length)) = forward {
            packet.truncate(length);
            self.send_udp(source, destination, packet.into());
        }
    }

    pub(super) fn drain_carrier(&mut self, region: usize) {
        while let Some((from, to, bytes)) =
            self.carriers.get_mut(region).and_then(Carrier::poll_transmit)
        {
            self.send_udp(from, to, bytes);
        }
    }

    // ------------------------------------------------------------ POPs

    /// Gives a POP an input, then does what it wants done.
    pub(super) fn on_pop(&mut self, region: usize, input: impl FnOnce(&mut PopNode)) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(region).filter(|node| node.is_up) else { return };
        input(node);
        loop {
            let Some(node) = self.pops.get_mut(region) else { return };
            if let Some(event) = node.media.poll_event() {
                node.pop.handle_media_event(event, now);
            } else if let Some(command) = node.pop.poll_command() {
                self.pop_command(region, command);
            } else if let Some(transmit) = node.media.poll_transmit() {
                self.media_transmit(region, transmit);
            } else {
                return;
            }
        }
    }

    pub(super) fn pop_command(&mut self, region: usize, command: PopCommand) {
        let now = self.now;
        match command {
            PopCommand::SendSip { flow, bytes } => self.send_udp(flow.local, flow.remote, bytes),
            PopCommand::OpenStream { stream } => self.open_stream(region, stream),
            PopCommand::SendCall { stream, message } => {
                self.send_on_stream(region, &stream, StreamEvent::Message(message));
            }
            PopCommand::CloseStream { stream } => {
                self.send_on_stream(region, &stream, StreamEvent::Closed);
            }
            PopCommand::Media(command) => {
                self.trace.note(now, format_args!("{region}: {command:?}"), &[]);
                let leaks = self.plan.mutation == Some(Mutation::LeakLegs);
                if leaks && matches!(command, MediaCommand::CloseLeg { .. }) && self.seventh() {
                    return;
                }
                if let Some(node) = self.pops.get_mut(region) {
                    node.handle_media_command(&command, now);
                }
            }
            PopCommand::Resolve { .. } => {
                self.complaints.push("a name was to be resolved; trunks have addresses".into());
            }
            PopCommand::Cdr(cdr) => self.cdr(region, *cdr),
        }
    }

    pub(super) fn cdr(&mut self, region: usize, cdr: Cdr) {
        let line = format_args!("{region}: {:?} {:?} {}", cdr.role, cdr.cause, cdr.status);
        self.trace.note(self.now, line, cdr.to.as_str().as_bytes());
        if cdr.role != CdrRole::Egress {
            let seventh = self.seventh();
            match self.plan.mutation {
                Some(Mutation::LoseCdrs) if seventh => return,
                Some(Mutation::DoubleCdrs) if seventh => self.cdrs.push(cdr.clone()),
                _ => {}
            }
        }
        self.cdrs.push(cdr);
    }

    pub(super) fn media_transmit(&mut self, region: usize, transmit: MediaTransmit) {
        let Some(node) = self.pops.get(region) else { return };
        match transmit {
            MediaTransmit::Rtp { leg, dst, bytes } => {
                if let Some(source) = node.address(leg, Socket::Rtp) {
                    self.send_udp(source, dst, bytes);
                }
            }
            MediaTransmit::Rtcp { leg, dst, mux, bytes } => {
                let socket = if mux { Socket::Rtp } else { Socket::Rtcp };
                // A leg that just closed says BYE; its sockets are gone already.
                if let Some(source) = node.address(leg, socket) {
                    self.send_udp(source, dst, bytes);
                }
            }
            MediaTransmit::Datagram { peer, bytes, .. } => {
                let Some(to) = region_of(&peer) else { return };
                let up = self.links.get(&pair(region, to)).is_some_and(|link| link.up);
                let lost = self.plan.mutation == Some(Mutation::LoseDatagrams) && self.seventh();
                if let Some(at) = self.net.far(region, to, self.now).filter(|_| up && !lost) {
                    self.schedule(at, Due::Datagram { from: region, to, bytes });
                }
            }
        }
    }
}
