//! RTCP (RFC 3550 §6): sender and receiver reports, CNAME, BYE, extended reports (`xr`).
//!
//! Reduced-size packets (RFC 5506) are accepted. Other packet types are skipped.

use bytes::BufMut;

use super::xr::{EXTENDED_REPORT, VoipMetrics, voip_metrics};

/// Why bytes are no RTCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// A length goes beyond the end.
    #[error("truncated")]
    Truncated,
    /// Version is not 2.
    #[error("version is not 2")]
    Version,
    /// Nothing there.
    #[error("empty")]
    Empty,
}

/// A reception report block (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: u32,
    /// Fraction lost since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the beginning, 24 bits signed.
    pub cumulative_lost: i32,
    /// Extended highest sequence number received.
    pub highest_sequence: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report.
    pub last_sr: u32,
    /// Delay since that report, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// What a sender tells of itself (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SenderInfo {
    /// NTP timestamp, 32.32 bits.
    pub ntp: u64,
    /// The same time as RTP timestamp.
    pub rtp_timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Payload octets sent.
    pub octets: u32,
}

/// One packet of a compound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rtcp {
    /// SR or RR (RFC 3550 §6.4).
    Report {
        /// The reporter.
        ssrc: u32,
        /// In a sender report.
        sender: Option<SenderInfo>,
        /// At most 31.
        blocks: Vec<ReportBlock>,
    },
    /// BYE (RFC 3550 §6.6).
    Bye {
        /// The source that leaves, if named.
        ssrc: Option<u32>,
    },
    /// An extended report (RFC 3611).
    Extended {
        /// The reporter.
        ssrc: u32,
        /// Its VoIP metrics block, if it has one.
        voip: Option<Box<VoipMetrics>>,
    },
    /// Any other, by packet type.
    Other(u8),
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const CNAME: u8 = 1;

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn block(&mut self) -> Option<ReportBlock> {
        let ssrc = self.u32()?;
        let lost = self.u32()?;
        let [fraction_lost, ..] = lost.to_be_bytes();
        Some(ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost: (lost << 8).cast_signed() >> 8,
            highest_sequence: self.u32()?,
            jitter: self.u32()?,
            last_sr: self.u32()?,
            delay_since_last_sr: self.u32()?,
        })
    }

    fn sender(&mut self) -> Option<SenderInfo> {
        let ntp = u64::from(self.u32()?) << 32 | u64::from(self.u32()?);
        Some(SenderInfo {
            ntp,
            rtp_timestamp: self.u32()?,
            packets: self.u32()?,
            octets: self.u32()?,
        })
    }

    fn report(&mut self, with_sender: bool, count: u8) -> Option<Rtcp> {
        let ssrc = self.u32()?;
        let sender = if with_sender { Some(self.sender()?) } else { None };
        let blocks = (0..count).map(|_| self.block()).collect::<Option<Vec<_>>>()?;
        Some(Rtcp::Report { ssrc, sender, blocks })
    }
}

/// Reads a compound packet (RFC 3550 A.2).
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Rtcp>, RtcpError> {
    let mut packets = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
        let [flags, packet_type, high, low] = *head;
        if flags >> 6 != 2 {
            return Err(RtcpError::Version);
        }
        let length = usize::from(u16::from_be_bytes([high, low])) * 4;
        let (body, after) = rest.split_at_checked(length).ok_or(RtcpError::Truncated)?;
        let mut reader = Reader(body);
        let count = flags & 0x1f;
        packets.push(match packet_type {
            SENDER_REPORT => reader.report(true, count).ok_or(RtcpError::Truncated)?,
            RECEIVER_REPORT => reader.report(false, count).ok_or(RtcpError::Truncated)?,
            BYE => Rtcp::Bye { ssrc: reader.u32().filter(|_| count > 0) },
            EXTENDED_REPORT => {
                let ssrc = reader.u32().ok_or(RtcpError::Truncated)?;
                Rtcp::Extended { ssrc, voip: voip_metrics(reader.0).map(Box::new) }
            }
            other => Rtcp::Other(other),
        });
        bytes = after;
    }
    match (bytes.is_empty(), packets.is_empty()) {
        (true, false) => Ok(packets),
        (true, true) => Err(RtcpError::Empty),
        (false, _) => Err(RtcpError::Truncated),
    }
}

