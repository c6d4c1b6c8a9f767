use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::offer_answer::{
    Description, LocalSession, NegotiationError, Policy, RemoteMedia, Security,
};
use super::*;
use crate::codec::{Codec, EncoderConfig};
use crate::media::Direction;
use crate::srtp::{KeySource, Profile};

fn parse(text: &str) -> SessionDescription {
    SessionDescription::parse(text.as_bytes()).unwrap()
}

fn offer(body: &str) -> SessionDescription {
    parse(&format!("v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\n{body}"))
}

fn session() -> LocalSession {
    session_of(Policy::Accept)
}

fn session_of(policy: Policy) -> LocalSession {
    let security = Security::new(policy, KeySource::new([7; 32]));
    LocalSession::new(4, "198.51.100.1".parse().unwrap(), 20_000, security)
}

fn all(direction: Direction) -> Description {
    let codecs = vec![Codec::Opus, Codec::G722, Codec::Pcmu, Codec::Pcma];
    Description {
        codecs,
        telephone_event: true,
        comfort_noise: false,
        direction,
        ptime_ms: 20,
        opus: EncoderConfig::default(),
        redundant: false,
    }
}

/// Each file: an offer, `----`, then what we make of it and our answer. `REWRITE=1` writes the
/// lower part anew.
#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sdp");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "scripts are missing");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (input, expected) = text.split_once("----\n").unwrap();
        let output = answer(input);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, format!("{input}----\n{output}")).unwrap();
        } else {
            assert_eq!(output, expected, "{}", file.display());
        }
    }
}

fn answer(input: &str) -> String {
    let described: String =
        input.lines().filter(|l| !l.starts_with('#')).fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push_str("\r\n");
            text
        });
    let offer = match SessionDescription::parse(described.as_bytes()) {
        Ok(offer) => offer,
        Err(error) => return format!("error: {error}\n"),
    };
    let remote = match RemoteMedia::from_offer(&offer, false) {
        Ok(remote) => remote,
        Err(error) => return format!("error: {error}\n"),
    };
    let mut out = String::new();
    for n in &remote.codecs {
        let fmtp = n.fmtp.as_deref().map(|f| format!(" ({f})")).unwrap_or_default();
        writeln!(out, "{} is {:?}{fmtp}", n.payload_type, n.codec).unwrap();
    }
    for event in &remote.telephone_events {
        writeln!(out, "{} is telephone-event/{}", event.payload_type, event.clock_rate).unwrap();
    }
    let address = |a: Option<std::net::SocketAddr>| a.map_or("nowhere".into(), |a| a.to_string());
    let (rtp, rtcp) = (address(remote.rtp), address(remote.rtcp));
    writeln!(out, "rtp {rtp}, rtcp {rtcp}, peer {:?}", remote.direction).unwrap();
    let codecs = remote.codecs.iter().take(1).map(|n| n.codec).collect();
    let direction = offer_answer::reversed(remote.direction);
    let ptime_ms = remote.ptime_ms.unwrap_or(20);
    let telephone_event = !remote.telephone_events.is_empty();
    let comfort_noise = true;
    let (opus, redundant) = (EncoderConfig::default(), false);
    let what = Description {
        codecs,
        telephone_event,
        comfort_noise,
        direction,
        ptime_ms,
        opus,
        redundant,
    };
    let answer = session().answer(&offer, &remote, &what);
    out.push_str(&String::from_utf8(answer.to_vec()).unwrap().replace('\r', ""));
    out
}

#[test]
fn our_offer_can_be_answered_by_us() {
    let bytes = session().offer(&all(Direction::SendRecv));
    let parsed = SessionDescription::parse(&bytes).unwrap();
    assert_eq!(parsed.serialize(), bytes);
    let remote = RemoteMedia::from_offer(&parsed, false).unwrap();
    let codecs: Vec<_> = remote.codecs.iter().map(|n| n.codec).collect();
    assert_eq!(codecs, all(Direction::SendRecv).codecs);
    assert_eq!(remote.telephone_event(Codec::Opus).unwrap().clock_rate, 48_000);
    assert_eq!(remote.telephone_event(Codec::Pcma).unwrap().clock_rate, 8_000);
    assert_eq!(RemoteMedia::from_answer(&parsed, 0), Ok(remote));
    assert_eq!(RemoteMedia::from_answer(&parsed, 1), Err(NegotiationError::NoAudio));
}

