//! Header names and the ordered list of headers, with typed access.

use std::fmt;

use bytes::Bytes;

use super::lex;
use super::parse::Malformed;
use super::text::Text;
use super::value::{CSeq, NameAddr, RAck, SessionExpires, Via};

/// Builds the enum, the table of spellings, and the compact forms from one list.
macro_rules! header_names {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(, $compact:literal)?;)+) => {
        /// A header name. Names compare without case (RFC 3261 §7.3.1).
        #[derive(Clone)]
        pub enum HeaderName {
            $($(#[$doc])* $variant,)+
            /// Any other, as it was written.
            Other(Text),
        }

        impl HeaderName {
            /// Canonical spelling.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Other(name) => name.as_str(),
                }
            }

            /// The variant for a spelling, long or compact (RFC 3261 §7.3.3).
            fn known(name: &[u8]) -> Option<Self> {
                $(if name.eq_ignore_ascii_case($name.as_bytes())
                    $(|| name.eq_ignore_ascii_case($compact.as_bytes()))? {
                    return Some(Self::$variant);
                })+
                None
            }
        }
    };
}

header_names! {
    /// Via, the way back (RFC 3261 §20.42).
    Via = "Via", "v";
    /// Route, proxies still to visit (RFC 3261 §20.34).
    Route = "Route";
    /// Record-Route, proxies that want to stay in the dialog (RFC 3261 §20.30).
    RecordRoute = "Record-Route";
    /// Max-Forwards (RFC 3261 §20.22).
    MaxForwards = "Max-Forwards";
    /// From (RFC 3261 §20.20).
    From = "From", "f";
    /// To (RFC 3261 §20.39).
    To = "To", "t";
    /// Call-ID (RFC 3261 §20.8).
    CallId = "Call-ID", "i";
    /// CSeq (RFC 3261 §20.16).
    CSeq = "CSeq";
    /// Contact (RFC 3261 §20.10).
    Contact = "Contact", "m";
    /// Content-Length (RFC 3261 §20.14).
    ContentLength = "Content-Length", "l";
    /// Content-Type (RFC 3261 §20.15).
    ContentType = "Content-Type", "c";
    /// Content-Encoding (RFC 3261 §20.12).
    ContentEncoding = "Content-Encoding", "e";
    /// Content-Disposition (RFC 3261 §20.11).
    ContentDisposition = "Content-Disposition";
    /// Allow (RFC 3261 §20.5).
    Allow = "Allow";
    /// Accept (RFC 3261 §20.1).
    Accept = "Accept";
    /// Supported (RFC 3261 §20.37).
    Supported = "Supported", "k";
    /// Require (RFC 3261 §20.32).
    Require = "Require";
    /// Proxy-Require (RFC 3261 §20.29).
    ProxyRequire = "Proxy-Require";
    /// Unsupported (RFC 3261 §20.40).
    Unsupported = "Unsupported";
    /// Expires (RFC 3261 §20.19).
    Expires = "Expires";
    /// Retry-After (RFC 3261 §20.33).
    RetryAfter = "Retry-After";
    /// Reason (RFC 3326).
    Reason = "Reason";
    /// Warning (RFC 3261 §20.43).
    Warning = "Warning";
    /// User-Agent (RFC 3261 §20.41).
    UserAgent = "User-Agent";
    /// Server (RFC 3261 §20.35).
    Server = "Server";
    /// Subject (RFC 3261 §20.36).
    Subject = "Subject", "s";
    /// Date (RFC 3261 §20.17).
    Date = "Date";
    /// Timestamp (RFC 3261 §20.38).
    Timestamp = "Timestamp";
    /// WWW-Authenticate (RFC 3261 §20.44).
    WwwAuthenticate = "WWW-Authenticate";
    /// Authorization (RFC 3261 §20.7).
    Authorization = "Authorization";
    /// Proxy-Authenticate (RFC 3261 §20.27).
    ProxyAuthenticate = "Proxy-Authenticate";
    /// Proxy-Authorization (RFC 3261 §20.28).
    ProxyAuthorization = "Proxy-Authorization";
    /// RSeq (RFC 3262).
    RSeq = "RSeq";
    /// RAck (RFC 3262).
    RAck = "RAck";
    /// Session-Expires (RFC 4028).
    SessionExpires = "Session-Expires", "x";
    /// Min-SE (RFC 4028).
    MinSe = "Min-SE";
    /// P-Asserted-Identity (RFC 3325).
    PAssertedIdentity = "P-Asserted-Identity";
    /// P-Preferred-Identity (RFC 3325).
    PPreferredIdentity = "P-Preferred-Identity";
    /// Privacy (RFC 3323).
    Privacy = "Privacy";
    /// Refer-To (RFC 3515).
    ReferTo = "Refer-To", "r";
    /// Referred-By (RFC 3892).
    ReferredBy = "Referred-By", "b";
    /// Replaces (RFC 3891).
    Replaces = "Replaces";
    /// Event (RFC 6665).
    Event = "Event", "o";
    /// Identity (RFC 8224).
    Identity = "Identity", "y";
}

