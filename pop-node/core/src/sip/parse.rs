//! Bytes to messages (RFC 3261 §7, §25), strict where leniency would be a guess.
//!
//! Tolerated: bare LF, leading CR LF, white space and folding wherever the grammar has it, compact
//! names, unknown headers with any bytes, UTF-8 where tokens are due in display names.
//! Deliberately not checked: headers nobody here reads (Date, Warning, …).
//! Anything wrong gives the first [`Malformed`] and, for a request, the answer that is due.

use bytes::Bytes;

use super::flow::Transport;
use super::header::{HeaderName, Headers, parse_contact};
use super::lex;
use super::message::{Message, Method, Request, Response, reason_phrase};
use super::text::Text;
use super::uri::Uri;
use super::value::{CSeq, NameAddr, Via};

/// Longest message that is read (RFC 3261 §18.1.1: at least 65,535 bytes).
pub const MAX_MESSAGE_BYTES: usize = 65_536;

/// Most headers in one message, each value of Via, Route, Record-Route and Contact counted.
pub const MAX_HEADERS: usize = 256;

/// What is wrong with a message or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A body longer than [`MAX_MESSAGE_BYTES`].
    #[error("body too large")]
    BodyTooLarge,
    /// Body shorter than Content-Length says.
    #[error("body shorter than Content-Length")]
    BodyTooShort,
    /// CSeq does not parse.
    #[error("malformed CSeq")]
    CSeq,
    /// CSeq names another method than the start line.
    #[error("CSeq method mismatch")]
    CSeqMethod,
    /// Call-ID is empty or has white space.
    #[error("malformed Call-ID")]
    CallId,
    /// Contact does not parse.
    #[error("malformed Contact")]
    Contact,
    /// Content-Length is no number, or two differ.
    #[error("malformed Content-Length")]
    ContentLength,
    /// Text that must be UTF-8 is not.
    #[error("not UTF-8")]
    Encoding,
    /// No empty line after the headers.
    #[error("no end of headers")]
    EndOfHeaders,
    /// From does not parse.
    #[error("malformed From")]
    From,
    /// A header line has no name or no colon.
    #[error("malformed header line")]
    HeaderLine,
    /// Host or port of a URI or Via.
    #[error("malformed host or port")]
    HostOrPort,
    /// Max-Forwards is no number.
    #[error("malformed Max-Forwards")]
    MaxForwards,
    /// A mandatory header is missing.
    #[error("missing {0}")]
    Missing(&'static str),
    /// An address in a header other than those named here.
    #[error("malformed address")]
    NameAddr,
    /// No SIP message at all.
    #[error("not a SIP message")]
    NotSip,
    /// A URI or header parameter.
    #[error("malformed parameter")]
    Parameter,
    /// A header that may occur once occurs twice.
    #[error("repeated header")]
    Repeated,
    /// Route or Record-Route does not parse.
    #[error("malformed Route or Record-Route")]
    Route,
    /// Start line.
    #[error("malformed start line")]
    StartLine,
    /// To does not parse.
    #[error("malformed To")]
    To,
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("message too large")]
    TooLarge,
    /// More than [`MAX_HEADERS`].
    #[error("too many headers")]
    TooManyHeaders,
    /// Too many parameters in one value.
    #[error("too many parameters")]
    TooManyParameters,
    /// A URI does not parse.
    #[error("malformed URI")]
    Uri,
    /// Not SIP/2.0.
    #[error("SIP version not supported")]
    Version,
    /// Via does not parse.
    #[error("malformed Via")]
    Via,
}

impl Malformed {
    /// The status of the answer to a request with this fault.
    pub const fn status(self) -> u16 {
        match self {
            Self::BodyTooLarge => 413,
            Self::TooLarge => 513,
            Self::Version => 505,
            _ => 400,
        }
    }
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
/// Over UDP a missing Content-Length means the rest, and bytes beyond it are ignored (§18.3).
pub fn parse(bytes: &Bytes, transport: Transport) -> Result<Message, ParseError> {
    let (line, rest) = first_line(bytes);
    let is_response = line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/"));
    if !is_response && !looks_like_request(line) {
        return Err(ParseError { malformed: Malformed::NotSip, is_response, answer: None });
    }
    let mut section = read_headers(bytes, rest);
    if bytes.len() > MAX_MESSAGE_BYTES {
        // §21.4.11, §21.5.7: is it the body, or the message without it?
        let head = bytes.len().saturating_sub(section.body.len());
        let is_body = head <= MAX_MESSAGE_BYTES && !section.body.is_empty();
        section.fault = Some(if is_body { Malformed::BodyTooLarge } else { Malformed::TooLarge });
    }
    if is_response {
        return response(bytes, line, section, transport)
            .map(Message::Response)
            .map_err(|malformed| ParseError { malformed, is_response, answer: None });
    }
    let headers = section.headers.clone();
    request(bytes, line, section, transport).map(Message::Request).map_err(|malformed| ParseError {
        malformed,
        is_response,
        answer: answer(line, &headers, malformed),
    })
}

/// The start line; CR LF before it is skipped (§7.5).
fn first_line(bytes: &Bytes) -> (&[u8], &[u8]) {
    let mut rest: &[u8] = bytes;
    while let [b'\r' | b'\n', tail @ ..] = rest {
        rest = tail;
    }
    take_line(rest).unwrap_or((rest, &[]))
}

/// Up to the line feed, without it and without a carriage return before it.
fn take_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, rest) = lex::split_once(bytes, b'\n')?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest))
}

