//! What all states of a half share, and how a half ends.

use std::collections::BTreeMap;

use proto::call::call_message::Kind;
use proto::call::{CallBye, Media};
use proto::e164::E164;
use proto::id::{CallId, LegId, PopId, StreamId, TrunkId};
use proto::time::Instant;

use super::leg::{Agreed, FarMedia, Leg};
use super::{CallKey, Cdr, CdrRole, EndCause, Link, Name, Side, media};
use crate::codec::Codec;
use crate::media::Direction;
use crate::pop::core::Core;
use crate::pop::records::Which;

/// The record while the call lives.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) from: Option<E164>,
    pub(crate) to: E164,
    pub(crate) trunk_in: Option<TrunkId>,
    pub(crate) trunk_out: Option<TrunkId>,
    /// The POP of the other half, if another.
    pub(crate) peer: Option<PopId>,
    pub(crate) started: Instant,
    pub(crate) ringing: Option<Instant>,
    pub(crate) answered: Option<Instant>,
    pub(crate) attempts: u32,
    /// The POP that had this half before.
    pub(crate) moved_from: Option<PopId>,
    /// The POP that had the other half before it came here.
    pub(crate) other_from: Option<PopId>,
}

impl Record {
    /// The record of a call that ended without media; the POP and its role are the caller's.
    pub(crate) fn close(
        self,
        pop: PopId,
        call_id: CallId,
        end: (EndCause, u16),
        now: Instant,
    ) -> Cdr {
        let Self { from, to, trunk_in, trunk_out, peer, started, ringing, answered, .. } = self;
        let Self { attempts, moved_from, other_from, .. } = self;
        let (cause, status) = end;
        Cdr {
            call_id,
            pop,
            role: CdrRole::Ingress,
            from,
            to,
            trunk_in,
            trunk_out,
            peer,
            started,
            ringing,
            answered,
            ended: now,
            cause,
            status,
            attempts,
            moved_from: moved_from.or(other_from),
            codec_in: None,
            codec_out: None,
            quality_in: None,
            quality_out: None,
        }
    }
}

/// What a half begins with.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) key: CallKey,
    pub(crate) call_id: CallId,
    pub(crate) side: Side,
    pub(crate) link: Option<Link>,
    pub(crate) peer_leg: Option<LegId>,
}

#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) key: CallKey,
    pub(crate) call_id: CallId,
    pub(crate) side: Side,
    pub(crate) leg: Leg,
    pub(crate) link: Option<Link>,
    /// What we call the overlay media the other half sends.
    pub(crate) receive: StreamId,
    /// The other half's leg, if it is at this POP.
    pub(crate) peer_leg: Option<LegId>,
    pub(crate) far: Option<FarMedia>,
    pub(crate) record: Record,
    /// Handed in its record and closed its leg.
    finished: bool,
}

impl Half {
    /// A half at its beginning.
    pub(crate) fn new(begun: Begun, leg: Leg, record: Record, core: &mut Core) -> Self {
        let Begun { key, call_id, side, link, peer_leg } = begun;
        let receive = core.new_stream_id();
        let finished = false;
        let half =
            Self { key, call_id, side, leg, link, receive, peer_leg, far: None, record, finished };
        core.live_calls += usize::from(half.counts());
        half
    }

    /// The egress half of a local call is not a call of its own.
    pub(crate) fn counts(&self) -> bool {
        self.side == Side::Ingress || self.peer_leg.is_none()
    }

    /// Changes what may make it a call of its own, or none.
    pub(crate) fn recount(&mut self, core: &mut Core, change: impl FnOnce(&mut Self)) {
        core.live_calls = core.live_calls.saturating_sub(usize::from(self.counts()));
        change(self);
        core.live_calls += usize::from(self.counts());
    }

