//! Which routes an UPDATE names. Read here and not by the library: that takes a default route
//! (whose first byte is 0) for one with a path id, and knows one ADD-PATH for all families.

use std::net::{IpAddr, Ipv6Addr};

use pop_core::bgp::{Nlri, Prefix};

use super::decode::Malformed;

/// Marker, length and type (RFC 4271 §4.1).
const HEADER_BYTES: usize = 19;
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
}

impl<'a> Sections<'a> {
    /// Of a BGP message that is an UPDATE (RFC 4271 §4.3).
    pub(super) fn of(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = message.get(HEADER_BYTES..).ok_or(Malformed)?;
        let mut sections = Self::default();
        let withdrawn = length_16(&mut rest)?;
        let mut attributes = length_16(&mut rest)?;
        sections.add(false, false, withdrawn);
        while !attributes.is_empty() {
            let [flags, code] = *array::<2>(&mut attributes)?;
            let value = match flags & 0x10 {
                0 => {
                    let [length] = *array::<1>(&mut attributes)?;
                    take(&mut attributes, length.into())?
                }
                _ => length_16(&mut attributes)?,
            };
            sections.attribute(code, value)?;
        }
        sections.add(true, false, rest);
        Ok(sections)
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
        let header = [0xff; HEADER_BYTES];
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
        for length in 0..message.len() {
            // Cut anywhere: read, or refused.
            let cut = told(message.get(..length).unwrap(), [false; 2]);
            assert!(cut.is_err() || length == message.len() - 2, "{length}: {cut:?}");
        }
    }
}
