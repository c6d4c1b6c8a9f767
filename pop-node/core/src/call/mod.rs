//! Calls: a back-to-back user agent over two legs (RFC 7092).

mod cdr;

pub use cdr::{Cdr, CdrRole, EndCause};

/// The next value of a small mixing generator: enough for weights, never for secrets.
pub(crate) const fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
