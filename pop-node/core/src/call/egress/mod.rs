//! The half where the call leaves, until it is answered: calls a trunk.
//!
//! Resolves the trunk's host if it is a name, then tries its addresses in turn (RFC 3263 §4.3). The
//! offer has the caller's codecs first, then the rest the trunk may use: the ingress can transcode.
//! Of forked early dialogs (RFC 3261 §12.1) the first 2xx wins; others are ended by
//! `Core::stray_answer`, as is a 2xx that crosses our CANCEL.

mod inviting;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use proto::call::call_message::Kind;
use proto::call::{CallAnswer, CallProgress, CallReject, CallSetup, Media};
use proto::control;
use proto::e164::E164;
use proto::id::{Epoch, TrunkId};
use proto::time::Instant;

use super::info::Infos;
use super::leg::{Agreed, FarMedia, SDP};
use super::liveness::Liveness;
use super::reinvite::Exchange;
use super::reliable::Pracks;
use super::session::Session;
use super::timer::{Terms, Wish};
use super::{
    Begin, Begun, EndCause, Half, Input, Leg, Link, Opening, Record, Side, State, fork, media,
    plain,
};
pub(crate) use inviting::Inviting;

use crate::codec::Codec;
use crate::pop::Refusal;
use crate::pop::core::Core;
use crate::pop::guard::is_lost;
use crate::pop::index::Handle;
use crate::sdp::offer_answer::Description;
use crate::sip::{
    CSeq, ClientTx, Dialog, FailReason, Flow, HeaderName, Method, NameAddr, Request, Response,
    Text, Transport, Uri,
};

/// More addresses of one trunk are not tried for one call.
const ADDRESSES_MAX: usize = 3;
/// INVITEs to one address: with credentials, and for longer session intervals.
const INVITES_MAX: u32 = 4;

/// A setup whose fields are checked.
#[derive(Debug)]
struct Wanted {
    trunk: TrunkId,
    from: Option<E164>,
    to: E164,
    display: String,
    max_forwards: u32,
    media: Media,
    codecs: Vec<Codec>,
}

impl Wanted {
    fn of(setup: CallSetup) -> Option<Self> {
        let media = setup.media?;
        let codecs = media::codecs(&media);
        let from = match setup.from.as_str() {
            "" => None,
            from => Some(E164::parse(from).ok()?),
        };
        (!codecs.is_empty()).then_some(Self {
            trunk: TrunkId::new(&setup.trunk_id).ok()?,
            from,
            to: E164::parse(&setup.to).ok()?,
            display: setup.from_display,
            max_forwards: setup.max_forwards.min(255),
            media,
            codecs,
        })
    }
}

/// Takes a setup, or rejects it and gives `None`.
pub(super) fn begin(begin: Begin, core: &mut Core, now: Instant) -> Option<(Half, State)> {
    let Begin { key, back, leg, peer_leg, call_id, setup } = begin;
    let (wanted, trunk) = match check(&back, setup, core) {
        Ok(checked) => checked,
        Err((status, refusal)) => {
            core.counters.refuse(refusal);
            core.reject(back, status, refusal.name());
            return None;
        }
    };
    core.counters.calls_out += 1;
    let transport = match trunk.transport() {
        control::Transport::Tcp => Transport::Tcp,
        control::Transport::Unspecified | control::Transport::Udp => Transport::Udp,
    };
    // The remote address is set before anything is sent.
    let nowhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    let flow = Flow { transport, local: nowhere, remote: nowhere, connection: 0 };
    let opening = Opening {
        id: leg,
        trunk: wanted.trunk.clone(),
        flow,
        call_id: core.endpoint.new_token(),
        tag: None,
    };
    let Some(leg) = Leg::open(key, opening, core, now) else {
        core.counters.refuse(Refusal::NoPort);
        core.reject(back, 503, Refusal::NoPort.name());
        return None;
    };
    // The other POP has the call: its timer for a dead candidate stops, ours run now.
    core.send(&back, Kind::Progress(CallProgress { status: 100, media: None }));
    let peer = match &back {
        Link::Remote(stream) => Some(stream.peer.clone()),
        Link::Local(_) => None,
    };
    let record = Record {
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        trunk_in: None,
        trunk_out: Some(wanted.trunk.clone()),
        peer,
        started: now,
        ringing: None,
        answered: None,
        attempts: 1,
        moved_from: None,
        other_from: None,
    };
    let begun = Begun { key, call_id, side: Side::Egress, link: Some(back), peer_leg };
    let half = Half::new(begun, leg, record, core);
    let deadline = now + core.config.timing.first_response;
    let opening = Preparing { wanted, trunk, transport, deadline };
    Some((half, State::Opening(Box::new(opening))))
}

