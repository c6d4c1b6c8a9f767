//! Stories of packets, by place: one leg to another (`relay`), over two POPs (`mesh`), what is
//! measured and told (`report`), and anything at any time (`random`).

mod hostile;
mod loss;
mod low_bandwidth;
mod mesh;
mod noise;
mod pauses;
mod random;
mod relay;
mod report;
mod routes;
mod secure;
mod shared;

use std::net::SocketAddr;

pub(crate) use super::measure::tests::point;
use super::*;
use crate::codec::Codec;
use crate::rtp::{Header, Packet};

const EVENT: TelephoneEvent = TelephoneEvent { payload_type: 101, clock_rate: 8_000 };

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 9, 1], port))
}

fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

fn media(seed: u64) -> Media {
    let flush_delay = Duration::from_millis(2);
    let cname = "voice@test".into();
    Media::new(
        MediaConfig {
            own: proto::overlay::PopTag(1),
            seed,
            flush_delay,
            datagram_bytes: 1_160,
            cname,
            opus_complexity: None,
        },
        at(0),
    )
}

fn params(codec: Codec, port: u16) -> LegParams {
    LegParams {
        remote_rtp: Some(address(port)),
        remote_rtcp: None,
        remote_ssrc: None,
        trusted: Vec::new(),
        rtcp_mux: false,
        rtcp_xr: false,
        codec: Format {
            codec,
            payload_type: codec.offered_payload_type(),
            ptime_ms: 20,
            fmtp: None,
        },
        telephone_event: Some(EVENT),
        offered_telephone_event: None,
        comfort_noise: None,
        redundant: None,
        offered_redundant: None,
        copies: false,
        suppress_noise: false,
        direction: Direction::SendRecv,
        srtp: None,
    }
}

/// Opens leg `n` whose peer is at port `n`.
fn open(media: &mut Media, n: u64, codec: Codec) -> LegId {
    let leg = LegId(n);
    media.handle_command(&MediaCommand::OpenLeg { leg, local: address(1) }, at(0));
    let opened = std::iter::from_fn(|| media.poll_event()).any(|e| e == MediaEvent::Opened { leg });
    assert!(opened || leg.0 < 4, "only the random stories open a leg twice");
    let params = params(codec, n as u16);
    media.handle_command(&MediaCommand::SetLeg { leg, params }, at(0));
    leg
}

fn connect(media: &mut Media, leg: LegId, to: Far) {
    media.handle_command(&MediaCommand::Connect { leg, to }, at(0));
}

fn stream(peer: &str, send: u32, receive: u32, codec: Codec) -> Far {
    Far::Stream(Stream {
        lane: Lane(0),
        peer: pop(peer),
        send: StreamId(send),
        receive: StreamId(receive),
        codec,
        telephone_event: true,
        ptime_ms: 0,
        fmtp: None,
    })
}

fn packet(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn header(payload_type: u8, n: u32) -> Header {
    Header {
        marker: n == 0,
        payload_type,
        sequence: 65_500_u16.wrapping_add(n as u16),
        timestamp: (u32::MAX - 2_000).wrapping_add(n * 160),
        ssrc: 77,
    }
}

fn forwarded(verdict: Verdict, packet: &[u8]) -> (LegId, SocketAddr, Header, Vec<u8>) {
    let Verdict::Forward { leg, dst, length } = verdict else { panic!("{verdict:?}") };
    assert_eq!(length, packet.len());
    let packet = Packet::parse(packet).unwrap();
    (leg, dst, packet.header, packet.payload.to_vec())
}
