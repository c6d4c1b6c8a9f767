//! SIP (RFC 3261): messages, framing, transactions, dialogs, digest.
//!
//! Standards: RFC 3261, RFC 6026 (2xx to INVITE), RFC 3262 (PRACK), RFC 3581 (rport), RFC 5626 §3.5.1 (keep-alive),
//! RFC 7616 and RFC 8760 (digest).
//! Invariants: nothing here panics on network input; every message that is dropped or answered
//! without the transaction user has a [`Reason`] that is counted.
//! Deliberately not here: sockets, DNS (RFC 3263), registrar, forking proxy, S/MIME, switching to
//! TCP by size (§18.1.1: the trunk says which transport it wants).
//! Scripts: `testdata/sip/*.txt`; torture messages: RFC 4475.

mod counters;
mod dialog;
pub mod digest;
mod endpoint;
mod flow;
pub mod framing;
mod header;
mod lex;
mod message;
mod params;
mod parse;
mod text;
mod transaction;
mod uri;
mod value;

pub use counters::{Counters, Reason};
pub use dialog::{Dialog, DialogError, DialogId, DialogState};
pub use endpoint::{ClientTx, Config, Endpoint, Event, FailReason, Overloaded, ServerTx, Transmit};
pub use flow::{Flow, Transport};
pub use header::{Header, HeaderName, HeaderValue, Headers};
pub use message::{Message, Method, Request, Response, reason_phrase};
pub use params::Params;
pub use parse::{MAX_HEADERS, MAX_MESSAGE_BYTES, Malformed, ParseError, parse};
pub use text::Text;
pub use transaction::{Timer, TimerValues};
pub use uri::{Scheme, Uri};
pub use value::{CSeq, NameAddr, RAck, Refresher, SessionExpires, Via};

#[cfg(test)]
mod tests;
