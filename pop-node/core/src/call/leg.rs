//! One side of a call at this POP: a SIP peer, a media port, an offer/answer session.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use proto::call::Media;
use proto::id::{LegId, StreamId, TrunkId};
use proto::time::Instant;

use super::media::{self, Treatment};
use super::{CallKey, Link};
use crate::codec::{Codec, EncoderConfig};
use crate::media::{
    Direction, Far, Lane, LegParams, MediaCommand, QualityReport, Stream, Timeline,
};
use crate::pop::core::Core;
use crate::pop::index::Handle;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::{
    Carried, Description, LocalSession, NegotiationError, RemoteMedia, Security, both, reversed,
};
use crate::sip::digest::{self, Credentials};
use crate::sip::{
    CSeq, Dialog, Flow, HeaderName, NameAddr, Request, Response, Text, Transport, Uri,
};
use crate::view::Block;

/// What SDP bodies are called.
pub(crate) const SDP: &str = "application/sdp";

/// What offer and answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) codec: Codec,
    pub(crate) telephone_event: bool,
    /// Ours.
    pub(crate) direction: Direction,
}

/// The media of the other half, as it told us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FarMedia {
    /// What is between the halves.
    pub(crate) codec: Codec,
    pub(crate) telephone_event: bool,
    pub(crate) send: StreamId,
    /// Milliseconds per packet it wants, and what of Opus.
    pub(crate) ptime_ms: u32,
    pub(crate) opus: Option<EncoderConfig>,
    /// Its peer takes comfort noise.
    pub(crate) comfort_noise: bool,
}

#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) id: LegId,
    pub(crate) trunk: TrunkId,
    /// Codecs the trunk may use, in its order.
    pub(crate) allowed: Vec<Codec>,
    pub(crate) treatment: Treatment,
    pub(crate) flow: Flow,
    pub(crate) call_id: Text,
    pub(crate) tag: Text,
    pub(crate) agreed: Option<Agreed>,
    pub(crate) remote: Option<RemoteMedia>,
    /// The latest report, until the last one comes.
    pub(crate) quality: Option<QualityReport>,
    /// What it received over time.
    pub(crate) timeline: Timeline,
    session: LocalSession,
    /// What our last offer or answer said.
    described: Option<Description>,
    /// That was at another POP, and nothing was said here yet.
    resumed: bool,
    credentials: Option<Credentials>,
    connected: Option<Far>,
    peers: Vec<IpAddr>,
    /// The trunk's sources: its media may come from there.
    sources: Vec<Block>,
    closed: bool,
    /// Media ports that another program had.
    taken: u32,
}

/// Ports tried for one leg before its call is refused.
const PORT_TRIES: u32 = 8;

/// What identifies a leg at its beginning.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) id: LegId,
    pub(crate) trunk: TrunkId,
    pub(crate) flow: Flow,
    pub(crate) call_id: Text,
    /// Our tag, if the dialog began at another POP.
    pub(crate) tag: Option<Text>,
}

impl Leg {
    /// Must media of this leg be encrypted?
    pub(crate) const fn insists_on_srtp(&self) -> bool {
        self.session.security().insists()
    }

    /// The regular report.
    pub(crate) fn measured(&mut self, report: QualityReport) {
        if let Some(point) = report.point {
            self.timeline.push(point);
        }
        self.quality = Some(report);
    }