#[test]
fn the_version_grows_exactly_when_the_description_changes() {
    let mut session = session();
    let version = |bytes: &bytes::Bytes| SessionDescription::parse(bytes).unwrap().origin.version;
    assert_eq!(version(&session.offer(&all(Direction::SendRecv))), 1);
    assert_eq!(version(&session.offer(&all(Direction::SendRecv))), 1);
    assert_eq!(version(&session.offer(&all(Direction::SendOnly))), 2);
    assert_eq!(version(&session.offer(&all(Direction::SendRecv))), 3);
}

#[test]
fn payload_types_and_sections_keep_their_meaning() {
    let mut session = session();
    let first = offer(
        "m=video 5000 RTP/AVP 111\na=rtpmap:111 H264/90000\n\
         m=audio 4000 RTP/AVP 111 98 0\na=rtpmap:111 speex/16000\na=rtpmap:98 opus/48000/2\n",
    );
    let remote = RemoteMedia::from_offer(&first, false).unwrap();
    let what = Description { codecs: vec![Codec::Pcmu], ..all(Direction::SendRecv) };
    let answer = SessionDescription::parse(&session.answer(&first, &remote, &what)).unwrap();
    assert_eq!((answer.media[0].port, answer.media[1].port), (0, 20_000));
    let second = SessionDescription::parse(&session.offer(&all(Direction::SendRecv))).unwrap();
    assert_eq!((second.media[0].media.as_str(), second.media[0].port), ("video", 0));
    assert_eq!(second.media[1].attribute("rtpmap"), Some("98 opus/48000/2"));
    assert_eq!(session.section(), 1);
}

/// An offer of one policy, answered by another; what both then have.
#[allow(clippy::unwrap_in_result, reason = "only refusals are results here")]
fn agreed(ours: Policy, theirs: Policy) -> Result<Option<Profile>, NegotiationError> {
    let other = Security::new(theirs, KeySource::new([8; 32]));
    let mut other = LocalSession::new(5, "192.0.2.1".parse().unwrap(), 30_000, other);
    let (mut session, what) = (session_of(ours), all(Direction::SendRecv));
    let mut found = None;
    // The second time around is a re-INVITE: keys stay.
    for round in 0..2 {
        let offer = SessionDescription::parse(&session.offer(&what)).unwrap();
        let remote = RemoteMedia::from_offer(&offer, other.security().insists())?;
        let answer = SessionDescription::parse(&other.answer(&offer, &remote, &what)).unwrap();
        let remote = RemoteMedia::from_answer(&answer, session.section())?;
        session.accept(&remote)?;
        let (here, there) = (session.security().keys().cloned(), other.security().keys().cloned());
        let swapped = there.map(|keys| (keys.receive, keys.send));
        assert_eq!(here.clone().map(|keys| (keys.send, keys.receive)), swapped);
        assert!(round == 0 || found == here);
        found = here;
    }
    Ok(found.map(|keys| keys.send.profile()))
}

#[test]
fn media_is_encrypted_when_one_offers_and_the_other_takes_it() {
    use Policy::{Accept, Offer, Require};
    assert_eq!(agreed(Accept, Accept), Ok(None));
    for ours in [Offer, Require] {
        for theirs in [Accept, Offer, Require] {
            assert_eq!(
                agreed(ours, theirs),
                Ok(Some(Profile::AeadAes256Gcm)),
                "{ours:?} {theirs:?}"
            );
        }
    }
    assert_eq!(agreed(Accept, Require), Err(NegotiationError::Plain));
}

