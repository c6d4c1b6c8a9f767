//! Master keys, where ours come from, and the session keys they give.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::Profile;
use super::cipher::{Aes, counter_mode};

/// A master key and salt (RFC 3711 §3.2.1). Printing it does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    profile: Profile,
    key: [u8; 32],
    salt: [u8; 14],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// From key and salt in one piece, as `inline:` has them; `None` if the length is another.
    pub fn new(profile: Profile, bytes: &[u8]) -> Option<Self> {
        let (key_bytes, salt_bytes) = (profile.key_bytes(), profile.salt_bytes());
        if bytes.len() != key_bytes + salt_bytes {
            return None;
        }
        let (mut key, mut salt) = ([0; 32], [0; 14]);
        key.get_mut(..key_bytes)?.copy_from_slice(bytes.get(..key_bytes)?);
        salt.get_mut(..salt_bytes)?.copy_from_slice(bytes.get(key_bytes..)?);
        Some(Self { profile, key, salt })
    }

    /// What it is for.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Key and salt in one piece.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let key = self.key.iter().take(self.profile.key_bytes());
        key.chain(self.salt.iter().take(self.profile.salt_bytes())).copied().collect()
    }

    /// Session key material (RFC 3711 §4.3.1, RFC 7714 §11: a short salt is followed by zeros).
    /// The key derivation rate is 0.
    pub(super) fn derive(&self, label: u8, out: &mut [u8]) {
        let mut iv = [0; 16];
        iv.iter_mut().zip(self.salt).for_each(|(to, from)| *to = from);
        // The label stands seven bytes before the end of the 112-bit salt.
        if let Some(byte) = iv.get_mut(7) {
            *byte ^= label;
        }
        out.fill(0);
        counter_mode(&Aes::new(&self.key, self.profile.key_bytes()), iv, out);
    }
}

/// Makes master keys from one secret: SHA-256 of it and a counter.
#[derive(Clone)]
pub struct KeySource {
    secret: [u8; 32],
    count: u64,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource").field("count", &self.count).finish_non_exhaustive()
    }
}

impl KeySource {
    /// `secret` must be unpredictable and new at each start.
    pub const fn new(secret: [u8; 32]) -> Self {
        Self { secret, count: 0 }
    }

    /// A key nobody had before.
    pub fn next(&mut self, profile: Profile) -> MasterKey {
        let (key, rest) = (self.block(), self.block());
        let mut salt = [0; 14];
        salt.iter_mut().take(profile.salt_bytes()).zip(rest).for_each(|(to, from)| *to = from);
        MasterKey { profile, key: shortened(key, profile.key_bytes()), salt }
    }

    /// A secret for a source below this one.
    pub fn secret(&mut self) -> [u8; 32] {
        self.block()
    }

    fn block(&mut self) -> [u8; 32] {
        self.count += 1;
        let mut hash = Sha256::new();
        hash.update(b"voxmesh srtp master key");
        hash.update(self.secret);
        hash.update(self.count.to_be_bytes());
        hash.finalize().into()
    }
}

/// The first `length` bytes; zeros behind them, so that equal keys are equal.
fn shortened(mut bytes: [u8; 32], length: usize) -> [u8; 32] {
    bytes.iter_mut().skip(length).for_each(|byte| *byte = 0);
    bytes
}
