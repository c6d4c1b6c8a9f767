//! Which routes an UPDATE names. Read here and not by the library: that takes a default route
//! (whose first byte is 0) for one with a path id, and knows one ADD-PATH for all families. And most
//! UPDATEs of a full table are about nothing of interest: of them nothing else is read.

use std::net::{IpAddr, Ipv6Addr};

use pop_core::bgp::{Nlri, Prefix};

use super::decode::Malformed;

/// Marker, length and type (RFC 4271 §4.1).
pub(super) const HEADER_BYTES: usize = 19;
/// Their types.
pub(super) const OPEN: u8 = 1;
const UPDATE: u8 = 2;
/// Attributes that are of use: AS_PATH, NEXT_HOP, COMMUNITIES, AS4_PATH, LARGE_COMMUNITIES.
const OF_USE: [u8; 5] = [2, 3, 8, 17, 32];
/// RFC 4760 §3, §4.
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
/// AFI and SAFI of IPv6 unicast; of IPv4 unicast, which may stand there, too.
const IPV6_UNICAST: [u8; 3] = [0, 2, 1];
const IPV4_UNICAST: [u8; 3] = [0, 1, 1];

/// Some routes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section<'a> {
    pub(super) announced: bool,
    pub(super) ipv6: bool,
    routes: &'a [u8],
}

/// All routes of an UPDATE.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sections<'a> {
    pub(super) all: Vec<Section<'a>>,
    /// That of MP_REACH_NLRI (RFC 4760 §3), of IPv6 the global one (RFC 2545 §3).
    pub(super) next_hop: Option<IpAddr>,
    /// Attributes [`OF_USE`], each with its header.
    of_use: Vec<&'a [u8]>,
}

impl<'a> Sections<'a> {
    /// Of a BGP message that is an UPDATE (RFC 4271 §4.3).
    pub(super) fn of(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = self::message(message, UPDATE)?;
        let mut sections = Self::default();
        let withdrawn = length_16(&mut rest)?;
        let mut attributes = length_16(&mut rest)?;
        sections.add(false, false, withdrawn);
        while !attributes.is_empty() {
            let all = attributes;
            let [flags, code] = *array::<2>(&mut attributes)?;
            let value = match flags & 0x10 {
                0 => {
                    let [length] = *array::<1>(&mut attributes)?;
                    take(&mut attributes, length.into())?
                }
                _ => length_16(&mut attributes)?,
            };
            sections.attribute(code, value)?;
            if OF_USE.contains(&code) {
                sections.of_use.extend(all.get(..all.len() - attributes.len()));
            }
        }
        sections.add(true, false, rest);
        Ok(sections)
    }

    /// An UPDATE with nothing but the attributes of use.
    pub(super) fn minimal(&self) -> Vec<u8> {
        let attributes = self.of_use.concat();
        // They were in a message with the same two lengths, so they fit.
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        let total = length(HEADER_BYTES + 4 + attributes.len());
        let header = [&[0xff; 16][..], &total, &[UPDATE], &[0, 0]].concat();
        [&header[..], &length(attributes.len()), &attributes].concat()
    }

    fn attribute(&mut self, code: u8, mut value: &'a [u8]) -> Result<(), Malformed> {
        if code != MP_REACH && code != MP_UNREACH {
            return Ok(());
        }
        let family = *array::<3>(&mut value)?;
        if code == MP_REACH {
            let [length] = *array::<1>(&mut value)?;
            let mut hop = take(&mut value, length.into())?;
            let _reserved = array::<1>(&mut value)?;
            let hop = array::<16>(&mut hop).ok().map(|bytes| Ipv6Addr::from(*bytes).into());
            self.next_hop = hop.or(self.next_hop);
        }
        if family == IPV6_UNICAST || family == IPV4_UNICAST {
            self.add(code == MP_REACH, family == IPV6_UNICAST, value);
        }
        Ok(())
    }

    fn add(&mut self, announced: bool, ipv6: bool, routes: &'a [u8]) {
        if !routes.is_empty() {
            self.all.push(Section { announced, ipv6, routes });
        }
    }
}

impl Section<'_> {
    /// Visits each route; how many there are. With path ids if `add_path` (RFC 7911 §3).
    pub(super) fn each(
        &self,
        add_path: bool,
        mut visit: impl FnMut(Nlri),
    ) -> Result<u32, Malformed> {
        let (mut rest, mut count) = (self.routes, 0);
        while !rest.is_empty() {
            let path_id = if add_path { u32::from_be_bytes(*array(&mut rest)?) } else { 0 };
            let [length] = *array::<1>(&mut rest)?;
            let octets = take(&mut rest, length.div_ceil(8).into())?;
            let prefix = Prefix::new(self.address(octets)?, length).ok_or(Malformed)?;
            visit(Nlri { prefix, path_id });
            count += 1;
        }
        Ok(count)
    }

    fn address(&self, octets: &[u8]) -> Result<IpAddr, Malformed> {
        fn padded<const N: usize>(octets: &[u8]) -> Result<[u8; N], Malformed> {
            let mut full = [0; N];
            full.get_mut(..octets.len()).ok_or(Malformed)?.copy_from_slice(octets);
            Ok(full)
        }
        Ok(match self.ipv6 {
            true => padded::<16>(octets)?.into(),
            false => padded::<4>(octets)?.into(),
        })
    }
}

