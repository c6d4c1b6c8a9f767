//! What the peer's description means for us.

use std::net::{IpAddr, SocketAddr};

use super::{direction, from_attribute};
use crate::codec::{COMFORT_NOISE, Codec};
use crate::media::{Direction, TelephoneEvent};
use crate::sdp::description::{Connection, MediaDescription, SessionDescription, value};
use crate::srtp::Crypto;

/// A codec with the payload type the peer gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The codec.
    pub codec: Codec,
    /// Its RTP payload type.
    pub payload_type: u8,
    /// Its `a=fmtp`.
    pub fmtp: Option<String>,
}

/// A format of redundant audio (RFC 2198).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redundant {
    /// Its RTP payload type.
    pub payload_type: u8,
    /// The clock, the one of what it carries.
    pub clock_rate: u32,
    /// Payload types of what it carries (`a=fmtp:121 0/0`); empty: not said.
    pub carries: Vec<u8>,
}

/// The audio stream of a peer's offer or answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMedia {
    /// Which `m=` section, from 0.
    pub section: usize,
    /// Codecs we speak, in the peer's order; never empty.
    pub codecs: Vec<Negotiated>,
    /// Telephone-event formats (RFC 4733), in the peer's order.
    pub telephone_events: Vec<TelephoneEvent>,
    /// Comfort noise (RFC 3389) at 8 kHz, if the peer takes it.
    pub comfort_noise: Option<u8>,
    /// Formats of redundant audio (RFC 2198), in the peer's order.
    pub redundant: Vec<Redundant>,
    /// Where the peer wants RTP; `None`: nowhere (`0.0.0.0`, RFC 3264 §8.4).
    pub rtp: Option<SocketAddr>,
    /// Where the peer wants RTCP.
    pub rtcp: Option<SocketAddr>,
    /// The peer takes RTCP on the RTP port (RFC 5761).
    pub rtcp_mux: bool,
    /// The peer wants VoIP metrics (`a=rtcp-xr`, RFC 3611 §5.2).
    pub rtcp_xr: bool,
    /// The one SSRC the peer says it sends (`a=ssrc`, RFC 5576 §4.1); `None` if it names several.
    pub ssrc: Option<u32>,
    /// As the **peer** sees it (RFC 3264 §5.1).
    pub direction: Direction,
    /// Milliseconds of audio per packet the peer wants.
    pub ptime_ms: Option<u32>,
    /// The most it takes (`a=maxptime`).
    pub max_ptime_ms: Option<u32>,
    /// The section is of the profile SAVP: without keys it is of no use.
    pub secure: bool,
    /// Keys of the peer that we understand (RFC 4568), in its order; empty: media is plain.
    pub crypto: Vec<Crypto>,
    /// All payload types of the section: ours must not collide with them.
    pub payload_types: Vec<u8>,
}

/// Why a description is of no use to us: 488 in an answer (RFC 3261 §21.4.26).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// Media is encrypted in a way we do not speak, as DTLS-SRTP.
    #[error("media is encrypted, with no key we understand in a=crypto")]
    Encrypted,
    /// The trunk wants encrypted media.
    #[error("media is plain, the trunk requires SRTP")]
    Plain,
    /// There is no description, or not one in the form of RFC 8866.
    #[error("there is no session description, or a malformed one")]
    Malformed,
    /// The media address is a name or missing.
    #[error("the media address is not a literal IP address")]
    NoAddress,
    /// No audio section in use.
    #[error("there is no audio stream over RTP")]
    NoAudio,
    /// None of its codecs is one of ours.
    #[error("no codec in common")]
    NoCommonCodec,
}

impl NegotiationError {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Encrypted,
        Self::Plain,
        Self::Malformed,
        Self::NoAddress,
        Self::NoAudio,
        Self::NoCommonCodec,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Plain => "plain",
            Self::Malformed => "malformed",
            Self::NoAddress => "no_address",
            Self::NoAudio => "no_audio",
            Self::NoCommonCodec => "no_common_codec",
        }
    }
}

impl RemoteMedia {
    /// The first audio section of an offer that we can use; with `encrypted`, of those with keys.
    pub fn from_offer(
        offer: &SessionDescription,
        encrypted: bool,
    ) -> Result<Self, NegotiationError> {
        let mut error = NegotiationError::NoAudio;
        for (section, media) in offer.media.iter().enumerate() {
            if media.media != "audio" || media.port == 0 {
                continue;
            }
            match Self::from_section(offer, section, media) {
                Ok(remote) if encrypted && remote.crypto.is_empty() => {
                    error = NegotiationError::Plain;
                }
                Ok(remote) => return Ok(remote),
                Err(why) => error = why,
            }
        }
        Err(error)
    }

