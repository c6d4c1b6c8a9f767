//! CRC-32 (ISO 3309, the one of Ethernet) over key and value, kept before the value.

const TABLE: [u32; 256] = table();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated at compile time, where it cannot panic later"
)]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

fn crc32(parts: [&[u8]; 2]) -> u32 {
    let bytes = parts.into_iter().flatten();
    !bytes.fold(u32::MAX, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default();
        entry ^ (crc >> 8)
    })
}

/// The value with its checksum.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(4 + value.len());
    sealed.extend_from_slice(&crc32([key, value]).to_le_bytes());
    sealed.extend_from_slice(value);
    sealed
}

/// The value, unless it was damaged.
pub(super) fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = sealed.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*crc) == crc32([key, value])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_and_every_flipped_bit() {
        assert_eq!(crc32([b"1234", b"56789"]), 0xCBF4_3926);
        let sealed = seal(b"k", b"value");
        assert_eq!(open(b"k", &sealed), Some(b"value".as_slice()));
        assert_eq!(open(b"j", &sealed), None);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"k", &damaged), None, "bit {bit}");
        }
        assert_eq!(open(b"k", b"abc"), None);
    }
}
