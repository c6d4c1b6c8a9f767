//! Bytes to a description.

use std::net::IpAddr;

use super::description::{Attribute, Connection, MediaDescription, Origin, SessionDescription};

/// A longer description is refused.
pub const BYTES_MAX: usize = 16 * 1024;
const ATTRIBUTES_MAX: usize = 512;
const FORMATS_MAX: usize = 64;
const MEDIA_MAX: usize = 16;

/// Why bytes are no description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing there.
    #[error("the session description is empty")]
    Empty,
    /// A line is not `x=…`.
    #[error("line {line} of the session description is not of the form x=value")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// The value of a line we need does not parse.
    #[error("the {kind}= line {line} of the session description does not parse")]
    Value {
        /// The letter before `=`.
        kind: char,
        /// Counted from 1.
        line: usize,
    },
    /// `v=` is not 0 (RFC 8866 §5.1).
    #[error("the session description is not of version 0")]
    Version,
    /// `o=` is mandatory (RFC 8866 §5.2).
    #[error("the session description has no origin")]
    NoOrigin,
    /// More bytes, sections, formats or attributes than we take.
    #[error("the session description is too large")]
    TooLarge,
}

impl SessionDescription {
    /// Parses a description (RFC 8866 §9); unknown lines are skipped (§5).
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > BYTES_MAX {
            return Err(ParseError::TooLarge);
        }
        let mut parser = Parser::default();
        for (index, raw) in bytes.split(|b| *b == b'\n').enumerate() {
            let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
            if !raw.trim_ascii().is_empty() {
                parser.line(raw, index + 1)?;
            }
        }
        parser.finish()
    }
}

#[derive(Default)]
struct Parser {
    seen: bool,
    origin: Option<Origin>,
    name: String,
    connection: Option<Connection>,
    attributes: Vec<Attribute>,
    media: Vec<MediaDescription>,
}

impl Parser {
    fn line(&mut self, raw: &[u8], line: usize) -> Result<(), ParseError> {
        let (Some(kind), Some(b'='), Some(value)) = (raw.first(), raw.get(1), raw.get(2..)) else {
            return Err(ParseError::Line { line });
        };
        let value = String::from_utf8_lossy(value);
        let bad = ParseError::Value { kind: char::from(*kind), line };
        if !self.seen && *kind != b'v' {
            return Err(ParseError::Version);
        }
        match kind {
            b'v' if value.trim() == "0" => self.seen = true,
            b'v' => return Err(ParseError::Version),
            b'o' => self.origin = Some(origin(&value).ok_or(bad)?),
            b's' => self.name = value.into_owned(),
            b'c' => {
                let connection = connection(&value).ok_or(bad)?;
                match self.media.last_mut() {
                    // Only the first of a section counts; more are layered multicast.
                    Some(media) => _ = media.connection.get_or_insert(connection),
                    None => self.connection = Some(connection),
                }
            }
            b'a' => self.attribute(&value)?,
            b'm' => {
                if self.media.len() == MEDIA_MAX {
                    return Err(ParseError::TooLarge);
                }
                self.media.push(media(&value).ok_or(bad)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn attribute(&mut self, value: &str) -> Result<(), ParseError> {
        let attributes = match self.media.last_mut() {
            Some(media) => &mut media.attributes,
            None => &mut self.attributes,
        };
        if attributes.len() == ATTRIBUTES_MAX {
            return Err(ParseError::TooLarge);
        }
        attributes.push(match value.split_once(':') {
            Some((name, value)) => Attribute::with(name.trim(), value.trim()),
            None => Attribute::flag(value.trim()),
        });
        Ok(())
    }

    fn finish(self) -> Result<SessionDescription, ParseError> {
        if !self.seen {
            return Err(ParseError::Empty);
        }
        Ok(SessionDescription {
            origin: self.origin.ok_or(ParseError::NoOrigin)?,
            name: self.name,
            connection: self.connection,
            attributes: self.attributes,
            media: self.media,
        })
    }
}

fn origin(value: &str) -> Option<Origin> {
    let mut words = value.split_ascii_whitespace();
    let username = words.next()?.to_owned();
    // Numeric, but some peers exceed 64 bits; only equality and growth matter to us.
    let mut number = || words.next().map(|word| word.parse().unwrap_or(u64::MAX));
    let (id, version) = (number()?, number()?);
    let address = words.nth(2)?.to_owned();
    Some(Origin { username, id, version, address })
}

fn connection(value: &str) -> Option<Connection> {
    let address = value.split_ascii_whitespace().nth(2)?;
    // "224.2.1.1/127": TTL and count of multicast addresses.
    let address = address.split('/').next().filter(|address| !address.is_empty())?;
    Some(match address.parse::<IpAddr>() {
        Ok(address) => Connection::Address(address),
        Err(_) => Connection::Name(address.to_owned()),
    })
}

fn media(value: &str) -> Option<MediaDescription> {
    let mut words = value.split_ascii_whitespace();
    let media = words.next()?.to_owned();
    let port = words.next()?.split('/').next()?.parse().ok()?;
    let protocol = words.next()?.to_owned();
    let formats: Vec<String> = words.map(str::to_owned).collect();
    (formats.len() <= FORMATS_MAX).then_some(MediaDescription {
        media,
        port,
        protocol,
        formats,
        connection: None,
        attributes: Vec::new(),
    })
}
