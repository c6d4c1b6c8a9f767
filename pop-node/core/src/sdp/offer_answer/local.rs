//! Our own descriptions of one leg, over its whole life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bytes::Bytes;

use super::{NegotiationError, RemoteMedia, Security, attribute};
use crate::codec::{COMFORT_NOISE, Codec, EncoderConfig};
use crate::media::{Direction, TelephoneEvent};
use crate::sdp::description::{
    Attribute, Connection, MediaDescription, Origin, SessionDescription,
};
use crate::srtp::{Crypto, Profile};

/// Dynamic payload types (RFC 3551 §6).
const DYNAMIC: std::ops::RangeInclusive<u8> = 96..=127;

/// What one of our descriptions shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// In order of preference.
    pub codecs: Vec<Codec>,
    /// Whether we take telephone events (RFC 4733).
    pub telephone_event: bool,
    /// Whether comfort noise (RFC 3389) is of use to us.
    pub comfort_noise: bool,
    /// What we are ready to do.
    pub direction: Direction,
    /// Milliseconds of audio per packet we would like.
    pub ptime_ms: u32,
    /// What we want to receive of Opus.
    pub opus: EncoderConfig,
    /// Whether redundant audio (RFC 2198) of Opus is offered; it is answered in any case.
    pub redundant: bool,
}

/// Our side of one offer/answer session.
#[derive(Debug, Clone)]
pub struct LocalSession {
    /// `o=` session id.
    pub id: u64,
    /// Where we receive RTP; RTCP one port above.
    pub address: IpAddr,
    /// RTP port.
    pub port: u16,
    codecs: BTreeMap<Codec, u8>,
    /// By clock rate.
    telephone_events: BTreeMap<u32, u8>,
    /// The same in our last offer; an answer does not change these.
    offered_events: BTreeMap<u32, u8>,
    /// Redundant audio of Opus.
    redundant: Option<u8>,
    /// The same in our last offer.
    offered_redundant: Option<u8>,
    used: BTreeSet<u8>,
    /// The sections agreed so far; the one in use is `section`.
    sections: Vec<MediaDescription>,
    section: usize,
    security: Security,
    /// `o=` address: of the POP where the session began (RFC 3264 §8).
    origin: String,
    /// The last one sent.
    sent: Option<SessionDescription>,
}

/// A session as it goes on at another POP. Keys are not in it: the next offer has new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Our last description.
    pub sent: SessionDescription,
    /// Which of its sections is in use.
    pub section: usize,
    /// Media is encrypted so, and has to be.
    pub encrypted: Option<Profile>,
    /// The profile of that section is RTP/SAVP.
    pub secure_profile: bool,
}

impl LocalSession {
    /// Before any description. `id` should be random.
    pub fn new(id: u64, address: IpAddr, port: u16, security: Security) -> Self {
        Self {
            // Kept below 2^62: some peers read it as a signed number.
            id: id >> 2,
            address,
            port,
            codecs: BTreeMap::new(),
            telephone_events: BTreeMap::new(),
            offered_events: BTreeMap::new(),
            redundant: None,
            offered_redundant: None,
            used: BTreeSet::new(),
            sections: Vec::new(),
            section: 0,
            security,
            origin: address.to_string(),
            sent: None,
        }
    }

    /// What another POP needs to go on; `None` before the first description.
    pub fn carry(&self) -> Option<Carried> {
        let mut sent = self.sent.clone()?;
        let section = self.section;
        let mut secure_profile = false;
        for (number, media) in sent.media.iter_mut().enumerate() {
            media.attributes.retain(|attribute| attribute.name != "crypto");
            secure_profile |= number == section && media.protocol.contains("SAVP");
            media.protocol = media.protocol.replace("SAVP", "AVP");
        }
        let encrypted = self.security.keys().map(|keys| keys.send.profile());
        Some(Carried { sent, section, encrypted, secure_profile })
    }

    /// Goes on with a session that another POP began: the same session id, payload types and
    /// sections, at our own address.
    pub fn resume(&mut self, carried: Carried) {
        let Carried { mut sent, section, encrypted, secure_profile } = carried;
        // Our own words: the payload types in them keep their meaning (RFC 3264 §8.3.2).
        if let Ok(own) = RemoteMedia::from_answer(&sent, section) {
            self.learn(&own);
        }
        if let Some(media) = sent.media.get_mut(section).filter(|_| secure_profile) {
            media.protocol = media.protocol.replace("AVP", "SAVP");
        }
        self.id = sent.origin.id;
        self.origin = sent.origin.address.clone();
        self.section = section;
        self.sections = sent.media.clone();
        self.security.resume(encrypted);
        self.sent = Some(sent);
    }

