//! Parsing, skeleton.

use bytes::Bytes;

use super::flow::Transport;
use super::message::{Message, Response};

/// Longest message that is read (RFC 3261 §18.1.1: at least 65,535 bytes).
pub const MAX_MESSAGE_BYTES: usize = 65_536;

/// Most headers in one message.
pub const MAX_HEADERS: usize = 256;

/// What is wrong with a message or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Body shorter than Content-Length says.
    #[error("body shorter than Content-Length")]
    BodyTooShort,
    /// CSeq.
    #[error("malformed CSeq")]
    CSeq,
    /// CSeq method differs from the request's.
    #[error("CSeq method mismatch")]
    CSeqMethod,
    /// Call-ID.
    #[error("malformed Call-ID")]
    CallId,
    /// Contact.
    #[error("malformed Contact")]
    Contact,
    /// Content-Length.
    #[error("malformed Content-Length")]
    ContentLength,
    /// Not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// No empty line after the headers.
    #[error("no end of headers")]
    EndOfHeaders,
    /// From.
    #[error("malformed From")]
    From,
    /// A header line.
    #[error("malformed header line")]
    HeaderLine,
    /// Host or port.
    #[error("malformed host or port")]
    HostOrPort,
    /// Max-Forwards.
    #[error("malformed Max-Forwards")]
    MaxForwards,
    /// A mandatory header is missing.
    #[error("mandatory header missing")]
    Missing,
    /// Name-addr.
    #[error("malformed address")]
    NameAddr,
    /// Not SIP.
    #[error("not a SIP message")]
    NotSip,
    /// Parameter.
    #[error("malformed parameter")]
    Parameter,
    /// A header that may occur once occurs twice.
    #[error("repeated header")]
    Repeated,
    /// Route or Record-Route.
    #[error("malformed Route or Record-Route")]
    Route,
    /// Start line.
    #[error("malformed start line")]
    StartLine,
    /// To.
    #[error("malformed To")]
    To,
    /// Message too large.
    #[error("message too large")]
    TooLarge,
    /// Too many headers.
    #[error("too many headers")]
    TooManyHeaders,
    /// Too many parameters.
    #[error("too many parameters")]
    TooManyParameters,
    /// URI.
    #[error("malformed URI")]
    Uri,
    /// SIP version.
    #[error("SIP version not supported")]
    Version,
    /// Via.
    #[error("malformed Via")]
    Via,
}

/// Why a message does not parse, and the answer that is due.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{malformed}")]
pub struct ParseError {
    /// The first thing found wrong.
    pub malformed: Malformed,
    /// True if the message was a response: never answered.
    pub is_response: bool,
    /// The response that is due: none to a response, an ACK, or what has no Via.
    pub answer: Option<Box<Response>>,
}

/// Parses one message: a UDP datagram, or what TCP framing cut out.
pub fn parse(bytes: &Bytes, _transport: Transport) -> Result<Message, ParseError> {
    let _ = bytes;
    Err(ParseError { malformed: Malformed::NotSip, is_response: false, answer: None })
}