    /// Takes a media port and opens it; `None` if there is none left or the trunk is gone.
    pub(crate) fn open(
        key: CallKey,
        opening: Opening,
        core: &mut Core,
        now: Instant,
    ) -> Option<Self> {
        let Opening { id, trunk, flow, call_id, tag } = opening;
        let config = core.view.trunk(&trunk)?;
        let allowed = media::trunk_codecs(config);
        let treatment = Treatment::of(config);
        let policy = media::security(config);
        let credentials = config.outbound_auth.as_ref().map(|auth| Credentials {
            username: auth.username.clone(),
            password: auth.password.clone(),
        });
        let sources = config.sources.iter().filter_map(|text| Block::parse(text)).collect();
        let port = core.ports.take(Lane::of(id), now)?;
        let local = SocketAddr::new(core.config.media_address, port);
        let tag = tag.unwrap_or_else(|| core.endpoint.new_token());
        *core.trunk_calls.entry(trunk.clone()).or_default() += 1;
        core.index.add(Handle::Leg(id), key);
        core.index.add(Handle::Dialog(call_id.clone(), tag.clone()), key);
        core.media(MediaCommand::OpenLeg { leg: id, local });
        let security = Security::new(policy, core.key_source());
        let session = LocalSession::new(core.random(), local.ip(), port, security);
        let mut leg = Self {
            id,
            trunk,
            allowed,
            treatment,
            flow,
            call_id,
            tag,
            agreed: None,
            remote: None,
            quality: None,
            timeline: Timeline::default(),
            session,
            described: None,
            resumed: false,
            credentials,
            connected: None,
            peers: Vec::new(),
            sources,
            closed: false,
            taken: 0,
        };
        leg.meet(flow.remote.ip(), core, now);
        Some(leg)
    }

    /// Another program has our port: opens another; false if there is none, or too many were tried.
    /// Nothing may have been described yet.
    pub(crate) fn open_another(&mut self, core: &mut Core, now: Instant) -> bool {
        self.taken += 1;
        if self.described.is_some() && !self.resumed || self.taken >= PORT_TRIES {
            return false;
        }
        // It rests as any other: the program may be gone by then.
        let lane = Lane::of(self.id);
        let Some(port) = core.ports.take(lane, now) else { return false };
        core.ports.give_back(lane, self.session.port, now);
        self.session.port = port;
        let local = SocketAddr::new(self.session.address, port);
        core.media(MediaCommand::OpenLeg { leg: self.id, local });
        true
    }

    /// The peer may speak to us from there; of a closed leg, as long as its last transactions live.
    pub(crate) fn meet(&mut self, address: IpAddr, core: &mut Core, now: Instant) {
        if address.is_unspecified() || self.peers.contains(&address) {
            return;
        }
        core.peers.meet(address);
        if self.closed {
            core.peers.part(address, now);
        } else {
            self.peers.push(address);
        }
    }

