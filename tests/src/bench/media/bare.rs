//! The least a relay in user space can do: receive, look up, send, and nothing of RTP.
//!
//! What it costs is the kernel's part of a relayed packet, so a relay's own part is what it costs
//! beyond. Two kinds, as carriers can be faced: a socket per leg (epoll, level-triggered, one
//! packet a report), or one socket for all (`recvmmsg` and `sendmmsg`, legs told apart by SSRC).
//! It runs as a process of its own, which the benchmark starts from its own binary.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::cpu;
use super::generator::{SSRC, Sockets, Target};

/// How it faces its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PortPerLeg,
    OnePort,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::PortPerLeg => "port-per-leg",
            Self::OnePort => "one-port",
        }
    }
}

/// The argument that makes the benchmark's binary a forwarder.
pub(in crate::bench) const NAME: &str = "bare-forwarder";
/// Packets in one call of the kernel.
const BATCH: usize = 64;
const PACKET_BYTES_MAX: usize = 2_048;
const SOCKET_BYTES: usize = 4 << 20;

/// A running forwarder; ends when dropped.
pub(super) struct Forwarder(Child);

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Forwarder {
    /// Starts one for `calls` calls of these sockets, and says where their legs send to.
    pub(super) fn start(
        kind: Kind,
        sockets: &Sockets,
        calls: usize,
    ) -> Result<(Self, Vec<Target>)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NAME, kind.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let forwarder = Self(child);
        let mut stdin = stdin.context("no stdin")?;
        for call in 0..calls {
            let (caller, callee) = sockets.addresses(call)?;
            writeln!(stdin, "{caller}\n{callee}")?;
        }
        drop(stdin);
        let mut targets = Vec::new();
        let mut lines = BufReader::new(stdout.context("no stdout")?).lines();
        let mut next = || lines.next().context("the bare forwarder ended")?.context("its address");
        for _ in 0..calls {
            let (caller, callee) = (next()?.parse()?, next()?.parse()?);
            targets.push(Target { caller, callee, srtp: None });
        }
        cpu::isolate(forwarder.pid());
        Ok((forwarder, targets))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// The forwarder's process: addresses of legs come in, two lines a call; its own go out.
#[allow(clippy::print_stdout, reason = "how it tells its addresses")]
pub(in crate::bench) fn run(kind: &str) -> Result<()> {
    let peers = std::io::stdin()
        .lines()
        .map(|line| Ok(line?.parse()?))
        .collect::<Result<Vec<SocketAddr>>>()?;
    let count = if kind == Kind::OnePort.name() { 1 } else { peers.len() };
    let sockets =
        (0..count).map(|_| Ok(UdpSocket::bind((super::PEER, 0))?)).collect::<Result<Vec<_>>>()?;
    for leg in 0..peers.len() {
        println!("{}", sockets.get(leg % count).context("no socket")?.local_addr()?);
    }
    match (kind, sockets.first()) {
        (kind, Some(socket)) if kind == Kind::OnePort.name() => one_port(socket, &peers),
        (kind, _) if kind == Kind::PortPerLeg.name() => port_per_leg(&sockets, &peers),
        _ => bail!("no kind of forwarder: {kind}"),
    }
}

/// What leg `n` sends leaves by the socket of the other leg of its call, towards that.
fn port_per_leg(sockets: &[UdpSocket], peers: &[SocketAddr]) -> Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (leg, socket) in sockets.iter().enumerate() {
        socket.set_nonblocking(true)?;
        epoll::add(&epoll, socket, EventData::new_u64(leg as u64), EventFlags::IN)?;
    }
    let mut events: Vec<Event> = Vec::with_capacity(1_024);
    let mut buffer = [0; PACKET_BYTES_MAX];
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let leg = usize::try_from(event.data.u64())?;
            let Some(Ok((length, _))) = sockets.get(leg).map(|s| s.recv_from(&mut buffer)) else {
                continue;
            };
            if let (Some(socket), Some(to)) = (sockets.get(leg ^ 1), peers.get(leg ^ 1)) {
                let _lost = socket.send_to(buffer.get(..length).unwrap_or_default(), to);
            }
        }
    }
}

fn one_port(socket: &UdpSocket, peers: &[SocketAddr]) -> Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BYTES)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &SOCKET_BYTES))?;
    let mut by_ssrc = BTreeMap::new();
    for (leg, pair) in (0_u32..).zip(peers.chunks(2)) {
        let &[SocketAddr::V4(caller), SocketAddr::V4(callee)] = pair else { continue };
        by_ssrc.insert(SSRC + 2 * leg, SockaddrIn::from(callee));
        by_ssrc.insert(SSRC + 2 * leg + 1, SockaddrIn::from(caller));
    }
    let nowhere = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut buffers = vec![[0; PACKET_BYTES_MAX]; BATCH];
    let mut received = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut sent = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        let lengths: Vec<usize> = {
            let mut io: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            recvmmsg(socket.as_raw_fd(), &mut received, io.iter_mut(), flags, None)?
                .map(|message| message.bytes)
                .collect()
        };
        let mut io = Vec::with_capacity(BATCH);
        let mut to = Vec::with_capacity(BATCH);
        for (buffer, length) in buffers.iter().zip(lengths) {
            let packet = buffer.get(..length).unwrap_or_default();
            let ssrc = packet.get(8..12).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
            to.push(Some(ssrc.and_then(|ssrc| by_ssrc.get(&ssrc)).copied().unwrap_or(nowhere)));
            io.push([IoSlice::new(packet)]);
        }
        let _lost =
            sendmmsg(socket.as_raw_fd(), &mut sent, io.iter(), to, [], MsgFlags::MSG_DONTWAIT);
    }
}
