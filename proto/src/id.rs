//! Names of things. An id is used once, ever.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("is empty: 1 to 63 of a-z, 0-9 and '-'")]
    Empty,
    /// A character that names may not have (RFC 1123 labels: they become DNS names).
    #[error("has '{0}': only a-z, 0-9 and '-' (not first or last)")]
    Character(char),
    /// Longer than a DNS label.
    #[error("is {0} characters long: at most 63")]
    TooLong(usize),
}

fn check_label(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::Empty);
    }
    if name.len() > 63 {
        return Err(IdError::TooLong(name.len()));
    }
    let bad = name.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'));
    if let Some(c) = bad {
        return Err(IdError::Character(c));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(IdError::Character('-'));
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name: an RFC 1123 label, 1 to 63 of `a-z`, `0-9`, `-`.
            pub fn new(name: &str) -> Result<Self, IdError> {
                check_label(name)?;
                Ok(Self(name.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// A POP: one edge site of the mesh, such as `fra1`.
    PopId
}
label! {
    /// A carrier or PBX connection.
    TrunkId
}
label! {
    /// A route.
    RouteId
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

number! {
    /// One side of a call at one POP. Counts up from process start; never reused in a process.
    LegId(u64)
}
number! {
    /// Position in the control plane's history of state changes.
    Revision(u64)
}
number! {
    /// Generation of a POP's ownership; peers refuse an older one.
    Epoch(u64)
}
number! {
    /// A control node (raft voter). Never 0.
    NodeId(u64)
}
number! {
    /// A media stream of the overlay, named by the POP that receives it.
    StreamId(u32)
}

/// A call in the mesh: 16 random bytes, the same at each POP it crosses. Not the SIP Call-ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub [u8; 16]);

impl CallId {
    /// From the wire; `None` unless 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From its 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
        Some(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ids_are_read_as_they_are_shown() {
        let id = CallId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(CallId::parse(&id.to_string()), Some(id));
        for text in ["", "00", "+00102030405060708090a0b0c0d0eff", &"0".repeat(33)] {
            assert_eq!(CallId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn labels_are_dns_labels() {
        assert_eq!(PopId::new("fra1").unwrap().as_str(), "fra1");
        assert_eq!(PopId::new(""), Err(IdError::Empty));
        assert_eq!(PopId::new("Fra"), Err(IdError::Character('F')));
        assert_eq!(PopId::new("-a"), Err(IdError::Character('-')));
        assert_eq!(PopId::new(&"a".repeat(64)), Err(IdError::TooLong(64)));
    }
}
