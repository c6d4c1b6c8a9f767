//! What single steps of the media plane cost: CPU time of one thread, so that a busy machine changes
//! little. Each figure is the median of batches; the peer column says the least of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::endpoint::tape;
use chaos::speech::Voice;
use pop_core::codec::{Codec, Decoder, Encoder, EncoderConfig, NoiseSuppressor, ulaw_decode};
use pop_core::media::{
    Direction, Far, Format, Lane, LegParams, Media, MediaCommand, MediaConfig, Received, Stream,
    Verdict,
};
use pop_core::rtp::Header;
use pop_core::srtp::{Inbound, KeySource, Outbound, Profile, SrtpKeys, TRAILER_BYTES_MAX};
use proto::id::{LegId, PopId, StreamId};
use proto::overlay::PopTag;
use proto::time::Instant;

use super::{Figure, Table, Target, percentile};

/// CPU time of a batch, and batches of a figure.
const BATCH: Duration = Duration::from_millis(20);
const BATCHES: usize = 15;
/// Bytes of 20 ms of G.711.
const VOICE: [u8; 160] = [0x55; 160];

/// CPU time of this thread so far (`schedstat`: nanoseconds on a CPU).
pub(super) fn cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("schedstat")?;
    let nanos = text.split(' ').next().context("schedstat is empty")?;
    Ok(Duration::from_nanos(nanos.trim().parse()?))
}

/// Runs `step` in batches; adds what one took, in µs.
fn measure(table: &mut Table, name: &str, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    let mut run = |count: u32| -> Result<Duration> {
        let before = cpu()?;
        for _ in 0..count {
            step()?;
        }
        Ok(cpu()? - before)
    };
    // As many as fill a batch; the first ones warm up.
    let mut count = 16;
    while run(count)? < BATCH {
        count *= 2;
    }
    let mut took = Vec::new();
    for _ in 0..BATCHES {
        took.push(run(count)?.as_secs_f64() * 1e6 / f64::from(count));
    }
    took.sort_by(f64::total_cmp);
    let (name, least) = (name.to_owned(), took.first().copied());
    let figure = Figure {
        name,
        peer: least,
        ours: percentile(&took, 0.5),
        target: Target::Told,
        unit: "µs",
    };
    table.add(figure);
    Ok(())
}

fn media() -> Media {
    Media::new(
        MediaConfig {
            own: PopTag(1),
            seed: 7,
            flush_delay: Duration::from_millis(2),
            datagram_bytes: 1_160,
            cname: "micro".into(),
            opus_complexity: Some(10),
        },
        Instant::ZERO,
    )
}