#[test]
fn an_answer_must_name_a_line_of_the_offer() {
    let mut session = session_of(Policy::Require);
    session.offer(&all(Direction::SendRecv));
    let key = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let mut answer = |protocol: &str, line: &str| {
        let body = format!("m=audio 4000 {protocol} 0\n{line}");
        session.accept(&RemoteMedia::from_answer(&offer(&body), 0)?)
    };
    let line = |tag, name| format!("a=crypto:{tag} {name} inline:{key}\n");
    assert_eq!(answer("RTP/AVP", ""), Err(NegotiationError::Plain));
    assert_eq!(answer("RTP/SAVP", ""), Err(NegotiationError::Encrypted));
    let other = line(1, "AES_CM_128_HMAC_SHA1_80");
    assert_eq!(answer("RTP/SAVP", &other), Err(NegotiationError::Encrypted));
    let unreadable = "a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:AAAA|1:4\n";
    assert_eq!(answer("RTP/AVP", unreadable), Err(NegotiationError::Encrypted));
    assert_eq!(answer("RTP/SAVP", &line(3, "AES_CM_128_HMAC_SHA1_80")), Ok(()));
    assert_eq!(answer("UDP/TLS/RTP/SAVPF", ""), Err(NegotiationError::Encrypted));
}

/// Several answers to one offer (forks, then the final one): each is held against the lines that
/// were sent, and one of no use changes nothing.
#[test]
fn forks_may_choose_different_lines() {
    let mut session = session_of(Policy::Offer);
    let first = session.offer(&all(Direction::SendRecv));
    let key = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let gcm = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw==";
    let body = |line: &str| offer(&format!("m=audio 4000 RTP/AVP 0\n{line}"));
    let mut answer = |line: &str| {
        session.accept(&RemoteMedia::from_answer(&body(line), 0).unwrap()).unwrap();
        session.security().keys().map(|keys| keys.send.clone())
    };
    assert_eq!(answer(""), None);
    let third = answer(&format!("a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{key}\n")).unwrap();
    let second = answer(&format!("a=crypto:2 AEAD_AES_128_GCM inline:{gcm}\n")).unwrap();
    for (tag, key) in [(3, third), (2, second.clone())] {
        let line = crate::srtp::Crypto { tag, key }.to_string();
        assert!(std::str::from_utf8(&first).unwrap().contains(&line), "{tag}");
    }
    // What is said in the call from then on repeats the line agreed on; its refusal changes nothing.
    let again = SessionDescription::parse(&session.offer(&all(Direction::SendOnly))).unwrap();
    let lines = RemoteMedia::from_offer(&again, false).unwrap().crypto;
    assert_eq!(lines, [crate::srtp::Crypto { tag: 2, key: second.clone() }]);
    let wrong = body(&format!("a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{key}\n"));
    let wrong = RemoteMedia::from_answer(&wrong, 0).unwrap();
    assert_eq!(session.accept(&wrong), Err(NegotiationError::Encrypted));
    assert_eq!(session.security().keys().unwrap().send, second);
    // Another server of the peer gets keys nobody has.
    session.restart_security();
    let other = session.offer(&all(Direction::SendRecv));
    let other = RemoteMedia::from_offer(&SessionDescription::parse(&other).unwrap(), true).unwrap();
    assert_eq!(other.crypto.len(), 3);
    assert!(other.crypto.iter().all(|line| line.key != second));
}

/// A peer that comes with a new key hears a new one of ours: its packet index begins anew.
#[test]
fn a_new_key_is_answered_with_a_new_key() {
    let mut session = session_of(Policy::Accept);
    let mut answer = |key: &str| {
        let line = format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\n");
        let offer = offer(&format!("m=audio 4000 RTP/SAVP 0\n{line}"));
        let remote = RemoteMedia::from_offer(&offer, true).unwrap();
        session.answer(&offer, &remote, &all(Direction::SendRecv));
        session.security().keys().unwrap().send.clone()
    };
    let first = answer("WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz");
    assert_eq!(answer("WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"), first);
    assert_ne!(answer("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"), first);
    let plain = offer("m=audio 4000 RTP/AVP 0\n");
    let remote = RemoteMedia::from_offer(&plain, false).unwrap();
    session.answer(&plain, &remote, &all(Direction::SendRecv));
    assert!(session.security().keys().is_none());
    let next = session.offer(&all(Direction::SendRecv));
    assert!(std::str::from_utf8(&next).unwrap().contains("m=audio 20000 RTP/AVP "));
}

