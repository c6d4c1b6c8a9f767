//! BMP's framing (RFC 7854 §4.1) and per-peer header (§4.2, RFC 8671 §4, RFC 9069 §4.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf, Bytes, BytesMut};

/// A message may be so long: an extended UPDATE (RFC 8654) and headers, with room for mirroring.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Version, length, type.
const HEADER_BYTES: usize = 6;
const PEER_HEADER_BYTES: usize = 42;
const VERSION: u8 = 3;

/// Why a stream is not BMP, or no longer: the connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not version 3.
    #[error("a message of BMP version {0}, not 3")]
    Version(u8),
    /// Shorter than its own header, or longer than any message.
    #[error("a message of {0} bytes")]
    Length(u32),
    /// It ends within the per-peer header.
    #[error("a message that ends in its per-peer header")]
    NoPeer,
}

/// RFC 7854 §4.1: message types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A route, as an UPDATE.
    RouteMonitoring,
    /// Counters.
    StatisticsReport,
    /// A BGP session ended.
    PeerDown,
    /// A BGP session began.
    PeerUp,
    /// The first message.
    Initiation,
    /// The last one.
    Termination,
    /// Messages as they came.
    RouteMirroring,
    /// To be ignored.
    Unknown(u8),
}

impl Kind {
    const fn has_peer(self) -> bool {
        !matches!(self, Self::Initiation | Self::Termination | Self::Unknown(_))
    }
}

impl From<u8> for Kind {
    fn from(value: u8) -> Self {
        match value {
            0 => Self::RouteMonitoring,
            1 => Self::StatisticsReport,
            2 => Self::PeerDown,
            3 => Self::PeerUp,
            4 => Self::Initiation,
            5 => Self::Termination,
            6 => Self::RouteMirroring,
            other => Self::Unknown(other),
        }
    }
}

/// A BGP session of a router, as BMP names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey {
    /// Of the neighbor.
    pub address: IpAddr,
    /// Tells routing instances apart.
    pub distinguisher: u64,
}

/// Which table of a router's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rib {
    /// As received.
    AdjInPre,
    /// As accepted.
    AdjInPost,
    /// RFC 8671: as sent.
    AdjOut,
    /// RFC 9069: as chosen.
    Local,
    /// A peer type nobody knows.
    Unknown,
}

/// RFC 7854 §4.2. Its timestamp is left alone: routers fill in boot times; order is the stream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHeader {
    /// Which session.
    pub key: PeerKey,
    /// Which table.
    pub rib: Rib,
    /// The neighbor's AS.
    pub asn: u32,
    /// AS numbers have two bytes in this message (the A flag).
    pub short_asns: bool,
}

/// One BMP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: Kind,
    /// Of the types that have one.
    pub peer: Option<PeerHeader>,
    /// What follows the headers.
    pub body: Bytes,
}

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub struct Reassembly {
    buffer: BytesMut,
}

impl Reassembly {
    /// To be filled at its end; drained by [`Self::next_frame`] before it is filled again, it never
    /// holds more than [`MESSAGE_BYTES_MAX`] and what was read at once.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next message if it is complete.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            // Garbage is known by its first byte.
            return match self.buffer.first() {
                Some(version) if *version != VERSION => Err(FrameError::Version(*version)),
                Some(_) | None => Ok(None),
            };
        };
        let [version, a, b, c, d, kind] = *header;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let bytes = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(bytes));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(length).freeze();
        body.advance(HEADER_BYTES);
        let kind = Kind::from(kind);
        let peer = if kind.has_peer() { Some(peer_header(&mut body)?) } else { None };
        Ok(Some(Frame { kind, peer, body }))
    }
}