    /// Which section carries our audio.
    pub const fn section(&self) -> usize {
        self.section
    }

    /// Whether media is encrypted.
    pub const fn security(&self) -> &Security {
        &self.security
    }

    /// An offer (RFC 3264 §5, §8).
    pub fn offer(&mut self, what: &Description) -> Bytes {
        let first = self.security.protocol();
        let protocol = self.sections.get(self.section).map_or(first, |m| &m.protocol);
        let mut protocol = protocol.to_owned();
        let lines = self.security.offer(&mut protocol);
        let clocks = what.codecs.iter().map(|codec| codec.clock_rate()).collect();
        let mut audio = self.audio(protocol, what, clocks, false);
        audio.attributes.extend(lines.iter().map(crypto));
        if what.comfort_noise && what.codecs.iter().any(|codec| *codec != Codec::Opus) {
            add_format(&mut audio, COMFORT_NOISE, "CN/8000");
        }
        self.offered_redundant = self.add_redundant(&mut audio, what);
        self.offered_events = self.telephone_events.clone();
        let mut sections = std::mem::take(&mut self.sections);
        match sections.get_mut(self.section) {
            Some(section) => *section = audio,
            None => sections = vec![audio],
        }
        self.send(sections)
    }

    /// The number our last offer gave telephone events of a clock rate: what comes may have it
    /// although the answer named another (RFC 3264 §6.1).
    pub fn offered_telephone_event(&self, clock_rate: u32) -> Option<u8> {
        self.offered_events.get(&clock_rate).copied()
    }

    /// The same of redundant audio of Opus; `None` if the last offer had none.
    pub const fn offered_redundant(&self) -> Option<u8> {
        self.offered_redundant
    }

    /// An answer to `offer`, whose usable section is `remote` (RFC 3264 §6).
    pub fn answer(
        &mut self,
        offer: &SessionDescription,
        remote: &RemoteMedia,
        what: &Description,
    ) -> Bytes {
        self.learn(remote);
        self.section = remote.section;
        let refused = |m: &MediaDescription| MediaDescription {
            media: m.media.clone(),
            port: 0,
            protocol: m.protocol.clone(),
            formats: m.formats.clone(),
            connection: None,
            attributes: Vec::new(),
        };
        let mut sections: Vec<_> = offer.media.iter().map(refused).collect();
        if let Some(section) = sections.get_mut(remote.section) {
            // Only a telephone-event format of the offer may be answered (RFC 3264 §6.1).
            let event = what.codecs.first().and_then(|codec| remote.telephone_event(*codec));
            let clocks = event.map(|event| event.clock_rate).into_iter().collect();
            *section = self.audio(section.protocol.clone(), what, clocks, remote.rtcp_mux);
            add_agreed(section, remote, what);
            if remote.rtcp_xr {
                section.attributes.push(Attribute::with("rtcp-xr", "voip-metrics".to_owned()));
            }
            section.attributes.extend(self.security.answer(remote).iter().map(crypto));
        }
        self.send(sections)
    }

    /// So many other POPs spoke for this session meanwhile, each a few times at most: what we say next
    /// is newer than that (RFC 3264 §8).
    pub fn skip_versions(&mut self, times: u32) {
        if let Some(sent) = &mut self.sent {
            sent.origin.version = sent.origin.version.saturating_add(16 * u64::from(times));
        }
    }

    /// The next offer goes to another server of the peer: it has other keys.
    pub fn restart_security(&mut self) {
        self.security.restart();
    }

    /// Takes over what the peer's answer to our last offer says.
    pub fn accept(&mut self, remote: &RemoteMedia) -> Result<(), NegotiationError> {
        self.security.accept(remote)?;
        self.learn(remote);
        Ok(())
    }

    /// Takes over the payload types of the peer: they hold for both directions.
    fn learn(&mut self, remote: &RemoteMedia) {
        self.used.extend(&remote.payload_types);
        self.redundant = remote.redundant(Codec::Opus).or(self.redundant);
        self.codecs.extend(remote.codecs.iter().map(|n| (n.codec, n.payload_type)));
        for TelephoneEvent { payload_type, clock_rate } in &remote.telephone_events {
            self.telephone_events.insert(*clock_rate, *payload_type);
        }
    }

    fn send(&mut self, sections: Vec<MediaDescription>) -> Bytes {
        self.sections = sections;
        let mut next = SessionDescription {
            origin: Origin {
                username: "-".to_owned(),
                id: self.id,
                version: self.sent.as_ref().map_or(1, |sent| sent.origin.version),
                address: self.origin.clone(),
            },
            name: "voxmesh".to_owned(),
            connection: Some(Connection::Address(self.address)),
            attributes: Vec::new(),
            media: self.sections.clone(),
        };
        if self.sent.as_ref().is_some_and(|sent| *sent != next) {
            next.origin.version = next.origin.version.saturating_add(1);
        }
        let bytes = next.serialize();
        self.sent = Some(next);
        bytes
    }