    /// The section of an answer that answers ours.
    pub fn from_answer(
        answer: &SessionDescription,
        section: usize,
    ) -> Result<Self, NegotiationError> {
        match answer.media.get(section) {
            Some(media) if media.media == "audio" && media.port != 0 => {
                let remote = Self::from_section(answer, section, media)?;
                // In an offer a line not understood is passed over; here it answers one of ours.
                let understood = !remote.crypto.is_empty() || !media.has("crypto");
                if understood { Ok(remote) } else { Err(NegotiationError::Encrypted) }
            }
            _ => Err(NegotiationError::NoAudio),
        }
    }

    fn from_section(
        description: &SessionDescription,
        section: usize,
        media: &MediaDescription,
    ) -> Result<Self, NegotiationError> {
        let secure = match media.protocol.as_str() {
            "RTP/AVP" | "RTP/AVPF" => false,
            "RTP/SAVP" | "RTP/SAVPF" => true,
            protocol if protocol.contains("SAVP") => return Err(NegotiationError::Encrypted),
            _ => return Err(NegotiationError::NoAudio),
        };
        let lines = media.attributes.iter().filter(|a| a.name == "crypto");
        let crypto: Vec<_> = lines.filter_map(|a| Crypto::parse(a.value.as_deref()?)).collect();
        if secure && crypto.is_empty() {
            return Err(NegotiationError::Encrypted);
        }
        let connection = media.connection.as_ref().or(description.connection.as_ref());
        let Some(Connection::Address(address)) = connection else {
            return Err(NegotiationError::NoAddress);
        };
        let formats = Formats::of(media);
        if formats.codecs.is_empty() {
            return Err(NegotiationError::NoCommonCodec);
        }
        let silent = address.is_unspecified();
        let rtcp_mux = media.has("rtcp-mux");
        let rtp = (!silent).then(|| SocketAddr::new(*address, media.port));
        Ok(Self {
            section,
            codecs: formats.codecs,
            telephone_events: formats.telephone_events,
            comfort_noise: formats.comfort_noise,
            redundant: formats.redundant,
            rtp,
            rtcp: rtp.and_then(|rtp| rtcp_address(media, rtp, rtcp_mux)),
            rtcp_mux,
            rtcp_xr: wants_voip_metrics(description, media),
            ssrc: ssrc(media),
            direction: peer_direction(description, media, silent),
            ptime_ms: milliseconds("ptime", description, media),
            max_ptime_ms: milliseconds("maxptime", description, media),
            secure,
            crypto,
            payload_types: formats.payload_types,
        })
    }

    /// The telephone-event format that goes with a codec: of its clock rate if there is one.
    pub fn telephone_event(&self, codec: Codec) -> Option<TelephoneEvent> {
        let fitting = self.telephone_events.iter().find(|e| e.clock_rate == codec.clock_rate());
        fitting.or(self.telephone_events.first()).copied()
    }

    /// The payload type of redundant audio that carries nothing but a codec.
    pub fn redundant(&self, codec: Codec) -> Option<u8> {
        let format = self.format(codec)?.payload_type;
        let fits = |red: &&Redundant| {
            red.clock_rate == codec.clock_rate() && red.carries.iter().all(|&pt| pt == format)
        };
        self.redundant.iter().find(fits).map(|red| red.payload_type)
    }

    /// The format of a codec, if the peer has it.
    pub fn format(&self, codec: Codec) -> Option<&Negotiated> {
        self.codecs.iter().find(|n| n.codec == codec)
    }
}

/// `a=ptime` or `a=maxptime`, kept to what a packet can reasonably hold.
fn milliseconds(
    name: &str,
    description: &SessionDescription,
    media: &MediaDescription,
) -> Option<u32> {
    let text = media.attribute(name).or_else(|| value(&description.attributes, name))?;
    text.split('.').next()?.parse().ok().filter(|ms| (5..=120).contains(ms))
}

/// `a=rtcp-xr:voip-metrics …` of the section, else of the session.
fn wants_voip_metrics(description: &SessionDescription, media: &MediaDescription) -> bool {
    let said = media.attribute("rtcp-xr").or_else(|| value(&description.attributes, "rtcp-xr"));
    said.is_some_and(|formats| formats.split_ascii_whitespace().any(|f| f == "voip-metrics"))
}

