//! Header values with structure: Via, CSeq, and the name-addr family (RFC 3261 §20.10, §20.42).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::flow::Flow;
use super::lex::{self, Found, find_outside, trim};
use super::message::Method;
use super::params::Params;
use super::parse::Malformed;
use super::text::Text;
use super::uri::{self, Uri};

/// `"Display" <uri>;params`: From, To, Contact, Route, Record-Route and their like.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameAddr {
    /// Display name as written, with its quotes if it had any.
    pub display: Option<Bytes>,
    /// The address.
    pub uri: Uri,
    /// Header parameters (`tag`, `expires`, `q`…), not those of the URI.
    pub params: Params,
}

impl NameAddr {
    /// A bare address.
    pub const fn new(uri: Uri) -> Self {
        Self { display: None, uri, params: Params::new() }
    }

    /// The same with a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: Text) -> Self {
        self.params.set("tag", Some(tag));
        self
    }

    /// The tag of From or To (RFC 3261 §19.3); an empty one counts as none.
    pub fn tag(&self) -> Option<Text> {
        self.params.get_text("tag").filter(|tag| !tag.is_empty())
    }

    /// The display name without quotes and escapes.
    pub fn display_name(&self) -> Option<String> {
        let raw = self.display.as_ref()?;
        let [b'"', inner @ .., b'"'] = raw.as_ref() else {
            return Some(String::from_utf8_lossy(raw).into_owned());
        };
        let mut out = Vec::with_capacity(inner.len());
        let mut bytes = inner.iter();
        while let Some(byte) = bytes.next() {
            let literal = if *byte == b'\\' { bytes.next() } else { Some(byte) };
            out.extend(literal);
        }
        Some(String::from_utf8_lossy(&out).into_owned())
    }

    /// Parses one value.
    pub fn parse(value: &Bytes) -> Result<Self, Malformed> {
        let bytes = trim(value);
        match find_outside(bytes, |byte| byte == b'<') {
            Found::At(at) => Self::parse_bracketed(value, bytes, at),
            Found::Nowhere => Self::parse_bare(value, bytes),
            Found::Unbalanced => Err(Malformed::NameAddr),
        }
    }

    fn parse_bracketed(value: &Bytes, bytes: &[u8], at: usize) -> Result<Self, Malformed> {
        let (display, rest) = bytes.split_at(at);
        let inner = rest.get(1..).unwrap_or_default();
        let (inside, after) = lex::split_once(inner, b'>').ok_or(Malformed::NameAddr)?;
        let display = trim(display);
        if !is_display_name(display) {
            return Err(Malformed::NameAddr);
        }
        let params = match trim(after) {
            [] => Params::new(),
            [b';', params @ ..] => Params::parse(value, params)?,
            _ => return Err(Malformed::NameAddr),
        };
        Ok(Self {
            display: (!display.is_empty()).then(|| value.slice_ref(display)),
            uri: Uri::parse_part(value, trim(inside))?,
            params,
        })
    }

    /// Without brackets every parameter belongs to the header, and "," and "?" are not allowed
    /// (RFC 3261 §20).
    fn parse_bare(value: &Bytes, bytes: &[u8]) -> Result<Self, Malformed> {
        let (addr, params) = match lex::split_once(bytes, b';') {
            Some((addr, params)) => (addr, Params::parse(value, params)?),
            None => (bytes, Params::new()),
        };
        if addr.iter().any(|byte| matches!(byte, b',' | b'?')) {
            return Err(Malformed::NameAddr);
        }
        Ok(Self { display: None, uri: Uri::parse_part(value, trim(addr))?, params })
    }
}

/// Quoted, or words. More is accepted than tokens, since UTF-8 and dots without quotes are common;
/// the separators of the grammar are not (RFC 4475 §3.1.2.15).
fn is_display_name(display: &[u8]) -> bool {
    match display {
        [] => true,
        [b'"', rest @ ..] => {
            // The closing quote must be the last byte.
            let close = find_closing_quote(rest);
            close.is_some_and(|at| at + 1 == rest.len())
        }
        words => !words
            .iter()
            .any(|b| matches!(b, b',' | b';' | b':' | b'@' | b'"' | b'<' | b'>' | b'\\')),
    }
}

fn find_closing_quote(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    bytes.iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    })
}

/// One hop of the way back (RFC 3261 §20.42).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`…
    pub transport: Text,
    /// sent-by host.
    pub host: Text,
    /// sent-by port, if written.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport`, `maddr`…
    pub params: Params,
}

/// RFC 3261 §8.1.1.7: a branch that begins so is unique across space and time.
pub(super) const MAGIC_COOKIE: &str = "z9hG4bK";

impl Via {
    /// The Via we put on a request: asks for symmetric response routing (RFC 3581).
    pub fn ours(flow: &Flow, branch: Text) -> Self {
        let mut params = Params::new();
        params.set("branch", Some(branch));
        params.set("rport", None);
        let host = match flow.local.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let transport = Text::from_static(flow.transport.as_via());
        Self { transport, host: Text::from(host), port: Some(flow.local.port()), params }
    }

