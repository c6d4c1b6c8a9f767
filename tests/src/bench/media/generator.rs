//! A neutral RTP generator and sink: one thread, a few sockets, stamps in the payload.
//!
//! Each leg sends one packet of 20 ms to the address the system under test gave for it. The stamp
//! (sender's leg, packet number, time of sending) comes back at the other leg's socket; the time of
//! arrival is the kernel's (`SO_TIMESTAMPNS`), so the generator's own tick adds nothing.
//! It shares no code with what it measures.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use pop_core::srtp::{Inbound, Outbound, SrtpKeys, TRAILER_BYTES_MAX};

use super::cpu::{self, Usage};

/// Grain of sending: the legs are spread over the ticks of a packet time, 20 ms.
const TICK: Duration = Duration::from_millis(1);
const TICKS: usize = 20;
const HEADER: usize = 12;
/// G.711, 20 ms.
const PACKET: usize = HEADER + 160;
/// SSRC of leg 0; each leg has the next.
pub(super) const SSRC: u32 = 0x5200_0000;
const MAGIC: [u8; 4] = *b"vxm1";
/// Sockets on each side of the system under test.
pub(super) const SOCKETS: usize = 4;
/// What the kernel may hold for us: a burst of all legs.
const SOCKET_BYTES: usize = 8 << 20;
/// Stragglers are waited for this long.
const TAIL: Duration = Duration::from_millis(500);

/// Where one call's two legs send their packets to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Given to the caller.
    pub(super) caller: SocketAddr,
    /// Given to the callee.
    pub(super) callee: SocketAddr,
    /// The caller's leg is SRTP.
    pub(super) srtp: Option<SrtpKeys>,
}

/// SRTP of a leg. Our own code: rtpengine's in the same run says whether it is right.
struct Srtp {
    outbound: Outbound,
    inbound: Inbound,
}

/// Our sockets: even ones speak for callers, odd ones for callees.
pub(super) struct Sockets(Vec<UdpSocket>);

impl Sockets {
    /// `SOCKETS` at each of these addresses.
    pub(super) fn bind(caller: IpAddr, callee: IpAddr) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..SOCKETS {
            all.push(open(caller).context("a socket of the generator")?);
            all.push(open(callee).context("a socket of the generator")?);
        }
        Ok(Self(all))
    }

    /// What call number `call` says in its SDP: the caller's address, the callee's.
    pub(super) fn addresses(&self, call: usize) -> Result<(SocketAddr, SocketAddr)> {
        let at = |side| self.0.get(socket_of(2 * call + side)).context("no socket");
        Ok((at(0)?.local_addr()?, at(1)?.local_addr()?))
    }
}

fn open(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    let bytes = SOCKET_BYTES;
    // Beyond the system's limit only root may go; less is measured as lateness and loss.
    setsockopt(&socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &bytes))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(socket)
}

/// Leg `2n` is call n's caller, `2n + 1` its callee.
const fn socket_of(leg: usize) -> usize {
    (leg / 2 % SOCKETS) * 2 + leg % 2
}

/// What leg number `leg` has in its packets.
pub(super) fn ssrc(leg: usize) -> Result<u32> {
    Ok(SSRC + u32::try_from(leg)?)
}

struct Leg {
    target: SocketAddr,
    srtp: Option<Box<Srtp>>,
    sent: u32,
    /// Packets of this leg sent in the window.
    sent_in: u64,
    /// Packet numbers of this leg that arrived, as bits.
    seen: Vec<u64>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Packets sent in the window.
    pub(super) sent: u64,
    /// Those of them that arrived, each counted once.
    pub(super) received: u64,
    /// Arrived twice.
    pub(super) duplicates: u64,
    /// From the wrong address, or of the wrong call, or changed.
    pub(super) bad: u64,
    /// Legs that heard at least one packet.
    pub(super) legs_active: usize,
    /// One-way, µs, sorted.
    pub(super) latency_us: Vec<f64>,
    /// How late the generator was, µs, sorted.
    pub(super) late_us: Vec<f64>,
    /// Of each process under test, in the window.
    pub(super) usage: Vec<Usage>,
    /// The system's idle share of one core, in the window.
    pub(super) idle_cores: f64,
}

impl Report {
    /// Lost, %.
    #[allow(clippy::cast_precision_loss, reason = "packets of a few seconds")]
    pub(super) fn lost_percent(&self) -> f64 {
        100.0 * (self.sent.saturating_sub(self.received)) as f64 / self.sent.max(1) as f64
    }

    /// CPU of all processes under test per packet delivered, µs.
    #[allow(clippy::cast_precision_loss, reason = "packets of a few seconds")]
    pub(super) fn cpu_us_per_packet(&self) -> f64 {
        let cpu: Duration = self.usage.iter().map(|usage| usage.cpu).sum();
        cpu.as_secs_f64() * 1e6 / self.received.max(1) as f64
    }
}

/// How long to run, and whom to watch.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Before the window: latching, caches.
    pub(super) warm: Duration,
    /// The window.
    pub(super) window: Duration,
    /// Number of the first packet: a run again must not look like a replay.
    pub(super) first: u32,
    /// Processes under test.
    pub(super) pids: Vec<u32>,
    /// Core of the generator; `None`: any.
    pub(super) core: Option<usize>,
}

