//! Addresses of one mesh: an own piece of 127.0.0.0/8, so that meshes do not meet.
//!
//! Block `n` holds the control nodes at `127.0.(10n).11…`, the POPs at `127.0.(10n+1…).1`, the
//! carriers at `.2`, the WAN fronts at `.9`. Block 0 is what README and the demo print.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, bail};

/// SIP port of POPs and carriers (RFC 3261 §19.1.2).
pub const SIP_PORT: u16 = 5060;
/// Overlay port of POPs and their WAN fronts.
pub const OVERLAY_PORT: u16 = 4433;
/// API and raft port of control nodes.
pub const API_PORT: u16 = 7000;
/// Where a POP listens for its routers.
pub const BMP_PORT: u16 = 11_019;
/// Admin (metrics) port of every node.
pub const ADMIN_PORT: u16 = 9090;

const BLOCKS: u8 = 20;
const POPS_MAX: usize = 9;
const CONTROLS_MAX: usize = 50;
/// Whoever holds this UDP port on the block's `.254` owns the block.
const CLAIM_PORT: u16 = 4432;

/// A claimed block; free again when dropped.
#[derive(Debug)]
pub(super) struct Block {
    number: u8,
    _claim: UdpSocket,
}

impl Block {
    /// Claims the first block whose ports are all free.
    pub(super) fn claim(controls: usize, pops: usize) -> Result<Self> {
        if controls > CONTROLS_MAX || pops > POPS_MAX {
            bail!("a lab holds at most {CONTROLS_MAX} control nodes and {POPS_MAX} POPs");
        }
        let mut first_obstacle = None;
        for number in 0..BLOCKS {
            let claimed = UdpSocket::bind((third(10 * number, 254), CLAIM_PORT));
            let Ok(claim) = claimed else { continue };
            let block = Self { number, _claim: claim };
            match block.obstacle(controls, pops) {
                None => return Ok(block),
                Some(taken) => first_obstacle = first_obstacle.or(Some(taken)),
            }
        }
        match first_obstacle {
            Some(taken) => bail!(
                "no free loopback addresses: {taken} is taken (and so on in all {BLOCKS} blocks \
                 tried). Stop what listens there (ss -lntup shows it) and start again"
            ),
            None => bail!("{BLOCKS} meshes run on this machine already; stop one and start again"),
        }
    }

    /// A control node's address; `index` counts from 0.
    pub(super) fn control(&self, index: usize) -> IpAddr {
        third(10 * self.number, 11 + narrow(index))
    }

    /// A POP's address; `index` counts from 0.
    pub(super) fn pop(&self, index: usize) -> IpAddr {
        third(10 * self.number + 1 + narrow(index), 1)
    }

    /// The address of the carrier beside a POP.
    pub(super) fn carrier(&self, index: usize) -> IpAddr {
        third(10 * self.number + 1 + narrow(index), 2)
    }

    /// The address of the WAN front before a POP.
    pub(super) fn front(&self, index: usize) -> IpAddr {
        third(10 * self.number + 1 + narrow(index), 9)
    }

    fn obstacle(&self, controls: usize, pops: usize) -> Option<String> {
        let mut tcp = Vec::new();
        let mut udp = Vec::new();
        for i in 0..controls {
            tcp.extend([(self.control(i), API_PORT), (self.control(i), ADMIN_PORT)]);
        }
        for i in 0..pops {
            tcp.extend([(self.pop(i), SIP_PORT), (self.pop(i), ADMIN_PORT)]);
            udp.extend([(self.pop(i), SIP_PORT), (self.pop(i), OVERLAY_PORT)]);
            udp.extend([(self.carrier(i), SIP_PORT), (self.front(i), OVERLAY_PORT)]);
        }
        let taken = |kind: &str, (ip, port): (IpAddr, u16)| {
            Some(format!("{kind} {}", SocketAddr::new(ip, port)))
        };
        let busy = tcp.iter().find(|a| TcpListener::bind(**a).is_err());
        busy.and_then(|a| taken("tcp", *a)).or_else(|| {
            let busy = udp.iter().find(|a| UdpSocket::bind(**a).is_err());
            busy.and_then(|a| taken("udp", *a))
        })
    }
}

const fn third(third: u8, last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, third, last))
}

/// Indices are bounded by `claim`.
fn narrow(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX - 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_meshes_never_share_a_block() {
        let a = Block::claim(3, 3).unwrap();
        let b = Block::claim(3, 3).unwrap();
        assert_ne!(a.number, b.number);
        assert_ne!(a.pop(0), b.pop(0));
    }

    #[test]
    fn a_taken_port_moves_on_to_the_next_block() {
        let a = Block::claim(1, 1).unwrap();
        let (number, pop) = (a.number, a.pop(0));
        drop(a);
        let _taken = UdpSocket::bind((pop, SIP_PORT)).unwrap();
        assert_ne!(Block::claim(1, 1).unwrap().number, number);
    }
}