/// What follows the header of a BGP message of this type (RFC 4271 §4.1), as long as it says it is.
pub(super) fn message(bytes: &[u8], kind: u8) -> Result<&[u8], Malformed> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
    let [.., a, b, found] = *header;
    let length = usize::from(u16::from_be_bytes([a, b]));
    if found != kind {
        return Err(Malformed);
    }
    length.checked_sub(HEADER_BYTES).and_then(|length| rest.get(..length)).ok_or(Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], Malformed> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// As many bytes as the two before them say.
fn length_16<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = u16::from_be_bytes(*array(bytes)?);
    take(bytes, length.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let (gone, about) = (length(withdrawn), length(attributes));
        let total = length(&[&[0; 23][..], withdrawn, attributes, announced].concat());
        let header = [&[0xff; 16][..], &total, &[UPDATE]].concat();
        [&header[..], &gone, withdrawn, &about, attributes, announced].concat()
    }

    /// `+` announced, `-` withdrawn, `#` path id.
    fn told(message: &[u8], [ipv4, ipv6]: [bool; 2]) -> Result<Vec<String>, Malformed> {
        let mut all = Vec::new();
        for section in Sections::of(message)?.all {
            let sign = if section.announced { '+' } else { '-' };
            section.each(if section.ipv6 { ipv6 } else { ipv4 }, |nlri| {
                let id =
                    if nlri.path_id > 0 { format!("#{}", nlri.path_id) } else { String::new() };
                all.push(format!("{sign}{}{id}", nlri.prefix));
            })?;
        }
        Ok(all)
    }

    #[test]
    fn a_default_route_is_no_path_id() {
        let packed = [0, 24, 192, 0, 2, 8, 10];
        let message = update(&[0], &[], &packed);
        let all = ["-0.0.0.0/0", "+0.0.0.0/0", "+192.0.2.0/24", "+10.0.0.0/8"];
        assert_eq!(told(&message, [false; 2]).unwrap(), all);
    }

    #[test]
    fn families_differ_in_path_ids() {
        let global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let reach = [&[0, 2, 1, 16][..], &global, &[0, 32, 0x20, 1, 0xd, 0xb8, 0]].concat();
        let attribute = [&[0x80, MP_REACH, reach.len().try_into().unwrap()][..], &reach].concat();
        let message = update(&[], &attribute, &[0, 0, 0, 7, 24, 192, 0, 2]);
        let all = ["+2001:db8::/32", "+::/0", "+192.0.2.0/24#7"];
        assert_eq!(told(&message, [true, false]).unwrap(), all);
        let hop = Sections::of(&message).unwrap().next_hop;
        assert_eq!(hop, Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_cut_or_too_long_is_malformed() {
        for announced in [&[33, 1, 2, 3, 4, 5][..], &[24, 192], &[32, 1, 2, 3]] {
            assert_eq!(told(&update(&[], &[], announced), [false; 2]), Err(Malformed));
        }
        let message = update(&[8, 10], &[0x40, 1, 1, 0], &[8, 10]);
        assert_eq!(told(&message, [false; 2]).unwrap(), ["-10.0.0.0/8", "+10.0.0.0/8"]);
        for length in 0..message.len() {
            let mut cut = message.get(..length).unwrap().to_vec();
            assert_eq!(told(&cut, [false; 2]), Err(Malformed), "shorter than it says");
            // Cut anywhere, and saying so: read, or refused.
            if let Some(says) = cut.get_mut(16..18) {
                says.copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            let read = told(&cut, [false; 2]);
            assert!(read.is_err() || length == message.len() - 2, "{length}: {read:?}");
        }
        let other = [&message[..18], &[OPEN], &message[19..]].concat();
        assert_eq!(told(&other, [false; 2]), Err(Malformed));
    }

    #[test]
    fn only_attributes_of_use_are_passed_on() {
        let path = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
        // LINK_STATE (29), twice as long as it says; its end is an unknown attribute.
        let link_state = [0x80, 29, 2, 1, 2, 0x80, 0xff, 0];
        let long = [0x50, 8, 0, 4, 0xff, 0xff, 0, 0];
        let message = update(&[], &[&path[..], &link_state, &long].concat(), &[8, 10]);
        let minimal = Sections::of(&message).unwrap().minimal();
        assert_eq!(minimal, update(&[], &[&path[..], &long].concat(), &[]));
    }
}
