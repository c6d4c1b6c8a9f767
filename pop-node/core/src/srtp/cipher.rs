//! The transforms: counter mode with HMAC-SHA1 (RFC 3711 §4), Galois/counter mode (RFC 7714).

use std::fmt;

use aes::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::hmac::HmacSha1;
use super::{MasterKey, SrtpError};

type Block = Array<u8, aes::cipher::consts::U16>;

/// Blocks encrypted at once: the instructions overlap.
const BLOCKS: usize = 16;

/// AES with a key schedule made once.
pub(super) enum Aes {
    Bits128(Box<aes::Aes128Enc>),
    Bits256(Box<aes::Aes256Enc>),
}

impl Aes {
    /// Of the first `length` bytes: 16, else all 32.
    pub(super) fn new(key: &[u8; 32], length: usize) -> Self {
        match key.first_chunk::<16>() {
            Some(half) if length == 16 => Self::Bits128(Box::new(aes::Aes128Enc::new(half.into()))),
            _ => Self::Bits256(Box::new(aes::Aes256Enc::new(key.into()))),
        }
    }

    fn encrypt(&self, blocks: &mut [Block]) {
        match self {
            Self::Bits128(aes) => aes.encrypt_blocks(blocks),
            Self::Bits256(aes) => aes.encrypt_blocks(blocks),
        }
    }
}

