//! SIP over UDP: one reading task per socket, sends without waiting.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use pop_core::sip::{Flow, MAX_MESSAGE_BYTES};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::SipEvent;
use crate::drops::{Drops, Reason};

/// Received messages are cut from blocks of this size; only their own bytes stay in use.
const BLOCK_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// All UDP sockets, by local address.
pub struct Udp {
    sockets: BTreeMap<SocketAddr, Arc<UdpSocket>>,
    drops: Drops,
}

impl Udp {
    /// Starts to read all sockets. When the loop is behind, the system's buffers fill, then drop.
    pub fn start(
        sockets: Vec<std::net::UdpSocket>,
        events: &mpsc::Sender<SipEvent>,
        drops: Drops,
    ) -> io::Result<Self> {
        let mut started = BTreeMap::new();
        for socket in sockets {
            let socket = Arc::new(UdpSocket::from_std(socket)?);
            let local = socket.local_addr()?;
            tokio::spawn(read(socket.clone(), local, events.clone()));
            started.insert(local, socket);
        }
        Ok(Self { sockets: started, drops })
    }

    /// False if the system says that it cannot get there. A full buffer is a lost packet, as any
    /// other on the way: SIP sends again.
    pub(super) fn send(&self, flow: Flow, bytes: &[u8]) -> bool {
        let Some(socket) = self.sockets.get(&flow.local) else { return false };
        match socket.try_send_to(bytes, flow.remote) {
            Ok(_) => true,
            Err(error) => {
                self.drops.count(Reason::UdpSendFailed);
                error.kind() == io::ErrorKind::WouldBlock
            }
        }
    }
}

async fn read(socket: Arc<UdpSocket>, local: SocketAddr, events: mpsc::Sender<SipEvent>) {
    let mut block = BytesMut::new();
    loop {
        if block.capacity() < MAX_MESSAGE_BYTES {
            block.reserve(BLOCK_BYTES);
        }
        match socket.recv_buf_from(&mut block).await {
            Ok((_, remote)) => {
                let flow = Flow::udp(local, remote);
                let event = SipEvent::Message { flow, bytes: block.split().freeze() };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            // An ICMP error of something sent before: the socket is fine.
            Err(error) => tracing::debug!(%local, %error, "receiving SIP"),
        }
    }
}