    /// The branch, if it identifies a transaction by itself (RFC 3261 §17.2.3).
    pub fn branch(&self) -> Option<Text> {
        self.params
            .get_text("branch")
            .filter(|branch| branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE))
    }

    /// Notes where a request really came from (RFC 3261 §18.2.1, RFC 3581 §4).
    /// Returns true if something was written.
    pub fn stamp(&mut self, source: SocketAddr) -> bool {
        let asked = self.params.get("rport").is_some();
        let differs = uri::parse_ip(&self.host) != Some(source.ip());
        if asked {
            self.params.set("rport", Some(Text::from(source.port().to_string())));
        }
        if asked || differs {
            self.params.set("received", Some(Text::from(source.ip().to_string())));
        }
        asked || differs
    }

    /// Where a response to a request with this stamped Via goes over UDP, or over a new TCP
    /// connection (RFC 3261 §18.2.2, RFC 3581 §4). `maddr` is not honoured: it would let anyone
    /// aim our responses.
    pub fn response_address(&self, source: SocketAddr) -> SocketAddr {
        let rport = self.params.get("rport").and_then(|port| lex::number(port.as_bytes()));
        SocketAddr::new(source.ip(), rport.or(self.port).unwrap_or(5060))
    }

    /// Parses one value. Any version is accepted, so that a 505 finds its way back.
    pub fn parse(value: &Bytes) -> Result<Self, Malformed> {
        let (name, rest) = lex::split_once(value, b'/').ok_or(Malformed::Via)?;
        let (version, rest) = lex::split_once(rest, b'/').ok_or(Malformed::Via)?;
        let rest = trim(rest);
        let end = rest.iter().position(|b| lex::is_space(*b)).ok_or(Malformed::Via)?;
        let (transport, rest) = rest.split_at(end);
        if ![trim(name), trim(version), transport].into_iter().all(lex::is_token) {
            return Err(Malformed::Via);
        }
        let (sent_by, params) = match lex::split_once(rest, b';') {
            Some((sent_by, params)) => (sent_by, Params::parse(value, params)?),
            None => (rest, Params::new()),
        };
        let (host, port) = uri::parse_host_port(value, sent_by).map_err(|_| Malformed::Via)?;
        Ok(Self { transport: Text::slice(value, transport)?, host, port, params })
    }
}

/// CSeq: number and method (RFC 3261 §20.16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Sequence number.
    pub number: u32,
    /// Method of the request.
    pub method: Method,
}

impl CSeq {
    /// Parses the value.
    pub fn parse(value: &Bytes) -> Result<Self, Malformed> {
        let bytes = trim(value);
        let end = bytes.iter().position(|b| lex::is_space(*b)).ok_or(Malformed::CSeq)?;
        let (number, method) = bytes.split_at(end);
        let number = lex::number(number).ok_or(Malformed::CSeq)?;
        let method = Method::parse_part(value, trim(method)).map_err(|_| Malformed::CSeq)?;
        Ok(Self { number, method })
    }
}

/// RAck: which reliable provisional response a PRACK is for (RFC 3262 §7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RAck {
    /// RSeq of the response.
    pub rseq: u32,
    /// CSeq of the response.
    pub cseq: CSeq,
}

impl RAck {
    /// Parses the value.
    pub fn parse(value: &Bytes) -> Result<Self, Malformed> {
        let bytes = trim(value);
        let end = bytes.iter().position(|b| lex::is_space(*b)).ok_or(Malformed::Parameter)?;
        let (rseq, cseq) = bytes.split_at(end);
        let rseq = lex::number(rseq).ok_or(Malformed::Parameter)?;
        Ok(Self { rseq, cseq: CSeq::parse(&value.slice_ref(trim(cseq)))? })
    }
}

/// Who refreshes a session: the client or the server of the transaction that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refresher {
    /// Who sent the request.
    Uac,
    /// Who answered it.
    Uas,
}

/// Session-Expires (RFC 4028 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The session interval; what does not fit counts as the longest.
    pub seconds: u32,
    /// Who refreshes, if it is said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// Parses the value; unknown parameters are skipped.
    pub fn parse(value: &Bytes) -> Result<Self, Malformed> {
        let (seconds, params) = match lex::split_once(value, b';') {
            Some((seconds, params)) => (seconds, Params::parse(value, params)?),
            None => (&value[..], Params::new()),
        };
        let seconds: u64 = lex::number(trim(seconds)).ok_or(Malformed::Parameter)?;
        let refresher = match params.get("refresher") {
            Some(who) if who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
            Some(who) if who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
            _ => None,
        };
        Ok(Self { seconds: u32::try_from(seconds).unwrap_or(u32::MAX), refresher })
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds)?;
        match self.refresher {
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rseq, self.cseq)
    }
}

impl NameAddr {
    /// The wire form.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(96);
        if let Some(display) = &self.display {
            out.extend_from_slice(display);
            out.push(b' ');
        }
        out.extend_from_slice(format!("<{}>{}", self.uri, self.params).as_bytes());
        Bytes::from(out)
    }
}

impl fmt::Debug for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{:?}>{}", self.uri, self.params)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}
