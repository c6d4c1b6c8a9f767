//! Packets that the kernel dropped at media sockets, because the media thread was behind.
//!
//! The kernel counts them per socket (`drops` in `/proc/net/udp`); the thread would learn of them
//! only by asking each socket, so the admin page looks at all of them when metrics are read.
//! What a socket dropped between the last look and its closing is not seen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The last figures of each media port.
#[derive(Debug)]
pub struct SocketDrops {
    /// The address as the kernel writes it.
    address: String,
    table: &'static str,
    ports: RangeInclusive<u16>,
    seen: BTreeMap<u16, u64>,
}

/// Hexadecimal, in 32-bit words of the machine's own order.
fn written(address: IpAddr) -> String {
    let word = |bytes: &[u8]| {
        let bytes = bytes.first_chunk().copied().unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(bytes))
    };
    match address {
        IpAddr::V4(v4) => word(&v4.octets()),
        IpAddr::V6(v6) => v6.octets().chunks(4).map(word).collect(),
    }
}

impl SocketDrops {
    /// Of the sockets at these ports.
    pub fn new(address: IpAddr, ports: RangeInclusive<u16>) -> Self {
        let table = if address.is_ipv4() { "/proc/self/net/udp" } else { "/proc/self/net/udp6" };
        Self { address: written(address), table, ports, seen: BTreeMap::new() }
    }

    /// Drops since the last look.
    pub fn look(&mut self) -> std::io::Result<u64> {
        Ok(self.update(&std::fs::read_to_string(self.table)?))
    }

    fn update(&mut self, table: &str) -> u64 {
        let now: BTreeMap<u16, u64> = table.lines().filter_map(|line| self.read(line)).collect();
        let new = |(port, drops): (&u16, &u64)| {
            // Fewer than before: another socket has the port.
            let before = self.seen.get(port).filter(|before| *before <= drops);
            drops - before.copied().unwrap_or(0)
        };
        let sum = now.iter().map(new).sum();
        self.seen = now;
        sum
    }

    /// The port and its drops, if the line is of one of ours.
    fn read(&self, line: &str) -> Option<(u16, u64)> {
        let mut words = line.split_ascii_whitespace();
        let (address, port) = words.nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ours = address == self.address && self.ports.contains(&port);
        let drops = words.last()?.parse().ok()?;
        ours.then_some((port, drops))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn line(port: u16, drops: u64) -> String {
        let address = written("127.0.0.1".parse().unwrap());
        format!(
            "  77: {address}:{port:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 {drops}\n"
        )
    }

    #[test]
    fn each_drop_is_told_once_and_ports_may_change_hands() {
        let mut drops = SocketDrops::new("127.0.0.1".parse().unwrap(), 20_000..=20_009);
        let table = |all: &[(u16, u64)]| -> String {
            let head = "   sl  local_address rem_address   st … ref pointer drops\n".to_owned();
            head + &all.iter().map(|(port, drops)| line(*port, *drops)).collect::<String>()
        };
        assert_eq!(drops.update(&table(&[(20_000, 5), (20_002, 1), (30_000, 99)])), 6);
        assert_eq!(drops.update(&table(&[(20_000, 7), (20_002, 1)])), 2);
        assert_eq!(drops.update(&table(&[(20_000, 3)])), 3, "another socket");
        assert_eq!(drops.update("nonsense\n1: x y\n"), 0);
    }

    #[test]
    fn the_kernel_tells_of_a_full_socket() {
        for ip in ["127.0.0.1", "::1"] {
            let full = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            let port = full.local_addr().unwrap().port();
            let mut drops = SocketDrops::new(ip.parse().unwrap(), port..=port);
            assert_eq!(drops.look().unwrap(), 0);
            socket2::SockRef::from(&full).set_recv_buffer_size(4_096).unwrap();
            let sender = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            for _ in 0..200 {
                sender.send_to(&[0; 1_000], full.local_addr().unwrap()).unwrap();
            }
            assert!(drops.look().unwrap() >= 100, "{ip}");
        }
    }
}