fn check(
    back: &Link,
    setup: CallSetup,
    core: &Core,
) -> Result<(Wanted, control::Trunk), (u16, Refusal)> {
    if let Some(refusal) = core.closed() {
        return Err((503, refusal));
    }
    if let Link::Remote(stream) = back {
        // A POP that is not in the view is none of the mesh, or not yet.
        if is_lost(&core.view, &stream.peer, Epoch(setup.epoch)) {
            return Err((503, Refusal::StaleEpoch));
        }
        if core.is_overloaded() {
            return Err((503, Refusal::Overload));
        }
    }
    let wanted = Wanted::of(setup).ok_or((500, Refusal::BadPeerMessage))?;
    let is_here = |trunk: &&control::Trunk| {
        !trunk.host.is_empty() && trunk.pop_ids.iter().any(|pop| pop == core.config.id.as_str())
    };
    let trunk = core.view.trunk(&wanted.trunk).filter(is_here);
    // The other POP's view may be ahead of ours: it should try another way.
    let trunk = trunk.cloned().ok_or((503, Refusal::NoRoute))?;
    if core.is_full(&wanted.trunk) {
        return Err((503, Refusal::TrunkFull));
    }
    if media::preferred(&wanted.codecs, &media::trunk_codecs(&trunk)).is_empty() {
        return Err((488, Refusal::BadOffer));
    }
    Ok((wanted, trunk))
}

fn call_out(
    wanted: Wanted,
    trunk: &control::Trunk,
    transport: Transport,
    half: &mut Half,
    core: &mut Core,
    now: Instant,
) -> State {
    let port = u16::try_from(trunk.port).unwrap_or(0);
    let host = trunk.host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(address, if port == 0 { 5060 } else { port });
        let addresses = VecDeque::from([address]);
        return Inviting::start(wanted, trunk.host.clone(), addresses, half, core, now);
    }
    core.resolve(half.key, host.to_owned(), port, transport);
    let deadline = now + core.config.timing.first_response;
    State::Resolving(Box::new(Resolving { wanted, host: host.to_owned(), deadline }))
}

/// Ends the half with a verdict for the other one.
fn reject(cause: EndCause, status: u16, half: &mut Half, core: &mut Core, now: Instant) -> State {
    let reason = crate::sip::reason_phrase(status).to_owned();
    half.part(Kind::Reject(CallReject { status: u32::from(status), reason }), core);
    half.finish(cause, status, core, now);
    State::Over
}

/// The other half gave up or is gone.
fn give_up(cause: EndCause, half: &mut Half, core: &mut Core, now: Instant) -> State {
    half.drop_link(core);
    half.finish(cause, 487, core, now);
    State::Over
}

/// Why the other half's message or silence ends a set-up; `None` if it does not.
fn gave_up(input: &Input) -> Option<EndCause> {
    match input {
        Input::Far(Kind::Cancel(_) | Kind::Bye(_)) => Some(EndCause::CallerCancelled),
        Input::FarLost => Some(EndCause::LinkLost),
        _ => None,
    }
}

// ---------------------------------------------------------------- opening

/// Waits for the media port: the offer names it, so it must be ours.
#[derive(Debug)]
pub(crate) struct Preparing {
    wanted: Wanted,
    trunk: control::Trunk,
    transport: Transport,
    deadline: Instant,
}

impl Preparing {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn handle(
        self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if let Some(cause) = gave_up(&input) {
            return give_up(cause, half, core, now);
        }
        match input {
            Input::Opened => call_out(self.wanted, &self.trunk, self.transport, half, core, now),
            Input::PortTaken if half.leg.open_another(core, now) => State::Opening(self),
            Input::PortTaken => {
                core.counters.refuse(Refusal::NoPort);
                reject(EndCause::Overload, 503, half, core, now)
            }
            Input::Shutdown => reject(EndCause::Shutdown, 503, half, core, now),
            Input::Timeout if self.deadline <= now => {
                reject(EndCause::Overload, 503, half, core, now)
            }
            _ => State::Opening(self),
        }
    }
}

// ---------------------------------------------------------------- resolving

#[derive(Debug)]
pub(crate) struct Resolving {
    wanted: Wanted,
    host: String,
    deadline: Instant,
}

impl Resolving {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn handle(
        self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if let Some(cause) = gave_up(&input) {
            return give_up(cause, half, core, now);
        }
        match input {
            Input::Resolved(Ok(addresses)) => {
                let addresses = addresses.into_iter().take(ADDRESSES_MAX).collect();
                Inviting::start(self.wanted, self.host, addresses, half, core, now)
            }
            Input::Resolved(Err(_)) => reject(EndCause::Rejected, 503, half, core, now),
            Input::Shutdown => reject(EndCause::Shutdown, 503, half, core, now),
            Input::Timeout if self.deadline <= now => {
                reject(EndCause::Rejected, 408, half, core, now)
            }
            _ => State::Resolving(self),
        }
    }
}
