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
use crate::sockets;

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
        sockets::hold(&rtp, SOCKET_BYTES, local)?;
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
    outbox: Outbox,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            buffers: vec![[0; PACKET_BYTES_MAX]; BATCH],
            received: Vec::with_capacity(BATCH),
            forward: Vec::with_capacity(BATCH),
            headers_in: MultiHeaders::preallocate(BATCH, None),
            outbox: Outbox {
                headers: MultiHeaders::preallocate(BATCH, None),
                to: Vec::with_capacity(BATCH),
            },
        }
    }

    /// Fills `received` with what there is, at most a batch.
    pub(super) fn receive(&mut self, socket: &UdpSocket) {
        self.received.clear();
        let mut buffers = self.buffers.iter_mut();
        let mut io: [_; BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| buffer.as_mut_slice()))]
        });
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = socket.as_raw_fd();
        // An error is "empty after all", or an ICMP error, which is taken off the socket by this.
        let Ok(messages) = recvmmsg(fd, &mut self.headers_in, io.iter_mut(), flags, None) else {
            return;
        };
        let received = messages.enumerate().filter_map(|(buffer, message)| {
            let source = message.address.as_ref().and_then(address)?;
            Some(Received { buffer, length: message.bytes, source })
        });
        self.received.extend(received);
    }

    /// Sends what `forward` names.
    pub(super) fn flush(&mut self, socket: &UdpSocket, drops: &Drops) {
        let packets = self.forward.iter().filter_map(|&(buffer, length, to)| {
            Some((self.buffers.get(buffer)?.get(..length)?, to))
        });
        self.outbox.send(socket, packets, drops);
        self.forward.clear();
    }

    /// Sends packets made here.
    pub(super) fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        packets: impl Iterator<Item = (&'a [u8], SocketAddr)>,
        drops: &Drops,
    ) {
        self.outbox.send(socket, packets, drops);
    }
}

/// Room for one call of the kernel that sends.
struct Outbox {
    headers: MultiHeaders<SockaddrStorage>,
    to: Vec<Option<SockaddrStorage>>,
}

impl Outbox {
    fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        mut packets: impl Iterator<Item = (&'a [u8], SocketAddr)>,
        drops: &Drops,
    ) {
        loop {
            let mut io = [[IoSlice::new(&[])]; BATCH];
            self.to.clear();
            for ([slot], (packet, to)) in io.iter_mut().zip(packets.by_ref()) {
                *slot = IoSlice::new(packet);
                self.to.push(Some(to.into()));
            }
            self.send_all(socket, &io, drops);
            if self.to.len() < BATCH {
                return;
            }
        }
    }

    fn send_all(&mut self, socket: &UdpSocket, io: &[[IoSlice<'_>; 1]], drops: &Drops) {
        let mut done = 0;
        while let (Some(io), Some(to)) = (io.get(done..), self.to.get(done..))
            && !to.is_empty()
        {
            let flags = MsgFlags::MSG_DONTWAIT;
            match sendmmsg(socket.as_raw_fd(), &mut self.headers, io, to, [], flags) {
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
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}
