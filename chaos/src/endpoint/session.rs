//! SDP of an endpoint (RFC 8866, offer/answer RFC 3264): one audio line, 20 ms.
//!
//! Read and written here and not by pop-core, on purpose: an instrument that shared the parser of
//! what it measures would share its mistakes.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use pop_core::codec::Codec;

/// Payload type of telephone events in our offers (RFC 4733 §2.4).
const EVENT_TYPE: u8 = 101;

/// What offer and answer agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) codec: Codec,
    pub(super) payload_type: u8,
    pub(super) event_type: Option<u8>,
    pub(super) remote: SocketAddr,
}

/// An offer of these codecs, in this order.
pub(super) fn offer(local: SocketAddr, codecs: &[Codec]) -> String {
    let formats: Vec<_> = codecs.iter().map(|c| (*c, c.offered_payload_type())).collect();
    write(local, &formats, Some(EVENT_TYPE))
}

/// Our answer to an offer: its first codec that we accept.
pub(super) fn answer(
    offer: &[u8],
    local: SocketAddr,
    accept: &[Codec],
) -> Result<(Agreed, String), String> {
    let offered = read(offer)?;
    let (codec, payload_type) = *offered
        .formats
        .iter()
        .find(|(codec, _)| accept.contains(codec))
        .ok_or("no codec in common")?;
    let agreed =
        Agreed { codec, payload_type, event_type: offered.event_type, remote: offered.remote };
    let text = write(local, &[(codec, payload_type)], offered.event_type);
    Ok((agreed, text))
}

/// What the far side's answer to our offer means.
pub(super) fn agreed(answer: &[u8]) -> Result<Agreed, String> {
    let answer = read(answer)?;
    let (codec, payload_type) = *answer.formats.first().ok_or("the answer has no codec of ours")?;
    Ok(Agreed { codec, payload_type, event_type: answer.event_type, remote: answer.remote })
}

fn write(local: SocketAddr, formats: &[(Codec, u8)], event_type: Option<u8>) -> String {
    let ip = local.ip();
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let mut types: Vec<u8> = formats.iter().map(|(_, t)| *t).collect();
    types.extend(event_type);
    let types: Vec<String> = types.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "v=0\r\no=lab {port} 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {types}\r\n",
        port = local.port(),
        types = types.join(" "),
    );
    for (codec, payload_type) in formats {
        let channels = if codec.channels() == 2 { "/2" } else { "" };
        let (name, clock) = (codec.name(), codec.clock_rate());
        // Writing to a String cannot fail.
        let _ok = write!(text, "a=rtpmap:{payload_type} {name}/{clock}{channels}\r\n");
    }
    if let Some(event) = event_type {
        let _ok = write!(text, "a=rtpmap:{event} telephone-event/8000\r\na=fmtp:{event} 0-15\r\n");
    }
    text.push_str("a=ptime:20\r\na=sendrecv\r\n");
    text
}

struct Remote {
    formats: Vec<(Codec, u8)>,
    event_type: Option<u8>,
    remote: SocketAddr,
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
    let mut remote =
        Remote { formats: Vec::new(), event_type: None, remote: SocketAddr::new(ip, port) };
    for payload_type in media.skip(1).filter_map(|t| t.parse::<u8>().ok()) {
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
    use super::*;

    fn local() -> SocketAddr {
        "127.0.1.2:4000".parse().unwrap()
    }

    #[test]
    fn an_offer_is_answered_with_the_first_codec_in_common() {
        let offer = offer(local(), &Codec::ALL);
        let here = "127.0.2.2:5000".parse().unwrap();
        let (ours, text) = answer(offer.as_bytes(), here, &[Codec::Opus, Codec::Pcma]).unwrap();
        assert_eq!((ours.codec, ours.payload_type), (Codec::Pcma, 8));
        assert_eq!((ours.remote, ours.event_type), (local(), Some(101)));
        let theirs = agreed(text.as_bytes()).unwrap();
        assert_eq!((theirs.codec, theirs.remote), (Codec::Pcma, here));
        assert!(answer(offer.as_bytes(), here, &[]).is_err());
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
        assert!(agreed(b"v=0\r\nc=IN IP4 1.2.3.4\r\nm=audio 0 RTP/AVP 0\r\n").is_err());
        assert!(agreed(b"\xff\x00garbage").is_err());
        assert!(agreed(b"c=IN IP4 x\r\nm=audio 5 RTP/AVP 0\r\n").is_err());
    }
}