    /// Gives everything back but the SIP dialog.
    pub(crate) fn close(&mut self, core: &mut Core, now: Instant) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        core.media(MediaCommand::CloseLeg { leg: self.id });
        core.index.remove(&Handle::Leg(self.id));
        core.ports.give_back(Lane::of(self.id), self.session.port, now);
        for address in self.peers.drain(..) {
            core.peers.part(address, now);
        }
        if let Some(calls) = core.trunk_calls.get_mut(&self.trunk) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                core.trunk_calls.remove(&self.trunk);
            }
        }
    }

    /// Our Contact (RFC 3261 §8.1.1.8).
    pub(crate) fn contact(flow: &Flow) -> NameAddr {
        NameAddr::new(Uri::sip(None, flow.local).with_transport(flow.transport))
    }

    /// Where requests in a dialog go. A connection is kept for the whole dialog, because the port a
    /// TCP peer connected from is not the one it names.
    pub(crate) fn dialog_flow(&mut self, dialog: &Dialog, core: &mut Core, now: Instant) -> Flow {
        let mut flow = self.flow;
        if flow.transport == Transport::Udp
            && let Some(remote) = dialog.next_hop().socket_addr()
            && remote.is_ipv4() == flow.local.is_ipv4()
        {
            flow.remote = remote;
            self.meet(remote.ip(), core, now);
        }
        flow
    }

    /// The connection of the dialog died: from now on a new one to its next hop (RFC 3261 §18.4,
    /// §12.2.1.1). False if there is no such way.
    pub(crate) fn reconnect(&mut self, dialog: &Dialog, core: &mut Core, now: Instant) -> bool {
        if self.flow.transport != Transport::Tcp {
            return false;
        }
        let named = dialog.next_hop().socket_addr();
        // What we dialed once can be dialed again; where a peer came from cannot.
        let dialed = (self.flow.connection == 0).then_some(self.flow.remote);
        let same_family = |remote: &SocketAddr| remote.is_ipv4() == self.flow.local.is_ipv4();
        let Some(remote) = named.filter(same_family).or(dialed) else { return false };
        self.flow = Flow { remote, connection: 0, ..self.flow };
        self.meet(remote.ip(), core, now);
        true
    }

    /// What another POP needs to go on with the session; `None` before there is one.
    pub(super) fn carry(&self) -> Option<(Carried, &Description)> {
        self.session.carry().zip(self.described.as_ref())
    }

    /// Other POPs spoke for this leg meanwhile, so many at most.
    pub(super) fn skip_versions(&mut self, times: u32) {
        self.session.skip_versions(times);
    }

    /// Goes on with the session of another POP.
    pub(super) fn resume(&mut self, carried: Carried, described: Description) {
        self.session.resume(carried);
        self.described = Some(described);
        self.resumed = true;
    }

    /// The next offer goes to another server of the trunk.
    pub(crate) fn restart_security(&mut self) {
        self.session.restart_security();
    }

    /// What our last offer or answer said, to be said again.
    pub(crate) fn offer_again(&mut self) -> Option<Bytes> {
        let what = self.described.clone()?;
        Some(self.offer(what))
    }

    /// Our offer (RFC 3264 §5).
    pub(crate) fn offer(&mut self, what: Description) -> Bytes {
        let what = self.treatment.describe(what);
        let bytes = self.session.offer(&what);
        self.resumed = false;
        self.described = Some(what);
        bytes
    }

    /// Our answer to `offer` with one codec, and its consequences for the media plane.
    pub(crate) fn answer(
        &mut self,
        offer: &SessionDescription,
        remote: RemoteMedia,
        what: Description,
        core: &mut Core,
    ) -> Bytes {
        let what = self.treatment.describe(what);
        let bytes = self.session.answer(offer, &remote, &what);
        self.resumed = false;
        let codec = what.codecs.first().copied();
        self.described = Some(what);
        if let Some(codec) = codec {
            self.settle(remote, codec, core);
        }
        bytes
    }

    /// The same answer as before, for an offer that changes nothing but perhaps the address.
    pub(crate) fn answer_again(
        &mut self,
        offer: &SessionDescription,
        remote: RemoteMedia,
        core: &mut Core,
    ) -> Option<Bytes> {
        let agreed = self.agreed?;
        let mut what = self.described.clone()?;
        what.codecs = vec![agreed.codec];
        what.telephone_event = agreed.telephone_event;
        what.direction = agreed.direction;
        Some(self.answer(offer, remote, what, core))
    }

    /// What the peer's description means for the other half.
    pub(crate) fn to_far(&self, remote: &RemoteMedia, receive: StreamId) -> Media {
        media::to_far(remote, (&self.allowed, self.treatment), receive)
    }

    /// The peer's answer to our offer; `None` if it is of no use, which is counted.
    pub(crate) fn accept_answer(&mut self, body: &[u8], core: &mut Core) -> Option<Agreed> {
        match self.read_answer(body) {
            Ok((remote, codec)) => {
                self.settle(remote, codec, core);
                self.agreed
            }
            Err(reason) => {
                core.counters.refuse_answer(reason);
                None
            }
        }
    }

    fn read_answer(&mut self, body: &[u8]) -> Result<(RemoteMedia, Codec), NegotiationError> {
        let answer = SessionDescription::parse(body).map_err(|_| NegotiationError::Malformed)?;
        let remote = RemoteMedia::from_answer(&answer, self.session.section())?;
        let offered = self.described.as_ref().map_or(&[][..], |described| &described.codecs);
        let mut codecs = remote.codecs.iter().map(|n| n.codec);
        let codec = codecs.find(|codec| offered.contains(codec));
        let codec = codec.ok_or(NegotiationError::NoCommonCodec)?;
        self.session.accept(&remote)?;
        Ok((remote, codec))
    }

    fn settle(&mut self, remote: RemoteMedia, codec: Codec, core: &mut Core) {
        let Some(described) = &self.described else { return };
        let Some(format) = self.treatment.format(&remote, codec) else { return };
        let event = remote.telephone_event(codec).filter(|_| described.telephone_event);
        let direction = both(described.direction, reversed(remote.direction));
        let mut trusted = self.sources.clone();
        trusted.push(Block::host(self.flow.remote.ip()));
        let params = LegParams {
            remote_rtp: remote.rtp,
            remote_rtcp: remote.rtcp,
            remote_ssrc: remote.ssrc,
            trusted,
            rtcp_mux: remote.rtcp_mux,
            rtcp_xr: remote.rtcp_xr,
            codec: format,
            telephone_event: event,
            offered_telephone_event: event
                .and_then(|event| self.session.offered_telephone_event(event.clock_rate)),
            comfort_noise: remote.comfort_noise,
            redundant: remote.redundant(codec),
            offered_redundant: self.session.offered_redundant().filter(|_| codec == Codec::Opus),
            copies: self.treatment.copies(codec),
            suppress_noise: self.treatment.noise_suppression,
            direction,
            srtp: self.session.security().keys().cloned().map(Box::new),
        };
        self.agreed = Some(Agreed { codec, telephone_event: event.is_some(), direction });
        self.remote = Some(remote);
        core.media(MediaCommand::SetLeg { leg: self.id, params });
    }

    /// Joins the leg with the other half.
    pub(crate) fn connect(&mut self, far: Far, core: &mut Core) {
        if self.connected.as_ref() != Some(&far) {
            self.connected = Some(far.clone());
            core.media(MediaCommand::Connect { leg: self.id, to: far });
        }
    }

    pub(crate) fn disconnect(&mut self, core: &mut Core) {
        if self.connected.take().is_some() {
            core.media(MediaCommand::Disconnect { leg: self.id });
        }
    }

    /// The same request with credentials and the next CSeq (RFC 3261 §22.2); `None` if we have no
    /// credentials for this challenge.
    pub(crate) fn authorized(
        &self,
        request: &Request,
        challenge: &Response,
        core: &mut Core,
    ) -> Option<Request> {
        let cnonce = core.endpoint.new_token();
        let credentials = self.credentials.as_ref()?;
        let (name, value) = digest::answer(challenge, request, credentials, &cnonce)?;
        let CSeq { number, method } = request.headers.cseq()?;
        let mut again = request.clone();
        let cseq = CSeq { number: number.checked_add(1)?, method };
        again.headers.set(HeaderName::CSeq, &cseq);
        again.headers.set(name, value);
        Some(again)
    }
}

