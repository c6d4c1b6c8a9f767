//! Which region a client is in, by the longest configured prefix, and for whom else that holds.

use std::net::IpAddr;

/// A prefix of client addresses. Addresses are compared by their bits, left-aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Prefix {
    v6: bool,
    bits: u128,
    length: u8,
    region: String,
}

/// Client prefixes and their regions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Regions(Vec<Prefix>);

/// What a client's address comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<'a> {
    /// Where it is; `None`: in no prefix.
    pub region: Option<&'a str>,
    /// The same holds for all addresses with so many first bits in common (RFC 7871 §7.2.1).
    pub scope: u8,
}

impl Regions {
    /// Adds `address/length`. False if that is no prefix, or is there already.
    pub fn add(&mut self, region: &str, prefix: &str) -> bool {
        let Some((address, length)) = prefix.split_once('/') else { return false };
        let (Ok(address), Ok(length)) = (address.parse::<IpAddr>(), length.parse::<u8>()) else {
            return false;
        };
        let (v6, bits) = bits(address);
        let known = self.0.iter().any(|p| p.v6 == v6 && p.length == length && p.bits == bits);
        if length > width(v6) || bits != first(bits, length) || known {
            return false;
        }
        self.0.push(Prefix { v6, bits, length, region: region.to_owned() });
        true
    }

    /// Of an address of which the first `known` bits are known. Where those do not suffice, it is the
    /// first address with them, and the scope says so.
    pub fn locate(&self, address: IpAddr, known: u8) -> Located<'_> {
        let (v6, address) = bits(address);
        let known = known.min(width(v6));
        let address = first(address, known);
        let family = || self.0.iter().filter(move |prefix| prefix.v6 == v6);
        let covers = |p: &&Prefix| first(address, p.length) == p.bits;
        let found = family().filter(covers).max_by_key(|prefix| prefix.length);
        let mut scope = found.map_or(0, |prefix| prefix.length);
        // Nothing more specific may be within it.
        let is_mixed = |scope: u8| {
            let within =
                |p: &Prefix| p.length > scope && first(p.bits, scope) == first(address, scope);
            family().any(within)
        };
        while scope < width(v6) && is_mixed(scope) {
            scope += 1;
        }
        Located { region: found.map(|prefix| prefix.region.as_str()), scope }
    }
}

/// Bits of an address.
pub const fn width(v6: bool) -> u8 {
    if v6 { 128 } else { 32 }
}

fn bits(address: IpAddr) -> (bool, u128) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

fn first(bits: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        length => bits & (u128::MAX << (128 - u32::from(length.min(128)))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn regions(prefixes: &[(&str, &str)]) -> Regions {
        let mut regions = Regions::default();
        prefixes.iter().for_each(|(region, prefix)| assert!(regions.add(region, prefix)));
        regions
    }

    #[test]
    fn the_longest_prefix_says_where_and_how_far_that_holds() {
        let regions = regions(&[
            ("eu", "192.0.0.0/16"),
            ("us", "192.0.2.0/24"),
            ("ap", "2001:db8::/32"),
            ("eu", "198.51.100.128/25"),
        ]);
        let at = |address: &str, known| {
            let located = regions.locate(address.parse().unwrap(), known);
            (located.region.unwrap_or("-"), located.scope)
        };
        assert_eq!(at("192.0.2.77", 32), ("us", 24));
        assert_eq!(at("192.0.77.1", 32), ("eu", 18), "us is in the first quarter");
        assert_eq!(at("192.0.3.1", 24), ("eu", 24));
        assert_eq!(at("192.0.0.0", 16), ("eu", 23), "us begins in its third");
        assert_eq!(at("2001:db8:1::", 48), ("ap", 32));
        assert_eq!(at("198.51.100.0", 24), ("-", 25), "half of it is in eu");
        assert_eq!(at("::ffff:192.0.2.1", 32), ("us", 24));
        assert_eq!(at("10.0.0.1", 32).0, "-");
        assert_eq!(at("0.0.0.0", 0), ("-", 1));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        let mut regions = regions(&[("eu", "192.0.2.0/24")]);
        for wrong in
            ["192.0.2.0", "192.0.2.0/33", "192.0.2.1/24", "::/129", "x/8", "192.0.2.0/24", "/8"]
        {
            assert!(!regions.add("us", wrong), "{wrong}");
        }
    }

    proptest! {
        /// Whoever asks from within the scope would have been told the same.
        #[test]
        fn a_scope_promises_no_more_than_it_can(
            prefixes in proptest::collection::vec((any::<u32>(), 0u8..=32, 0u8..3), 0..12),
            address: u32, known in 0u8..=32, other: u32,
        ) {
            let mut regions = Regions::default();
            for (bits, length, region) in prefixes {
                let bits = (first(u128::from(bits) << 96, length) >> 96) as u32;
                regions.add(&region.to_string(), &format!("{}/{length}", Ipv4Addr::from_bits(bits)));
            }
            let located = regions.locate(Ipv4Addr::from_bits(address).into(), known);
            // Another address with as many bits in common, all of it known.
            let base = first(first(u128::from(address) << 96, known), located.scope);
            let rest = (u128::from(other) << 96) & !first(u128::MAX, located.scope);
            let neighbor = Ipv4Addr::from_bits(((base | rest) >> 96) as u32);
            prop_assert_eq!(regions.locate(neighbor.into(), 32).region, located.region);
        }
    }
}
