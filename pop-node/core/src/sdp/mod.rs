//! Session descriptions (RFC 8866) and offer/answer (RFC 3264).
//!
//! The parser takes bytes and forgives what real peers send (bare LF, missing blanks, unknown
//! lines, text that is not UTF-8); it refuses what makes the meaning doubtful. Everything is
//! bounded. Deliberately absent: ICE, DTLS, video, session-level semantics such as BUNDLE. A
//! description that asks for them is answered with what plain RTP can do, or refused.
//!
//! Scripts: `testdata/sdp`.

mod description;
pub mod offer_answer;
mod parse;

pub use description::{Attribute, Connection, MediaDescription, Origin, SessionDescription};
pub use parse::{BYTES_MAX, ParseError};

#[cfg(test)]
mod tests;