    /// It goes on at another POP: no word to anybody, no record.
    pub(crate) fn leave(&mut self, core: &mut Core, now: Instant) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.drop_link(core);
        self.leg.close(core, now);
        core.live_calls = core.live_calls.saturating_sub(usize::from(self.counts()));
    }

    /// The POP of the other half, if another.
    pub(crate) fn peer(&self) -> Option<&PopId> {
        self.record.peer.as_ref().filter(|_| self.peer_leg.is_none())
    }

    /// Tells the other half.
    pub(crate) fn tell(&self, kind: Kind, core: &mut Core) {
        if let Some(link) = &self.link {
            core.send(link, kind);
        }
    }

    /// The last word to the other half.
    pub(crate) fn part(&mut self, kind: Kind, core: &mut Core) {
        if let Some(link) = self.link.take() {
            core.send(&link, kind);
            core.close_link(link);
        }
    }

    /// The other half is gone, or had the last word.
    pub(crate) fn drop_link(&mut self, core: &mut Core) {
        if let Some(link) = self.link.take() {
            core.close_link(link);
        }
    }

    /// Ends the other half. `status` 0: an ordinary end.
    pub(crate) fn part_with_bye(&mut self, status: u16, reason: &str, core: &mut Core) {
        let bye = CallBye { status: u32::from(status), reason: reason.to_owned() };
        self.part(Kind::Bye(bye), core);
    }

    /// Takes over what the other half said of its media, and joins the leg with it.
    pub(crate) fn connect(&mut self, far: FarMedia, core: &mut Core) {
        self.far = Some(far);
        let joined =
            self.link.as_ref().and_then(|l| far.far(l, (self.leg.id, self.receive), self.peer_leg));
        if let Some(to) = joined {
            self.leg.connect(to, core);
        }
    }

    /// Our media as the other half shall know it, after an agreement on our leg. `codec` is what
    /// will be between the halves.
    pub(crate) fn media(&self, agreed: Agreed, codec: Codec) -> Media {
        let remote = self.leg.remote.as_ref();
        let format = remote.and_then(|remote| self.leg.treatment.format(remote, codec));
        let direction = remote.map_or(Direction::SendRecv, |remote| remote.direction);
        Media {
            codecs: vec![media::to_proto(codec)],
            direction: i32::from(media::direction_to_proto(direction)),
            telephone_event: agreed.telephone_event,
            ptime_ms: format
                .as_ref()
                .map(|format| format.ptime_ms)
                .or(remote.and_then(|remote| remote.ptime_ms))
                .unwrap_or(media::PTIME_MS),
            stream: self.receive.0,
            ssrc: 0,
            opus: format
                .filter(|_| codec == Codec::Opus)
                .and_then(|format| media::opus_to_proto(format.fmtp.as_deref())),
            comfort_noise: remote.is_some_and(|remote| remote.comfort_noise.is_some()),
        }
    }

    /// Who hung up, if the peer of this leg did.
    pub(crate) fn near_hung_up(&self) -> EndCause {
        match self.side {
            Side::Egress => EndCause::CalleeHungUp,
            Side::Ingress => EndCause::CallerHungUp,
        }
    }

    /// Why the other half ended the call.
    pub(crate) fn far_ended(&self, bye: &CallBye) -> EndCause {
        match (bye.status, self.side) {
            (0, Side::Egress) => EndCause::CallerHungUp,
            (0, Side::Ingress) => EndCause::CalleeHungUp,
            _ => EndCause::of_other_half(&bye.reason),
        }
    }

    pub(crate) fn role(&self) -> CdrRole {
        match (self.side, &self.peer_leg) {
            (Side::Egress, _) => CdrRole::Egress,
            (Side::Ingress, Some(_)) => CdrRole::Local,
            (Side::Ingress, None) => CdrRole::Ingress,
        }
    }

    /// The call is over for its users: closes the leg, hands in the record.
    pub(crate) fn finish(&mut self, cause: EndCause, status: u16, core: &mut Core, now: Instant) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.drop_link(core);
        // If its POP is lost it may never hear of this.
        core.guard.note_end(Name::of(self).other(), cause);
        self.leg.close(core, now);
        core.live_calls = core.live_calls.saturating_sub(usize::from(self.counts()));
        if !self.counts() {
            // The ingress half at this POP writes the record for both.
            return;
        }
        let which = self.which();
        let mut missing = BTreeMap::from([(self.leg.id, which)]);
        if let Some(leg) = self.peer_leg {
            missing.insert(leg, Which::Out);
        }
        let (pop, end) = (core.config.id.clone(), (cause, status));
        let mut cdr = self.record.clone().close(pop, self.call_id, end, now);
        cdr.role = self.role();
        let ours = self.leg.agreed.map(|agreed| agreed.codec);
        let far = self.far.map(|far| far.codec);
        let quality = self.leg.quality.take();
        match which {
            Which::In => (cdr.codec_in, cdr.codec_out, cdr.quality_in) = (ours, far, quality),
            Which::Out => (cdr.codec_in, cdr.codec_out, cdr.quality_out) = (far, ours, quality),
        }
        core.records.add(cdr, missing, now);
    }

    /// Which leg of the record ours is.
    pub(crate) fn which(&self) -> Which {
        match self.side {
            Side::Egress => Which::Out,
            Side::Ingress => Which::In,
        }
    }
}
