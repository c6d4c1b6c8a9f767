//! Whether an INVITE becomes a call, and its typed refusal if not.
//!
//! Order: who is it (source, digest), is it a call (body, number), may it be one now (limits), is
//! there a way (route). A refusal before the number is known leaves no record, only a counter.

use std::collections::VecDeque;

use proto::call::CallSetup;
use proto::control::Trunk;
use proto::e164::E164;
use proto::id::TrunkId;
use proto::time::Instant;

use super::Refusal;
use super::core::Core;
use crate::call::{
    Begun, Call, CallKey, EndCause, Half, Hunt, Leg, Offer, Opening, Record, Reliable, Side, plain,
    security, timer, too_short, trunk_codecs,
};
use crate::media::Lane;
use crate::route::{self, Candidate};
use crate::sdp::offer_answer::Policy;
use crate::sip::digest::{Algorithm, Verdict, Verifier};
use crate::sip::{Dialog, Flow, HeaderName, NameAddr, Request, Response, Scheme, ServerTx};

/// Seconds after which a refused caller may try again (RFC 3261 §21.5.4).
const RETRY_AFTER_S: u32 = 5;

/// An INVITE on its way through admission.
struct Arrival {
    tx: ServerTx,
    flow: Flow,
    request: Request,
    trunk_id: TrunkId,
    trunk: Trunk,
}

/// Makes an INVITE outside of a dialog a call, or answers it.
pub(super) fn admit(
    core: &mut Core,
    tx: ServerTx,
    flow: Flow,
    request: Request,
    now: Instant,
) -> Option<(CallKey, Call)> {
    let Some(trunk_id) = core.view.acl().trunk(flow.remote.ip()).cloned() else {
        return refuse(core, tx, plain(&request, 403), Refusal::NotACaller, now);
    };
    let trunk = core.view.trunk(&trunk_id).cloned().unwrap_or_default();
    if let Some(refusal) = core.unwilling() {
        return refuse(core, tx, busy(&request), refusal, now);
    }
    let arrival = Arrival { tx, flow, request, trunk_id, trunk };
    if let Err((response, refusal)) = authenticate(core, &arrival, now) {
        return refuse(core, tx, response, refusal, now);
    }
    if timer::answer(&arrival.request.headers, &core.config.timing).is_err() {
        let response = too_short(&arrival.request, &core.config.timing);
        return refuse(core, tx, response, Refusal::SessionInterval, now);
    }
    let encrypted = security(&arrival.trunk) == Policy::Require;
    let offer = match Offer::of(&arrival.request, &trunk_codecs(&arrival.trunk), encrypted) {
        Ok(offer) => offer,
        Err(status) => {
            let response = plain(&arrival.request, status);
            return refuse(core, tx, response, Refusal::BadOffer, now);
        }
    };
    let Some(to) = called(&arrival) else {
        return refuse(core, tx, plain(&arrival.request, 404), Refusal::BadNumber, now);
    };
    call(core, arrival, offer, to, now)
}

fn call(
    core: &mut Core,
    arrival: Arrival,
    offer: Option<Offer>,
    to: E164,
    now: Instant,
) -> Option<(CallKey, Call)> {
    let record = record(&arrival, to.clone(), now);
    if core.is_overloaded() || core.is_full(&arrival.trunk_id) {
        let refusal = if core.is_overloaded() { Refusal::Overload } else { Refusal::TrunkFull };
        let response = busy(&arrival.request);
        return refuse_call(core, arrival.tx, response, refusal, record, now);
    }
    let random = core.random();
    let candidates = route::candidates(&core.view, &to, &core.config.id, random);
    if candidates.is_empty() {
        let response = plain(&arrival.request, 404);
        return refuse_call(core, arrival.tx, response, Refusal::NoRoute, record, now);
    }
    let lane = core.ports.idlest();
    let (key, id) = (core.new_key(), core.new_leg(lane));
    let Arrival { tx, flow, request, trunk_id, .. } = arrival;
    // Without Call-ID or Contact there can be no dialog (RFC 3261 §12.1.1).
    let opening = Opening {
        id,
        trunk: trunk_id,
        flow,
        call_id: request.headers.call_id().unwrap_or_default(),
        tag: None,
    };
    if Dialog::uas(&request, &opening.call_id, Leg::contact(&flow)).is_err() {
        return refuse(core, tx, plain(&request, 400), Refusal::BadOffer, now);
    }
    let Some(leg) = Leg::open(key, opening, core, now) else {
        return refuse_call(core, tx, busy(&request), Refusal::NoPort, record, now);
    };
    let dialog = Dialog::uas(&request, &leg.tag, Leg::contact(&flow)).ok()?;
    core.index.add(super::index::Handle::Server(tx), key);
    let call_id = core.new_call_id();
    let begun = Begun { key, call_id, side: Side::Ingress, link: None, peer_leg: None };
    let half = Half::new(begun, leg, record, core);
    let hunt = Hunt {
        tx,
        reliable: Reliable::wanted(&request, || core.random()),
        setup: setup(core, &half, &request),
        request,
        dialog,
        offer,
        candidates: VecDeque::<Candidate>::from(candidates),
        linkless: Vec::new(),
        link_limit: None,
        waiting: false,
        ring_limit: now + core.config.timing.ring_limit,
        silence_limit: None,
        early: None,
        failure: 503,
    };
    Some((key, Call::ingress(half, hunt, core, now)))
}

