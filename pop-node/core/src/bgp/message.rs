//! What BMP messages say, as far as it matters here.

use std::fmt;
use std::net::IpAddr;

use super::frame::PeerHeader;
use super::prefix::Prefix;

/// A mark on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// RFC 1997: an AS and a value of its.
    Standard(u32),
    /// RFC 8092.
    Large(u32, u32, u32),
}

impl Community {
    /// RFC 8326: this route goes away soon, use another one.
    pub const GRACEFUL_SHUTDOWN: Self = Self::Standard(0xffff_0000);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
            Self::Large(global, a, b) => write!(f, "{global}:{a}:{b}"),
        }
    }
}

/// Why a text is no community.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither two numbers of 16 bits nor three of 32, with colons between")]
pub struct NotACommunity;

impl std::str::FromStr for Community {
    type Err = NotACommunity;

    /// As `65010:70` or `65010:1:2`.
    fn from_str(text: &str) -> Result<Self, NotACommunity> {
        let parts = text.split(':').map(str::parse).collect::<Result<Vec<u32>, _>>();
        match parts.map_err(|_| NotACommunity)?.as_slice() {
            [high @ ..=0xffff, low @ ..=0xffff] => Ok(Self::Standard(high << 16 | low)),
            [global, a, b] => Ok(Self::Large(*global, *a, *b)),
            _ => Err(NotACommunity),
        }
    }
}

/// One route's destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nlri {
    /// Where to.
    pub prefix: Prefix,
    /// Tells several routes to it apart (RFC 7911); else 0.
    pub path_id: u32,
}

/// How a route goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// AS_PATH, nearest first; sets are part of it.
    pub as_path: Vec<u32>,
    /// Its last AS; none if a set is last (RFC 6811 §2), or there is no path.
    pub origin: Option<u32>,
    /// Next hop.
    pub next_hop: Option<IpAddr>,
    /// Communities and large communities.
    pub communities: Vec<Community>,
}

/// An UPDATE (RFC 4271 §4.3) for IP unicast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// No longer reachable; those that nobody cares for may be missing.
    pub withdrawn: Vec<Nlri>,
    /// Reachable by `attributes`; those that nobody cares for may be missing.
    pub announced: Vec<Nlri>,
    /// Of all announced.
    pub attributes: Attributes,
    /// How many were withdrawn in all.
    pub withdrawn_total: u32,
    /// How many were announced in all.
    pub announced_total: u32,
}

/// A BMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The router says who it is.
    Initiation {
        /// sysName, shortened.
        name: Option<String>,
    },
    /// The router ends the session.
    Termination,
    /// A BGP session is established.
    PeerUp {
        /// Which.
        peer: PeerHeader,
        /// The router's own AS there.
        own_asn: u32,
    },
    /// A BGP session ended, or is not there.
    PeerDown {
        /// Which.
        peer: PeerHeader,
    },
    /// Routes.
    Routes {
        /// Of which session.
        peer: PeerHeader,
        /// Which.
        update: Update,
    },
    /// It cannot be read: what it says is unknown.
    Malformed {
        /// Of which session, if it is of one.
        peer: Option<PeerHeader>,
    },
    /// Statistics, mirrored messages, and what nobody knows.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_written() {
        for text in ["65535:0", "65010:70", "4200000000:1:2", "0:0"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
        for bad in ["65536:0", "0:65536", "1", "1:2:3:4", "a:b", "", "4294967296:0:0"] {
            assert!(bad.parse::<Community>().is_err(), "{bad}");
        }
    }
}
