//! SDP of an endpoint (RFC 8866, offer/answer RFC 3264): one audio line, 20 ms.
//!
//! Read and written here and not by pop-core, on purpose: an instrument that shared the parser of
//! what it measures would share its mistakes. Keys and ciphers (RFC 4568, 3711) are pop-core's: libsrtp
//! and baresip are the witnesses for those.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use pop_core::codec::Codec;
use pop_core::srtp::{Crypto, MasterKey};

/// Payload type of telephone events in our offers (RFC 4733 §2.4).
const EVENT_TYPE: u8 = 101;
const SECURE: &str = "RTP/SAVP";

/// What offer and answer agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) codec: Codec,
    pub(super) payload_type: u8,
    pub(super) event_type: Option<u8>,
    pub(super) remote: SocketAddr,
    /// The far side wants to hear us.
    pub(super) wanted: bool,
    /// The far side's key; `None`: media is plain.
    pub(super) key: Option<MasterKey>,
}

/// This side of a session.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    pub(super) local: SocketAddr,
    /// For media that is encrypted (RFC 4568).
    pub(super) key: MasterKey,
    /// `None`: whatever the other side offers.
    pub(super) secure: Option<bool>,
    /// The far side is on hold (RFC 3264 §8.4).
    pub(super) holds: bool,
    /// Descriptions written (RFC 3264 §8).
    pub(super) version: u32,
}

impl Ours {
    /// An offer of these codecs, in this order.
    pub(super) fn offer(&mut self, codecs: &[Codec]) -> String {
        let formats: Vec<_> = codecs.iter().map(|c| (*c, c.offered_payload_type())).collect();
        self.propose(&formats, Some(EVENT_TYPE))
    }

    /// An offer of what is agreed on.
    pub(super) fn offer_again(&mut self, agreed: &Agreed) -> String {
        self.propose(&[(agreed.codec, agreed.payload_type)], agreed.event_type)
    }

    fn propose(&mut self, formats: &[(Codec, u8)], event_type: Option<u8>) -> String {
        let crypto = Crypto { tag: 1, key: self.key.clone() };
        let crypto = self.secure.unwrap_or(false).then_some(crypto);
        let direction = if self.holds { "sendonly" } else { "sendrecv" };
        self.write(formats, event_type, crypto.as_ref(), direction)
    }

    /// Our answer to an offer: its first codec that we accept.
    pub(super) fn answer(
        &mut self,
        offer: &[u8],
        accept: &[Codec],
    ) -> Result<(Agreed, String), String> {
        let offered = read(offer)?;
        let (codec, payload_type) = *offered
            .formats
            .iter()
            .find(|(codec, _)| accept.contains(codec))
            .ok_or("no codec in common")?;
        let crypto = self.crypto(&offered)?;
        let ours = crypto.as_ref().map(|crypto| Crypto { tag: crypto.tag, key: self.key.clone() });
        let direction = match (offered.sends && !self.holds, offered.hears) {
            (true, true) => "sendrecv",
            (true, false) => "recvonly",
            (false, true) => "sendonly",
            (false, false) => "inactive",
        };
        let (event_type, remote) = (offered.event_type, offered.remote);
        let (wanted, key) = (offered.hears, crypto.map(|crypto| crypto.key));
        let agreed = Agreed { codec, payload_type, event_type, remote, wanted, key };
        let formats = [(codec, payload_type)];
        let text = self.write(&formats, offered.event_type, ours.as_ref(), direction);
        Ok((agreed, text))
    }

    /// What the far side's answer to our offer means.
    pub(super) fn agreed(&self, answer: &[u8]) -> Result<Agreed, String> {
        let answer = read(answer)?;
        let first = answer.formats.first();
        let (codec, payload_type) = *first.ok_or("the answer has no codec of ours")?;
        let key = self.crypto(&answer)?.map(|crypto| crypto.key);
        let (event_type, remote, wanted) = (answer.event_type, answer.remote, answer.hears);
        Ok(Agreed { codec, payload_type, event_type, remote, wanted, key })
    }