fn address(leg: u64) -> SocketAddr {
    let port = u16::try_from(1_024 + leg % 60_000).unwrap_or(1_024);
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn open(media: &mut Media, leg: u64, codec: Codec, srtp: Option<SrtpKeys>) {
    let id = LegId(leg);
    let payload_type = codec.offered_payload_type();
    let params = LegParams {
        remote_rtp: Some(address(leg)),
        remote_rtcp: None,
        remote_ssrc: None,
        trusted: Vec::new(),
        rtcp_mux: false,
        rtcp_xr: false,
        codec: Format { codec, payload_type, ptime_ms: 20, fmtp: None },
        telephone_event: None,
        offered_telephone_event: None,
        comfort_noise: None,
        redundant: None,
        offered_redundant: None,
        copies: false,
        suppress_noise: false,
        direction: Direction::SendRecv,
        srtp: srtp.map(Box::new),
    };
    let local = address(leg);
    media.handle_command(&MediaCommand::OpenLeg { leg: id, local }, Instant::ZERO);
    media.handle_command(&MediaCommand::SetLeg { leg: id, params }, Instant::ZERO);
    while media.poll_event().is_some() {}
}

/// Packet `n` of a G.711 stream, with room for a tag.
fn packet(n: u32) -> Vec<u8> {
    let [.., high, low] = n.to_be_bytes();
    let sequence = u16::from_be_bytes([high, low]);
    let timestamp = n.wrapping_mul(160);
    let header = Header { marker: false, payload_type: 0, sequence, timestamp, ssrc: 77 };
    let mut bytes = Vec::with_capacity(12 + VOICE.len() + TRAILER_BYTES_MAX);
    header.write(&mut bytes);
    bytes.extend_from_slice(&VOICE);
    bytes
}

/// Relaying in one POP, in place: `calls` in turns.
fn relay(table: &mut Table, name: &str, calls: u64, keys: Option<SrtpKeys>) -> Result<()> {
    let mut media = media();
    for call in 0..calls {
        open(&mut media, call * 2 + 1, Codec::Pcmu, None);
        open(&mut media, call * 2 + 2, Codec::Pcmu, keys.clone());
        let (leg, to) = (LegId(call * 2 + 1), Far::Leg(LegId(call * 2 + 2)));
        media.handle_command(&MediaCommand::Connect { leg, to }, Instant::ZERO);
    }
    let (mut n, mut call) = (0_u32, 0);
    measure(table, name, || {
        let leg = call * 2 + 1;
        let mut bytes = packet(n);
        let length = bytes.len();
        bytes.resize(length + TRAILER_BYTES_MAX, 0);
        let now = Instant::from_millis(u64::from(n) * 20);
        let received = Received::new(&mut bytes, length);
        let verdict = media.handle_rtp(LegId(leg), address(leg), received, now);
        ensure!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        call = (call + 1) % calls;
        n = n.wrapping_add(u32::from(call == 0));
        Ok(())
    })
}

/// Relaying to another POP: frames into datagrams.
fn overlay(table: &mut Table, calls: u64) -> Result<()> {
    let mut media = media();
    for call in 0..calls {
        open(&mut media, call + 1, Codec::Pcmu, None);
        let id = StreamId(u32::try_from(call)?);
        let stream = Stream {
            lane: Lane(0),
            peer: PopId::new("bbb1")?,
            send: id,
            receive: id,
            codec: Codec::Pcmu,
            telephone_event: false,
            ptime_ms: 20,
            fmtp: None,
        };
        let (leg, to) = (LegId(call + 1), Far::Stream(stream));
        media.handle_command(&MediaCommand::Connect { leg, to }, Instant::ZERO);
    }
    let (mut n, mut call, mut sent) = (0_u32, 0, 0_u64);
    let name = format!("PCMU to another POP, {calls} calls: a packet");
    measure(table, &name, || {
        let leg = call + 1;
        let now = Instant::from_nanos(u64::from(n) * 20_000_000 + call * 20_000_000 / calls);
        if media.poll_timeout().is_some_and(|due| due <= now) {
            media.handle_timeout(now);
        }
        let verdict = media.handle_rtp(LegId(leg), address(leg), &mut packet(n), now);
        ensure!(verdict == Verdict::Consumed, "{verdict:?}");
        while media.poll_transmit().is_some() {
            sent += 1;
        }
        while media.poll_event().is_some() {}
        call = (call + 1) % calls;
        n = n.wrapping_add(u32::from(call == 0));
        Ok(())
    })?;
    ensure!(sent > 0, "no datagram left");
    Ok(())
}

/// 20 ms of G.711 packets, protected and opened.
fn srtp(table: &mut Table) -> Result<()> {
    for profile in [Profile::AesCm128HmacSha1Tag80, Profile::AeadAes128Gcm] {
        let key = KeySource::new([3; 32]).next(profile);
        let (mut out, mut n) = (Outbound::new(&key), 0_u32);
        measure(table, &format!("SRTP {}: protect a packet", profile.name()), || {
            let mut bytes = packet(n);
            let length = bytes.len();
            bytes.resize(length + TRAILER_BYTES_MAX, 0);
            n += 1;
            out.protect(&mut bytes, length)?;
            Ok(())
        })?;
        let (mut out, mut inbound, mut n) = (Outbound::new(&key), Inbound::new(&key), 0_u32);
        measure(table, &format!("SRTP {}: protect and open a packet", profile.name()), || {
            let mut bytes = packet(n);
            let length = bytes.len();
            bytes.resize(length + TRAILER_BYTES_MAX, 0);
            n += 1;
            let length = out.protect(&mut bytes, length)?;
            inbound.open(bytes.get_mut(..length).context("the packet")?)?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Ten seconds of speech at 8 kHz.
fn speech() -> Result<Vec<i16>> {
    let frames = tape::frames(Voice::English, Codec::Pcmu)?;
    Ok(frames.iter().flat_map(|frame| frame.iter().map(|&byte| ulaw_decode(byte))).collect())
}

/// 20 ms frames of speech, again and again.
fn cycle<'a, T>(frames: &'a [T]) -> Result<impl FnMut() -> &'a T + use<'a, T>> {
    let (mut at, first) = (0, frames.first().context("no speech")?);
    Ok(move || {
        at = (at + 1) % frames.len();
        frames.get(at).unwrap_or(first)
    })
}

/// Encoding and decoding of 20 ms. G.722 has twice the samples: here, each of them twice.
fn codecs(table: &mut Table) -> Result<()> {
    let pcm = speech()?;
    let opus = |complexity| EncoderConfig { bitrate: 24_000, complexity, ..<_>::default() };
    let all = [
        ("PCMU", Codec::Pcmu, 8_000, opus(0)),
        ("PCMA", Codec::Pcma, 8_000, opus(0)),
        ("G.722", Codec::G722, 16_000, opus(0)),
        ("Opus 8 kHz 24 kb/s, complexity 0", Codec::Opus, 8_000, opus(0)),
        ("Opus 8 kHz 24 kb/s, complexity 5", Codec::Opus, 8_000, opus(5)),
        ("Opus 8 kHz 24 kb/s, complexity 10", Codec::Opus, 8_000, opus(10)),
    ];
    for (name, codec, rate, config) in all {
        let pcm: Vec<i16> = match rate {
            8_000 => pcm.clone(),
            _ => pcm.iter().flat_map(|&sample| [sample, sample]).collect(),
        };
        let frames: Vec<&[i16]> = pcm.chunks_exact(rate as usize / 50).collect();
        let mut encoder = Encoder::new(codec, rate, config)?;
        let (mut next, mut packet) = (cycle(&frames)?, Vec::new());
        measure(table, &format!("{name}: encode 20 ms"), || {
            packet.clear();
            encoder.encode(next(), &mut packet)?;
            Ok(())
        })?;
        let mut packets = Vec::new();
        for frame in &frames {
            let mut packet = Vec::new();
            encoder.encode(frame, &mut packet)?;
            packets.push(packet);
        }
        let mut decoder = Decoder::new(codec, rate)?;
        let (mut next, mut out) = (cycle(&packets)?, Vec::new());
        measure(table, &format!("{name}: decode 20 ms"), || {
            out.clear();
            decoder.decode(next(), &mut out)?;
            Ok(())
        })?;
        measure(table, &format!("{name}: conceal 20 ms after 20 ms"), || {
            out.clear();
            decoder.decode(next(), &mut out)?;
            decoder.conceal(rate as usize / 50, None, &mut out);
            Ok(())
        })?;
    }
    Ok(())
}

fn suppression(table: &mut Table) -> Result<()> {
    let pcm = speech()?;
    let frames: Vec<&[i16]> = pcm.chunks_exact(160).collect();
    let mut suppressor = NoiseSuppressor::new(8_000)?;
    let (mut next, mut frame) = (cycle(&frames)?, vec![0; 160]);
    measure(table, "noise suppression at 8 kHz: 20 ms", || {
        frame.copy_from_slice(next());
        suppressor.process(&mut frame, false);
        Ok(())
    })?;
    measure(table, "noise suppression at 8 kHz, skipped: 20 ms", || {
        frame.copy_from_slice(next());
        suppressor.process(&mut frame, true);
        Ok(())
    })
}

/// All steps, in about 20 s.
pub(super) fn run() -> Result<Table> {
    let mut table = Table::new("micro");
    relay(&mut table, "PCMU relayed, 1 call: a packet", 1, None)?;
    relay(&mut table, "PCMU relayed, 1,000 calls in turns: a packet", 1_000, None)?;
    let mut source = KeySource::new([5; 32]);
    let mut key = || source.next(Profile::AesCm128HmacSha1Tag80);
    let keys = SrtpKeys { send: key(), receive: key() };
    relay(&mut table, "PCMU relayed to SRTP, 1,000 calls in turns: a packet", 1_000, Some(keys))?;
    overlay(&mut table, 1)?;
    overlay(&mut table, 1_000)?;
    srtp(&mut table)?;
    codecs(&mut table)?;
    suppression(&mut table)?;
    Ok(table)
}
