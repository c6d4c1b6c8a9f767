//! Two halves that lost the stream between them, and not their POPs: the one where the call came in
//! opens another (`CallRejoin`).

use proto::call::call_message::Kind;
use proto::call::{CallBye, CallMoved, CallRejoin};
use proto::id::{CallId, Epoch, PopId};
use proto::time::Instant;

use super::is_lost;
use crate::call::{CallKey, Link, Name, Side};
use crate::pop::index::Handle;
use crate::pop::{CallStream, Pop, PopCommand, Refusal};

impl Pop {
    /// There is a link again.
    pub(in crate::pop) fn rejoin(&mut self, peer: &PopId) {
        let waits = |call: &crate::call::Call| {
            let half = &call.half;
            half.side == Side::Ingress
                && call.is_orphan()
                && half.record.peer.as_ref() == Some(peer)
        };
        let keys: Vec<CallKey> =
            self.calls.iter().filter(|(_, call)| waits(call)).map(|(key, _)| *key).collect();
        for key in keys {
            let link = self.core.open_stream(key, peer.clone());
            let Some(call) = self.calls.get_mut(&key) else { continue };
            let call_id = call.half.call_id.0.to_vec();
            let rejoin = CallRejoin { call_id, epoch: self.core.config.epoch.0, egress: false };
            self.core.send(&link, Kind::Rejoin(rejoin));
            call.half.link = Some(link);
        }
    }

    /// The other half of a call of ours speaks on this stream from now on.
    pub(in crate::pop) fn rejoined(
        &mut self,
        stream: CallStream,
        rejoin: &CallRejoin,
        now: Instant,
    ) {
        let side = if rejoin.egress { Side::Egress } else { Side::Ingress };
        let theirs = CallId::from_slice(&rejoin.call_id).map(|call_id| Name { call_id, side });
        let name = theirs.map(Name::other);
        let stale = is_lost(&self.core.view, &stream.peer, Epoch(rejoin.epoch));
        let gave = theirs.is_some_and(|theirs| self.core.guard.has_come(theirs, &stream.peer));
        if stale || gave {
            // The half is its guardians' by now, or ours, and so is its record.
            if stale {
                self.core.counters.refuse(Refusal::StaleEpoch);
            }
            self.core.send(&Link::Remote(stream.clone()), Kind::Moved(CallMoved {}));
            self.core.commands.push_back(PopCommand::CloseStream { stream });
            return;
        }
        let key = name.and_then(|name| self.core.guard.halves.get(&name).copied());
        let link = Link::Remote(stream.clone());
        let call = key.and_then(|key| Some((key, self.calls.get_mut(&key)?)));
        let Some((key, call)) =
            call.filter(|(_, call)| call.half.record.peer.as_ref() == Some(&stream.peer))
        else {
            // Ended, or moved: that one has not heard of it.
            let bye = CallBye { status: 481, reason: "link_lost".to_owned() };
            self.core.send(&link, Kind::Bye(bye));
            self.core.commands.push_back(PopCommand::CloseStream { stream });
            return;
        };
        call.half.drop_link(&mut self.core);
        self.core.index.add(Handle::Stream(stream), key);
        call.half.link = Some(link);
        let call_id = call.half.call_id.0.to_vec();
        let answer = CallRejoin { call_id, epoch: self.core.config.epoch.0, egress: true };
        call.half.tell(Kind::Rejoin(answer.clone()), &mut self.core);
        self.core.counters.calls_rejoined += 1;
        self.deliver(key, crate::call::Input::Far(Kind::Rejoin(answer)), now);
    }
}
