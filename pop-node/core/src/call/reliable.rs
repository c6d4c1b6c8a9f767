//! Reliable provisional responses (RFC 3262), both ways.
//!
//! To a caller that requires `100rel`, ringing is sent reliably: one at a time, and what comes
//! meanwhile, the answer too, waits for the PRACK. To callees we say that we know it, and
//! acknowledge what they send. Deliberately absent: offers in PRACK that change anything.

use std::collections::BTreeMap;

use proto::call::{CallAnswer, CallProgress};
use proto::time::Instant;

use super::{Half, fork};
use crate::pop::core::Core;
use crate::sip::{Dialog, HeaderName, Method, RAck, Request, Response, ServerTx, Text};

/// Early dialogs of one INVITE that are acknowledged; a network that forks wider waits in vain.
const FORKS_MAX: usize = 8;

/// Towards a caller that requires it.
#[derive(Debug)]
pub(crate) struct Reliable {
    next: u32,
    waiting: Option<u32>,
    held: Option<Held>,
}

/// What waits for the PRACK.
#[derive(Debug)]
pub(super) enum Held {
    Progress(CallProgress),
    Answer(CallAnswer),
}

impl Reliable {
    /// `None` for a caller that does not require it. `random` begins the numbers (RFC 3262 §3).
    pub(crate) fn wanted(request: &Request, random: impl FnOnce() -> u64) -> Option<Self> {
        if !request.headers.has_token(&HeaderName::Require, "100rel") {
            return None;
        }
        let next = u32::try_from(random() & 0x3fff_ffff).unwrap_or(0) + 1;
        Some(Self { next, waiting: None, held: None })
    }

    /// Whether something waits for its PRACK.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    pub(super) fn holds_answer(&self) -> bool {
        matches!(self.held, Some(Held::Answer(_)))
    }

    /// Keeps it until the PRACK comes; an answer is not replaced by ringing.
    pub(super) fn hold(&mut self, held: Held) {
        if !self.holds_answer() {
            self.held = Some(held);
        }
    }

    pub(super) fn send(&mut self, tx: ServerTx, response: Response, core: &mut Core, now: Instant) {
        if core.endpoint.respond_reliably(tx, response, self.next, now) {
            self.waiting = Some(self.next);
            self.next = self.next.saturating_add(1);
        }
    }

    /// A PRACK for the INVITE `tx` with this CSeq: `None` if nothing waits for it, else what was
    /// held.
    pub(super) fn acknowledged(
        &mut self,
        (tx, invite): (ServerTx, &Request),
        prack: &Request,
        core: &mut Core,
    ) -> Option<Option<Held>> {
        let rack = prack.headers.rack()?;
        let is_ours = Some(rack.rseq) == self.waiting && invite.headers.cseq() == Some(rack.cseq);
        if !is_ours || !core.endpoint.acknowledge(tx, rack.rseq) {
            return None;
        }
        self.waiting = None;
        Some(self.held.take())
    }

    /// The candidate that was held for is gone.
    pub(super) fn forget_held(&mut self) {
        self.held = None;
    }
}

/// Early dialogs with callees that send reliable responses.
#[derive(Debug, Default)]
pub(crate) struct Pracks {
    forks: BTreeMap<Text, (Dialog, u32)>,
}

impl Pracks {
    /// Acknowledges a reliable provisional response; false if it is a repeat, or one after it was
    /// lost (RFC 3262 §4): not to be acted on.
    pub(super) fn acknowledge(
        &mut self,
        invite: &Request,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> bool {
        let rseq = response.headers.rseq();
        let reliable = response.headers.has_token(&HeaderName::Require, "100rel");
        let Some(rseq) = rseq.filter(|_| reliable) else { return true };
        let tag = fork(response);
        let known = self.forks.remove(&tag);
        let (mut dialog, last) = match known {
            Some((dialog, last)) => (dialog, Some(last)),
            None if self.forks.len() >= FORKS_MAX => return false,
            None => match Dialog::uac(invite, response) {
                Ok(dialog) => (dialog, None),
                Err(_) => return false,
            },
        };
        let (Some(cseq), true) =
            (response.headers.cseq(), last.is_none_or(|last| last.checked_add(1) == Some(rseq)))
        else {
            self.forks.extend(last.map(|last| (tag, (dialog, last))));
            return false;
        };
        let mut prack = dialog.request(Method::Prack);
        prack.headers.push(HeaderName::RAck, &RAck { rseq, cseq });
        let flow = half.leg.dialog_flow(&dialog, core, now);
        // Without room the callee sends it again.
        let sent = core.request(half.key, prack, flow, now).is_some();
        if sent {
            self.forks.insert(tag, (dialog, rseq));
        } else {
            self.forks.extend(last.map(|last| (tag, (dialog, last))));
        }
        sent
    }

    /// The confirmed dialog goes on counting where its early one was.
    pub(super) fn carry_on(&self, dialog: &mut Dialog) {
        if let Some((early, _)) = self.forks.get(&dialog.remote.tag().unwrap_or_default()) {
            dialog.local_cseq = dialog.local_cseq.max(early.local_cseq);
        }
    }
}
