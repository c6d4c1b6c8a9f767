//! Requests and responses (RFC 3261 §7) and their wire form.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{HeaderName, Headers};
use super::lex;
use super::parse::Malformed;
use super::text::Text;
use super::uri::Uri;
use super::value::CSeq;

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A request method. Case matters (RFC 3261 §7.1).
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Method {
            $($(#[$doc])* $variant,)+
            /// Any other token.
            Other(Text),
        }

        impl Method {
            /// As on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Other(name) => name.as_str(),
                }
            }

            fn known(name: &[u8]) -> Option<Self> {
                $(if name == $name.as_bytes() { return Some(Self::$variant); })+
                None
            }
        }
    };
}

methods! {
    /// RFC 3261 §13
    Ack = "ACK";
    /// RFC 3261 §15
    Bye = "BYE";
    /// RFC 3261 §9
    Cancel = "CANCEL";
    /// RFC 6086
    Info = "INFO";
    /// RFC 3261 §13
    Invite = "INVITE";
    /// RFC 3428
    Message = "MESSAGE";
    /// RFC 6665
    Notify = "NOTIFY";
    /// RFC 3261 §11
    Options = "OPTIONS";
    /// RFC 3262
    Prack = "PRACK";
    /// RFC 3903
    Publish = "PUBLISH";
    /// RFC 3515
    Refer = "REFER";
    /// RFC 3261 §10
    Register = "REGISTER";
    /// RFC 6665
    Subscribe = "SUBSCRIBE";
    /// RFC 3311
    Update = "UPDATE";
}

impl Method {
    /// Parses `part`, a subslice of `whole`.
    pub(super) fn parse_part(whole: &Bytes, part: &[u8]) -> Result<Self, Malformed> {
        if let Some(known) = Self::known(part) {
            return Ok(known);
        }
        if !lex::is_token(part) {
            return Err(Malformed::StartLine);
        }
        Text::slice(whole, part).map(Self::Other)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Request.
    Request(Request),
    /// Response.
    Response(Response),
}

impl Message {
    /// The wire form; Content-Length is written from the body.
    pub fn serialize(&self) -> Bytes {
        match self {
            Self::Request(request) => request.serialize(),
            Self::Response(response) => response.serialize(),
        }
    }

    /// The headers of either.
    pub const fn headers(&self) -> &Headers {
        match self {
            Self::Request(request) => &request.headers,
            Self::Response(response) => &response.headers,
        }
    }

    /// The body of either.
    pub const fn body(&self) -> &Bytes {
        match self {
            Self::Request(request) => &request.body,
            Self::Response(response) => &response.body,
        }
    }
}

/// A request. `Debug` shows no numbers and no body.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Request-URI.
    pub uri: Uri,
    /// Headers; Content-Length is derived from the body when writing.
    pub headers: Headers,
    /// Body.
    pub body: Bytes,
}

impl Request {
    /// A request with nothing but a start line.
    pub const fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: Headers::new(), body: Bytes::new() }
    }

    /// Sets body and Content-Type; an empty body removes both.
    pub fn set_body(&mut self, content_type: &'static str, body: Bytes) {
        set_body(&mut self.headers, &mut self.body, content_type, body);
    }

    /// True if the request belongs to a dialog: To has a tag (RFC 3261 §12.2.2).
    pub fn is_in_dialog(&self) -> bool {
        self.headers.to_tag().is_some()
    }

    /// The wire form.
    pub fn serialize(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(512 + self.body.len());
        out.put_slice(format!("{} {} SIP/2.0\r\n", self.method, self.uri).as_bytes());
        write_rest(&mut out, &self.headers, &self.body);
        out.freeze()
    }
}

/// A response. `Debug` shows no numbers and no body.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code, 100 to 699.
    pub status: u16,
    /// Reason phrase, any bytes.
    pub reason: Bytes,
    /// Headers; Content-Length is derived from the body when writing.
    pub headers: Headers,
    /// Body.
    pub body: Bytes,
}