impl FarMedia {
    /// From the other half's offer or answer; `None` without a codec we know.
    pub(crate) fn of(media: &Media, codec: Option<Codec>) -> Option<Self> {
        Some(Self::with(media, codec.or_else(|| media::codecs(media).first().copied())?))
    }

    /// From the other half's offer, with what is between the halves.
    pub(crate) fn with(media: &Media, codec: Codec) -> Self {
        Self {
            codec,
            telephone_event: media.telephone_event,
            send: StreamId(media.stream),
            ptime_ms: media::ptime_ms(media),
            opus: media.opus.as_ref().map(media::opus_from_proto),
            comfort_noise: media.comfort_noise,
        }
    }

    /// For another POP.
    pub(super) fn to_proto(self) -> Media {
        Media {
            codecs: vec![media::to_proto(self.codec)],
            telephone_event: self.telephone_event,
            ptime_ms: self.ptime_ms,
            opus: self.opus.and_then(|opus| media::opus_to_proto(Some(&opus.to_fmtp()))),
            comfort_noise: self.comfort_noise,
            ..Media::default()
        }
    }

    /// The far side for the media plane.
    pub(crate) fn far(
        self,
        link: &Link,
        (leg, receive): (LegId, StreamId),
        peer_leg: Option<LegId>,
    ) -> Option<Far> {
        match link {
            Link::Local(_) => peer_leg.map(Far::Leg),
            Link::Remote(stream) => Some(Far::Stream(Stream {
                peer: stream.peer.clone(),
                lane: Lane::of(leg),
                send: self.send,
                receive,
                codec: self.codec,
                telephone_event: self.telephone_event,
                ptime_ms: self.ptime_ms,
                fmtp: self.opus.map(EncoderConfig::to_fmtp),
            })),
        }
    }
}
