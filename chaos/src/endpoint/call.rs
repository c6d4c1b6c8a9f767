//! One call of an agent: its state, and what each state owns.

use std::time::Duration;

use bytes::Bytes;
use mio::net::UdpSocket;
use pop_core::codec::Codec;
use pop_core::sip::{ClientTx, Dialog, Request, Response, ServerTx};
use proto::time::Instant;

use super::listener::{Listener, Statistics};
use super::report::{Bye, End, Finished, Heard, Live, Move, Report, Side, Stale};
use super::session::{self, Agreed};
use super::talker::Talker;
use crate::speech::Voice;

/// RFC 3261 names where it has them.
#[derive(Debug)]
pub(super) enum State {
    /// Our INVITE is out.
    Calling { tx: ClientTx, invite: Box<Request>, cancelled: bool },
    /// Their INVITE is in; we answer at `answer_at`.
    Ringing(Box<Ringing>),
    /// Answered.
    Up { dialog: Box<Dialog>, until: Option<Instant> },
    /// Our BYE is out.
    Ending { bye: ClientTx },
    /// Over; the report is written.
    Over,
}

/// A call that came in and is not answered yet.
#[derive(Debug)]
pub(super) struct Ringing {
    pub(super) tx: ServerTx,
    pub(super) invite: Request,
    pub(super) dialog: Dialog,
    pub(super) agreed: Agreed,
    pub(super) answer: String,
    pub(super) answer_at: Instant,
}

/// Both directions of the sound.
#[derive(Debug)]
pub(super) struct Media {
    pub(super) agreed: Agreed,
    pub(super) talker: Talker,
    pub(super) listener: Listener,
    pub(super) since: Instant,
    /// Frozen when we hang up: what comes later is not part of the call.
    pub(super) last: Option<(Statistics, Instant)>,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) side: Side,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) started: Instant,
    pub(super) ringing: Option<Duration>,
    pub(super) set_up: Option<Duration>,
    /// Where requests outside a dialog go.
    pub(super) peer: std::net::SocketAddr,
    pub(super) talk: Option<Duration>,
    pub(super) digits: String,
    pub(super) rtp: UdpSocket,
    pub(super) media: Option<Media>,
    /// What the far side speaks with.
    pub(super) expect: Voice,
    pub(super) answered: Option<Instant>,
    pub(super) bye: Option<Bye>,
    pub(super) moves: Vec<Move>,
    pub(super) stale: Vec<Stale>,
    pub(super) state: State,
}

impl Call {
    /// When this call wants to be looked at.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Calling { .. } | State::Ending { .. } | State::Over => None,
            State::Ringing(ringing) => Some(ringing.answer_at),
            State::Up { until, .. } => {
                proto::time::earlier(*until, self.media.as_ref().map(|m| m.talker.due()))
            }
        }
    }

    pub(super) fn codec(&self) -> Option<Codec> {
        self.media.as_ref().map(|m| m.agreed.codec)
    }

    /// Stops measuring, so that the far side's silence after the BYE is no gap.
    pub(super) fn freeze(&mut self, now: Instant) {
        if let Some(media) = &mut self.media
            && media.last.is_none()
        {
            media.last = Some((media.listener.statistics(now), now));
        }
    }

    pub(super) fn live(&self, now: Instant) -> Option<Live> {
        if matches!(self.state, State::Over) {
            return None;
        }
        let s = self.media.as_ref().map(|m| m.listener.statistics(now)).unwrap_or_default();
        Some(Live {
            number: self.number,
            side: self.side,
            from: self.from.clone(),
            to: self.to.clone(),
            codec: self.codec(),
            received: s.received,
            lost: s.lost,
            jitter: s.jitter,
            longest_gap: s.longest_gap,
            last_voice: self.media.as_ref().and_then(|m| m.listener.last_voice()),
        })
    }

    /// The account of a call that is over.
    pub(super) fn finish(&mut self, end: End, now: Instant) -> Finished {
        self.freeze(now);
        self.state = State::Over;
        let mut heard = Heard::default();
        let mut payloads = Vec::new();
        let mut talked = Duration::ZERO;
        let mut diary = None;
        if let Some(media) = &mut self.media {
            diary = media.listener.take_diary(media.talker.spoke());
            let (s, ended) = media.last.unwrap_or_default();
            talked = ended - media.since;
            heard = Heard {
                sent: media.talker.sent(),
                received: s.received,
                duplicates: s.duplicates,
                lost: s.lost,
                jitter: s.jitter,
                longest_gap: s.longest_gap,
                first_packet: s.first_packet,
                digits: media.listener.digits().to_owned(),
                ..Heard::default()
            };
            payloads = media.listener.payloads().into_iter().map(Option::<&_>::cloned).collect();
        }
        let report = Report {
            number: self.number,
            side: self.side,
            from: self.from.clone(),
            to: self.to.clone(),
            end,
            ringing: self.ringing,
            set_up: self.set_up,
            talked,
            codec: self.codec(),
            heard,
            answered: self.answered,
            ended: now,
            bye: self.bye,
            moves: std::mem::take(&mut self.moves),
            stale: std::mem::take(&mut self.stale),
            diary,
        };
        Finished { report, payloads, expect: self.expect }
    }
}

impl Call {
    /// A refusal of a request within the call.
    pub(super) fn refuse(&mut self, request: &Request, status: u16) -> Response {
        match &mut self.state {
            State::Up { dialog, .. } => {
                // Its CSeq is used up all the same, but only a 2xx moves the target (RFC 3261
                // §12.2.2).
                let target = dialog.remote_target.clone();
                let status = if dialog.accept_request(request).is_err() { 500 } else { status };
                dialog.remote_target = target;
                dialog.respond(request, status)
            }
            State::Calling { .. } | State::Ending { .. } | State::Over | State::Ringing(_) => {
                Response::to_request(request, 491)
            }
        }
    }

    /// Answers a re-INVITE and goes on where it says; and where media goes since.
    pub(super) fn follow(
        &mut self,
        request: &Request,
    ) -> (Option<Response>, Option<std::net::SocketAddr>) {
        let State::Up { dialog, .. } = &mut self.state else {
            return (Some(self.refuse(request, 491)), None);
        };
        let (Some(media), Ok(local)) = (self.media.as_mut(), self.rtp.local_addr()) else {
            return (Some(self.refuse(request, 488)), None);
        };
        let Ok((agreed, sdp)) = session::answer(&request.body, local, &[media.agreed.codec]) else {
            return (Some(self.refuse(request, 488)), None);
        };
        if dialog.accept_request(request).is_err() {
            return (Some(dialog.respond(request, 500)), None);
        }
        media.talker.follow(&agreed);
        media.listener.follow(agreed.payload_type, agreed.event_type);
        media.agreed = agreed;
        let mut response = dialog.respond(request, 200);
        response.set_body("application/sdp", Bytes::from(sdp));
        (Some(response), Some(media.agreed.remote))
    }
}
