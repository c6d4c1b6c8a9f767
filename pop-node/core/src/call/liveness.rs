//! Whether the peer of an answered leg is still there.
//!
//! A peer that knows session timers (RFC 4028): whoever agreed to refreshes, by UPDATE where the
//! peer takes it, else by re-INVITE; when nobody did in time, the call ends. Any other peer is
//! asked with an OPTIONS in the dialog every few minutes, and every peer soon after its media fell
//! silent though it may send. Whatever it answers, it lives, but for 408 and 481.
//! Bound: one question at a time, with [`PROBE_GAP`] between; moments are spread by the seed.

use proto::time::{Duration, Instant, earlier};

use super::timer::{Terms, Wish};
use super::{EndCause, Half, State};
use crate::pop::core::Core;
use crate::sip::{
    ClientTx, FailReason, HeaderName, Headers, Method, Refresher, Request, Response, SessionExpires,
};

/// Between two questions of one leg, however often its media falls silent.
const PROBE_GAP: Duration = Duration::from_secs(30);
/// When a refresh could not be sent or was refused for a while, it is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// An unrefreshed session ends so long before its interval is over, or a third of it (RFC 4028 §10).
const EXPIRY_MARGIN: Duration = Duration::from_secs(32);

/// What is under way.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) tx: ClientTx,
    request: Request,
    /// Sent with credentials already.
    challenged: bool,
    /// Sent over a new connection already.
    moved: bool,
}

#[derive(Debug)]
pub(crate) struct Liveness {
    terms: Option<Terms>,
    wish: Wish,
    /// The peer takes UPDATE (RFC 3311 §4).
    updates: bool,
    refresh_at: Option<Instant>,
    probe_at: Option<Instant>,
    expires_at: Option<Instant>,
    probed: Option<Instant>,
    pub(super) question: Option<Question>,
}

/// What an answer to a question means for the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Alive,
    Gone(EndCause, u16),
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Expired,
    Refresh,
    Probe,
}

impl Liveness {
    /// Of a leg that was just answered; `peer` is its INVITE or 2xx.
    pub(crate) fn new(
        terms: Option<Terms>,
        wish: Wish,
        peer: &Headers,
        half: &Half,
        core: &Core,
        now: Instant,
    ) -> Self {
        let mut liveness = Self::with(wish, peer.has_token(&HeaderName::Allow, "UPDATE"));
        liveness.agree(terms, half, core, now);
        liveness
    }

    /// Before anything was agreed on.
    const fn with(wish: Wish, updates: bool) -> Self {
        Self {
            terms: None,
            wish,
            updates,
            refresh_at: None,
            probe_at: None,
            expires_at: None,
            probed: None,
            question: None,
        }
    }

    /// Of a leg that another POP had: terms, the shortest interval its peer takes in seconds,
    /// whether it takes UPDATE.
    pub(super) fn resume(
        (terms, min_se_s, updates): (Option<Terms>, u32, bool),
        half: &Half,
        core: &Core,
        now: Instant,
    ) -> Self {
        let mut wish = Wish::new(&core.config.timing);
        wish.min_se = wish.min_se.max(min_se_s);
        wish.seconds = wish.seconds.max(min_se_s);
        let mut liveness = Self::with(wish, updates);
        liveness.agree(terms, half, core, now);
        liveness
    }

    /// The terms, the shortest interval in seconds, whether the peer takes UPDATE.
    pub(super) const fn agreed(&self) -> (Option<Terms>, u32, bool) {
        (self.terms, self.wish.min_se, self.updates)
    }

    /// A refresh came to these terms, or to none.
    pub(super) fn agree(&mut self, terms: Option<Terms>, half: &Half, core: &Core, now: Instant) {
        self.terms = terms;
        self.refresh_at = None;
        self.expires_at = None;
        if let Some(Terms { interval, ours }) = terms {
            self.expires_at = Some(now + (interval - EXPIRY_MARGIN.min(interval / 3)));
            // At half of it, or a little before: calls that began together part.
            let early = core.spread(half.key, now, interval / 20);
            self.refresh_at = ours.then(|| now + (interval / 2 - early));
        }
        self.seen(half, core, now);
    }

    /// The peer gave a sign of life.
    pub(super) fn seen(&mut self, half: &Half, core: &Core, now: Instant) {
        let every = core.config.timing.probe_interval;
        self.probe_at = self.terms.is_none().then(|| {
            let early = core.spread(half.key, now, every / 4);
            now + (every - early)
        });
    }

    /// The media of the peer fell silent, or it did not answer something else: ask it.
    pub(super) fn doubt(&mut self, half: &Half, core: &Core, now: Instant) {
        let soon = now + core.spread(half.key, now, core.config.timing.probe_spread);
        let at = self.probed.map_or(soon, |probed| soon.max(probed + PROBE_GAP));
        self.probe_at = Some(self.probe_at.map_or(at, |planned| planned.min(at)));
    }