/// The SSRC of `a=ssrc:1234 cname:…` lines, when they all name the same one.
fn ssrc(media: &MediaDescription) -> Option<u32> {
    let lines = media.attributes.iter().filter(|a| a.name == "ssrc");
    let mut named = lines.map(|a| a.value.as_deref()?.split(' ').next()?.parse().ok());
    let first: u32 = named.next()??;
    named.all(|other| other == Some(first)).then_some(first)
}

/// `a=rtcp:53020` or `a=rtcp:53020 IN IP4 126.16.64.4` (RFC 3605), else the next port.
fn rtcp_address(media: &MediaDescription, rtp: SocketAddr, mux: bool) -> Option<SocketAddr> {
    if mux {
        return Some(rtp);
    }
    let named = media.attribute("rtcp").and_then(|text| {
        let mut words = text.split_ascii_whitespace();
        let port: u16 = words.next()?.parse().ok()?;
        let address = words.nth(2).and_then(|a| a.parse::<IpAddr>().ok());
        Some(SocketAddr::new(address.unwrap_or(rtp.ip()), port))
    });
    named.or_else(|| Some(SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?)))
}

/// The direction attribute of the section, else of the session, else sendrecv (RFC 8866 §6.7).
/// An unspecified address takes away receiving (RFC 3264 §8.4).
fn peer_direction(
    description: &SessionDescription,
    media: &MediaDescription,
    silent: bool,
) -> Direction {
    let find = |attributes: &[crate::sdp::Attribute]| {
        attributes.iter().rev().find_map(|a| from_attribute(&a.name))
    };
    let said = find(&media.attributes).or_else(|| find(&description.attributes));
    let said = said.unwrap_or_default();
    direction(said.sends(), said.receives() && !silent)
}

#[derive(Default)]
struct Formats {
    codecs: Vec<Negotiated>,
    telephone_events: Vec<TelephoneEvent>,
    comfort_noise: Option<u8>,
    redundant: Vec<Redundant>,
    payload_types: Vec<u8>,
}

impl Formats {
    fn of(media: &MediaDescription) -> Self {
        let mut formats = Self::default();
        let types = media.formats.iter().filter_map(|f| f.parse::<u8>().ok()).filter(|t| *t < 128);
        for payload_type in types {
            formats.payload_types.push(payload_type);
            formats.add(media, payload_type);
        }
        formats
    }

    fn add(&mut self, media: &MediaDescription, payload_type: u8) {
        let mapped = numbered(media, "rtpmap", payload_type);
        let codec = match mapped {
            None => {
                if payload_type == COMFORT_NOISE {
                    self.comfort_noise = Some(payload_type);
                }
                Codec::from_static_payload_type(payload_type)
            }
            Some(text) => {
                let mut parts = text.split('/');
                let name = parts.next().unwrap_or_default().trim();
                let clock_rate = parts.next().and_then(|c| c.trim().parse().ok()).unwrap_or(0);
                if name.eq_ignore_ascii_case("telephone-event") && clock_rate != 0 {
                    self.telephone_events.push(TelephoneEvent { payload_type, clock_rate });
                }
                if name.eq_ignore_ascii_case("CN") && clock_rate == 8_000 {
                    self.comfort_noise.get_or_insert(payload_type);
                }
                if name.eq_ignore_ascii_case("red") && clock_rate != 0 {
                    let carries = numbered(media, "fmtp", payload_type).unwrap_or_default();
                    let carries = carries.split('/').filter_map(|pt| pt.trim().parse().ok());
                    let carries = carries.collect();
                    self.redundant.push(Redundant { payload_type, clock_rate, carries });
                }
                Codec::from_name(name).filter(|codec| codec.clock_rate() == clock_rate)
            }
        };
        if let Some(codec) = codec.filter(|c| self.codecs.iter().all(|n| n.codec != *c)) {
            let fmtp = numbered(media, "fmtp", payload_type).map(str::to_owned);
            self.codecs.push(Negotiated { codec, payload_type, fmtp });
        }
    }
}

/// The value of `a=rtpmap:<type> …` or `a=fmtp:<type> …`.
fn numbered<'a>(media: &'a MediaDescription, name: &str, payload_type: u8) -> Option<&'a str> {
    media.attributes.iter().filter(|a| a.name == name).find_map(|a| {
        let (number, rest) = a.value.as_deref()?.split_once(' ')?;
        (number.parse() == Ok(payload_type)).then(|| rest.trim())
    })
}
