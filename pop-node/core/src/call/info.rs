//! INFO (RFC 6086 §1, legacy usage): telephone events out of band pass to the other peer.
//!
//! Only the two bodies that phones use for keys, and only while the call is answered. Bound: a
//! short body, [`WAITING_MAX`] of them, one transaction at a time, so that keys stay in order.
//! Deliberately absent: Info Packages, making RTP events of keys.

use std::collections::VecDeque;

use proto::call::CallInfo;
use proto::call::call_message::Kind;
use proto::time::Instant;

use super::session::Session;
use super::{Half, plain};
use crate::pop::core::Core;
use crate::sip::{ClientTx, HeaderName, Method, Request, Response};

/// What an INFO may carry.
const TYPES: [&str; 2] = ["application/dtmf-relay", "application/dtmf"];
/// A key and its duration are 30 bytes.
const BODY_MAX: usize = 256;
/// Keys that wait for the one before to be answered.
const WAITING_MAX: usize = 16;

/// INFOs for the near peer.
#[derive(Debug, Default)]
pub(crate) struct Infos {
    waiting: VecDeque<CallInfo>,
    sent: Option<ClientTx>,
}

impl Infos {
    pub(super) fn is_sent(&self, tx: ClientTx) -> bool {
        self.sent == Some(tx)
    }
}

/// The answer to an INFO, and what the other peer shall hear.
pub(super) fn take(request: &Request) -> (Response, Option<CallInfo>) {
    if request.headers.has(&HeaderName::new("Info-Package")) {
        // RFC 6086 §4.2.2: none of the packages we name, which is none.
        let refused = plain(request, 469).with_header(HeaderName::new("Recv-Info"), "");
        return (refused, None);
    }
    if request.body.is_empty() {
        return (plain(request, 200), None);
    }
    if request.body.len() > BODY_MAX {
        return (plain(request, 413), None);
    }
    let kind = request.headers.content_type().unwrap_or_default();
    let Some(kind) = TYPES.iter().find(|known| **known == kind) else {
        let refused = Response::to_request(request, 415);
        return (refused.with_header(HeaderName::Accept, &TYPES.join(", ")), None);
    };
    let info = CallInfo { content_type: (*kind).to_owned(), body: request.body.to_vec() };
    (plain(request, 200), Some(info))
}

impl Session {
    /// An INFO of the near peer.
    pub(super) fn informed(&mut self, request: &Request, half: &Half, core: &mut Core) -> Response {
        let (response, info) = take(request);
        if let Some(info) = info {
            half.tell(Kind::Info(info), core);
        }
        response
    }

    /// One for the near peer.
    pub(super) fn inform(
        &mut self,
        info: CallInfo,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        let known = TYPES.contains(&info.content_type.as_str()) && info.body.len() <= BODY_MAX;
        if !known || self.infos.waiting.len() >= WAITING_MAX {
            core.counters.infos_dropped += 1;
            return;
        }
        self.infos.waiting.push_back(info);
        if self.infos.sent.is_none() {
            self.send_info(half, core, now);
        }
    }

    fn send_info(&mut self, half: &mut Half, core: &mut Core, now: Instant) {
        self.infos.sent = None;
        let Some(info) = self.infos.waiting.pop_front() else { return };
        let Some(kind) = TYPES.iter().find(|known| **known == info.content_type) else { return };
        let mut request = self.dialog.request(Method::Info);
        request.set_body(kind, info.body.into());
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        self.infos.sent = core.request(half.key, request, flow, now);
        core.counters.infos_dropped += u64::from(self.infos.sent.is_none());
    }

    /// The one sent has a final response (`None`: will have none).
    pub(super) fn info_answered(
        &mut self,
        status: Option<u16>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        match status {
            Some(status) if status < 200 => return,
            Some(200..300) => {}
            Some(408 | 481) | None => self.liveness.doubt(half, core, now),
            Some(_) => core.counters.infos_dropped += 1,
        }
        self.send_info(half, core, now);
    }
}
