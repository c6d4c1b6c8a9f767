//! What the POP's own routers know by BGP of the ways to other POPs and to carriers.
//!
//! BMP (RFC 7854) in: [`Reassembly`] cuts a router's stream into [`Frame`]s, the shell has the BGP
//! messages in them parsed, and [`Bgp`] keeps what covers an address of interest. Out come
//! [`Hint`]s for each (upstream, address): risk in R, copies, drain, transit ASes. BGP is a hint
//! beside measurement (43 % of path failures are not seen in it), so what is not known speaks
//! against nothing, and a feed that is lost or makes no sense ([`Distrust`]) is forgotten.
//!
//! Only routes that cover an address of interest are kept. When an address is new, what was not
//! kept before is missing: the station closes its sessions, the routers come back and send all.
//! Until then the routes known before are held ([`table`]).
//!
//! Which AS may originate a prefix comes from RPKI caches ([`Rtr`], RFC 8210): a route that RPKI does
//! not allow ([`Validity`]) is left while another upstream has one.
//!
//! The other direction, [`Announcer`]: whether routers announce the POP's own prefixes.
//!
//! Deliberately not here: sockets, the BGP parser (the shell), which path is best (`overlay`).

mod announce;
mod frame;
mod hint;
mod message;
mod prefix;
mod report;
mod router;
mod rpki;
mod rtr;
#[cfg(test)]
mod rtr_tests;
mod sense;
mod station;
mod table;
#[cfg(test)]
mod tests;
mod way;

pub use announce::{Announcement, Announcer, Standing};
pub use frame::{Frame, FrameError, Kind, MESSAGE_BYTES_MAX, PeerHeader, PeerKey, Reassembly, Rib};
pub use hint::{Drain, Hint, Reason};
pub use message::{Attributes, Community, Message, Nlri, Update};
pub use prefix::Prefix;
pub use report::{FeedState, NeighborReport, Report, RouterReport, WayReport};
pub use router::Ignored;
pub use rpki::{Validity, Vrp, Vrps};
pub use rtr::{Leave, Pdu, Query, Rtr, RtrReport, State, Timing};
pub use sense::Distrust;
pub use station::{Bgp, BgpConfig, Event, Hangup, Neighbor, Policy, Session};