struct Generator<'a> {
    sockets: &'a Sockets,
    legs: Vec<Leg>,
    /// Legs with SRTP, by where their packets come from.
    by_target: HashMap<SocketAddr, usize>,
    packet: [u8; PACKET],
    buffer: [u8; 2048],
    cmsgs: Vec<u8>,
    /// ns since 1970, of the window.
    window: (u64, u64),
    report: Report,
}

/// Sends, listens and measures; blocks for `warm + window` and a little.
pub(super) fn run(sockets: &Sockets, targets: &[Target], run: &Run) -> Result<Report> {
    cpu::own_thread(run.core);
    let leg = |target, keys: Option<&SrtpKeys>| Leg {
        target,
        srtp: keys.map(|keys| {
            let (outbound, inbound) = (Outbound::new(&keys.send), Inbound::new(&keys.receive));
            Box::new(Srtp { outbound, inbound })
        }),
        sent: run.first,
        sent_in: 0,
        seen: Vec::new(),
    };
    let both = |t: &Target| [leg(t.caller, t.srtp.as_ref()), leg(t.callee, None)];
    let legs = targets.iter().flat_map(both).collect();
    let legs: Vec<Leg> = legs;
    let secure = legs.iter().enumerate().filter(|(_, leg)| leg.srtp.is_some());
    let by_target = secure.map(|(number, leg)| (leg.target, number)).collect();
    let mut packet = [0xd5; PACKET];
    packet.iter_mut().enumerate().skip(HEADER).for_each(|(at, byte)| *byte = at.to_le_bytes()[0]);
    let mut generator = Generator {
        sockets,
        legs,
        by_target,
        packet,
        buffer: [0; 2048],
        cmsgs: nix::cmsg_space!(TimeSpec),
        window: (u64::MAX, u64::MAX),
        report: Report::default(),
    };
    generator.go(run)?;
    Ok(generator.finish())
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Spreads calls over the ticks, and a call's two legs over half a packet time.
const fn slot_of(leg: usize) -> usize {
    (leg / 2 * 7_919 + (leg % 2) * (TICKS / 2)) % TICKS
}

impl Generator<'_> {
    fn go(&mut self, run: &Run) -> Result<()> {
        let ticks = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let (begin, end) = (ticks(run.warm), ticks(run.warm + run.window));
        let mut slots = vec![Vec::new(); TICKS];
        for leg in 0..self.legs.len() {
            slots.get_mut(slot_of(leg)).context("a slot")?.push(leg);
        }
        let started = std::time::Instant::now();
        let mut before = Vec::new();
        let mut idle = 0.0;
        for tick in 0..end {
            if tick == begin {
                before = run.pids.iter().map(|pid| cpu::of(*pid)).collect::<Result<Vec<_>>>()?;
                idle = cpu::idle_seconds()?;
                self.window.0 = unix_ns();
            }
            let due = started + TICK * tick;
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            if tick >= begin {
                self.report.late_us.push(due.elapsed().as_secs_f64() * 1e6);
            }
            for leg in slots.get(tick as usize % TICKS).into_iter().flatten() {
                self.send(*leg)?;
            }
            self.drain()?;
        }
        self.window.1 = unix_ns();
        let seconds = run.window.as_secs_f64();
        self.report.idle_cores = (cpu::idle_seconds()? - idle) / seconds;
        for (pid, before) in run.pids.iter().zip(before) {
            self.report.usage.push(cpu::of(*pid)?.since(&before));
        }
        let tail = std::time::Instant::now() + TAIL;
        while std::time::Instant::now() < tail {
            self.drain()?;
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    fn send(&mut self, number: usize) -> Result<()> {
        let socket = self.sockets.0.get(socket_of(number)).context("no socket")?;
        let Some(leg) = self.legs.get_mut(number) else { return Ok(()) };
        let id = u32::try_from(number)?;
        let now = unix_ns();
        let mark = if leg.sent_in == 0 { 0x80 } else { 0 };
        let sequence = leg.sent.wrapping_add(1_000 + id) as u16;
        let timestamp = leg.sent.wrapping_mul(160).wrapping_add(id);
        let mut head = Vec::with_capacity(HEADER + 20);
        head.extend([0x80, mark]);
        head.extend(sequence.to_be_bytes());
        head.extend(timestamp.to_be_bytes());
        head.extend((SSRC + id).to_be_bytes());
        head.extend(MAGIC);
        head.extend(id.to_be_bytes());
        head.extend(leg.sent.to_be_bytes());
        head.extend(now.to_be_bytes());
        self.packet.iter_mut().zip(head).for_each(|(to, byte)| *to = byte);
        let mut sealed = [0; PACKET + TRAILER_BYTES_MAX];
        let packet = match &mut leg.srtp {
            None => self.packet.as_slice(),
            Some(srtp) => {
                sealed.iter_mut().zip(self.packet).for_each(|(to, byte)| *to = byte);
                let length = srtp.outbound.protect(&mut sealed, PACKET)?;
                sealed.get(..length).unwrap_or_default()
            }
        };
        // A full socket is a loss, and counted as one.
        let _lost = socket.send_to(packet, leg.target);
        leg.sent += 1;
        if now >= self.window.0 && now < self.window.1 {
            leg.sent_in += 1;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        for index in 0..self.sockets.0.len() {
            while let Some((length, source, at)) = self.receive(index)? {
                let length = self.open(length, source);
                self.take(length, source, at, index);
            }
        }
        Ok(())
    }

    /// Decrypts what came for a leg with SRTP; what cannot be is left as it is, and found bad.
    fn open(&mut self, length: usize, source: SocketAddr) -> usize {
        let Some(leg) = self.by_target.get(&source).and_then(|leg| self.legs.get_mut(*leg)) else {
            return length;
        };
        let Some(srtp) = &mut leg.srtp else { return length };
        let Some(packet) = self.buffer.get_mut(..length) else { return length };
        if packet.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            return length;
        }
        srtp.inbound.open(packet).unwrap_or(length)
    }

    /// A packet, where it came from, and when (ns since 1970, by the kernel).
    fn receive(&mut self, index: usize) -> Result<Option<(usize, SocketAddr, u64)>> {
        let socket = self.sockets.0.get(index).context("no socket")?;
        let mut io = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let got = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut io, Some(&mut self.cmsgs), flags);
        let message = match got {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            // An ICMP error of an earlier packet: the system under test is not there.
            Err(nix::errno::Errno::ECONNREFUSED) => return Ok(Some((0, unspecified(), 0))),
            Err(other) => return Err(other.into()),
        };
        let stamp = message.cmsgs()?.find_map(|cmsg| match cmsg {
            ControlMessageOwned::ScmTimestampns(time) => Some(
                u64::try_from(time.tv_sec()).ok()? * 1_000_000_000
                    + u64::try_from(time.tv_nsec()).ok()?,
            ),
            _ => None,
        });
        let source = message.address.map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
        Ok(Some((message.bytes, source.unwrap_or_else(unspecified), stamp.unwrap_or_else(unix_ns))))
    }

    fn take(&mut self, length: usize, source: SocketAddr, at: u64, socket: usize) {
        let Some(packet) = self.buffer.get(..length) else { return };
        // RTCP (RFC 5761 §4) is none of ours.
        if packet.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            return;
        }
        let Some((sender, number, sent)) = stamp(packet) else {
            self.report.bad += 1;
            return;
        };
        let hears = sender ^ 1;
        let right = self.legs.get(hears).is_some_and(|leg| leg.target == source)
            && socket_of(hears) == socket;
        let Some(leg) = self.legs.get_mut(sender).filter(|_| right) else {
            self.report.bad += 1;
            return;
        };
        if sent < self.window.0 || sent >= self.window.1 {
            return;
        }
        let (word, bit) = (number as usize / 64, 1_u64 << (number % 64));
        if leg.seen.len() <= word {
            leg.seen.resize(word + 1, 0);
        }
        match leg.seen.get_mut(word) {
            Some(seen) if *seen & bit == 0 => *seen |= bit,
            _ => {
                self.report.duplicates += 1;
                return;
            }
        }
        self.report.received += 1;
        #[allow(clippy::cast_precision_loss, reason = "microseconds")]
        self.report.latency_us.push(at.saturating_sub(sent) as f64 / 1e3);
    }

    fn finish(mut self) -> Report {
        self.report.sent = self.legs.iter().map(|leg| leg.sent_in).sum();
        self.report.legs_active = self.legs.iter().filter(|leg| !leg.seen.is_empty()).count();
        self.report.latency_us.sort_by(f64::total_cmp);
        self.report.late_us.sort_by(f64::total_cmp);
        self.report
    }
}