#[test]
fn directions_fit_together() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    assert_eq!(
        [SendRecv, SendOnly, RecvOnly, Inactive].map(offer_answer::reversed),
        [SendRecv, RecvOnly, SendOnly, Inactive]
    );
    assert_eq!(offer_answer::both(SendRecv, RecvOnly), RecvOnly);
    assert_eq!(offer_answer::both(SendOnly, RecvOnly), Inactive);
}

#[test]
fn what_is_too_much_is_refused() {
    let long = "a=x\n".repeat(BYTES_MAX);
    assert_eq!(SessionDescription::parse(long.as_bytes()), Err(ParseError::TooLarge));
    let many = format!("v=0\no=- 1 1 IN IP4 h\n{}", "m=audio 1 RTP/AVP 0\n".repeat(17));
    assert_eq!(SessionDescription::parse(many.as_bytes()), Err(ParseError::TooLarge));
    assert_eq!(SessionDescription::parse(b""), Err(ParseError::Empty));
    assert_eq!(SessionDescription::parse(b"v=1\r\n"), Err(ParseError::Version));
    assert_eq!(SessionDescription::parse(b"v=0\r\ns=-\r\n"), Err(ParseError::NoOrigin));
    assert_eq!(SessionDescription::parse(b"v=0\r\nhello\r\n"), Err(ParseError::Line { line: 2 }));
    // Found by fuzzing: nothing before the TTL was written as nothing and did not parse again.
    let no_address = SessionDescription::parse(b"v=0\r\nc=IN IP4 /127\r\n");
    assert_eq!(no_address, Err(ParseError::Value { kind: 'c', line: 2 }));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = SessionDescription::parse(&bytes);
    }

    #[test]
    fn what_parses_parses_again_after_writing(
        lines in proptest::collection::vec("[coam]=[ -~é]{0,40}|m=audio [0-9]{1,6} RTP/AVP [0-9 ]{0,9}|\
            a=(rtpmap|fmtp|rtcp|ptime):[0-9]{1,3} [a-zA-Z/0-9]{0,12}|c=IN IP[46] [0-9.:]{1,9}", 0..12),
    ) {
        let text = format!("v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\n{}\r\n", lines.join("\r\n"));
        if let Ok(first) = SessionDescription::parse(text.as_bytes()) {
            let again = SessionDescription::parse(&first.serialize()).unwrap();
            prop_assert_eq!(&first.media.len(), &again.media.len());
            prop_assert_eq!(RemoteMedia::from_offer(&first, false), RemoteMedia::from_offer(&again, false));
            if let Ok(remote) = RemoteMedia::from_offer(&first, false) {
                let answer = session().answer(&first, &remote, &all(Direction::SendRecv));
                let answer = SessionDescription::parse(&answer).unwrap();
                prop_assert_eq!(answer.media.len(), first.media.len());
            }
        }
    }
}

#[test]
fn extended_reports_are_agreed_on_when_offered() {
    for (line, wanted) in [
        ("", false),
        ("a=rtcp-xr:rcvr-rtt=all voip-metrics\n", true),
        ("a=rtcp-xr:rcvr-rtt=all\n", false),
    ] {
        let offer = offer(&format!("m=audio 4000 RTP/AVP 0\n{line}"));
        let remote = RemoteMedia::from_offer(&offer, false).unwrap();
        assert_eq!(remote.rtcp_xr, wanted, "{line}");
        let what = Description { codecs: vec![Codec::Pcmu], ..all(Direction::SendRecv) };
        let answer = session().answer(&offer, &remote, &what);
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        assert_eq!(answer.contains("a=rtcp-xr:voip-metrics\r\n"), wanted, "{answer}");
    }
}