/// A request line ends in a SIP version, right or wrong.
fn looks_like_request(line: &[u8]) -> bool {
    let last = lex::trim(line).rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    last.len() < lex::trim(line).len()
        && last.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/"))
}

/// Headers as read, the first fault among them, and what follows the empty line.
struct Section<'a> {
    headers: Headers,
    content_length: Option<usize>,
    fault: Option<Malformed>,
    body: &'a [u8],
}

impl Section<'_> {
    fn note(&mut self, malformed: Malformed) {
        self.fault.get_or_insert(malformed);
    }
}

fn read_headers<'a>(whole: &'a Bytes, bytes: &'a [u8]) -> Section<'a> {
    let headers = Headers::new();
    let mut section = Section { headers, content_length: None, fault: None, body: &[] };
    let mut rest = bytes;
    loop {
        let Some((line, after)) = take_line(rest) else {
            section.note(Malformed::EndOfHeaders);
            return section;
        };
        if line.is_empty() {
            section.body = after;
            return section;
        }
        let end = end_of_folded(after);
        let (folds, next) = after.split_at(end);
        if section.headers.len() >= MAX_HEADERS {
            section.note(Malformed::TooManyHeaders);
            return section;
        }
        read_header(whole, line, folds, &mut section);
        rest = next;
    }
}

/// Length of the lines that begin with white space (§7.3.1).
fn end_of_folded(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let [b' ' | b'\t', ..] = rest {
        let Some((_, next)) = lex::split_once(rest, b'\n') else { break };
        rest = next;
    }
    bytes.len() - rest.len()
}

fn read_header(whole: &Bytes, line: &[u8], folds: &[u8], section: &mut Section<'_>) {
    let Some((name, value)) = lex::split_once(line, b':') else {
        return section.note(Malformed::HeaderLine);
    };
    let starts_blank = name.first().copied().is_none_or(lex::is_space);
    let name = lex::trim(name);
    let text = Text::slice(whole, name);
    let (false, true, Ok(text)) = (starts_blank, HeaderName::is_valid(name), text) else {
        return section.note(Malformed::HeaderLine);
    };
    let name = HeaderName::from_text(text);
    let value =
        if folds.is_empty() { whole.slice_ref(lex::trim(value)) } else { unfold(value, folds) };
    if name == HeaderName::ContentLength {
        read_content_length(&value, section);
    } else if name.is_address_list() {
        for item in lex::list(&value).take(MAX_HEADERS) {
            section.headers.push(name.clone(), value.slice_ref(item));
        }
        if section.headers.len() > MAX_HEADERS {
            section.note(Malformed::TooManyHeaders);
        }
    } else {
        if name.is_single() && section.headers.has(&name) {
            section.note(Malformed::Repeated);
        }
        section.headers.push(name, value);
    }
}

fn unfold(first: &[u8], folds: &[u8]) -> Bytes {
    let mut joined = lex::trim(first).to_vec();
    for line in folds.split(|byte| *byte == b'\n') {
        let line = lex::trim(line);
        if !line.is_empty() {
            joined.push(b' ');
            joined.extend_from_slice(line);
        }
    }
    let joined = Bytes::from(joined);
    joined.slice_ref(lex::trim(&joined))
}

/// Two different lengths make the message ambiguous (RFC 4475 §3.3.9); equal ones do no harm.
fn read_content_length(value: &Bytes, section: &mut Section<'_>) {
    match (lex::number(value), section.content_length) {
        (Some(length), None) => section.content_length = Some(length),
        (Some(length), Some(before)) if length == before => {}
        _ => section.note(Malformed::ContentLength),
    }
}