    /// The line with the far side's key that goes with ours; an error if encryption is not as it
    /// was, or as we asked.
    fn crypto(&self, theirs: &Remote) -> Result<Option<Crypto>, String> {
        if self.secure.is_some_and(|secure| secure != theirs.secure) {
            return Err(if theirs.secure { "encrypted media" } else { "plain media" }.into());
        }
        if !theirs.secure {
            return Ok(None);
        }
        let fits = |crypto: &&Crypto| crypto.key.profile() == self.key.profile();
        let found = theirs.cryptos.iter().find(fits).cloned();
        found.map(Some).ok_or_else(|| "no cipher in common".into())
    }

    fn write(
        &mut self,
        formats: &[(Codec, u8)],
        event_type: Option<u8>,
        crypto: Option<&Crypto>,
        direction: &str,
    ) -> String {
        self.version += 1;
        let ip = self.local.ip();
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        let mut types: Vec<u8> = formats.iter().map(|(_, t)| *t).collect();
        types.extend(event_type);
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        let mut text = format!(
            "v=0\r\no=lab {port} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\n\
             t=0 0\r\nm=audio {port} {profile} {types}\r\n",
            port = self.local.port(),
            version = self.version,
            profile = if crypto.is_some() { SECURE } else { "RTP/AVP" },
            types = types.join(" "),
        );
        for (codec, payload_type) in formats {
            let channels = if codec.channels() == 2 { "/2" } else { "" };
            let (name, clock) = (codec.name(), codec.clock_rate());
            // Writing to a String cannot fail.
            let _ok = write!(text, "a=rtpmap:{payload_type} {name}/{clock}{channels}\r\n");
        }
        if let Some(event) = event_type {
            let _ok =
                write!(text, "a=rtpmap:{event} telephone-event/8000\r\na=fmtp:{event} 0-15\r\n");
        }
        if let Some(crypto) = crypto {
            let _ok = write!(text, "a=crypto:{crypto}\r\n");
        }
        let _ok = write!(text, "a=ptime:20\r\na={direction}\r\n");
        text
    }
}

struct Remote {
    formats: Vec<(Codec, u8)>,
    event_type: Option<u8>,
    remote: SocketAddr,
    secure: bool,
    cryptos: Vec<Crypto>,
    sends: bool,
    hears: bool,
}

fn read(sdp: &[u8]) -> Result<Remote, String> {
    let text = String::from_utf8_lossy(sdp);
    let lines: Vec<&str> = text.lines().collect();
    let values = |key: &'static str| lines.iter().filter_map(move |l| l.strip_prefix(key));
    let mut media = values("m=audio ").next().ok_or("no audio line")?.split_whitespace();
    let port: u16 = media.next().and_then(|p| p.parse().ok()).ok_or("a bad audio port")?;
    if port == 0 {
        return Err("the audio line was refused".into());
    }
    let secure = media.next() == Some(SECURE);
    // The media-level address comes last and wins over the session's.
    let connection = values("c=").next_back().ok_or("no connection address")?;
    let ip: IpAddr = connection
        .split_whitespace()
        .nth(2)
        .and_then(|a| a.split('/').next())
        .and_then(|a| a.parse().ok())
        .ok_or("a bad connection address")?;
    let maps: Vec<(u8, &str)> = values("a=rtpmap:")
        .filter_map(|map| map.split_once(' '))
        .filter_map(|(t, name)| Some((t.parse().ok()?, name.trim())))
        .collect();
    let is = |direction: &str| lines.contains(&direction);
    let inactive = is("a=inactive");
    let mut remote = Remote {
        formats: Vec::new(),
        event_type: None,
        remote: SocketAddr::new(ip, port),
        secure,
        cryptos: values("a=crypto:").filter_map(Crypto::parse).collect(),
        sends: !inactive && !is("a=recvonly"),
        hears: !inactive && !is("a=sendonly"),
    };
    for payload_type in media.filter_map(|t| t.parse::<u8>().ok()) {
        let mapped = maps.iter().find(|(t, _)| *t == payload_type).map(|(_, name)| *name);
        let name = mapped.and_then(|name| name.split('/').next()).unwrap_or_default();
        let codec = match mapped {
            None => Codec::from_static_payload_type(payload_type),
            Some(_) => Codec::from_name(name),
        };
        remote.formats.extend(codec.map(|codec| (codec, payload_type)));
        let is_event = mapped.is_some_and(|m| m.eq_ignore_ascii_case("telephone-event/8000"));
        if is_event {
            remote.event_type.get_or_insert(payload_type);
        }
    }
    Ok(remote)
}

