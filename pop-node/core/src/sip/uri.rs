//! SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966). Escapes are kept as they came.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;

use super::flow::Transport;
use super::lex;
use super::params::Params;
use super::parse::Malformed;
use super::text::Text;

/// The scheme of a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:` (RFC 3966)
    Tel,
    /// Anything else; legal in From and To, answered 416 in a Request-URI.
    Other(Text),
}

/// A parsed URI.
///
/// For `tel:` the number is in `user`; for other schemes all that follows the colon is.
/// `Debug` hides the user part, `Display` is the wire form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uri {
    /// Scheme.
    pub scheme: Scheme,
    /// User part, escapes kept, without password.
    pub user: Option<Text>,
    /// Password, seen only in old phones.
    pub password: Option<Text>,
    /// Host name, IPv4 address or bracketed IPv6 address; empty for `tel:` and others.
    pub host: Text,
    /// Port, if written.
    pub port: Option<u16>,
    /// Parameters (`transport`, `lr`, `user`, `maddr`…).
    pub params: Params,
    /// What follows `?`.
    pub headers: Option<Text>,
}

impl Uri {
    /// A SIP URI for an address of ours or of a peer.
    pub fn sip(user: Option<&str>, address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self::sip_host(user, &host, Some(address.port()))
    }

    /// A SIP URI for a host name.
    pub fn sip_host(user: Option<&str>, host: &str, port: Option<u16>) -> Self {
        Self {
            scheme: Scheme::Sip,
            user: user.map(Text::from),
            password: None,
            host: Text::from(host),
            port,
            params: Params::new(),
            headers: None,
        }
    }

    /// The same with `;transport=` set, unless that is UDP, the default.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        if transport != Transport::Udp {
            self.params.set("transport", Some(Text::from_static(transport.as_param())));
        }
        self
    }

    /// User part, escapes kept.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// User part with escapes resolved and telephone parameters (`;phone-context=…`) cut off.
    pub fn user_unescaped(&self) -> Option<String> {
        let user = self.user.as_deref()?;
        let bare = user.split(';').next().unwrap_or_default();
        Some(unescape(bare))
    }

    /// The host as an address, if it is one.
    pub fn host_ip(&self) -> Option<IpAddr> {
        parse_ip(&self.host)
    }

    /// Host and port (default 5060; 5061 for sips) as an address, if the host is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host_ip()?, self.port_or_default()))
    }

    /// The port, or the default of the scheme (RFC 3261 §19.1.2).
    pub fn port_or_default(&self) -> u16 {
        let default = if self.scheme == Scheme::Sips { 5061 } else { 5060 };
        self.port.unwrap_or(default)
    }

    /// The `transport` parameter, if it is one that we speak.
    pub fn transport(&self) -> Option<Transport> {
        let name = self.params.get("transport")?;
        [Transport::Tcp, Transport::Udp]
            .into_iter()
            .find(|transport| name.eq_ignore_ascii_case(transport.as_param()))
    }

    /// True if a proxy that put this into Record-Route is a loose router (RFC 3261 §16.12).
    pub fn is_loose_router(&self) -> bool {
        self.params.has("lr")
    }

    /// Parses a URI that makes up all of `bytes`.
    pub fn parse(bytes: &Bytes) -> Result<Self, Malformed> {
        Self::parse_part(bytes, bytes)
    }

    /// Parses `part`, a subslice of `whole`, sharing its bytes.
    pub(super) fn parse_part(whole: &Bytes, part: &[u8]) -> Result<Self, Malformed> {
        let visible = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"');
        if !part.iter().all(visible) {
            return Err(Malformed::Uri);
        }
        let (scheme, rest) = lex::split_once(part, b':').ok_or(Malformed::Uri)?;
        let starts_well = scheme.first().is_some_and(u8::is_ascii_alphabetic);
        let is_scheme = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !starts_well || !scheme.iter().all(is_scheme) || rest.is_empty() {
            return Err(Malformed::Uri);
        }
        if scheme.eq_ignore_ascii_case(b"sip") {
            parse_sip(whole, Scheme::Sip, rest)
        } else if scheme.eq_ignore_ascii_case(b"sips") {
            parse_sip(whole, Scheme::Sips, rest)
        } else if scheme.eq_ignore_ascii_case(b"tel") {
            parse_tel(whole, rest)
        } else {
            let scheme = Scheme::Other(Text::slice(whole, scheme)?);
            Ok(opaque(scheme, Text::slice(whole, rest)?, Params::new()))
        }
    }
}

fn opaque(scheme: Scheme, user: Text, params: Params) -> Uri {
    let user = Some(user);
    Uri { scheme, user, password: None, host: Text::default(), port: None, params, headers: None }
}

fn parse_tel(whole: &Bytes, rest: &[u8]) -> Result<Uri, Malformed> {
    let (number, params) = match lex::split_once(rest, b';') {
        Some((number, params)) => (number, Params::parse(whole, params)?),
        None => (rest, Params::new()),
    };
    if number.is_empty() {
        return Err(Malformed::Uri);
    }
    Ok(opaque(Scheme::Tel, Text::slice(whole, number)?, params))
}

