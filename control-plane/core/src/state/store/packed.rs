//! A few bytes without a heap block: most keys and records of millions of numbers fit.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// What fits inside.
const INLINE: usize = 22;

/// Immutable bytes, 24 bytes long; up to 22 of them inside. Ordered as slices are.
#[derive(Clone)]
pub enum Packed {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl Packed {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Packed {
    fn from(slice: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..slice.len()), u8::try_from(slice.len())) {
            (Some(head), Ok(len)) => {
                head.copy_from_slice(slice);
                Self::Inline(len, bytes)
            }
            _ => Self::Heap(slice.into()),
        }
    }
}

impl AsRef<[u8]> for Packed {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Borrow<[u8]> for Packed {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Packed {}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_keep_their_bytes_and_order() {
        assert_eq!(size_of::<Packed>(), 24);
        let texts: Vec<Vec<u8>> = (0..60).map(|n| vec![b'a'; n]).collect();
        for pair in texts.windows(2) {
            let (short, long) = (Packed::from(&*pair[0]), Packed::from(&*pair[1]));
            assert_eq!(short.as_slice(), pair[0]);
            assert!(short < long);
            assert_ne!(short, long);
        }
        assert!(Packed::from(b"b".as_slice()) > Packed::from(texts[59].as_slice()));
    }
}