#[cfg(test)]
mod tests {
    use pop_core::srtp::Profile;

    use super::*;

    fn ours(local: &str, key: u8) -> Ours {
        let key = MasterKey::new(Profile::AesCm128HmacSha1Tag80, &[key; 30]).unwrap();
        let local = local.parse().unwrap();
        Ours { local, key, secure: None, holds: false, version: 0 }
    }

    fn pair() -> (Ours, Ours) {
        (ours("127.0.1.2:4000", 7), ours("127.0.2.2:5000", 8))
    }

    #[test]
    fn an_offer_is_answered_with_the_first_codec_in_common() {
        let (mut here, mut there) = pair();
        let offer = here.offer(&Codec::ALL);
        let (ours, text) = there.answer(offer.as_bytes(), &[Codec::Opus, Codec::Pcma]).unwrap();
        assert_eq!((ours.codec, ours.payload_type), (Codec::Pcma, 8));
        assert_eq!((ours.remote, ours.event_type), (here.local, Some(101)));
        let theirs = here.agreed(text.as_bytes()).unwrap();
        assert_eq!((theirs.codec, theirs.remote), (Codec::Pcma, there.local));
        assert!(theirs.key.is_none() && theirs.wanted);
        assert!(there.answer(offer.as_bytes(), &[]).is_err());
    }

    #[test]
    fn who_is_held_hears_and_is_not_heard() {
        let (mut here, mut there) = pair();
        here.holds = true;
        let offer = here.offer(&[Codec::Pcmu]);
        let (held, text) = there.answer(offer.as_bytes(), &[Codec::Pcmu]).unwrap();
        assert!(!held.wanted && text.contains("a=recvonly"), "{text}");
        assert!(here.agreed(text.as_bytes()).unwrap().wanted);
        // Whoever holds goes on holding when the other side offers anew.
        let again = there.offer_again(&held);
        assert!(again.contains("o=lab 5000 2"), "{again}");
        let (_, text) = here.answer(again.as_bytes(), &[Codec::Pcmu]).unwrap();
        assert!(text.contains("a=sendonly"), "{text}");
    }

    #[test]
    fn keys_go_both_ways_or_there_is_no_session() {
        let (mut here, mut there) = pair();
        here.secure = Some(true);
        let offer = here.offer(&[Codec::Pcmu]);
        assert!(offer.contains("RTP/SAVP") && offer.contains("a=crypto:1 AES_CM_128"), "{offer}");
        let (agreed, text) = there.answer(offer.as_bytes(), &[Codec::Pcmu]).unwrap();
        assert_eq!(agreed.key.as_ref(), Some(&here.key));
        assert_eq!(here.agreed(text.as_bytes()).unwrap().key, Some(there.key.clone()));
        there.secure = Some(false);
        assert!(there.answer(offer.as_bytes(), &[Codec::Pcmu]).is_err());
        let plain = there.offer(&[Codec::Pcmu]);
        assert!(here.answer(plain.as_bytes(), &[Codec::Pcmu]).is_err());
    }

    #[test]
    fn foreign_payload_types_and_bare_static_ones_are_understood() {
        let sdp = b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 6000 RTP/AVP 96 0 97\r\n\
            c=IN IP4 10.0.0.2\r\na=rtpmap:96 OPUS/48000/2\r\na=rtpmap:97 telephone-event/8000\r\n";
        let read = read(sdp).unwrap();
        assert_eq!(read.formats, [(Codec::Opus, 96), (Codec::Pcmu, 0)]);
        assert_eq!((read.event_type, read.remote), (Some(97), "10.0.0.2:6000".parse().unwrap()));
    }

    #[test]
    fn refusals_and_junk_are_errors() {
        assert!(read(b"v=0\r\nc=IN IP4 1.2.3.4\r\nm=audio 0 RTP/AVP 0\r\n").is_err());
        assert!(read(b"\xff\x00garbage").is_err());
        assert!(read(b"c=IN IP4 x\r\nm=audio 5 RTP/AVP 0\r\n").is_err());
    }
}
