//! The RTP packet (RFC 3550 §5.1).

use bytes::BufMut;

/// A header without CSRCs and extension, as we write it.
pub const HEADER_BYTES: usize = 12;

/// Why bytes are no RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// The header, its CSRCs or its extension do not fit.
    #[error("truncated header")]
    Truncated,
    /// Version is not 2.
    #[error("version is not 2")]
    Version,
    /// The padding count is 0 or more than there is.
    #[error("padding does not fit")]
    Padding,
}

/// The fields of the fixed header that a relay works with (RFC 3550 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Marker: the beginning of a talkspurt or event.
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp in units of the clock rate.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
}

impl Header {
    /// The header of a packet, and where its body (payload and padding) begins, behind CSRCs and
    /// extension. This much of SRTP is not encrypted (RFC 3711 §3.1).
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), RtpError> {
        let (fixed, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(RtpError::Truncated)?;
        let [flags, second, s0, s1, t0, t1, t2, t3, i0, i1, i2, i3] = *fixed;
        if flags >> 6 != 2 {
            return Err(RtpError::Version);
        }
        let mut skipped = usize::from(flags & 0x0f) * 4;
        if flags & 0x10 != 0 {
            let extension = rest.get(skipped..).and_then(|rest| rest.first_chunk::<4>());
            let [_, _, high, low] = *extension.ok_or(RtpError::Truncated)?;
            skipped += 4 + usize::from(u16::from_be_bytes([high, low])) * 4;
        }
        if skipped > rest.len() {
            return Err(RtpError::Truncated);
        }
        let header = Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([i0, i1, i2, i3]),
        };
        Ok((header, HEADER_BYTES + skipped))
    }

    /// Appends the 12 bytes.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_u8(2 << 6);
        out.put_u8(u8::from(self.marker) << 7 | self.payload_type & 0x7f);
        out.put_u16(self.sequence);
        out.put_u32(self.timestamp);
        out.put_u32(self.ssrc);
    }

    /// Replaces these fields of a packet, leaving its flags, CSRCs, extension and payload.
    pub fn rewrite(&self, packet: &mut [u8]) {
        let Some((_, fields)) = packet.split_at_mut_checked(1) else { return };
        let Some(fields) = fields.first_chunk_mut::<11>() else { return };
        let [a, b] = self.sequence.to_be_bytes();
        let [c, d, e, f] = self.timestamp.to_be_bytes();
        let [g, h, i, j] = self.ssrc.to_be_bytes();
        let second = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        *fields = [second, a, b, c, d, e, f, g, h, i, j];
    }
}

/// A checked view of an RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks lengths and version (RFC 3550 A.1).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtpError> {
        let (header, body) = Header::read(bytes)?;
        let mut payload = bytes.get(body..).ok_or(RtpError::Truncated)?;
        if bytes.first().is_some_and(|flags| flags & 0x20 != 0) {
            let padding = usize::from(*payload.last().ok_or(RtpError::Padding)?);
            let length = payload.len().checked_sub(padding).ok_or(RtpError::Padding)?;
            if padding == 0 {
                return Err(RtpError::Padding);
            }
            payload = payload.get(..length).ok_or(RtpError::Padding)?;
        }
        Ok(Self { header, payload })
    }
}

impl Packet<'_> {
    /// Where the payload is in `bytes`, which were parsed.
    pub fn payload_range(&self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = (self.payload.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
        start..start + self.payload.len()
    }
}

/// Is a packet on a shared port RTCP (RFC 5761 §4: payload types 64 to 95)?
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first >> 6 == 2 && (192..=223).contains(second))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header { marker: true, payload_type: 0, sequence: 65535, timestamp: 1 << 31, ssrc: 7 }
    }

    #[test]
    fn written_headers_read_back() {
        let mut bytes = Vec::new();
        header().write(&mut bytes);
        bytes.extend_from_slice(b"voice");
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.header, packet.payload), (header(), &b"voice"[..]));
    }

    #[test]
    fn csrcs_extension_and_padding_are_skipped() {
        let mut bytes = vec![0xb1, 0x00, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        bytes.extend_from_slice(&[9; 4]);
        bytes.extend_from_slice(&[0xbe, 0xde, 0, 1, 1, 2, 3, 4]);
        bytes.extend_from_slice(&[5, 6, 7, 0, 0, 3]);
        assert_eq!(Packet::parse(&bytes).unwrap().payload, [5, 6, 7]);
        *bytes.last_mut().unwrap() = 7;
        assert_eq!(Packet::parse(&bytes), Err(RtpError::Padding));
        *bytes.last_mut().unwrap() = 0;
        assert_eq!(Packet::parse(&bytes), Err(RtpError::Padding));
        bytes.truncate(19);
        assert_eq!(Packet::parse(&bytes), Err(RtpError::Truncated));
        assert_eq!(Packet::parse(&[0x40; 12]), Err(RtpError::Version));
    }

    #[test]
    fn rtcp_is_told_from_rtp() {
        assert!(is_rtcp(&[0x80, 200, 0, 1]));
        assert!(!is_rtcp(&[0x80, 0x80, 0, 1]));
        assert!(!is_rtcp(&[0x80]));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_and_rewriting_keeps_the_payload(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x3f | 0x80;
            }
            let payload = Packet::parse(&bytes).ok().map(|p| p.payload.to_vec());
            header().rewrite(&mut bytes);
            if let Some(payload) = payload {
                let packet = Packet::parse(&bytes).unwrap();
                prop_assert_eq!(packet.header, header());
                prop_assert_eq!(packet.payload, payload);
            }
        }
    }
}
