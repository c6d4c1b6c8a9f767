//! RTP and RTCP (RFC 3550, RFC 3611) as views of bytes, telephone-event (RFC 4733), reception
//! statistics.
//!
//! Nothing here panics on any input. Header extensions and CSRCs are skipped, never interpreted;
//! profiles other than AVP are not here (SRTP: [`srtp`](crate::srtp)).

mod bursts;
mod packet;
pub mod red;
pub mod rtcp;
mod statistics;
pub mod telephone_event;
pub mod xr;

pub use bursts::BurstMetrics;
pub use packet::{HEADER_BYTES, Header, Packet, RtpError, is_rtcp};
pub use statistics::{Interval, Reception, Totals};