fn head(out: &mut impl BufMut, count: u8, packet_type: u8, body_bytes: usize) {
    out.put_u8(2 << 6 | count & 0x1f);
    out.put_u8(packet_type);
    out.put_u16(u16::try_from(body_bytes / 4).unwrap_or(u16::MAX));
}

/// Appends a sender report (with `sender`) or receiver report of at most one block.
pub fn write_report(
    out: &mut impl BufMut,
    ssrc: u32,
    sender: Option<SenderInfo>,
    block: Option<ReportBlock>,
) {
    let packet_type = if sender.is_some() { SENDER_REPORT } else { RECEIVER_REPORT };
    let body = 4 + if sender.is_some() { 20 } else { 0 } + if block.is_some() { 24 } else { 0 };
    head(out, u8::from(block.is_some()), packet_type, body);
    out.put_u32(ssrc);
    if let Some(sender) = sender {
        out.put_u64(sender.ntp);
        out.put_u32(sender.rtp_timestamp);
        out.put_u32(sender.packets);
        out.put_u32(sender.octets);
    }
    if let Some(block) = block {
        let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff).cast_unsigned() & 0xff_ffff;
        out.put_u32(block.ssrc);
        out.put_u32(u32::from(block.fraction_lost) << 24 | lost);
        out.put_u32(block.highest_sequence);
        out.put_u32(block.jitter);
        out.put_u32(block.last_sr);
        out.put_u32(block.delay_since_last_sr);
    }
}

/// Appends a source description with the canonical name, which each compound must have
/// (RFC 3550 §6.1). Names beyond 255 bytes are cut.
pub fn write_cname(out: &mut impl BufMut, ssrc: u32, cname: &str) {
    let name: Vec<u8> = cname.bytes().take(255).collect();
    // Chunk: SSRC, CNAME item, and 1 to 4 zero bytes to the next word (RFC 3550 §6.5).
    let padding = 4 - (2 + name.len()) % 4;
    head(out, 1, SOURCE_DESCRIPTION, 4 + 2 + name.len() + padding);
    out.put_u32(ssrc);
    out.put_u8(CNAME);
    out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.put_slice(&name);
    out.put_bytes(0, padding);
}

/// Appends a BYE (RFC 3550 §6.6).
pub fn write_bye(out: &mut impl BufMut, ssrc: u32) {
    head(out, 1, BYE, 4);
    out.put_u32(ssrc);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_compound_reads_back() {
        let sender = SenderInfo { ntp: 1 << 40 | 5, rtp_timestamp: 9, packets: 2, octets: 320 };
        let block = ReportBlock {
            ssrc: 8,
            fraction_lost: 255,
            cumulative_lost: -3,
            highest_sequence: 70_000,
            jitter: 12,
            last_sr: 1,
            delay_since_last_sr: 65_536,
        };
        for cname in ["a", "ab", "abc", "abcd", "voice@fra1", ""] {
            let mut bytes = Vec::new();
            write_report(&mut bytes, 7, Some(sender), Some(block));
            write_cname(&mut bytes, 7, cname);
            write_bye(&mut bytes, 7);
            assert_eq!(bytes.len() % 4, 0);
            let packets = parse(&bytes).unwrap();
            let report = Rtcp::Report { ssrc: 7, sender: Some(sender), blocks: vec![block] };
            assert_eq!(packets, [report, Rtcp::Other(202), Rtcp::Bye { ssrc: Some(7) }]);
        }
    }

    #[test]
    fn lies_about_length_are_refused() {
        assert_eq!(parse(&[]), Err(RtcpError::Empty));
        assert_eq!(parse(&[0x81, 200, 0, 1, 0, 0, 0, 0]), Err(RtcpError::Truncated));
        assert_eq!(parse(&[0x80, 203, 0, 9]), Err(RtcpError::Truncated));
        assert_eq!(parse(&[0x00, 203, 0, 0]), Err(RtcpError::Version));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 200..208_u8) {
            let _ = parse(&bytes);
            if let [flags, packet_type, high, low, ..] = bytes.as_mut_slice() {
                *flags = *flags & 0x3f | 0x80;
                (*packet_type, *high, *low) = (kind, 0, *low % 32);
            }
            let _ = parse(&bytes);
        }
    }
}
