//! RTP and RTCP (RFC 3550) as views of bytes, telephone-event (RFC 4733), reception statistics.
//!
//! Nothing here panics on any input. Header extensions and CSRCs are skipped, never interpreted;
//! profiles other than AVP are not here (SRTP: [`srtp`](crate::srtp)).

mod packet;
pub mod rtcp;
mod statistics;
pub mod telephone_event;

pub use packet::{HEADER_BYTES, Header, Packet, RtpError, is_rtcp};
pub use statistics::{Interval, Reception, Totals};