fn parse_sip(whole: &Bytes, scheme: Scheme, rest: &[u8]) -> Result<Uri, Malformed> {
    // The user part may hold ";", "?" and "/" (RFC 4475 §3.1.1.2): it ends at "@" and nowhere else.
    let (userinfo, rest) = match lex::split_once(rest, b'@') {
        Some((userinfo, rest)) => (Some(userinfo), rest),
        None => (None, rest),
    };
    let (user, password) = match userinfo.map(|info| (info, lex::split_once(info, b':'))) {
        Some((_, Some((user, password)))) => (Some(user), Some(password)),
        Some((user, None)) => (Some(user), None),
        None => (None, None),
    };
    if user.is_some_and(<[u8]>::is_empty) {
        return Err(Malformed::Uri);
    }
    let (rest, headers) = match lex::split_once(rest, b'?') {
        Some((rest, headers)) => (rest, Some(headers)),
        None => (rest, None),
    };
    let (host_port, params) = match lex::split_once(rest, b';') {
        Some((host_port, params)) => (host_port, Params::parse(whole, params)?),
        None => (rest, Params::new()),
    };
    let (host, port) = parse_host_port(whole, host_port)?;
    Ok(Uri {
        scheme,
        user: user.map(|user| Text::slice(whole, user)).transpose()?,
        password: password.map(|password| Text::slice(whole, password)).transpose()?,
        host,
        port,
        params,
        headers: headers.map(|headers| Text::slice(whole, headers)).transpose()?,
    })
}

/// `host [":" port]`, spaces around the colon allowed as in Via (RFC 3261 §25.1).
pub(super) fn parse_host_port(
    whole: &Bytes,
    bytes: &[u8],
) -> Result<(Text, Option<u16>), Malformed> {
    let bytes = lex::trim(bytes);
    let host_len = if bytes.first() == Some(&b'[') {
        bytes.iter().position(|byte| *byte == b']').map(|at| at + 1)
    } else {
        bytes.iter().position(|byte| *byte == b':')
    };
    let (host, rest) = bytes.split_at(host_len.unwrap_or(bytes.len()));
    let host = lex::trim(host);
    let port = match lex::trim(rest) {
        [] => None,
        [b':', port @ ..] => {
            Some(lex::number::<u16>(lex::trim(port)).ok_or(Malformed::HostOrPort)?)
        }
        _ => return Err(Malformed::HostOrPort),
    };
    let text = Text::slice(whole, host)?;
    if !is_host(&text) {
        return Err(Malformed::HostOrPort);
    }
    Ok((text, port))
}

fn is_host(host: &str) -> bool {
    if host.starts_with('[') {
        return parse_ip(host).is_some();
    }
    // An underscore is no host name, but seen in the field and harmless.
    let is_host_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !host.is_empty() && host.bytes().all(is_host_byte)
}

pub(super) fn parse_ip(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

impl FromStr for Uri {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::parse(&Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip => f.write_str("sip"),
            Self::Sips => f.write_str("sips"),
            Self::Tel => f.write_str("tel"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Uri {
    fn write(&self, f: &mut fmt::Formatter<'_>, user: Option<&str>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if let Some(user) = user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            if !self.host.is_empty() {
                f.write_str("@")?;
            }
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)?;
        if let Some(headers) = &self.headers {
            write!(f, "?{headers}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.user())
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = Self { password: None, headers: None, ..self.clone() };
        hidden.write(f, self.user().map(|_| "•••"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parts_are_found() {
        let full = uri("sips:+49301;phone-context=x:pw@[2001:db8::1]:5071;transport=TCP;lr?a=b");
        assert_eq!(full.scheme, Scheme::Sips);
        assert_eq!(full.user(), Some("+49301;phone-context=x"));
        assert_eq!(full.user_unescaped().as_deref(), Some("+49301"));
        assert_eq!(full.password.as_deref(), Some("pw"));
        assert_eq!(full.socket_addr(), "[2001:db8::1]:5071".parse().ok());
        assert_eq!(full.transport(), Some(Transport::Tcp));
        assert!(full.is_loose_router());
        let number = uri("tel:+49-30-1;isub=2");
        assert_eq!((number.user(), number.params.get("isub")), (Some("+49-30-1"), Some("2")));
        assert_eq!(number.socket_addr(), None);
        assert_eq!(uri("sip:example.com").port_or_default(), 5060);
        assert_eq!(uri("SIP:%2b49%zz@h").user_unescaped().as_deref(), Some("+49%zz"));
    }

    #[test]
    fn our_own_are_written_as_needed() {
        let address = "[::1]:5060".parse().expect("address");
        let ours = Uri::sip(Some("bob"), address).with_transport(Transport::Tcp);
        assert_eq!(ours.to_string(), "sip:bob@[::1]:5060;transport=tcp");
        assert_eq!(
            Uri::sip_host(None, "h", None).with_transport(Transport::Udp).to_string(),
            "sip:h"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "sip",
            "sip:",
            ":x",
            "sip:@h",
            "sip:a@",
            "sip:a@b c",
            "sip:a@h:70000",
            "sip:a@[::1",
            "sip:a@h;;x",
            "tel:;x",
            "1sip:h",
            "<sip:h>",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