/// Combines `data` with the key stream that begins at `iv`, whose last two bytes count blocks
/// (RFC 3711 §4.1.1).
pub(super) fn counter_mode(aes: &Aes, mut iv: [u8; 16], data: &mut [u8]) {
    let mut counter: u16 = 0;
    let mut stream = [Block::default(); BLOCKS];
    for part in data.chunks_mut(16 * BLOCKS) {
        let used = part.len().div_ceil(16);
        let Some(stream) = stream.get_mut(..used) else { return };
        for block in stream.iter_mut() {
            if let Some(end) = iv.last_chunk_mut::<2>() {
                *end = counter.to_be_bytes();
            }
            *block = iv.into();
            counter = counter.wrapping_add(1);
        }
        aes.encrypt(stream);
        for (bytes, block) in part.chunks_mut(16).zip(stream.iter()) {
            bytes.iter_mut().zip(block).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

/// Session keys of RTP or of RTCP.
pub(super) enum Cipher {
    Counter { aes: Aes, salt: [u8; 14], mac: HmacSha1, tag_bytes: usize },
    Galois { key: Box<LessSafeKey>, salt: [u8; 12] },
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

/// What a packet's place is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) ssrc: u32,
    /// 48 bits: roll-over counter and sequence number; of SRTCP 31.
    pub(super) index: u64,
}

impl Place {
    fn index_bytes(self) -> [u8; 6] {
        let [_, _, index @ ..] = self.index.to_be_bytes();
        index
    }

    /// RFC 3711 §4.1.1.
    fn counter_iv(self, salt: &[u8; 14]) -> [u8; 16] {
        let mut iv = [0; 16];
        iv.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
        let rest = self.ssrc.to_be_bytes().into_iter().chain(self.index_bytes());
        iv.iter_mut().skip(4).zip(rest).for_each(|(to, from)| *to ^= from);
        iv
    }

    /// RFC 7714 §8.1 and §9.1: the same form for both, as an SRTCP index has 31 bits.
    fn nonce(self, salt: &[u8; 12]) -> Nonce {
        let mut iv = *salt;
        let rest = self.ssrc.to_be_bytes().into_iter().chain(self.index_bytes());
        iv.iter_mut().skip(2).zip(rest).for_each(|(to, from)| *to ^= from);
        Nonce::assume_unique_for_key(iv)
    }
}

impl Cipher {
    /// `first_label` is 0 for RTP, 3 for RTCP (RFC 3711 §4.3.2).
    pub(super) fn new(master: &MasterKey, first_label: u8, tag_bytes: usize) -> Self {
        let profile = master.profile();
        let mut key = [0; 32];
        if let Some(key) = key.get_mut(..profile.key_bytes()) {
            master.derive(first_label, key);
        }
        if profile.is_gcm() {
            let mut salt = [0; 12];
            master.derive(first_label + 2, &mut salt);
            return Self::galois(&key, profile.key_bytes(), salt);
        }
        let (mut salt, mut auth) = ([0; 14], [0; 20]);
        master.derive(first_label + 2, &mut salt);
        master.derive(first_label + 1, &mut auth);
        Self::counter(Aes::new(&key, profile.key_bytes()), salt, &auth, tag_bytes)
    }

    pub(super) fn counter(aes: Aes, salt: [u8; 14], auth: &[u8; 20], tag_bytes: usize) -> Self {
        Self::Counter { aes, salt, mac: HmacSha1::new(auth), tag_bytes }
    }

    pub(super) fn galois(key: &[u8; 32], length: usize, salt: [u8; 12]) -> Self {
        let algorithm = if length == 16 { &AES_128_GCM } else { &AES_256_GCM };
        #[allow(clippy::expect_used, reason = "the length is the algorithm's")]
        let key = UnboundKey::new(algorithm, key.get(..length).unwrap_or(key)).expect("its length");
        Self::Galois { key: Box::new(LessSafeKey::new(key)), salt }
    }

    pub(super) const fn tag_bytes(&self) -> usize {
        match self {
            Self::Counter { tag_bytes, .. } => *tag_bytes,
            Self::Galois { .. } => 16,
        }
    }

    /// Encrypts `body` and gives the tag; `extra` is authenticated behind all (the roll-over
    /// counter, or the SRTCP index). At most 20 bytes, of which `tag_bytes` count.
    pub(super) fn seal(
        &self,
        place: Place,
        (header, body): (&[u8], &mut [u8]),
        (extra, rtcp): ([u8; 4], bool),
    ) -> Result<[u8; 20], SrtpError> {
        let mut tag = [0; 20];
        match self {
            Self::Counter { aes, salt, mac, .. } => {
                counter_mode(aes, place.counter_iv(salt), body);
                tag = mac.tag([header, body, &extra]);
            }
            Self::Galois { key, salt } => {
                let nonce = place.nonce(salt);
                let made = match galois_aad(header, extra, rtcp).as_slice() {
                    Some(aad) => key.seal_in_place_separate_tag(nonce, Aad::from(aad), body),
                    None => return Err(SrtpError::Malformed),
                };
                let made = made.map_err(|_| SrtpError::NoRoom)?;
                tag.iter_mut().zip(made.as_ref()).for_each(|(to, from)| *to = *from);
            }
        }
        Ok(tag)
    }

    /// Checks the tag, then decrypts `body`; `tag` is as long as `tag_bytes` says.
    pub(super) fn open(
        &self,
        place: Place,
        (header, body, tag): (&[u8], &mut [u8], &[u8]),
        (extra, rtcp): ([u8; 4], bool),
    ) -> Result<(), SrtpError> {
        match self {
            Self::Counter { aes, salt, mac, tag_bytes } => {
                let right = mac.tag([header, body, &extra]);
                if !same(right.get(..*tag_bytes).unwrap_or_default(), tag) {
                    return Err(SrtpError::Tag);
                }
                counter_mode(aes, place.counter_iv(salt), body);
                Ok(())
            }
            Self::Galois { key, salt } => {
                let aad = galois_aad(header, extra, rtcp);
                let aad = Aad::from(aad.as_slice().ok_or(SrtpError::Malformed)?);
                let opened = key.open_in_place_separate_tag(place.nonce(salt), aad, tag, body);
                opened.map(|_| ()).map_err(|_| SrtpError::Tag)
            }
        }
    }
}

/// In a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// What GCM authenticates beside the body: the header, and of RTCP the index behind it.
struct GaloisAad<'a> {
    header: &'a [u8],
    joined: Option<([u8; 12], usize)>,
}

impl GaloisAad<'_> {
    fn as_slice(&self) -> Option<&[u8]> {
        match &self.joined {
            Some((bytes, length)) => bytes.get(..*length),
            None => Some(self.header),
        }
    }
}

fn galois_aad(header: &[u8], index: [u8; 4], rtcp: bool) -> GaloisAad<'_> {
    let joined = rtcp.then(|| {
        let mut bytes = [0; 12];
        bytes.iter_mut().zip(header.iter().copied().chain(index)).for_each(|(to, from)| *to = from);
        (bytes, header.len() + 4)
    });
    GaloisAad { header, joined }
}
