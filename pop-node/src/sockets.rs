//! Binding sockets, with refusals in one sentence.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use pop_core::sip::Transport;
use socket2::{Domain, Protocol, Socket, Type};

/// SIP messages of a burst wait here while a turn of the loop runs.
const SIP_BUFFER_BYTES: usize = 4 << 20;
/// Media of a burst waits here; the system's default loses some of it.
pub const OVERLAY_BUFFER_BYTES: usize = 4 << 20;
/// Waiting TCP connections.
const TCP_BACKLOG: i32 = 256;

/// Why a socket of the configuration could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("[{table}] {key} {what} {problem}", problem = explain(source))]
pub struct BindError {
    /// TOML table.
    pub table: &'static str,
    /// Key in it.
    pub key: &'static str,
    /// Transport and address.
    pub what: String,
    /// From the system.
    pub source: io::Error,
}

fn explain(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "is taken by another process; stop that one (ss -tulpn names it) or choose another port"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "is no address of this machine; write one that ip address shows".into()
        }
        io::ErrorKind::PermissionDenied => {
            "may not be opened by this user; choose a port from 1024 up or give \
             CAP_NET_BIND_SERVICE"
                .into()
        }
        _ => format!("cannot be opened: {source}; correct the address"),
    }
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A non-blocking UDP socket with buffers of up to `buffer_bytes` (the system may allow less).
pub fn udp(address: SocketAddr, buffer_bytes: usize) -> io::Result<std::net::UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_send_buffer_size(buffer_bytes)?;
    socket.bind(&address.into())?;
    hold(&socket, buffer_bytes, address)?;
    Ok(socket.into())
}

/// Lets the kernel hold up to `bytes` that came for the socket at `address`: beyond the system's
/// limit with CAP_NET_ADMIN, else as much as that allows, and the operator is told. What is granted.
pub fn hold(socket: &impl AsFd, bytes: usize, address: SocketAddr) -> io::Result<usize> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &bytes))?;
    // The kernel doubles it, for its own part of each packet.
    let granted = getsockopt(socket, sockopt::RcvBuf)? / 2;
    if granted < bytes {
        tracing::warn!(
            %address,
            granted,
            wanted = bytes,
            "the kernel holds less for this socket: packets of a busy moment may be lost; \
             raise net.core.rmem_max"
        );
    }
    Ok(granted)
}

/// A non-blocking TCP listener.
pub fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Connections of the process before us may still linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

/// A SIP socket.
#[derive(Debug)]
pub enum SipSocket {
    /// Datagrams.
    Udp(std::net::UdpSocket),
    /// Connections.
    Tcp(std::net::TcpListener),
}

/// Binds one address of `[sip] listen`.
pub fn sip(listen: crate::config::SipListen) -> Result<SipSocket, BindError> {
    let bound = match listen.transport {
        Transport::Udp => udp(listen.address, SIP_BUFFER_BYTES).map(SipSocket::Udp),
        Transport::Tcp => tcp(listen.address).map(SipSocket::Tcp),
    };
    bound.map_err(|source| BindError {
        table: "sip",
        key: "listen",
        what: listen.to_string(),
        source,
    })
}

/// Binds `[overlay] listen`.
pub fn overlay(address: SocketAddr) -> Result<std::net::UdpSocket, BindError> {
    udp(address, OVERLAY_BUFFER_BYTES).map_err(|source| BindError {
        table: "overlay",
        key: "listen",
        what: format!("udp:{address}"),
        source,
    })
}

/// Binds `[admin] listen`.
pub fn admin(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    tcp(address).map_err(|source| BindError {
        table: "admin",
        key: "listen",
        what: format!("tcp:{address}"),
        source,
    })
}

/// Binds `[bgp] bmp_listen`.
pub fn bmp(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    tcp(address).map_err(|source| BindError {
        table: "bgp",
        key: "bmp_listen",
        what: format!("tcp:{address}"),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_holds_is_read_back() {
        let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let socket = std::net::UdpSocket::bind(at).unwrap();
        assert_eq!(hold(&socket, 64 << 10, at).unwrap(), 64 << 10);
        let most = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let granted = hold(&socket, 2 * most, at).unwrap();
        // Without CAP_NET_ADMIN the limit holds; the kernel doubles that, too.
        assert!(granted == 2 * most || granted == most, "{granted} of {most}");
    }
}
