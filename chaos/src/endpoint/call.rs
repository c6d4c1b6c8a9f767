//! One call of an agent: its state, and what each state owns.

use std::time::Duration;

use bytes::Bytes;
use mio::net::UdpSocket;
use pop_core::codec::Codec;
use pop_core::sip::{ClientTx, Dialog, HeaderName, Request, Response, ServerTx};
use proto::time::Instant;

use super::listener::{Listener, Statistics};
use super::report::{Bye, End, Finished, Heard, Hold, Live, Move, Report, Side, Stale};
use super::secure::Secure;
use super::session::{Agreed, Ours};
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
    /// `None`: it is plain.
    pub(super) secure: Option<Secure>,
    pub(super) since: Instant,
    /// Frozen when we hang up: what comes later is not part of the call.
    pub(super) last: Option<(Statistics, Instant)>,
}

impl Media {
    /// The next packet, if it is due and the far side wants it.
    pub(super) fn poll_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        loop {
            // Who is not wanted speaks on unheard.
            let packet = self.talker.poll_packet(now)?;
            let packet = match &mut self.secure {
                Some(secure) => secure.protect(packet),
                None => Some(packet),
            };
            if let Some(packet) = packet.filter(|_| self.agreed.wanted) {
                return Some(packet);
            }
        }
    }

    /// Goes on as agreed on now.
    fn follow(&mut self, agreed: Agreed) {
        self.talker.follow(&agreed);
        self.listener.follow(agreed.payload_type, agreed.event_type);
        if let (Some(secure), Some(theirs)) = (&mut self.secure, &agreed.key) {
            secure.follow(theirs);
        }
        self.agreed = agreed;
    }
}

/// A re-INVITE of ours that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) tx: ClientTx,
    pub(super) cseq: u32,
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
    pub(super) ours: Ours,
    pub(super) asked: Option<Asked>,
    pub(super) hold: Option<Hold>,
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
            bytes: s.bytes,
            lost: s.lost,
            jitter: s.jitter,
            longest_gap: s.longest_gap,
            last_voice: self.media.as_ref().and_then(|m| m.listener.last_voice()),
            holding: self.is_holding(),
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
            hold: self.hold,
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
                let mut response = dialog.respond(request, status);
                if status == 503 {
                    response.headers.push(HeaderName::RetryAfter, "1");
                }
                response
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
        if self.asked.is_some() {
            // Glare (RFC 3261 §14.2).
            return (Some(self.refuse(request, 491)), None);
        }
        let Some(media) = self.media.as_mut() else {
            return (Some(self.refuse(request, 488)), None);
        };
        let Ok((agreed, sdp)) = self.ours.answer(&request.body, &[media.agreed.codec]) else {
            return (Some(self.refuse(request, 488)), None);
        };
        if dialog.accept_request(request).is_err() {
            return (Some(dialog.respond(request, 500)), None);
        }
        media.follow(agreed);
        let mut response = dialog.respond(request, 200);
        response.set_body("application/sdp", Bytes::from(sdp));
        (Some(response), Some(media.agreed.remote))
    }

    /// Whether this is the re-INVITE of ours that is under way.
    pub(super) fn is_asked(&self, tx: ClientTx) -> bool {
        self.asked.is_some_and(|asked| asked.tx == tx)
    }

    pub(super) fn is_holding(&self) -> bool {
        self.hold.is_some_and(|hold| hold.until.is_none())
    }

    /// The final answer to our re-INVITE, and the ACK for it if it is a 2xx.
    pub(super) fn reanswered(&mut self, response: &Response, now: Instant) -> Option<Request> {
        let asked = self.asked.take()?;
        let agreed = self.ours.agreed(&response.body).ok().filter(|_| response.is_success());
        match (agreed, self.media.as_mut()) {
            (Some(agreed), Some(media)) => {
                media.follow(agreed);
                let from = self.hold.map_or(now, |hold| hold.from);
                let until = (!self.ours.holds).then_some(now);
                self.hold = Some(Hold { from, until });
            }
            // As before.
            _ => self.ours.holds = self.is_holding(),
        }
        let State::Up { dialog, .. } = &mut self.state else { return None };
        if !response.is_success() {
            return None;
        }
        dialog.update_from_response(response);
        Some(dialog.ack(asked.cseq))
    }
}
