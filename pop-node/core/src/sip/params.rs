//! `;name=value` parameters of URIs and headers.

use std::fmt;

use bytes::Bytes;

use super::lex::{self, trim};
use super::parse::Malformed;
use super::text::Text;

/// Ordered parameters. Names compare without case; values keep their quotes and escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Params(Vec<(Text, Option<Text>)>);

/// More parameters than this in one URI or header value is an attack, not a call.
const MAX_PARAMS: usize = 64;

impl Params {
    /// No parameters.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of `name`; `Some("")` for a parameter without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.as_ref().map_or("", Text::as_str))
    }

    /// The value of `name`, shared.
    pub fn get_text(&self, name: &str) -> Option<Text> {
        let (_, value) = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.clone().unwrap_or_default())
    }

    /// True if `name` is present, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets `name` to `value`, in place or at the end.
    pub fn set(&mut self, name: &str, value: Option<Text>) {
        match self.0.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => {
                self.0.reserve_exact(1);
                self.0.push((Text::from(name), value));
            }
        }
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_ref().map(Text::as_str)))
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses what follows the first `;`. Spaces around `;` and `=` are allowed (RFC 3261 §7.3.1).
    pub(super) fn parse(whole: &Bytes, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut params = Vec::new();
        let mut rest = Some(bytes);
        while let Some(now) = rest {
            let (item, tail) = match lex::split_once_outside(now, b';') {
                Some((item, tail)) => (item, Some(tail)),
                None => (now, None),
            };
            rest = tail;
            if params.len() == MAX_PARAMS {
                return Err(Malformed::TooManyParameters);
            }
            // Mostly one, and dialogs keep it.
            params.reserve_exact(1);
            params.push(parse_one(whole, item)?);
        }
        Ok(Self(params))
    }
}

fn parse_one(whole: &Bytes, item: &[u8]) -> Result<(Text, Option<Text>), Malformed> {
    let (name, value) = match lex::split_once(item, b'=') {
        Some((name, value)) => (trim(name), Some(trim(value))),
        None => (trim(item), None),
    };
    // URI parameters allow more than a token ("[", "/", ":", "&", "$"); white space and the
    // separators of headers are in neither.
    let visible = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'<' | b'>');
    if name.is_empty() || !name.iter().all(visible) {
        return Err(Malformed::Parameter);
    }
    let value = value.map(|value| parse_value(whole, value)).transpose()?;
    Ok((Text::slice(whole, name)?, value))
}

fn parse_value(whole: &Bytes, value: &[u8]) -> Result<Text, Malformed> {
    let quoted = value.first() == Some(&b'"');
    if quoted && (value.len() < 2 || value.last() != Some(&b'"')) {
        return Err(Malformed::Parameter);
    }
    if !quoted && value.iter().any(|byte| lex::is_space(*byte) || matches!(byte, b'"' | b',')) {
        return Err(Malformed::Parameter);
    }
    // Text that is not UTF-8 is legal nowhere, but one bad byte in a parameter that nobody reads
    // must not cost a call.
    Text::slice(whole, value)
        .or_else(|_| Ok(Text::from(String::from_utf8_lossy(value).into_owned())))
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            match value {
                Some(value) => write!(f, ";{name}={value}")?,
                None => write!(f, ";{name}")?,
            }
        }
        Ok(())
    }
}
