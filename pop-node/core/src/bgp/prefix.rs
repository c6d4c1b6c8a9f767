//! IP prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that share their first bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// All other bits are zero.
    first: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of so many bits that covers `address`; `None` if it has fewer.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(length.into())?).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(length.into())?).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Some(Self { first, length })
    }

    /// Of so many bits.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Of IPv6?
    pub const fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Its lowest and its highest address.
    pub fn range(&self) -> std::ops::RangeInclusive<IpAddr> {
        let last = match self.first {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() | host).into()
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() | host).into()
            }
        };
        self.first..=last
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address, a slash and a length")]
pub struct NotAPrefix;

impl std::str::FromStr for Prefix {
    type Err = NotAPrefix;

    /// As `192.0.2.0/24`; bits behind the length must be zero.
    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, length) = text.split_once('/').ok_or(NotAPrefix)?;
        let address: IpAddr = address.parse().map_err(|_| NotAPrefix)?;
        let length = length.parse().map_err(|_| NotAPrefix)?;
        Self::new(address, length).filter(|prefix| prefix.first == address).ok_or(NotAPrefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_cover_what_shares_their_bits() {
        let prefix: Prefix = "192.0.2.0/23".parse().unwrap();
        assert_eq!(prefix.range(), ip("192.0.2.0")..=ip("192.0.3.255"));
        assert_eq!(Prefix::new(ip("192.0.3.77"), 23), Some(prefix));
        let all: Prefix = "0.0.0.0/0".parse().unwrap();
        assert!(all.range().contains(&ip("255.255.255.255")));
        assert!(!all.range().contains(&ip("::1")), "families are apart");
        let host: Prefix = "2001:db8::1/128".parse().unwrap();
        assert_eq!(host.range(), ip("2001:db8::1")..=ip("2001:db8::1"));
        assert_eq!("::/0".parse::<Prefix>().unwrap().range().end().to_string().len(), 39);
        for bad in ["192.0.2.1/24", "192.0.2.0/33", "192.0.2.0", "x/8", "::/129", "::/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
