//! The media plane survives any packets, frames, reports, codec changes and times; when its legs
//! are closed nothing is left.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use pop_core::codec::Codec;
use pop_core::media::{
    Direction, Far, Format, Lane, LegParams, Media, MediaCommand, MediaConfig, Stream,
    TelephoneEvent,
};
use pop_core::srtp::{KeySource, Profile, SrtpKeys};
use proto::id::{LegId, PopId, StreamId};
use proto::time::{Duration, Instant};

const LEGS: u64 = 3;

fuzz_target!(|input: (u64, Vec<(u8, u8, &[u8])>)| {
    let (seed, steps) = input;
    let peer = PopId::new("far1").expect("a name");
    let config = MediaConfig {
        own: proto::overlay::PopTag(1),
        seed,
        flush_delay: Duration::from_millis(2),
        datagram_bytes: 1_160,
        cname: "fuzz".into(),
        opus_complexity: None,
    };
    let mut media = Media::new(config, Instant::ZERO);
    let mut now = Instant::ZERO;
    for (what, which, bytes) in steps {
        now += Duration::from_millis(u64::from(what >> 3));
        if media.poll_timeout().is_some_and(|due| due <= now) {
            media.handle_timeout(now);
        }
        step(&mut media, &peer, (what, which, bytes), now);
        while media.poll_transmit().is_some() {}
        while media.poll_event().is_some() {}
    }
    for leg in 0..LEGS {
        media.handle_command(&MediaCommand::CloseLeg { leg: LegId(leg) }, now);
    }
    media.handle_timeout(now + Duration::from_millis(10));
    assert_eq!((media.poll_timeout(), media.legs()), (None, 0));
});

fn step(media: &mut Media, peer: &PopId, (what, which, bytes): (u8, u8, &[u8]), now: Instant) {
    let leg = LegId(u64::from(which) % LEGS);
    let codec = Codec::ALL[usize::from(which >> 4) % 4];
    let source = SocketAddr::from(([127, 0, 0, 1], 4_000 + u16::from(which & 1)));
    match what & 7 {
        0 => {
            media.handle_command(&MediaCommand::OpenLeg { leg, local: source }, now);
            let params = params(codec, which, bytes);
            media.handle_command(&MediaCommand::SetLeg { leg, params }, now);
        }
        1 => {
            let to = Far::Leg(LegId(u64::from(which >> 2) % LEGS));
            media.handle_command(&MediaCommand::Connect { leg, to }, now);
        }
        2 => {
            let stream = Stream {
                lane: Lane(which & 1),
                peer: peer.clone(),
                send: StreamId(u32::from(which)),
                receive: StreamId(u32::from(which) % 4),
                codec,
                telephone_event: which & 1 == 0,
                ptime_ms: u32::from(which),
                fmtp: (which & 2 == 0).then(|| "usedtx=1;useinbandfec=1".into()),
            };
            media.handle_command(&MediaCommand::Connect { leg, to: Far::Stream(stream) }, now);
        }
        3 if which & 1 == 0 => {
            let percent = which;
            media.handle_command(&MediaCommand::ExpectLoss { leg, percent }, now);
        }
        3 => media.handle_command(&MediaCommand::Disconnect { leg }, now),
        4 => {
            media.handle_shared_rtcp(source, bytes, now);
            media.handle_rtcp(leg, source, bytes, now);
        }
        5 => media.handle_datagram(peer, bytes, now),
        _ => {
            // Mostly well-formed packets, so that the fuzzer reaches the codecs.
            let mut packet = bytes.to_vec();
            if what & 1 == 0
                && let [flags, second, ..] = packet.as_mut_slice()
            {
                *flags = 0x80;
                *second = codec.offered_payload_type();
            }
            // The port that all legs share, too.
            media.handle_shared_rtp(source, &mut packet.clone(), now);
            media.handle_rtp(leg, source, &mut packet, now);
        }
    }
}

/// Of a leg that is SRTP; the same again for the same number.
fn keys(which: u8) -> SrtpKeys {
    let mut source = KeySource::new([which & 1; 32]);
    let profile = Profile::ALL[usize::from(which) % Profile::ALL.len()];
    SrtpKeys { send: source.next(profile), receive: source.next(profile) }
}

fn params(codec: Codec, which: u8, bytes: &[u8]) -> LegParams {
    LegParams {
        remote_rtp: Some(SocketAddr::from(([127, 0, 0, 1], 4_000))),
        remote_rtcp: None,
        remote_ssrc: (which & 16 == 0).then(|| which.into()),
        trusted: Vec::new(),
        rtcp_mux: which & 4 == 0,
        rtcp_xr: which & 2 == 0,
        codec: Format {
            codec,
            payload_type: codec.offered_payload_type(),
            ptime_ms: u32::from(which),
            fmtp: std::str::from_utf8(bytes).ok().map(str::to_owned),
        },
        telephone_event: Some(TelephoneEvent { payload_type: 101, clock_rate: 8_000 }),
        offered_telephone_event: None,
        comfort_noise: (which & 8 == 0).then_some(13),
        redundant: (which & 32 == 0).then_some(121),
        offered_redundant: (which & 64 == 0).then_some(122),
        copies: which & 128 == 0,
        suppress_noise: which & 3 == 3,
        direction: if which & 8 == 0 { Direction::SendRecv } else { Direction::RecvOnly },
        srtp: (which & 32 != 0).then(|| keys(which)).map(Box::new),
    }
}