    /// A refresh or question cannot be sent now.
    pub(super) fn later(&mut self, due: Due, now: Instant) {
        match due {
            Due::Refresh => self.refresh_at = Some(now + RETRY),
            Due::Probe => self.probe_at = Some(now + RETRY),
            Due::Expired => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = match &self.question {
            // Its transaction ends by itself.
            Some(_) => None,
            None => earlier(self.refresh_at, self.probe_at),
        };
        earlier(self.expires_at, next)
    }

    pub(super) fn due(&self, now: Instant) -> Option<Due> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.expires_at) {
            Some(Due::Expired)
        } else if self.question.is_some() {
            None
        } else if is_due(self.refresh_at) {
            Some(Due::Refresh)
        } else {
            is_due(self.probe_at).then_some(Due::Probe)
        }
    }

    pub(super) fn is_asking(&self, tx: ClientTx) -> bool {
        self.question.as_ref().is_some_and(|question| question.tx == tx)
    }

    /// The peer takes no UPDATE: a refresh is an INVITE.
    pub(super) fn refreshes_by_invite(&self) -> bool {
        !self.updates
    }

    /// The session timer, as an INVITE or UPDATE of ours must repeat it (RFC 4028 §7.4).
    pub(super) fn put(&self, headers: &mut Headers) {
        let Some(Terms { interval, ours }) = self.terms else { return };
        let seconds = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX).max(self.wish.min_se);
        let refresher = Some(if ours { Refresher::Uac } else { Refresher::Uas });
        Wish { seconds, refresher, ..self.wish }.put(headers);
    }

    /// The same request for the interval a 422 asks for; `None` if it asks for nothing longer.
    pub(super) fn raise(&mut self, request: &Request, refusal: &Response) -> Option<Request> {
        self.wish = self.wish.raised(&refusal.headers)?;
        let mut again = request.clone();
        let SessionExpires { seconds, refresher } = again.headers.session_expires()?;
        Wish { seconds: seconds.max(self.wish.min_se), refresher, ..self.wish }
            .put(&mut again.headers);
        Some(again)
    }
}

impl super::session::Session {
    /// The time of the liveness has come.
    pub(super) fn look_after(
        mut self: Box<Self>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Some(due) = self.liveness.due(now) else { return State::Talking(self) };
        if due == Due::Expired {
            return self.end(EndCause::SessionExpired, 408, half, core, now);
        }
        let is_free = self.exchange.first_unacknowledged().is_none();
        let sent = match due {
            Due::Refresh if self.liveness.refreshes_by_invite() => {
                self.liveness.later(due, now);
                self.refresh_by_invite(half, core, now);
                return State::Talking(self);
            }
            Due::Refresh => is_free && self.ask(Method::Update, half, core, now),
            Due::Probe | Due::Expired => is_free && self.ask(Method::Options, half, core, now),
        };
        if !sent {
            self.liveness.later(due, now);
        }
        State::Talking(self)
    }

    fn ask(&mut self, method: Method, half: &mut Half, core: &mut Core, now: Instant) -> bool {
        let mut request = self.dialog.request(method.clone());
        match method {
            Method::Update => self.liveness.put(&mut request.headers),
            _ => request.headers.push(HeaderName::Accept, super::SDP),
        }
        core.counters.probes += 1;
        self.liveness.probed = Some(now);
        self.send_question((request, false, false), half, core, now)
    }

    fn send_question(
        &mut self,
        (request, challenged, moved): (Request, bool, bool),
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> bool {
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        let tx = core.request(half.key, request.clone(), flow, now);
        self.liveness.question = tx.map(|tx| Question { tx, request, challenged, moved });
        self.liveness.question.is_some()
    }

    /// A response to the question.
    pub(super) fn told(
        mut self: Box<Self>,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if !response.is_final() {
            return State::Talking(self);
        }
        let Some(question) = self.liveness.question.take() else { return State::Talking(self) };
        match self.judge(question, response, half, core, now) {
            Verdict::Alive => State::Talking(self),
            Verdict::Gone(cause, status) => self.end(cause, status, half, core, now),
        }
    }

    fn judge(
        &mut self,
        Question { request, challenged, moved, .. }: Question,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> Verdict {
        let refresh = request.method == Method::Update;
        self.liveness.seen(half, core, now);
        match response.status {
            408 => return Verdict::Gone(EndCause::PeerVanished, 408),
            481 => return Verdict::Gone(EndCause::DialogLost, 481),
            200..=299 if refresh => {
                self.dialog.update_from_response(response);
                let terms = Terms::as_client(&response.headers);
                self.liveness.agree(terms, half, core, now);
            }
            401 | 407 | 422 if !challenged => {
                let again = match response.status {
                    422 => self.liveness.raise(&request, response),
                    _ => half.leg.authorized(&request, response, core),
                };
                if let Some(mut again) = again {
                    self.dialog.renumber(&mut again);
                    self.send_question((again, true, moved), half, core, now);
                }
                if refresh {
                    self.liveness.later(Due::Refresh, now);
                }
            }
            405 | 501 if refresh => {
                self.liveness.updates = false;
                self.liveness.later(Due::Refresh, now);
            }
            // The session lives until it expires.
            _ if refresh => self.liveness.later(Due::Refresh, now),
            _ => {}
        }
        Verdict::Alive
    }

    /// No response to the question will come.
    pub(super) fn untold(
        mut self: Box<Self>,
        reason: FailReason,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Some(question) = self.liveness.question.take() else { return State::Talking(self) };
        let Question { mut request, challenged, moved, .. } = question;
        if reason == FailReason::Transport && !moved && half.leg.reconnect(&self.dialog, core, now)
        {
            self.dialog.renumber(&mut request);
            if self.send_question((request, challenged, true), half, core, now) {
                return State::Talking(self);
            }
        }
        self.end(EndCause::PeerVanished, 408, half, core, now)
    }
}
