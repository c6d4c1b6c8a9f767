//! Where a message came from or goes to.

use std::net::SocketAddr;

/// The transport under SIP (RFC 3261 §18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A byte stream; messages are framed by Content-Length.
    Tcp,
    /// One message per datagram.
    Udp,
}

impl Transport {
    /// True if the transport retransmits by itself (RFC 3261 §17: no timers A, E, G; D, I, J, K zero).
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Tcp)
    }

    /// As written in a Via header.
    pub const fn as_via(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// As written in a `transport` URI parameter.
    pub const fn as_param(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One direction of SIP traffic: our socket, the far address, and for TCP the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The transport.
    pub transport: Transport,
    /// Our listening address: what a Via or Contact that we write says.
    pub local: SocketAddr,
    /// The peer.
    pub remote: SocketAddr,
    /// TCP connection number given by the shell; 0 for UDP, or "reuse or open one to `remote`".
    pub connection: u64,
}

impl Flow {
    /// A UDP flow.
    pub const fn udp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { transport: Transport::Udp, local, remote, connection: 0 }
    }

    /// A TCP flow for which the shell shall reuse or open a connection.
    pub const fn tcp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, local, remote, connection: 0 }
    }

    /// True if an error on `failed` concerns messages that were sent on `self`.
    pub fn is_hit_by(&self, failed: &Self) -> bool {
        self.transport == failed.transport
            && self.remote == failed.remote
            && (self.connection == failed.connection
                || self.connection == 0
                || failed.connection == 0)
    }
}