fn refuse(
    core: &mut Core,
    tx: ServerTx,
    response: Response,
    refusal: Refusal,
    now: Instant,
) -> Option<(CallKey, Call)> {
    core.counters.refuse(refusal);
    core.respond(tx, response, now);
    None
}

/// The same, with a record: somebody wanted to pay for this.
fn refuse_call(
    core: &mut Core,
    tx: ServerTx,
    response: Response,
    refusal: Refusal,
    record: Record,
    now: Instant,
) -> Option<(CallKey, Call)> {
    let cause = if refusal == Refusal::NoRoute { EndCause::NoRoute } else { EndCause::Overload };
    let (pop, call_id) = (core.config.id.clone(), core.new_call_id());
    let cdr = record.close(pop, call_id, (cause, response.status), now);
    core.counters.calls_refused += 1;
    core.records.add(cdr, std::collections::BTreeMap::new(), now);
    refuse(core, tx, response, refusal, now)
}

/// 503, and when to come again.
pub(super) fn busy(request: &Request) -> Response {
    let mut response = plain(request, 503);
    response.headers.push(HeaderName::RetryAfter, RETRY_AFTER_S);
    response
}

/// Digest (RFC 3261 §22.2): of trunks that have credentials for it.
fn authenticate(core: &Core, arrival: &Arrival, now: Instant) -> Result<(), (Response, Refusal)> {
    let Some(auth) = &arrival.trunk.inbound_auth else { return Ok(()) };
    let realm = if auth.realm.is_empty() { &core.config.mesh } else { &auth.realm };
    let algorithms = auth.algorithms.iter().filter_map(|name| Algorithm::from_name(name));
    let verifier = Verifier::new(realm, core.config.seed, core.config.timing.nonce_lifetime)
        .with_algorithms(algorithms.collect());
    let password = |user: &str| (user == auth.username).then(|| auth.password.clone());
    let request = &arrival.request;
    match verifier.verify(request, password, now) {
        Verdict::Valid { .. } => Ok(()),
        Verdict::Missing => Err((verifier.challenge(request, false, now), Refusal::AuthChallenge)),
        Verdict::Stale => Err((verifier.challenge(request, true, now), Refusal::AuthChallenge)),
        Verdict::Wrong => Err((plain(request, 403), Refusal::AuthWrong)),
    }
}

fn number(address: &crate::sip::Uri, trunk: &Trunk) -> Option<E164> {
    let region = Some(trunk.default_region.as_str()).filter(|region| !region.is_empty());
    match &address.scheme {
        Scheme::Sip | Scheme::Sips | Scheme::Tel => {
            E164::parse_in(&address.user_unescaped()?, region).ok()
        }
        Scheme::Other(_) => None,
    }
}

fn called(arrival: &Arrival) -> Option<E164> {
    number(&arrival.request.uri, &arrival.trunk)
}

fn record(arrival: &Arrival, to: E164, now: Instant) -> Record {
    let from = arrival.request.headers.from();
    Record {
        from: from.and_then(|from| number(&from.uri, &arrival.trunk)),
        to,
        trunk_in: Some(arrival.trunk_id.clone()),
        trunk_out: None,
        peer: None,
        started: now,
        ringing: None,
        answered: None,
        attempts: 0,
        moved_from: None,
        other_from: None,
    }
}

/// The setup for all candidates; trunk and media are filled in for each.
fn setup(core: &Core, half: &Half, request: &Request) -> CallSetup {
    let display = request.headers.from().as_ref().and_then(NameAddr::display_name);
    CallSetup {
        call_id: half.call_id.0.to_vec(),
        epoch: core.config.epoch.0,
        trunk_id: String::new(),
        from: half.record.from.as_ref().map(|n| n.as_str().to_owned()).unwrap_or_default(),
        to: half.record.to.as_str().to_owned(),
        from_display: display.unwrap_or_default(),
        // The endpoint has refused 0 (RFC 3261 §16.3).
        max_forwards: u32::from(request.headers.max_forwards().unwrap_or(70)).saturating_sub(1),
        media: None,
        lane: Lane::of(half.leg.id).0.into(),
    }
}
