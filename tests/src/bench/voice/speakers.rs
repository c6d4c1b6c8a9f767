//! Callers and callees that speak with recorded voices, lose what they should lose, and keep what
//! they hear. One thread; one socket per leg. It shares no code with what it measures but codecs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos::endpoint::tape;
use chaos::rng::Rng;
use pop_core::codec::Codec;

use crate::bench::media::cpu::{self, Usage};

const PTIME: Duration = Duration::from_millis(20);
/// Legs speak at different moments of a packet time.
const SLOTS: usize = 20;

/// One end of a call.
pub(super) struct Speaker {
    socket: UdpSocket,
    /// Where the system under test wants its packets.
    pub(super) target: Option<SocketAddr>,
    pub(super) codec: Codec,
    pub(super) payload_type: u8,
    frames: Arc<[Bytes]>,
    /// Share of its packets that never leave, and which.
    loss: f64,
    rng: Rng,
    sent: u32,
    /// Packets heard in the window.
    heard_in: u64,
    /// All payloads heard, by extended sequence number.
    heard: BTreeMap<i64, Bytes>,
    highest: Option<i64>,
}

impl Speaker {
    pub(super) fn new(at: IpAddr, codec: Codec, frames: Arc<[Bytes]>, seed: u64) -> Result<Self> {
        let socket = UdpSocket::bind((at, 0)).context("a socket of a speaker")?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            target: None,
            codec,
            payload_type: codec.offered_payload_type(),
            frames,
            loss: 0.0,
            rng: Rng::new(seed),
            sent: 0,
            heard_in: 0,
            heard: BTreeMap::new(),
            highest: None,
        })
    }

    /// Loses this share of its packets, at random.
    pub(super) fn losing(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    #[allow(clippy::cast_precision_loss, reason = "53 random bits")]
    fn speak(&mut self) {
        let (number, target) = (self.sent, self.target);
        self.sent += 1;
        let lost = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let (Some(target), true) = (target, lost >= self.loss) else { return };
        let Some(frame) = self.frames.get(number as usize % self.frames.len().max(1)) else {
            return;
        };
        let step = self.codec.clock_rate() / 50;
        let marker = if number == 0 { 0x80 } else { 0 };
        let mut packet = vec![0x80, self.payload_type | marker];
        let [.., high, low] = number.to_be_bytes();
        packet.extend([high, low]);
        packet.extend(number.wrapping_mul(step).to_be_bytes());
        packet.extend(u32::from(self.payload_type).wrapping_add(0x5600_0000).to_be_bytes());
        packet.extend(frame);
        // A full socket is a loss, and heard as one.
        let _sent = self.socket.send_to(&packet, target);
    }

    fn listen(&mut self, counts: bool, keeps: bool) {
        let mut buffer = [0; 2_048];
        while let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
            let Some(packet) = buffer.get(..length) else { continue };
            let Some((&[_, second, high, low, ..], payload)) = packet.split_first_chunk::<12>()
            else {
                continue;
            };
            // RTCP (RFC 5761 §4), telephone events and the like are no voice.
            if second & 0x7f != self.payload_type {
                continue;
            }
            self.heard_in += u64::from(counts);
            if keeps {
                let sequence = self.extend(u16::from_be_bytes([high, low]));
                self.heard.insert(sequence, Bytes::copy_from_slice(payload));
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
    fn extend(&mut self, sequence: u16) -> i64 {
        let highest = self.highest.unwrap_or(i64::from(sequence));
        let step = i64::from(sequence.wrapping_sub(highest as u16).cast_signed());
        self.highest = Some(highest.max(highest + step));
        highest + step
    }

    /// What it heard, in order; `None` stands for a lost packet.
    pub(super) fn payloads(&self) -> Vec<Option<Bytes>> {
        let (Some((&first, _)), Some((&last, _))) =
            (self.heard.first_key_value(), self.heard.last_key_value())
        else {
            return Vec::new();
        };
        (first..=last).map(|sequence| self.heard.get(&sequence).cloned()).collect()
    }

    /// What it heard, as sound at 8 kHz.
    pub(super) fn sound(&self) -> Result<Vec<i16>> {
        tape::play(self.codec, &self.payloads())
    }
}

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Voice packets that arrived in the window.
    pub(super) packets: u64,
    /// Of the system under test, in the window.
    pub(super) usage: Usage,
}

impl Cost {
    /// CPU per packet that arrived, µs.
    #[allow(clippy::cast_precision_loss, reason = "packets of a few seconds")]
    pub(super) fn us_per_packet(&self) -> Result<f64> {
        ensure!(self.packets > 0, "no packet arrived: there is nothing to divide by");
        Ok(self.usage.cpu.as_secs_f64() * 1e6 / self.packets as f64)
    }
}

/// Lets everybody speak for `warm + window`; measures `pid` in the window. `keeps`: keep all that
/// is heard.
pub(super) fn talk(
    speakers: &mut [Speaker],
    (warm, window): (Duration, Duration),
    pid: u32,
    keeps: bool,
) -> Result<Cost> {
    cpu::own_thread(Some(cpu::CORE_GENERATOR));
    let tick = PTIME / u32::try_from(SLOTS)?;
    let count = |time: Duration| time.as_millis() / tick.as_millis().max(1);
    let (begin, end) = (count(warm), count(warm + window));
    let started = Instant::now();
    let mut before = Usage::default();
    for n in 0..end {
        if n == begin {
            before = cpu::of(pid)?;
        }
        let due = started + tick * u32::try_from(n)?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let slot = usize::try_from(n)? % SLOTS;
        for speaker in speakers.iter_mut().skip(slot).step_by(SLOTS) {
            speaker.speak();
            speaker.listen(n >= begin, keeps);
        }
    }
    let usage = cpu::of(pid)?.since(&before);
    let packets = speakers.iter().map(|speaker| speaker.heard_in).sum();
    Ok(Cost { packets, usage })
}