fn peer_header(body: &mut Bytes) -> Result<PeerHeader, FrameError> {
    if body.len() < PEER_HEADER_BYTES {
        return Err(FrameError::NoPeer);
    }
    let mut header = body.split_to(PEER_HEADER_BYTES);
    let (kind, flags) = (header.get_u8(), header.get_u8());
    let distinguisher = header.get_u64();
    let address = header.get_u128();
    let flag = |bit: u8| flags & bit != 0;
    let rib = match kind {
        0..=2 if flag(0x10) => Rib::AdjOut,
        0..=2 if flag(0x40) => Rib::AdjInPost,
        0..=2 => Rib::AdjInPre,
        3 => Rib::Local,
        _ => Rib::Unknown,
    };
    // The flags of a Loc-RIB mean other things (RFC 9069 §4.2), and it has no address.
    let adjacent = rib != Rib::Local;
    let address: IpAddr = if adjacent && flag(0x80) {
        Ipv6Addr::from_bits(address).into()
    } else {
        let [.., a, b, c, d] = address.to_be_bytes();
        Ipv4Addr::new(a, b, c, d).into()
    };
    let asn = header.get_u32();
    let key = PeerKey { address, distinguisher };
    Ok(PeerHeader { key, rib, asn, short_asns: adjacent && flag(0x20) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        [&[VERSION][..], &length.to_be_bytes(), &[kind], body].concat()
    }

    fn peer(kind: u8, flags: u8, address: u128) -> Vec<u8> {
        let address = address.to_be_bytes();
        [&[kind, flags][..], &7_u64.to_be_bytes(), &address, &65_001_u32.to_be_bytes(), &[0; 12]]
            .concat()
    }

    fn read(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let mut stream = Reassembly::default();
        stream.buffer().extend_from_slice(bytes);
        stream.next_frame()
    }

    #[test]
    fn a_stream_is_cut_wherever_its_bytes_break() {
        let first = message(4, b"hello");
        let second = message(0, &[peer(0, 0, 0x0a00_0001), b"update".to_vec()].concat());
        let bytes = [first, second].concat();
        let mut stream = Reassembly::default();
        let mut frames = Vec::new();
        for byte in bytes {
            stream.buffer().extend_from_slice(&[byte]);
            frames.extend(stream.next_frame().unwrap());
        }
        assert_eq!((frames[0].kind, &frames[0].body[..]), (Kind::Initiation, &b"hello"[..]));
        assert_eq!((frames[1].kind, &frames[1].body[..]), (Kind::RouteMonitoring, &b"update"[..]));
        let peer = frames[1].peer.unwrap();
        assert_eq!(peer.key.address.to_string(), "10.0.0.1");
        assert_eq!((peer.key.distinguisher, peer.asn), (7, 65_001));
        assert_eq!(frames.len(), 2);
    }

    #[test]
    fn tables_and_families_are_told_by_type_and_flags() {
        let header = |kind, flags| {
            let address = 0x2001_0db8_0000_0000_0000_0000_0000_0001;
            let frame = read(&message(0, &peer(kind, flags, address))).unwrap().unwrap();
            frame.peer.unwrap()
        };
        assert_eq!(header(0, 0x80).key.address.to_string(), "2001:db8::1");
        assert_eq!(header(0, 0).key.address.to_string(), "0.0.0.1");
        assert_eq!(header(0, 0).rib, Rib::AdjInPre);
        assert_eq!(header(1, 0x40).rib, Rib::AdjInPost);
        assert_eq!(header(2, 0x50).rib, Rib::AdjOut);
        assert_eq!(header(9, 0x40).rib, Rib::Unknown);
        assert!(header(0, 0x20).short_asns);
        let local = header(3, 0xa0);
        assert_eq!((local.rib, local.short_asns), (Rib::Local, false));
        assert!(local.key.address.is_ipv4(), "bit 0 says filtered there");
    }

    #[test]
    fn what_is_not_bmp_is_known_at_once() {
        assert_eq!(read(b"G"), Err(FrameError::Version(b'G')));
        assert_eq!(read(&[4, 0, 0, 0, 6, 4]), Err(FrameError::Version(4)));
        assert_eq!(read(&[3, 0, 0, 0, 5, 4]), Err(FrameError::Length(5)));
        let long = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
        assert_eq!(read(&message(4, &[])), Ok(Some(frame(Kind::Initiation))));
        let [a, b, c, d] = long.to_be_bytes();
        assert_eq!(read(&[3, a, b, c, d, 4]), Err(FrameError::Length(long)));
        assert_eq!(read(&message(0, &[0; 41])), Err(FrameError::NoPeer));
        assert_eq!(read(&message(200, &[])), Ok(Some(frame(Kind::Unknown(200)))));
        assert_eq!(read(&[3, 0, 0]), Ok(None));
    }

    fn frame(kind: Kind) -> Frame {
        Frame { kind, peer: None, body: Bytes::new() }
    }
}