impl HeaderName {
    /// From any spelling. `name` must be a token; see [`HeaderName::is_valid`].
    pub fn new(name: &str) -> Self {
        Self::known(name.as_bytes()).unwrap_or_else(|| Self::Other(Text::from(name)))
    }

    /// True if `name` can be a header name at all.
    pub fn is_valid(name: &[u8]) -> bool {
        lex::is_token(name)
    }

    pub(super) fn from_text(name: Text) -> Self {
        Self::known(name.as_bytes()).unwrap_or(Self::Other(name))
    }

    /// Headers that we split into one entry per value, so that the topmost is the first entry.
    pub(super) const fn is_address_list(&self) -> bool {
        matches!(self, Self::Contact | Self::RecordRoute | Self::Route | Self::Via)
    }

    /// Headers of which a second one makes the message ambiguous (RFC 4475 §3.3.8).
    pub(super) const fn is_single(&self) -> bool {
        matches!(self, Self::CSeq | Self::CallId | Self::From | Self::To | Self::MaxForwards)
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

impl Eq for HeaderName {}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One header line: name and value, unfolded and trimmed.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: HeaderName,
    /// The value's bytes.
    pub value: Bytes,
}

/// Headers in order. Via, Route, Record-Route and Contact have one entry per value.
///
/// The typed getters return `None` for a header that is missing or does not parse; for a message
/// that came out of [`fn@super::parse`] Via, From, To, Call-ID and CSeq are there and sound.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<Header>,
}

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// The first value of `name`.
    pub fn get(&self, name: &HeaderName) -> Option<&Bytes> {
        self.get_all(name).next()
    }

    /// The first value of `name` as text; `None` if it is not UTF-8.
    pub fn get_str(&self, name: &HeaderName) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// All values of `name`, in order, one per line.
    pub fn get_all<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a Bytes> {
        self.entries.iter().filter(move |entry| same(&entry.name, name)).map(|entry| &entry.value)
    }

    /// True if `name` is present.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Adds at the end.
    pub fn push(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        self.entries.push(Header { name, value: value.into().0 });
    }

    /// Adds before all others.
    pub fn push_front(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        self.entries.insert(0, Header { name, value: value.into().0 });
    }

    /// Replaces all of `name` by one value, at the place of the first, else at the end.
    pub fn set(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        let value = value.into().0;
        let at = self.entries.iter().position(|entry| same(&entry.name, &name));
        self.remove(&name);
        let at = at.unwrap_or(self.entries.len()).min(self.entries.len());
        self.entries.insert(at, Header { name, value });
    }

    /// Replaces the first value of `name` only (the topmost Via); adds it at the front if absent.
    pub fn replace_first(&mut self, name: HeaderName, value: impl Into<HeaderValue>) {
        match self.entries.iter_mut().find(|entry| same(&entry.name, &name)) {
            Some(entry) => entry.value = value.into().0,
            None => self.push_front(name, value),
        }
    }

    /// Removes the first value of `name`.
    pub fn remove_first(&mut self, name: &HeaderName) -> Option<Bytes> {
        let at = self.entries.iter().position(|entry| same(&entry.name, name))?;
        Some(self.entries.remove(at).value)
    }

    /// Removes all of `name`.
    pub fn remove(&mut self, name: &HeaderName) {
        self.entries.retain(|entry| !same(&entry.name, name));
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.entries.iter()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Copies every value of `name` from another message, in order.
    pub fn copy(&mut self, name: &HeaderName, from: &Self) {
        for value in from.get_all(name) {
            self.push(name.clone(), value.clone());
        }
    }

    /// The topmost Via.
    pub fn via(&self) -> Option<Via> {
        Via::parse(self.get(&HeaderName::Via)?).ok()
    }

    /// From.
    pub fn from(&self) -> Option<NameAddr> {
        NameAddr::parse(self.get(&HeaderName::From)?).ok()
    }

    /// To.
    pub fn to(&self) -> Option<NameAddr> {
        NameAddr::parse(self.get(&HeaderName::To)?).ok()
    }

    /// The tag in From.
    pub fn from_tag(&self) -> Option<Text> {
        self.from()?.tag()
    }

    /// The tag in To.
    pub fn to_tag(&self) -> Option<Text> {
        self.to()?.tag()
    }

    /// Call-ID.
    pub fn call_id(&self) -> Option<Text> {
        Text::from_bytes(self.get(&HeaderName::CallId)?.clone()).ok()
    }

    /// CSeq.
    pub fn cseq(&self) -> Option<CSeq> {
        CSeq::parse(self.get(&HeaderName::CSeq)?).ok()
    }

    /// RAck.
    pub fn rack(&self) -> Option<RAck> {
        RAck::parse(self.get(&HeaderName::RAck)?).ok()
    }

    /// RSeq.
    pub fn rseq(&self) -> Option<u32> {
        lex::number(self.get(&HeaderName::RSeq)?)
    }

    /// Session-Expires.
    pub fn session_expires(&self) -> Option<SessionExpires> {
        SessionExpires::parse(self.get(&HeaderName::SessionExpires)?).ok()
    }

    /// Min-SE in seconds; what does not fit counts as the longest (RFC 4028 §5).
    pub fn min_se(&self) -> Option<u32> {
        let value = self.get_str(&HeaderName::MinSe)?;
        let seconds: u64 = lex::number(value.split(';').next()?.trim().as_bytes())?;
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// The first Contact, unless it is `*`.
    pub fn contact(&self) -> Option<NameAddr> {
        parse_contact(self.get(&HeaderName::Contact)?).ok()?
    }

    /// All Contacts that are addresses.
    pub fn contacts(&self) -> Vec<NameAddr> {
        self.addresses(&HeaderName::Contact)
    }

    /// Route, topmost first.
    pub fn routes(&self) -> Vec<NameAddr> {
        self.addresses(&HeaderName::Route)
    }

    /// Record-Route, topmost first.
    pub fn record_routes(&self) -> Vec<NameAddr> {
        self.addresses(&HeaderName::RecordRoute)
    }

    fn addresses(&self, name: &HeaderName) -> Vec<NameAddr> {
        self.get_all(name).filter_map(|value| NameAddr::parse(value).ok()).collect()
    }

    /// Max-Forwards; values above 255 count as 255 (RFC 3261 §20.22).
    pub fn max_forwards(&self) -> Option<u8> {
        let hops: u64 = lex::number(self.get(&HeaderName::MaxForwards)?)?;
        Some(u8::try_from(hops).unwrap_or(u8::MAX))
    }

    /// Media type of the body in lower case, without parameters: `application/sdp`.
    pub fn content_type(&self) -> Option<String> {
        let value = self.get_str(&HeaderName::ContentType)?;
        let bare = value.split(';').next().unwrap_or_default();
        Some(bare.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase())
    }

    /// Expires in seconds; what does not fit counts as the largest (RFC 3261 §20.19).
    pub fn expires(&self) -> Option<u32> {
        self.seconds(&HeaderName::Expires)
    }

    /// Retry-After in seconds, comment and parameters ignored.
    pub fn retry_after(&self) -> Option<u32> {
        self.seconds(&HeaderName::RetryAfter)
    }

    fn seconds(&self, name: &HeaderName) -> Option<u32> {
        let value = self.get(name)?;
        let digits = value.iter().position(|b| !b.is_ascii_digit()).unwrap_or(value.len());
        let (digits, _) = value.split_at(digits);
        (!digits.is_empty()).then(|| lex::number(digits).unwrap_or(u32::MAX))
    }

    /// The comma-separated tokens of all lines of `name` (Require, Supported, Allow…).
    pub fn tokens(&self, name: &HeaderName) -> Vec<Text> {
        self.get_all(name)
            .flat_map(|value| lex::list(value).filter_map(|item| Text::slice(value, item).ok()))
            .collect()
    }

    /// True if one of the tokens of `name` is `token`, case ignored.
    pub fn has_token(&self, name: &HeaderName, token: &str) -> bool {
        self.tokens(name).iter().any(|item| item.eq_ignore_ascii_case(token))
    }
}

/// Cheap comparison: known names by variant, others by text.
fn same(a: &HeaderName, b: &HeaderName) -> bool {
    match (a, b) {
        (HeaderName::Other(a), HeaderName::Other(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// Reads a Contact value; `*`, remove all bindings (RFC 3261 §10.2.2), is no address.
pub(super) fn parse_contact(value: &Bytes) -> Result<Option<NameAddr>, Malformed> {
    if lex::trim(value) == b"*" {
        return Ok(None);
    }
    NameAddr::parse(value).map(Some).map_err(|_| Malformed::Contact)
}

/// Bytes for a header value. Line breaks become spaces, so a value cannot smuggle in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(Bytes);

impl From<Bytes> for HeaderValue {
    fn from(value: Bytes) -> Self {
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let clean = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
            return Self(value.iter().map(clean).collect());
        }
        Self(value)
    }
}

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self::from(Bytes::copy_from_slice(value.as_bytes()))
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self::from(Bytes::from(value))
    }
}

impl From<Text> for HeaderValue {
    fn from(value: Text) -> Self {
        Self::from(value.to_bytes())
    }
}

impl From<&NameAddr> for HeaderValue {
    fn from(value: &NameAddr) -> Self {
        Self::from(value.to_bytes())
    }
}

impl From<&Via> for HeaderValue {
    fn from(value: &Via) -> Self {
        Self::from(value.to_string())
    }
}

impl From<&CSeq> for HeaderValue {
    fn from(value: &CSeq) -> Self {
        Self::from(value.to_string())
    }
}

impl From<&RAck> for HeaderValue {
    fn from(value: &RAck) -> Self {
        Self::from(value.to_string())
    }
}

impl From<&SessionExpires> for HeaderValue {
    fn from(value: &SessionExpires) -> Self {
        Self::from(value.to_string())
    }
}

impl From<u32> for HeaderValue {
    fn from(value: u32) -> Self {
        Self(Bytes::from(value.to_string()))
    }
}
