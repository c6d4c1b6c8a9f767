//! Keys in session descriptions: `a=crypto` (RFC 4568).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::{MasterKey, Profile};

/// One `a=crypto` line that we understand (RFC 4568 §9.1). Printing it shows the key: it is what
/// goes into a description. `Debug` does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crypto {
    /// Which line of the offer it is, and in an answer, answers.
    pub tag: u32,
    /// The key of whoever wrote the line.
    pub key: MasterKey,
}

impl Crypto {
    /// The value of an `a=crypto` line; `None` if it is malformed, of an unknown profile, or asks
    /// for what we do not do (RFC 4568 §6.3.1: a line not understood is passed over).
    pub fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next().filter(|tag| tag.len() <= 9)?.parse().ok()?;
        let profile = Profile::from_name(words.next()?)?;
        let keys = words.next()?;
        // Several keys in one line need an MKI. WSH only hints at a window.
        if keys.contains(';') || words.any(|parameter| !parameter.starts_with("WSH=")) {
            return None;
        }
        let mut parts = keys.strip_prefix("inline:")?.split('|');
        let text = parts.next()?;
        // What is left is a lifetime ("2^20", or a number); "1:4" would be an MKI.
        if parts.any(|part| part.contains(':')) {
            return None;
        }
        let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
        Some(Self { tag, key: MasterKey::new(profile, &bytes)? })
    }
}

impl fmt::Display for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode(self.key.bytes());
        write!(f, "{} {} inline:{key}", self.tag, self.key.profile().name())
    }
}
