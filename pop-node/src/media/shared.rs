//! One RTP and one RTCP socket for all legs: packets are received and sent in batches, so a call
//! of the kernel serves many.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::poll::Poll;
use super::sockets::{PACKET_BYTES_MAX, Port, bind};
use crate::drops::{Drops, Reason};

/// Packets of one call of the kernel.
const BATCH: usize = 64;
/// What the kernel may hold for us: 100 ms of 2,000 calls. Less is granted where
/// `net.core.rmem_max` says so.
const SOCKET_BYTES: usize = 8 << 20;
/// Tokens beyond those of legs.
const RTP: u64 = u64::MAX - 1;
const RTCP: u64 = u64::MAX - 2;

/// The two sockets.
pub(super) struct Shared {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// Which of them a token means.
pub(super) fn port_of(token: u64) -> Option<Port> {
    match token {
        RTP => Some(Port::Rtp),
        RTCP => Some(Port::Rtcp),
        _ => None,
    }
}

impl Shared {
    /// RTP at `local`, RTCP at the next port.
    pub(super) fn open(local: SocketAddr, dscp: u8, poll: &Poll) -> std::io::Result<Self> {
        let (rtp, rtcp) = bind(local, dscp)?;
        socket2::SockRef::from(&rtp).set_recv_buffer_size(SOCKET_BYTES)?;
        poll.add(&rtp, RTP)?;
        poll.add(&rtcp, RTCP)?;
        Ok(Self { rtp, rtcp })
    }

    pub(super) fn socket(&self, port: Port) -> &UdpSocket {
        match port {
            Port::Rtp => &self.rtp,
            Port::Rtcp => &self.rtcp,
        }
    }
}

/// A received packet: which buffer, its length, its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) buffer: usize,
    pub(super) length: usize,
    pub(super) source: SocketAddr,
}

/// Room for the packets of one call of the kernel, used again and again.
pub(super) struct Batch {
    pub(super) buffers: Vec<[u8; PACKET_BYTES_MAX]>,
    pub(super) received: Vec<Received>,
    /// To be sent: which buffer, its length, where to.
    pub(super) forward: Vec<(usize, usize, SocketAddr)>,
    headers_in: MultiHeaders<SockaddrStorage>,
    headers_out: MultiHeaders<SockaddrStorage>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            buffers: vec![[0; PACKET_BYTES_MAX]; BATCH],
            received: Vec::with_capacity(BATCH),
            forward: Vec::with_capacity(BATCH),
            headers_in: MultiHeaders::preallocate(BATCH, None),
            headers_out: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Fills `received` with what there is, at most a batch. False if there may be more.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> bool {
        self.received.clear();
        let mut io: Vec<_> = self.buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        // An error is "empty after all", or an ICMP error, which is taken off the socket by this.
        let Ok(messages) = recvmmsg(fd, &mut self.headers_in, io.iter_mut(), flags, None) else {
            return true;
        };
        let received = messages.enumerate().filter_map(|(buffer, message)| {
            let source = message.address.as_ref().and_then(address)?;
            Some(Received { buffer, length: message.bytes, source })
        });
        self.received.extend(received);
        self.received.len() < BATCH
    }

    /// Sends what `forward` names.
    pub(super) fn flush(&mut self, socket: &UdpSocket, drops: &Drops) {
        let packets = self.forward.iter().filter_map(|&(buffer, length, to)| {
            Some((self.buffers.get(buffer)?.get(..length)?, to))
        });
        send(socket, &mut self.headers_out, packets, drops);
        self.forward.clear();
    }

    /// Sends packets made here.
    pub(super) fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        packets: impl Iterator<Item = (&'a [u8], SocketAddr)>,
        drops: &Drops,
    ) {
        send(socket, &mut self.headers_out, packets, drops);
    }
}

fn send<'a>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrStorage>,
    packets: impl Iterator<Item = (&'a [u8], SocketAddr)>,
    drops: &Drops,
) {
    let (io, to): (Vec<_>, Vec<_>) = packets
        .map(|(packet, to)| ([IoSlice::new(packet)], Some(SockaddrStorage::from(to))))
        .unzip();
    let mut done = 0;
    while let (Some(io), Some(to)) = (io.get(done..), to.get(done..))
        && !io.is_empty()
    {
        let flags = MsgFlags::MSG_DONTWAIT;
        let count = to.len().min(BATCH);
        let to = to.get(..count).unwrap_or_default();
        match sendmmsg(socket.as_raw_fd(), headers, io.iter().take(count), to, [], flags) {
            Ok(sent) => done += sent.count().max(1),
            Err(Errno::EINTR) => {}
            // The first one of the rest is refused; the others may go elsewhere.
            Err(_) => {
                drops.count(Reason::MediaSendFailed);
                done += 1;
            }
        }
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}
