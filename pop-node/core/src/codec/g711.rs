//! G.711 (ITU-T G.711): µ-law and A-law, sample by sample.

/// A µ-law byte to linear (G.711 table 2).
pub const fn ulaw_decode(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((((byte & 0x0f) as i16) << 3) + 0x84) << ((byte & 0x70) >> 4);
    if byte & 0x80 != 0 { 0x84 - magnitude } else { magnitude - 0x84 }
}

/// A linear sample to µ-law.
pub const fn ulaw_encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = {
        let magnitude = sample.unsigned_abs();
        (if magnitude > 32_635 { 32_635 } else { magnitude }) + 0x84
    };
    // The biased magnitude has its highest bit at 7 to 14: the segment.
    let segment = 8 - magnitude.leading_zeros() as u8;
    let mantissa = (magnitude >> (segment + 3)) as u8 & 0x0f;
    !(sign | segment << 4 | mantissa)
}

/// An A-law byte to linear (G.711 table 1).
pub const fn alaw_decode(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = ((byte & 0x0f) as i16) << 4;
    let magnitude = match (byte & 0x70) >> 4 {
        0 => mantissa + 0x08,
        segment => (mantissa + 0x108) << (segment - 1),
    };
    if byte & 0x80 != 0 { magnitude } else { -magnitude }
}

/// A linear sample to A-law.
pub const fn alaw_encode(sample: i16) -> u8 {
    let mask = if sample >= 0 { 0xd5 } else { 0x55 };
    let magnitude = (if sample >= 0 { sample } else { !sample }) as u16 >> 3;
    let byte = if magnitude < 0x20 {
        (magnitude >> 1) as u8
    } else {
        let segment = 11 - magnitude.leading_zeros() as u8;
        segment << 4 | (magnitude >> segment) as u8 & 0x0f
    };
    byte ^ mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corner_values_are_the_standards() {
        assert_eq!((ulaw_decode(0x00), ulaw_decode(0x80)), (-32_124, 32_124));
        assert_eq!((ulaw_decode(0xff), ulaw_encode(0)), (0, 0xff));
        assert_eq!((alaw_decode(0xd5), alaw_decode(0x55)), (8, -8));
        assert_eq!((alaw_decode(0xaa), alaw_decode(0x2a)), (32_256, -32_256));
    }

    #[test]
    fn every_code_survives_and_every_sample_is_near_its_code() {
        for byte in 0..=255 {
            // µ-law has two zeros; the positive one is written.
            let expected = if byte == 0x7f { 0xff } else { byte };
            assert_eq!(ulaw_encode(ulaw_decode(byte)), expected);
            assert_eq!(alaw_encode(alaw_decode(byte)), byte);
        }
        for sample in (i16::MIN..=i16::MAX).step_by(7) {
            // Half a step: 1/32 of the value in the worst case, and µ-law clips at 32635.
            let bound = 8 + i32::from(sample).abs() / 32;
            let error = |out: i16| (i32::from(out) - i32::from(sample)).abs();
            assert!(error(ulaw_decode(ulaw_encode(sample))) <= bound, "{sample}");
            assert!(error(alaw_decode(alaw_encode(sample))) <= bound, "{sample}");
        }
    }
}