impl Response {
    /// A response with nothing but a status line and the standard reason phrase.
    pub const fn new(status: u16) -> Self {
        let reason = Bytes::from_static(reason_phrase(status).as_bytes());
        Self { status, reason, headers: Headers::new(), body: Bytes::new() }
    }

    /// The response to `request`: Via, From, To, Call-ID, CSeq and Timestamp of a 100 are copied
    /// (RFC 3261 §8.2.6). To gets no tag: see [`Response::with_to_tag`].
    pub fn to_request(request: &Request, status: u16) -> Self {
        let mut response = Self::new(status);
        let from = &request.headers;
        let to = &mut response.headers;
        for name in [
            HeaderName::Via,
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
        ] {
            to.copy(&name, from);
        }
        if status == 100 {
            to.copy(&HeaderName::Timestamp, from);
        }
        response
    }

    /// The same with our tag on To, unless To has one already (RFC 3261 §8.2.6.2).
    #[must_use]
    pub fn with_to_tag(mut self, tag: &Text) -> Self {
        if let Some(to) = self.headers.to()
            && to.tag().is_none()
        {
            self.headers.set(HeaderName::To, &to.with_tag(tag.clone()));
        }
        self
    }

    /// The same with another reason phrase.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Bytes::from_static(reason.as_bytes());
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sets body and Content-Type; an empty body removes both.
    pub fn set_body(&mut self, content_type: &'static str, body: Bytes) {
        set_body(&mut self.headers, &mut self.body, content_type, body);
    }

    /// 1xx.
    pub const fn is_provisional(&self) -> bool {
        self.status < 200
    }

    /// 2xx.
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// 200 to 699.
    pub const fn is_final(&self) -> bool {
        self.status >= 200
    }

    /// The method of the request it answers, from CSeq.
    pub fn method(&self) -> Option<Method> {
        self.headers.cseq().map(|cseq: CSeq| cseq.method)
    }

    /// The wire form.
    pub fn serialize(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(512 + self.body.len());
        out.put_slice(format!("SIP/2.0 {:03} ", self.status).as_bytes());
        out.extend(self.reason.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        out.put_slice(b"\r\n");
        write_rest(&mut out, &self.headers, &self.body);
        out.freeze()
    }
}

fn set_body(headers: &mut Headers, old: &mut Bytes, content_type: &'static str, body: Bytes) {
    if body.is_empty() {
        headers.remove(&HeaderName::ContentType);
    } else {
        headers.set(HeaderName::ContentType, content_type);
    }
    *old = body;
}

fn write_rest(out: &mut BytesMut, headers: &Headers, body: &Bytes) {
    for header in headers.iter() {
        if header.name == HeaderName::ContentLength {
            continue;
        }
        out.put_slice(header.name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(&header.value);
        out.put_slice(b"\r\n");
    }
    out.put_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.put_slice(body);
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.method, self.uri)?;
        debug_rest(f, &self.headers, &self.body)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.reason))?;
        debug_rest(f, &self.headers, &self.body)
    }
}

fn debug_rest(f: &mut fmt::Formatter<'_>, headers: &Headers, body: &Bytes) -> fmt::Result {
    if let Some(cseq) = headers.cseq() {
        write!(f, " (CSeq {cseq}")?;
    } else {
        write!(f, " (no CSeq")?;
    }
    write!(f, ", {} headers, {} B body)", headers.len(), body.len())
}

/// The standard reason phrase (RFC 3261 §21 and later).
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        469 => "Bad Info Package",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => class_phrase(status),
    }
}

/// For codes without a phrase of their own.
const fn class_phrase(status: u16) -> &'static str {
    match status / 100 {
        1 => "Progress",
        2 => "OK",
        3 => "Redirection",
        4 => "Request Failure",
        5 => "Server Failure",
        _ => "Global Failure",
    }
}
