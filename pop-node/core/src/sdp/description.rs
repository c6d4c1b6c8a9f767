//! The parts of a description and how they are written.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use bytes::Bytes;

/// `o=` (RFC 8866 §5.2). The version grows with each change of the description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Login on the originating host, or `-`.
    pub username: String,
    /// Session id.
    pub id: u64,
    /// Version of this description.
    pub version: u64,
    /// Address of the originator; only a name, never sent to.
    pub address: String,
}

/// `c=` (RFC 8866 §5.7): where media is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// A literal address. Unspecified (`0.0.0.0`) is the old way to say hold (RFC 3264 §8.4).
    Address(IpAddr),
    /// A name; we do not resolve names in media descriptions.
    Name(String),
}

/// `a=` (RFC 8866 §5.13): a property or a name with a value.
#[derive(Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Before the colon.
    pub name: String,
    /// After the colon.
    pub value: Option<String>,
}

/// One `m=` section (RFC 8866 §5.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaDescription {
    /// `audio`, `video`, …
    pub media: String,
    /// Port; 0 means refused or switched off.
    pub port: u16,
    /// `RTP/AVP`, …
    pub protocol: String,
    /// Payload types for RTP, opaque otherwise.
    pub formats: Vec<String>,
    /// `c=` of this section.
    pub connection: Option<Connection>,
    /// `a=` of this section, in order.
    pub attributes: Vec<Attribute>,
}

/// A whole description (RFC 8866 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDescription {
    /// `o=`
    pub origin: Origin,
    /// `s=`
    pub name: String,
    /// `c=` of the session.
    pub connection: Option<Connection>,
    /// `a=` of the session, in order.
    pub attributes: Vec<Attribute>,
    /// `m=` sections, in order: an answer has one for each (RFC 3264 §6).
    pub media: Vec<MediaDescription>,
}

/// Keys (RFC 4568) stay out of logs.
impl fmt::Debug for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.name.eq_ignore_ascii_case("crypto");
        let value = if secret { Some("•••") } else { self.value.as_deref() };
        f.debug_struct("Attribute").field("name", &self.name).field("value", &value).finish()
    }
}

impl Attribute {
    /// `a=name`
    pub fn flag(name: &str) -> Self {
        Self { name: name.to_owned(), value: None }
    }

    /// `a=name:value`
    pub fn with(name: &str, value: impl Into<String>) -> Self {
        Self { name: name.to_owned(), value: Some(value.into()) }
    }
}

/// The first value of an attribute by name.
pub(super) fn value<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    attributes.iter().find(|a| a.name == name).and_then(|a| a.value.as_deref())
}

impl MediaDescription {
    /// The first value of an attribute of this section.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        value(&self.attributes, name)
    }

    /// Whether a property is set in this section.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.iter().any(|a| a.name == name)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address @ IpAddr::V4(_)) => write!(f, "IN IP4 {address}"),
            Self::Address(address @ IpAddr::V6(_)) => write!(f, "IN IP6 {address}"),
            Self::Name(name) => write!(f, "IN IP4 {name}"),
        }
    }
}

fn write_attributes(f: &mut fmt::Formatter<'_>, attributes: &[Attribute]) -> fmt::Result {
    attributes.iter().try_for_each(|a| match &a.value {
        Some(value) => write!(f, "a={}:{value}\r\n", a.name),
        None => write!(f, "a={}\r\n", a.name),
    })
}

impl fmt::Display for MediaDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={} {} {}", self.media, self.port, self.protocol)?;
        self.formats.iter().try_for_each(|format| write!(f, " {format}"))?;
        f.write_str("\r\n")?;
        if let Some(connection) = &self.connection {
            write!(f, "c={connection}\r\n")?;
        }
        write_attributes(f, &self.attributes)
    }
}

impl fmt::Display for SessionDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { username, id, version, address } = &self.origin;
        let family = if address.contains(':') { "IP6" } else { "IP4" };
        write!(f, "v=0\r\no={username} {id} {version} IN {family} {address}\r\n")?;
        write!(f, "s={}\r\n", self.name)?;
        if let Some(connection) = &self.connection {
            write!(f, "c={connection}\r\n")?;
        }
        f.write_str("t=0 0\r\n")?;
        write_attributes(f, &self.attributes)?;
        self.media.iter().try_for_each(|m| write!(f, "{m}"))
    }
}

impl SessionDescription {
    /// As sent on the wire.
    pub fn serialize(&self) -> Bytes {
        let mut text = String::with_capacity(512);
        // Writing to a String does not fail.
        let _ = write!(text, "{self}");
        Bytes::from(text)
    }
}