    fn audio(
        &mut self,
        protocol: String,
        what: &Description,
        telephone_event_clocks: BTreeSet<u32>,
        mux: bool,
    ) -> MediaDescription {
        let mut media = MediaDescription {
            media: "audio".to_owned(),
            port: self.port,
            protocol,
            formats: Vec::new(),
            connection: None,
            attributes: Vec::new(),
        };
        for codec in &what.codecs {
            self.add_codec(&mut media, *codec, what.opus);
        }
        if what.telephone_event {
            for clock in telephone_event_clocks {
                self.add_telephone_event(&mut media, clock);
            }
        }
        media.attributes.push(Attribute::with("ptime", what.ptime_ms.to_string()));
        media.attributes.push(Attribute::flag(attribute(what.direction)));
        if mux {
            media.attributes.push(Attribute::flag("rtcp-mux"));
        }
        media
    }

    fn add_codec(&mut self, media: &mut MediaDescription, codec: Codec, opus: EncoderConfig) {
        let known = self.codecs.get(&codec).copied().or(codec.static_payload_type());
        let Some(number) = known.or_else(|| self.free(codec.offered_payload_type())) else {
            return;
        };
        self.used.insert(number);
        self.codecs.insert(codec, number);
        let channels = if codec.channels() == 1 { "" } else { "/2" };
        let map = format!("{number} {}/{}{channels}", codec.name(), codec.clock_rate());
        media.formats.push(number.to_string());
        media.attributes.push(Attribute::with("rtpmap", map));
        if codec == Codec::Opus {
            // Our decoder reads copies, whatever is wanted of them.
            let wanted = EncoderConfig { fec: true, ..opus }.to_fmtp();
            media.attributes.push(Attribute::with("fmtp", format!("{number} {wanted}")));
        }
    }

    /// Redundant audio of Opus, if that is to be offered; its payload type.
    fn add_redundant(&mut self, media: &mut MediaDescription, what: &Description) -> Option<u8> {
        let carried = what.codecs.contains(&Codec::Opus).then_some(&Codec::Opus);
        let format = *carried.filter(|_| what.redundant).and_then(|c| self.codecs.get(c))?;
        let number = self.redundant.or_else(|| self.free(121))?;
        self.used.insert(number);
        self.redundant = Some(number);
        add_redundant(media, number, Codec::Opus, format);
        Some(number)
    }

    fn add_telephone_event(&mut self, media: &mut MediaDescription, clock: u32) {
        let preferred = if clock == 8_000 { 101 } else { 110 };
        let known = self.telephone_events.get(&clock).copied();
        let Some(number) = known.or_else(|| self.free(preferred)) else { return };
        self.used.insert(number);
        self.telephone_events.insert(clock, number);
        media.formats.push(number.to_string());
        let map = format!("{number} telephone-event/{clock}");
        media.attributes.push(Attribute::with("rtpmap", map));
        media.attributes.push(Attribute::with("fmtp", format!("{number} 0-16")));
    }

    fn free(&self, preferred: u8) -> Option<u8> {
        std::iter::once(preferred).chain(DYNAMIC).find(|number| !self.used.contains(number))
    }
}

/// What of the offer goes with our codec: comfort noise at its clock, redundant audio of it.
fn add_agreed(section: &mut MediaDescription, remote: &RemoteMedia, what: &Description) {
    let Some(&codec) = what.codecs.first() else { return };
    if let Some(number) =
        remote.comfort_noise.filter(|_| what.comfort_noise && codec != Codec::Opus)
    {
        add_format(section, number, "CN/8000");
    }
    let format = remote.format(codec).map(|format| format.payload_type);
    if let (Some(number), Some(format)) = (remote.redundant(codec), format) {
        add_redundant(section, number, codec, format);
    }
}

/// Redundant audio that carries nothing but one format (RFC 2198 §5).
fn add_redundant(section: &mut MediaDescription, number: u8, codec: Codec, format: u8) {
    let channels = if codec.channels() == 1 { "" } else { "/2" };
    add_format(section, number, &format!("red/{}{channels}", codec.clock_rate()));
    let carries = format!("{number} {format}/{format}");
    section.attributes.push(Attribute::with("fmtp", carries));
}

fn add_format(section: &mut MediaDescription, number: u8, name: &str) {
    section.formats.push(number.to_string());
    section.attributes.push(Attribute::with("rtpmap", format!("{number} {name}")));
}

fn crypto(line: &Crypto) -> Attribute {
    Attribute::with("crypto", line.to_string())
}
