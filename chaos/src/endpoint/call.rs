//! One call of an agent: its state, and what each state owns.

use std::time::Duration;

use mio::net::UdpSocket;
use pop_core::codec::Codec;
use pop_core::sip::{ClientTx, Dialog, Request, ServerTx};
use proto::time::Instant;

use super::listener::{Listener, Statistics};
use super::report::{End, Finished, Heard, Live, Report, Side};
use super::session::Agreed;
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
        })
    }

    /// The account of a call that is over.
    pub(super) fn finish(&mut self, end: End, now: Instant) -> Finished {
        self.freeze(now);
        self.state = State::Over;
        let mut heard = Heard::default();
        let mut payloads = Vec::new();
        let mut talked = Duration::ZERO;
        if let Some(media) = &self.media {
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
        };
        Finished { report, payloads, expect: self.expect }
    }
}
