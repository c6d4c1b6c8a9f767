//! Call signaling with other POPs.

use proto::call::GuardMessage;
use proto::call::call_message::Kind;
use proto::call::guard_message::Kind as Guarding;
use proto::id::CallId;
use proto::time::Instant;

use super::index::Handle;
use super::{CallStream, Initiator, Pop, PopCommand, Refusal, StreamEvent};
use crate::call::{Begin, Call, Input, Link};
use crate::media::Lane;

impl Pop {
    /// Something happened to a call stream.
    pub fn handle_call_stream(&mut self, stream: CallStream, event: StreamEvent, now: Instant) {
        if self.guard_stream(&stream, &event, now) {
            return self.settle(now);
        }
        let key = self.core.index.find(&Handle::Stream(stream.clone()));
        match (event, key) {
            (StreamEvent::Message(message), Some(key)) => match message.kind {
                Some(kind) => self.deliver(key, Input::Far(kind), now),
                None => self.core.counters.refuse(Refusal::BadPeerMessage),
            },
            (StreamEvent::Message(message), None) => self.first(stream, message.kind, now),
            (StreamEvent::Closed | StreamEvent::Failed, Some(key)) => {
                self.deliver(key, Input::FarLost, now);
            }
            (StreamEvent::Opened, _) | (StreamEvent::Closed | StreamEvent::Failed, None) => {}
        }
        self.settle(now);
    }

    /// Whether it is one with capsules.
    fn guard_stream(&mut self, stream: &CallStream, event: &StreamEvent, now: Instant) -> bool {
        let fed = self.core.guard.fed(stream);
        if fed.is_none() && !self.core.guard.is_incoming(stream) {
            return false;
        }
        match (event, fed) {
            (StreamEvent::Message(message), _) => match &message.kind {
                Some(Kind::Guard(guard)) => self.handle_guard(stream, guard.clone(), now),
                _ => self.core.counters.refuse(Refusal::BadPeerMessage),
            },
            (StreamEvent::Closed | StreamEvent::Failed, Some(guardian)) => {
                self.feed_lost(&guardian, now);
            }
            (StreamEvent::Closed | StreamEvent::Failed, None) => {
                self.core.guard.incoming_lost(stream);
            }
            (StreamEvent::Opened, _) => {}
        }
        true
    }

    /// The first message of a stream is a setup, capsules or a call that goes on, and only a peer's
    /// stream has one.
    fn first(&mut self, stream: CallStream, kind: Option<Kind>, now: Instant) {
        if stream.initiator == Initiator::Local {
            // Our call is over; this crossed its end.
            return;
        }
        let core = &mut self.core;
        let setup = match kind {
            Some(Kind::Setup(setup)) => setup,
            Some(Kind::Rejoin(rejoin)) => return self.rejoined(stream, &rejoin, now),
            Some(Kind::Guard(GuardMessage { kind: Some(Guarding::Open(open)) })) => {
                return self.guard_opened(stream, open);
            }
            // Crossed the end of a call that left here.
            Some(
                Kind::Progress(_)
                | Kind::Answer(_)
                | Kind::Reject(_)
                | Kind::Cancel(_)
                | Kind::Bye(_)
                | Kind::Info(_)
                | Kind::Loss(_)
                | Kind::Moved(_)
                | Kind::Update(_)
                | Kind::UpdateAnswer(_)
                | Kind::UpdateReject(_),
            ) => return,
            // The shell's own.
            Some(Kind::Hello(_) | Kind::Ack(_) | Kind::Guard(_)) | None => {
                return core.counters.refuse(Refusal::BadPeerMessage);
            }
        };
        let Some(call_id) = CallId::from_slice(&setup.call_id) else {
            core.counters.refuse(Refusal::BadPeerMessage);
            core.commands.push_back(PopCommand::CloseStream { stream });
            return;
        };
        let Ok(lane) = u8::try_from(setup.lane) else {
            core.counters.refuse(Refusal::BadPeerMessage);
            core.commands.push_back(PopCommand::CloseStream { stream });
            return;
        };
        let (key, leg) = (core.new_key(), core.new_leg(Lane(lane)));
        core.index.add(Handle::Stream(stream.clone()), key);
        let back = Link::Remote(stream);
        let begin = Begin { key, back, leg, peer_leg: None, call_id, setup };
        match Call::egress(begin, core, now) {
            Some(call) => self.keep(key, Box::new(call)),
            None => core.index.forget(key),
        }
    }
}
