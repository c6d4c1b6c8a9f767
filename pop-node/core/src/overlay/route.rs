//! Where the datagrams for a POP go.

use proto::id::PopId;
use proto::overlay::PathId;
use proto::time::Duration;

/// One way to a POP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Hop {
    /// As both ends number it.
    pub path: PathId,
    /// The POP between, if any.
    pub via: Option<PopId>,
}

impl Hop {
    /// A direct one.
    pub const fn direct(path: PathId) -> Self {
        Self { path, via: None }
    }

    /// Through `relay`.
    pub fn via(relay: PopId) -> Self {
        Self { path: PathId::via(&relay), via: Some(relay) }
    }
}

impl std::fmt::Display for Hop {
    /// `0-1`: our and their upstream as numbered by the POP with the lower id; or `via iad1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.via, self.path.upstreams()) {
            (Some(relay), _) => write!(f, "via {relay}"),
            (None, Some((lower, higher))) => write!(f, "{lower}-{higher}"),
            (None, None) => write!(f, "path {}", self.path.0),
        }
    }
}

/// How media for a POP is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// Every datagram goes here.
    pub primary: Hop,
    /// A copy of every datagram goes here, too.
    pub copy: Option<Hop>,
    /// Every datagram goes on the primary again, so much later.
    pub again: Option<Duration>,
    /// For what we pass on for others, which takes one hop more at most: the best direct path.
    pub direct: Option<PathId>,
}