fn unspecified() -> SocketAddr {
    SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0)
}

/// Sender's leg, packet number, time of sending; `None`: not one of ours, or changed.
fn stamp(packet: &[u8]) -> Option<(usize, u32, u64)> {
    let body = packet.get(HEADER..).filter(|_| packet.len() == PACKET)?;
    let word = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    if body.get(..4)? != MAGIC {
        return None;
    }
    let rest = packet.iter().enumerate().skip(HEADER + 20);
    let whole = rest.into_iter().all(|(at, byte)| *byte == at.to_le_bytes()[0]);
    let sent = u64::from_be_bytes(body.get(12..20)?.try_into().ok()?);
    whole.then_some((word(4)? as usize, word(8)?, sent))
}

/// A run is only worth something when the generator itself kept time and all legs were heard.
pub(super) fn judge(report: &Report, calls: usize) -> Result<()> {
    let late = super::percentile(&report.late_us, 0.99);
    ensure!(late < 2_000.0, "the generator was {late:.0} µs late (p99): the machine is too busy");
    ensure!(report.bad == 0, "{} packets came back wrong", report.bad);
    ensure!(
        report.legs_active == 2 * calls,
        "{} of {} legs heard nothing",
        2 * calls - report.legs_active,
        2 * calls
    );
    Ok(())
}
