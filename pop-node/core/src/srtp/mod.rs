//! SRTP and SRTCP (RFC 3711) with AES counter mode (also RFC 6188) and AES-GCM (RFC 7714), keyed by
//! session descriptions (RFC 4568).
//!
//! [`Outbound`] protects what one leg sends, [`Inbound`] checks and opens what it receives; both
//! work in place, in a buffer with [`TRAILER_BYTES_MAX`] of room behind the packet.
//!
//! Invariants: a key is never used twice for the same packet index, whatever a peer makes us relay;
//! nothing of a packet is believed before its tag is checked; a packet is opened once.
//!
//! Deliberately not here: key derivation rates, master key identifiers (MKI) and unencrypted SRTCP:
//! a description that asks for one of them is passed over.

mod cipher;
mod hmac;
mod inbound;
mod keys;
mod outbound;
mod sdes;
#[cfg(test)]
mod tests;
mod window;

pub use inbound::Inbound;
pub use keys::{KeySource, MasterKey};
pub use outbound::Outbound;
pub use sdes::Crypto;

/// What protection adds to a packet at most: the SRTCP index and a GCM tag.
pub const TRAILER_BYTES_MAX: usize = 20;

/// A cipher with its tag (the names of RFC 4568 §6.2, RFC 6188 §8 and RFC 7714 §14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// AES-256 in Galois/counter mode, tag of 16 bytes.
    AeadAes256Gcm,
    /// AES-128 in Galois/counter mode, tag of 16 bytes.
    AeadAes128Gcm,
    /// AES-256 in counter mode, HMAC-SHA1 tag of 10 bytes.
    AesCm256HmacSha1Tag80,
    /// AES-128 in counter mode, HMAC-SHA1 tag of 10 bytes: what every SRTP peer has.
    AesCm128HmacSha1Tag80,
    /// AES-256 in counter mode, tag of 4 bytes on RTP and 10 on RTCP.
    AesCm256HmacSha1Tag32,
    /// AES-128 in counter mode, tag of 4 bytes on RTP and 10 on RTCP.
    AesCm128HmacSha1Tag32,
}

impl Profile {
    /// Strongest first.
    pub const ALL: [Self; 6] = [
        Self::AeadAes256Gcm,
        Self::AeadAes128Gcm,
        Self::AesCm256HmacSha1Tag80,
        Self::AesCm128HmacSha1Tag80,
        Self::AesCm256HmacSha1Tag32,
        Self::AesCm128HmacSha1Tag32,
    ];

    /// What we offer: an INVITE over UDP must stay small, and a tag of 4 bytes is no protection to
    /// ask for. The others are answered.
    pub const OFFERED: [Self; 3] =
        [Self::AeadAes256Gcm, Self::AeadAes128Gcm, Self::AesCm128HmacSha1Tag80];

    /// The name in `a=crypto`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AesCm256HmacSha1Tag80 => "AES_256_CM_HMAC_SHA1_80",
            Self::AesCm128HmacSha1Tag80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm256HmacSha1Tag32 => "AES_256_CM_HMAC_SHA1_32",
            Self::AesCm128HmacSha1Tag32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }

    /// The profile of a name, whatever its case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name().eq_ignore_ascii_case(name))
    }

    const fn is_gcm(self) -> bool {
        matches!(self, Self::AeadAes256Gcm | Self::AeadAes128Gcm)
    }

    /// Bytes of the master key, and of each session key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AesCm256HmacSha1Tag80 | Self::AesCm256HmacSha1Tag32 => 32,
            Self::AeadAes128Gcm | Self::AesCm128HmacSha1Tag80 | Self::AesCm128HmacSha1Tag32 => 16,
        }
    }

    /// Bytes of the master salt.
    pub const fn salt_bytes(self) -> usize {
        if self.is_gcm() { 12 } else { 14 }
    }

    /// Bytes of the tag of an RTP packet.
    const fn rtp_tag_bytes(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 16,
            Self::AesCm256HmacSha1Tag80 | Self::AesCm128HmacSha1Tag80 => 10,
            Self::AesCm256HmacSha1Tag32 | Self::AesCm128HmacSha1Tag32 => 4,
        }
    }

    /// Bytes of the tag of an RTCP packet: never the short one.
    const fn rtcp_tag_bytes(self) -> usize {
        if self.is_gcm() { 16 } else { 10 }
    }
}

/// The keys of a leg, one for each direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtpKeys {
    /// Ours: what we send is protected with it.
    pub send: MasterKey,
    /// The peer's.
    pub receive: MasterKey,
}

/// Why a packet was not protected or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Its tag is wrong: another key, or changed on the way.
    #[error("the authentication tag does not fit")]
    Tag,
    /// It came before, or is so old that nobody knows.
    #[error("the packet index was seen already or is too old")]
    Replayed,
    /// Not RTP or RTCP, or too short for its tag.
    #[error("too short or not a packet")]
    Malformed,
    /// No room behind it for its tag.
    #[error("no room for the tag")]
    NoRoom,
    /// We would have to use a packet index twice.
    #[error("the packet index was used already")]
    Reused,
    /// The key protected as much as it may (RFC 3711 §9.2).
    #[error("the key is used up")]
    KeyUsedUp,
}
