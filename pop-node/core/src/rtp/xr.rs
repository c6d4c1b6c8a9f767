//! RTCP extended reports (RFC 3611): the VoIP metrics block. Other blocks are skipped.

use bytes::BufMut;

use super::bursts::GMIN;

/// The packet type.
pub(super) const EXTENDED_REPORT: u8 = 207;
const VOIP_METRICS: u8 = 7;
/// Words of the block after its first.
const VOIP_WORDS: u16 = 8;
/// Says that a value is not there (§4.7.3, §4.7.5).
const UNAVAILABLE: u8 = 127;

/// What a receiver says of the voice it hears (§4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VoipMetrics {
    /// The source reported on.
    pub ssrc: u32,
    /// Share lost on the way, in 1/256.
    pub loss_rate: u8,
    /// Share that came too late or too early to be played, in 1/256.
    pub discard_rate: u8,
    /// Share lost or discarded within bursts, in 1/256.
    pub burst_density: u8,
    /// Share lost or discarded within gaps, in 1/256.
    pub gap_density: u8,
    /// Mean length of a burst in ms.
    pub burst_ms: u16,
    /// Mean length of a gap in ms.
    pub gap_ms: u16,
    /// Round trip in ms, 0 if not known.
    pub round_trip_ms: u16,
    /// From the socket to the ear and from the mouth to the socket, in ms.
    pub end_system_ms: u16,
    /// Level of the voice in dBm0.
    pub signal_dbm0: Option<i8>,
    /// R, 0 to 100 (G.107).
    pub r_factor: Option<u8>,
    /// MOS for listening, times 10.
    pub mos_lq: Option<u8>,
    /// MOS for conversation, times 10.
    pub mos_cq: Option<u8>,
    /// Present delay of the playout buffer in ms.
    pub playout_ms: u16,
    /// Its most.
    pub playout_max_ms: u16,
}

fn known(byte: u8) -> Option<u8> {
    (byte != UNAVAILABLE).then_some(byte)
}

impl VoipMetrics {
    fn read(block: &[u8]) -> Option<Self> {
        let bytes = block.first_chunk::<32>()?;
        let [s0, s1, s2, s3, loss, discard, burst, gap, b0, b1, g0, g1, r0, r1, e0, e1, ..] =
            *bytes;
        let [
            ..,
            level,
            _noise,
            _rerl,
            _gmin,
            r,
            _external,
            lq,
            cq,
            _config,
            _reserved,
            n0,
            n1,
            m0,
            m1,
            _,
            _,
        ] = *bytes;
        Some(Self {
            ssrc: u32::from_be_bytes([s0, s1, s2, s3]),
            loss_rate: loss,
            discard_rate: discard,
            burst_density: burst,
            gap_density: gap,
            burst_ms: u16::from_be_bytes([b0, b1]),
            gap_ms: u16::from_be_bytes([g0, g1]),
            round_trip_ms: u16::from_be_bytes([r0, r1]),
            end_system_ms: u16::from_be_bytes([e0, e1]),
            signal_dbm0: known(level).map(u8::cast_signed),
            r_factor: known(r),
            mos_lq: known(lq),
            mos_cq: known(cq),
            playout_ms: u16::from_be_bytes([n0, n1]),
            playout_max_ms: u16::from_be_bytes([m0, m1]),
        })
    }
}

/// The first VoIP metrics block in the body of an extended report, after the reporter's SSRC.
pub(super) fn voip_metrics(mut blocks: &[u8]) -> Option<VoipMetrics> {
    while let Some((&[block_type, _, high, low], rest)) = blocks.split_first_chunk::<4>() {
        let bytes = usize::from(u16::from_be_bytes([high, low])) * 4;
        let (block, after) = rest.split_at_checked(bytes)?;
        if block_type == VOIP_METRICS {
            return VoipMetrics::read(block);
        }
        blocks = after;
    }
    None
}

/// Appends an extended report with this block.
pub fn write_voip_metrics(out: &mut impl BufMut, ssrc: u32, metrics: &VoipMetrics) {
    out.put_u8(2 << 6);
    out.put_u8(EXTENDED_REPORT);
    out.put_u16(1 + 1 + VOIP_WORDS);
    out.put_u32(ssrc);
    out.put_u8(VOIP_METRICS);
    out.put_u8(0);
    out.put_u16(VOIP_WORDS);
    out.put_u32(metrics.ssrc);
    out.put_u8(metrics.loss_rate);
    out.put_u8(metrics.discard_rate);
    out.put_u8(metrics.burst_density);
    out.put_u8(metrics.gap_density);
    out.put_u16(metrics.burst_ms);
    out.put_u16(metrics.gap_ms);
    out.put_u16(metrics.round_trip_ms);
    out.put_u16(metrics.end_system_ms);
    out.put_u8(metrics.signal_dbm0.map_or(UNAVAILABLE, i8::cast_unsigned));
    // Noise and echo are not measured.
    out.put_u8(UNAVAILABLE);
    out.put_u8(UNAVAILABLE);
    out.put_u8(GMIN);
    out.put_u8(metrics.r_factor.unwrap_or(UNAVAILABLE));
    out.put_u8(UNAVAILABLE);
    out.put_u8(metrics.mos_lq.unwrap_or(UNAVAILABLE));
    out.put_u8(metrics.mos_cq.unwrap_or(UNAVAILABLE));
    // Concealment as good as G.711 appendix I's, an adaptive playout buffer (§4.7.6).
    out.put_u8(0b1111_0000);
    out.put_u8(0);
    out.put_u16(metrics.playout_ms);
    out.put_u16(metrics.playout_max_ms);
    out.put_u16(metrics.playout_max_ms);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rtp::rtcp::{Rtcp, RtcpError, parse};

    fn metrics() -> VoipMetrics {
        VoipMetrics {
            ssrc: 8,
            loss_rate: 3,
            discard_rate: 1,
            burst_density: 90,
            gap_density: 2,
            burst_ms: 260,
            gap_ms: 6_000,
            round_trip_ms: 120,
            end_system_ms: 65,
            signal_dbm0: Some(-18),
            r_factor: Some(88),
            mos_lq: Some(43),
            mos_cq: None,
            playout_ms: 40,
            playout_max_ms: 200,
        }
    }

    #[test]
    fn what_is_written_reads_back_also_behind_other_blocks() {
        let mut bytes = Vec::new();
        write_voip_metrics(&mut bytes, 7, &metrics());
        assert_eq!(bytes.len(), 44, "RFC 3611 §4.7: nine words in a packet of two");
        let report = Rtcp::Extended { ssrc: 7, voip: Some(Box::new(metrics())) };
        assert_eq!(parse(&bytes), Ok(vec![report.clone()]));
        // A receiver reference time block (§4.4) before it.
        bytes.splice(8..8, [4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[3] += 3;
        assert_eq!(parse(&bytes), Ok(vec![report]));
        bytes[10] = 1;
        assert_eq!(parse(&bytes), Ok(vec![Rtcp::Extended { ssrc: 7, voip: None }]));
        assert_eq!(parse(&[0x80, 207, 0, 0]), Err(RtcpError::Truncated));
    }

    proptest! {
        #[test]
        fn any_blocks_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = voip_metrics(&bytes);
            let mut block = vec![VOIP_METRICS, 0, 0, 8];
            block.extend(bytes.iter().copied().chain(std::iter::repeat(0)).take(32));
            prop_assert!(voip_metrics(&block).is_some());
        }
    }
}