fn request(
    whole: &Bytes,
    line: &[u8],
    section: Section<'_>,
    transport: Transport,
) -> Result<Request, Malformed> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(uri), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::StartLine);
    };
    check_version(version)?;
    let method = Method::parse_part(whole, method)?;
    let uri = Uri::parse_part(whole, uri)?;
    // §19.1.1: headers in a Request-URI are not allowed.
    if uri.headers.is_some() {
        return Err(Malformed::Uri);
    }
    if let Some(fault) = section.fault {
        return Err(fault);
    }
    let cseq = check_common(&section.headers)?;
    if cseq.method != method {
        return Err(Malformed::CSeqMethod);
    }
    check_request(&section.headers)?;
    let body = body(whole, &section, transport)?;
    Ok(Request { method, uri, headers: section.headers, body })
}

fn response(
    whole: &Bytes,
    line: &[u8],
    section: Section<'_>,
    transport: Transport,
) -> Result<Response, Malformed> {
    let (version, rest) = lex::split_once(line, b' ').ok_or(Malformed::StartLine)?;
    check_version(version)?;
    let (status, reason) = lex::split_once(rest, b' ').unwrap_or((rest, &[]));
    let status: u16 = lex::number(status).ok_or(Malformed::StartLine)?;
    // A lone CR would end the line for a laxer parser behind us.
    if !(100..=699).contains(&status) || reason.contains(&b'\r') {
        return Err(Malformed::StartLine);
    }
    if let Some(fault) = section.fault {
        return Err(fault);
    }
    check_common(&section.headers)?;
    let body = body(whole, &section, transport)?;
    let reason = whole.slice_ref(reason);
    Ok(Response { status, reason, headers: section.headers, body })
}

fn check_version(version: &[u8]) -> Result<(), Malformed> {
    if version.eq_ignore_ascii_case(b"SIP/2.0") {
        Ok(())
    } else if version.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        Err(Malformed::Version)
    } else {
        Err(Malformed::StartLine)
    }
}

/// What every message must have (§8.1.1), in the order in which faults are reported.
fn check_common(headers: &Headers) -> Result<CSeq, Malformed> {
    let via = headers.get(&HeaderName::Via).ok_or(Malformed::Missing("Via"))?;
    Via::parse(via).map_err(|_| Malformed::Via)?;
    let call_id = headers.get(&HeaderName::CallId).ok_or(Malformed::Missing("Call-ID"))?;
    if call_id.is_empty() || !call_id.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed::CallId);
    }
    let from = headers.get(&HeaderName::From).ok_or(Malformed::Missing("From"))?;
    NameAddr::parse(from).map_err(|_| Malformed::From)?;
    let to = headers.get(&HeaderName::To).ok_or(Malformed::Missing("To"))?;
    NameAddr::parse(to).map_err(|_| Malformed::To)?;
    CSeq::parse(headers.get(&HeaderName::CSeq).ok_or(Malformed::Missing("CSeq"))?)
}

/// What a request must have right if it is there. Max-Forwards may be absent (RFC 2543).
fn check_request(headers: &Headers) -> Result<(), Malformed> {
    for value in headers.get_all(&HeaderName::Contact) {
        parse_contact(value)?;
    }
    for name in [HeaderName::Route, HeaderName::RecordRoute] {
        for value in headers.get_all(&name) {
            NameAddr::parse(value).map_err(|_| Malformed::Route)?;
        }
    }
    if headers.has(&HeaderName::MaxForwards) && headers.max_forwards().is_none() {
        return Err(Malformed::MaxForwards);
    }
    Ok(())
}

fn body(whole: &Bytes, section: &Section<'_>, transport: Transport) -> Result<Bytes, Malformed> {
    let all = section.body;
    let length = match (section.content_length, transport) {
        (Some(length), _) => length,
        (None, Transport::Udp) => all.len(),
        // §20.14: a stream cannot be cut without it.
        (None, Transport::Tcp) => return Err(Malformed::ContentLength),
    };
    if length > MAX_MESSAGE_BYTES {
        return Err(Malformed::BodyTooLarge);
    }
    let body = all.get(..length).ok_or(Malformed::BodyTooShort)?;
    Ok(whole.slice_ref(body))
}

/// The refusal of a faulty request, from whatever headers could be read.
fn answer(line: &[u8], headers: &Headers, malformed: Malformed) -> Option<Box<Response>> {
    let is_ack = line.starts_with(b"ACK ");
    if is_ack || !headers.has(&HeaderName::Via) {
        return None;
    }
    let status = malformed.status();
    let mut response = Response::new(status);
    if status == 400 {
        response.reason = Bytes::from(format!("{} ({malformed})", reason_phrase(status)));
    }
    for name in
        [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq]
    {
        response.headers.copy(&name, headers);
    }
    Some(Box::new(response))
}