#[test]
fn comfort_noise_and_redundancy_are_agreed_on_when_offered_and_of_use() {
    let text = "m=audio 4000 RTP/AVP 0 13 121 101\na=rtpmap:121 red/8000\na=fmtp:121 0/0\n\
                a=rtpmap:101 telephone-event/8000\n";
    let offer = offer(text);
    let remote = RemoteMedia::from_offer(&offer, false).unwrap();
    assert_eq!((remote.comfort_noise, remote.redundant(Codec::Pcmu)), (Some(13), Some(121)));
    assert_eq!(remote.redundant(Codec::Pcma), None);
    let answer = |comfort_noise| {
        let what =
            Description { codecs: vec![Codec::Pcmu], comfort_noise, ..all(Direction::SendRecv) };
        String::from_utf8(session().answer(&offer, &remote, &what).to_vec()).unwrap()
    };
    let text = answer(true);
    assert!(text.contains("m=audio 20000 RTP/AVP 0 101 13 121\r\n"), "{text}");
    for line in ["a=rtpmap:13 CN/8000", "a=rtpmap:121 red/8000", "a=fmtp:121 0/0"] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}: {text}");
    }
    let answer = parse(&answer(false));
    assert_eq!(answer.media[0].formats, ["0", "101", "121"]);
    // What carries another codec, or several, is not answered.
    for fmtp in ["0/8", "8/8"] {
        let text = format!("m=audio 4 RTP/AVP 0 121\na=rtpmap:121 red/8000\na=fmtp:121 {fmtp}\n");
        let remote = RemoteMedia::from_offer(&self::offer(&text), false).unwrap();
        assert_eq!(remote.redundant(Codec::Pcmu), None, "{fmtp}");
    }
    let opus = "m=audio 4 RTP/AVP 63 96\na=rtpmap:63 red/48000/2\na=fmtp:63 96/96\n\
                a=rtpmap:96 opus/48000/2\n";
    let remote = RemoteMedia::from_offer(&self::offer(opus), false).unwrap();
    assert_eq!(remote.redundant(Codec::Opus), Some(63));
}

/// A trunk whose link carries little: RFC 2198 is offered for Opus, with what we want of Opus.
#[test]
fn redundancy_of_opus_is_offered_where_wanted() {
    let opus = EncoderConfig { bitrate: 10_000, ..EncoderConfig::default() };
    let what = Description {
        codecs: vec![Codec::Opus, Codec::Pcmu],
        opus,
        redundant: true,
        ptime_ms: 60,
        ..all(Direction::SendRecv)
    };
    let mut session = session();
    let text = String::from_utf8(session.offer(&what).to_vec()).unwrap();
    assert!(text.contains("m=audio 20000 RTP/AVP 111 0 101 110 121\r\n"), "{text}");
    for line in [
        "a=fmtp:111 maxaveragebitrate=10000;useinbandfec=1",
        "a=rtpmap:121 red/48000/2",
        "a=fmtp:121 111/111",
        "a=ptime:60",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line}: {text}");
    }
    assert_eq!(session.offered_redundant(), Some(121));
    // The peer calls it 98: so do we, from then on.
    let answer = offer(
        "m=audio 4000 RTP/AVP 111 98\na=rtpmap:111 opus/48000/2\na=rtpmap:98 red/48000/2\n\
         a=fmtp:98 111/111\na=maxptime:40\n",
    );
    let remote = RemoteMedia::from_answer(&answer, 0).unwrap();
    assert_eq!((remote.redundant(Codec::Opus), remote.max_ptime_ms), (Some(98), Some(40)));
    session.accept(&remote).unwrap();
    let again = parse(std::str::from_utf8(&session.offer(&what)).unwrap());
    assert!(again.media[0].formats.contains(&"98".to_owned()), "{:?}", again.media[0].formats);
    // Nothing of it without Opus.
    let plain = Description { codecs: vec![Codec::Pcmu], ..what };
    let text = String::from_utf8(session_of(Policy::Accept).offer(&plain).to_vec()).unwrap();
    assert!(!text.contains("red/"), "{text}");
}

#[test]
fn comfort_noise_is_offered_where_the_other_side_takes_it() {
    for (comfort_noise, codecs, offered) in [
        (true, vec![Codec::Pcmu], true),
        (false, vec![Codec::Pcmu], false),
        (true, vec![Codec::Opus], false),
    ] {
        let what = Description { codecs, comfort_noise, ..all(Direction::SendRecv) };
        let offer = SessionDescription::parse(&session().offer(&what)).unwrap();
        let remote = RemoteMedia::from_offer(&offer, false).unwrap();
        assert_eq!(remote.comfort_noise.is_some(), offered, "{what:?}");
    }
}
