//! An answered half as data: what another POP needs to go on with it (`proto::call::Capsule`).
//!
//! No RTP state is in it, and no key: whoever takes the half over offers media of its own, with a new
//! SSRC and new keys, so no packet index is ever used twice. Of the dialog and of the session
//! description all that must stay the same is there.
//! Deliberately absent: exchanges under way. Their peer hears 491 or nothing, and asks again.

use bytes::Bytes;
use proto::call::{
    Capsule, DialogState as WireDialog, Guardian, HalfName, Media, RecordState, SessionState,
    TimerState,
};
use proto::e164::E164;
use proto::id::{CallId, Epoch, PopId, TrunkId};
use proto::time::{Duration, Instant};

use super::leg::FarMedia;
use super::session::Session;
use super::timer::Terms;
use super::{Half, Record, Side, media};
use crate::codec::Codec;
use crate::media::Direction;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::{Carried, Description};
use crate::sip::{Dialog, DialogState, NameAddr, Text, Transport, Uri};
use crate::srtp::Profile;

/// A peer that was never heard of sends one with more.
const GUARDIANS_MAX: usize = 8;
const ROUTES_MAX: usize = 32;

/// Names a half in the mesh, at whatever POP it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) call_id: CallId,
    pub(crate) side: Side,
}

impl Name {
    pub(crate) fn of(half: &Half) -> Self {
        Self { call_id: half.call_id, side: half.side }
    }

    pub(crate) fn read(name: Option<&HalfName>) -> Option<Self> {
        let name = name?;
        let side = if name.egress { Side::Egress } else { Side::Ingress };
        Some(Self { call_id: CallId::from_slice(&name.call_id)?, side })
    }

    pub(crate) fn write(self) -> HalfName {
        HalfName { call_id: self.call_id.0.to_vec(), egress: self.side == Side::Egress }
    }

    /// The other half of the same call.
    pub(crate) const fn other(self) -> Self {
        let side = match self.side {
            Side::Egress => Side::Ingress,
            Side::Ingress => Side::Egress,
        };
        Self { side, ..self }
    }
}

/// A capsule that was read: all that is in it is valid.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) name: Name,
    pub(crate) trunk: TrunkId,
    /// POP of the other half, if another.
    pub(crate) peer: Option<PopId>,
    /// With the epoch of each.
    pub(crate) guardians: Vec<(PopId, Epoch)>,
    /// With the Contact of the POP it comes from.
    pub(crate) dialog: Dialog,
    pub(crate) transport: Transport,
    /// Where requests were sent.
    pub(crate) remote: std::net::SocketAddr,
    pub(crate) carried: Carried,
    pub(crate) described: Description,
    pub(crate) codec: Codec,
    /// What the peer of the leg said it would do.
    pub(crate) direction: Direction,
    pub(crate) far: FarMedia,
    pub(crate) wish: Direction,
    pub(crate) terms: Option<Terms>,
    pub(crate) min_se_s: u32,
    pub(crate) updates: bool,
    pub(crate) record: Record,
}

impl Session {
    /// The half as it is now, without version, guardians and clock; `None` while it cannot be moved,
    /// as nothing was agreed on yet.
    pub(super) fn capsule(&self, half: &Half) -> Option<Capsule> {
        let leg = &half.leg;
        let (carried, described) = leg.carry()?;
        let (agreed, remote) = (leg.agreed?, leg.remote.as_ref()?);
        let session = SessionState {
            sent: carried.sent.serialize().to_vec(),
            section: u32::try_from(carried.section).ok()?,
            described: Some(describe(described)),
            srtp_profile: carried.encrypted.map_or("", Profile::name).to_owned(),
            codec: media::to_proto(agreed.codec),
            remote: media::direction_to_proto(remote.direction).into(),
            redundant: described.redundant,
            secure_profile: carried.secure_profile,
        };
        let flow = &leg.flow;
        Some(Capsule {
            half: Some(Name::of(half).write()),
            version: 0,
            trunk_id: leg.trunk.as_str().to_owned(),
            peer: half.peer().map(|peer| peer.as_str().to_owned()).unwrap_or_default(),
            guardians: Vec::new(),
            dialog: Some(dialog(&self.dialog)),
            remote: format!("{}:{}", flow.transport.as_param(), flow.remote),
            session: Some(session),
            far: Some(half.far?.to_proto()),
            wish: media::direction_to_proto(self.wish).into(),
            timer: Some(self.liveness.carry()),
            record: Some(record(&half.record)),
            now_ms: 0,
        })
    }
}

fn dialog(dialog: &Dialog) -> WireDialog {
    WireDialog {
        call_id: dialog.call_id.as_str().to_owned(),
        local: dialog.local.to_bytes().to_vec(),
        remote: dialog.remote.to_bytes().to_vec(),
        remote_target: dialog.remote_target.to_string().into_bytes(),
        route_set: dialog.route_set.iter().map(|route| route.to_bytes().to_vec()).collect(),
        local_cseq: dialog.local_cseq,
        remote_cseq: dialog.remote_cseq,
    }
}

fn describe(what: &Description) -> Media {
    Media {
        codecs: what.codecs.iter().map(|codec| media::to_proto(*codec)).collect(),
        direction: media::direction_to_proto(what.direction).into(),
        telephone_event: what.telephone_event,
        ptime_ms: what.ptime_ms,
        opus: media::opus_to_proto(Some(&what.opus.to_fmtp())),
        comfort_noise: what.comfort_noise,
        ..Media::default()
    }
}

