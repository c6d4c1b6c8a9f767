//! Any bytes as a session description: parsed or refused; what parses is written and parses again,
//! and is answered with as many sections as it has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::media::Direction;
use pop_core::sdp::SessionDescription;
use pop_core::sdp::offer_answer::{Description, LocalSession, Policy, RemoteMedia, Security};
use pop_core::srtp::KeySource;

fuzz_target!(|data: &[u8]| {
    let Ok(first) = SessionDescription::parse(data) else { return };
    let Ok(remote) = RemoteMedia::from_offer(&first, false) else { return };
    let again = SessionDescription::parse(&first.serialize()).expect("we wrote it");
    assert_eq!(RemoteMedia::from_offer(&again, false).as_ref(), Ok(&remote));
    let security = Security::new(Policy::Accept, KeySource::new([1; 32]));
    let mut session = LocalSession::new(1, [127, 0, 0, 1].into(), 20_000, security);
    let what = Description {
        codecs: remote.codecs.iter().map(|n| n.codec).collect(),
        telephone_event: true,
        comfort_noise: true,
        direction: Direction::SendRecv,
        ptime_ms: remote.ptime_ms.unwrap_or(20),
    };
    let bytes = session.answer(&first, &remote, &what);
    let answer = SessionDescription::parse(&bytes).expect("we wrote it");
    assert_eq!(answer.media.len(), first.media.len());
    let offer = session.offer(&what);
    let offer = SessionDescription::parse(&offer).expect("we wrote it");
    assert_eq!(offer.media.len(), first.media.len());
});
