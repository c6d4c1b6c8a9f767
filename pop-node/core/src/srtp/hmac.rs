//! HMAC-SHA1 (RFC 2104) for very many short messages under one key: the key's two blocks are
//! hashed once, a message costs its own blocks and one more.

use sha1::block_api::compress;

const BLOCK: usize = 64;
/// FIPS 180-4 §5.3.1.
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// A key, as hash states after its inner and outer block.
pub(super) struct HmacSha1 {
    inner: [u32; 5],
    outer: [u32; 5],
}

impl HmacSha1 {
    pub(super) fn new(key: &[u8; 20]) -> Self {
        let state = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL;
            compress(&mut state, &[block]);
            state
        };
        Self { inner: state(0x36), outer: state(0x5c) }
    }

    /// The tag of these parts, one after the other.
    pub(super) fn tag(&self, parts: [&[u8]; 3]) -> [u8; 20] {
        let mut message = Message { state: self.inner, block: [0; BLOCK], used: 0, bytes: BLOCK };
        parts.into_iter().for_each(|part| message.push(part));
        let digest = message.finish();
        let mut outer = Message { state: self.outer, block: [0; BLOCK], used: 0, bytes: BLOCK };
        outer.push(&digest);
        outer.finish()
    }
}

/// A message on its way into a hash.
struct Message {
    state: [u32; 5],
    block: [u8; BLOCK],
    /// Bytes of `block`, less than all.
    used: usize,
    /// Hashed and in `block`.
    bytes: usize,
}

impl Message {
    fn push(&mut self, mut part: &[u8]) {
        self.bytes += part.len();
        if self.used != 0 {
            part = self.fill(part);
            if self.used < BLOCK {
                return;
            }
            compress(&mut self.state, &[self.block]);
            self.used = 0;
        }
        let (blocks, rest) = part.as_chunks::<BLOCK>();
        compress(&mut self.state, blocks);
        self.fill(rest);
    }

    /// Into the block as much as fits; gives the rest.
    fn fill<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        let room = self.block.get_mut(self.used..).unwrap_or_default();
        let (now, rest) = part.split_at(room.len().min(part.len()));
        room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
        self.used += now.len();
        rest
    }

    /// FIPS 180-4 §5.1.1.
    fn finish(mut self) -> [u8; 20] {
        let bits = (self.bytes as u64 * 8).to_be_bytes();
        let mut free = self.block.iter_mut().skip(self.used);
        free.next().into_iter().for_each(|byte| *byte = 0x80);
        free.for_each(|byte| *byte = 0);
        if self.used + 1 + bits.len() > BLOCK {
            compress(&mut self.state, &[self.block]);
            self.block = [0; BLOCK];
        }
        self.block.iter_mut().rev().zip(bits.iter().rev()).for_each(|(to, from)| *to = *from);
        compress(&mut self.state, &[self.block]);
        let mut digest = [0; 20];
        let (words, _) = digest.as_chunks_mut::<4>();
        words.iter_mut().zip(self.state).for_each(|(to, word)| *to = word.to_be_bytes());
        digest
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use proptest::prelude::*;
    use sha1::Sha1;

    use super::*;

    #[test]
    fn the_tags_are_those_of_the_standard() {
        // RFC 2202 §3, cases 1 and 3.
        let tag = HmacSha1::new(&[0x0b; 20]).tag([b"Hi", b" There", b""]);
        assert_eq!(
            tag.map(|byte| format!("{byte:02x}")).concat(),
            "b617318655057264e28bc0b6fb378c8ef146be00"
        );
        let tag = HmacSha1::new(&[0xaa; 20]).tag([&[0xdd; 50], b"", b""]);
        assert_eq!(
            tag.map(|byte| format!("{byte:02x}")).concat(),
            "125d7342b9ac11cd91a39af48aa17b4f63f175d3"
        );
    }

    proptest! {
        #[test]
        fn parts_of_any_length_are_hashed_as_one(
            key: [u8; 20],
            a in prop::collection::vec(any::<u8>(), 0..200),
            b in prop::collection::vec(any::<u8>(), 0..200),
            c in prop::collection::vec(any::<u8>(), 0..70),
        ) {
            let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
            [&a, &b, &c].into_iter().for_each(|part| mac.update(part));
            let right: [u8; 20] = mac.finalize().into_bytes().into();
            prop_assert_eq!(HmacSha1::new(&key).tag([&a, &b, &c]), right);
        }
    }
}