fn record(record: &Record) -> RecordState {
    let number = |number: &E164| number.as_str().to_owned();
    let trunk = |trunk: &Option<TrunkId>| {
        trunk.as_ref().map(|trunk| trunk.as_str().to_owned()).unwrap_or_default()
    };
    RecordState {
        from: record.from.as_ref().map(number).unwrap_or_default(),
        to: number(&record.to),
        trunk_in: trunk(&record.trunk_in),
        trunk_out: trunk(&record.trunk_out),
        started_ms: record.started.as_millis(),
        ringing_ms: record.ringing.map(Instant::as_millis),
        answered_ms: record.answered.map(Instant::as_millis),
        attempts: record.attempts,
    }
}

impl Kept {
    /// Reads a capsule that came in at `at`; `None` if anything of it is of no use.
    pub(crate) fn read(capsule: Capsule, at: Instant) -> Option<Self> {
        let session = capsule.session?;
        let sent = SessionDescription::parse(&session.sent).ok()?;
        let section = usize::try_from(session.section).ok()?;
        sent.media.get(section)?;
        let said = session.described?;
        let codec = proto::call::Codec::try_from(session.codec).ok()?;
        let far = capsule.far?;
        let (transport, remote) = address(&capsule.remote)?;
        let timer = capsule.timer.unwrap_or_default();
        let guardian = |guardian: Guardian| {
            PopId::new(&guardian.pop_id).ok().map(|id| (id, Epoch(guardian.epoch)))
        };
        let guardians = capsule.guardians.into_iter().take(GUARDIANS_MAX).map(guardian);
        let wish = Media { direction: capsule.wish, ..Media::default() };
        let theirs = Media { direction: session.remote, ..Media::default() };
        Some(Self {
            name: Name::read(capsule.half.as_ref())?,
            trunk: TrunkId::new(&capsule.trunk_id).ok()?,
            peer: match capsule.peer.as_str() {
                "" => None,
                peer => Some(PopId::new(peer).ok()?),
            },
            guardians: guardians.collect::<Option<_>>()?,
            dialog: read_dialog(capsule.dialog?)?,
            transport,
            remote,
            carried: Carried {
                sent,
                section,
                encrypted: match session.srtp_profile.as_str() {
                    "" => None,
                    name => Some(Profile::from_name(name)?),
                },
                secure_profile: session.secure_profile,
            },
            described: read_description(&said, session.redundant)?,
            codec: Codec::try_from(codec).ok()?,
            direction: media::direction(&theirs),
            far: FarMedia::of(&far, None)?,
            wish: media::direction(&wish),
            terms: (timer.interval_s != 0).then(|| Terms {
                interval: Duration::from_secs(timer.interval_s.into()),
                ours: timer.ours,
            }),
            min_se_s: timer.min_se_s,
            updates: timer.updates,
            record: read_record(capsule.record?, capsule.now_ms, at)?,
        })
    }
}

fn address(text: &str) -> Option<(Transport, std::net::SocketAddr)> {
    let (transport, address) = text.split_once(':')?;
    let transport = match transport {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        _ => return None,
    };
    Some((transport, address.parse().ok()?))
}

fn read_dialog(dialog: WireDialog) -> Option<Dialog> {
    let name = |bytes: Vec<u8>| NameAddr::parse(&Bytes::from(bytes)).ok();
    let (local, remote) = (name(dialog.local)?, name(dialog.remote)?);
    local.tag()?;
    let routes = dialog.route_set.into_iter().take(ROUTES_MAX).map(name);
    Some(Dialog {
        state: DialogState::Confirmed,
        call_id: Text::from_bytes(Bytes::from(dialog.call_id)).ok()?,
        contact: local.clone(),
        local,
        remote,
        remote_target: Uri::parse(&Bytes::from(dialog.remote_target)).ok()?,
        route_set: routes.collect::<Option<_>>()?,
        local_cseq: dialog.local_cseq,
        remote_cseq: dialog.remote_cseq,
    })
}

fn read_description(said: &Media, redundant: bool) -> Option<Description> {
    let codecs = media::codecs(said);
    (!codecs.is_empty()).then(|| Description {
        codecs,
        telephone_event: said.telephone_event,
        comfort_noise: said.comfort_noise,
        direction: media::direction(said),
        ptime_ms: media::ptime_ms(said),
        opus: media::opus(said),
        redundant,
    })
}

fn read_record(record: RecordState, their_now: u64, at: Instant) -> Option<Record> {
    let then = |ms: u64| at.before(Duration::from_millis(their_now.saturating_sub(ms)));
    let trunk = |id: &str| match id {
        "" => Some(None),
        id => TrunkId::new(id).ok().map(Some),
    };
    Some(Record {
        from: match record.from.as_str() {
            "" => None,
            from => Some(E164::parse(from).ok()?),
        },
        to: E164::parse(&record.to).ok()?,
        trunk_in: trunk(&record.trunk_in)?,
        trunk_out: trunk(&record.trunk_out)?,
        peer: None,
        started: then(record.started_ms),
        ringing: record.ringing_ms.map(then),
        answered: record.answered_ms.map(then),
        attempts: record.attempts,
        moved_from: None,
        other_from: None,
    })
}

impl super::liveness::Liveness {
    fn carry(&self) -> TimerState {
        let (terms, min_se_s, updates) = self.agreed();
        let interval = terms.map_or(Duration::ZERO, |terms| terms.interval);
        TimerState {
            interval_s: u32::try_from(interval.as_secs()).unwrap_or(u32::MAX),
            ours: terms.is_some_and(|terms| terms.ours),
            min_se_s,
            updates,
        }
    }
}
