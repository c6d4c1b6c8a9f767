//! Which trunk a source address belongs to.

use std::net::IpAddr;

use proto::control::Trunk;
use proto::id::TrunkId;

/// Source addresses and CIDR blocks of all trunks. The longest block wins; of equal ones the first
/// trunk by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acl {
    /// Longest first.
    blocks: Vec<(Block, TrunkId)>,
    /// Literal addresses we call out to: not callers, but no strangers either.
    hosts: Vec<IpAddr>,
}

/// An address block (CIDR, RFC 4632), IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    address: u128,
    v6: bool,
    /// Counted in the IPv6 space: 96 more for IPv4.
    length: u32,
}

impl Acl {
    /// From the trunks; sources that do not parse match nothing.
    pub fn new<'a>(trunks: impl Iterator<Item = (&'a TrunkId, &'a Trunk)>) -> Self {
        let mut acl = Self::default();
        for (id, trunk) in trunks {
            let blocks = trunk.sources.iter().filter_map(|source| Block::parse(source));
            acl.blocks.extend(blocks.map(|block| (block, id.clone())));
            acl.hosts.extend(trunk.host.parse::<IpAddr>().ok());
        }
        acl.blocks.sort_by(|(a, x), (b, y)| b.length.cmp(&a.length).then_with(|| x.cmp(y)));
        acl.hosts.sort_unstable();
        acl.hosts.dedup();
        acl
    }

    /// The trunk that calls from `source`.
    pub fn trunk(&self, source: IpAddr) -> Option<&TrunkId> {
        self.blocks.iter().find(|(block, _)| block.contains(source)).map(|(_, id)| id)
    }

    /// Whether the address is of a trunk, calling or called.
    pub fn knows(&self, source: IpAddr) -> bool {
        self.hosts.binary_search(&source.to_canonical()).is_ok() || self.trunk(source).is_some()
    }
}

fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), false),
        IpAddr::V6(v6) => (u128::from(v6), true),
    }
}

impl Block {
    /// An address, or an address and a prefix length; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.trim().split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text.trim(), None),
        };
        let (address, v6) = bits(address.parse().ok()?);
        let width = if v6 { 128 } else { 32 };
        let length = length.unwrap_or(width);
        (length <= width).then_some(Self { address, v6, length: length + 128 - width })
    }

    /// One host.
    pub fn host(address: IpAddr) -> Self {
        let (address, v6) = bits(address);
        Self { address, v6, length: 128 }
    }

    /// Whether the address lies in it; IPv4 in IPv6 counts as IPv4.
    pub fn contains(&self, source: IpAddr) -> bool {
        let (source, v6) = bits(source);
        let shift = 128 - self.length;
        let same = |a: u128, b: u128| a.checked_shr(shift) == b.checked_shr(shift);
        v6 == self.v6 && same(source, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(trunks: &[(&str, &[&str])]) -> Acl {
        let trunks: Vec<_> = trunks
            .iter()
            .map(|(id, sources)| {
                let sources = sources.iter().map(|s| (*s).to_owned()).collect();
                (TrunkId::new(id).unwrap(), Trunk { sources, ..Trunk::default() })
            })
            .collect();
        Acl::new(trunks.iter().map(|(id, trunk)| (id, trunk)))
    }

    fn find(acl: &Acl, source: &str) -> Option<String> {
        acl.trunk(source.parse().unwrap()).map(ToString::to_string)
    }

    #[test]
    fn the_longest_block_wins() {
        let acl = acl(&[
            ("any", &["0.0.0.0/0"]),
            ("carrier", &["203.0.113.0/24", "2001:db8::/32"]),
            ("pbx", &["203.0.113.7", "nonsense", "10.0.0.0/33"]),
        ]);
        assert_eq!(find(&acl, "203.0.113.7").as_deref(), Some("pbx"));
        assert_eq!(find(&acl, "203.0.113.8").as_deref(), Some("carrier"));
        assert_eq!(find(&acl, "::ffff:203.0.113.8").as_deref(), Some("carrier"));
        assert_eq!(find(&acl, "10.0.0.1").as_deref(), Some("any"));
        assert_eq!(find(&acl, "2001:db8:1::1").as_deref(), Some("carrier"));
        assert_eq!(find(&acl, "2001:db9::1"), None);
    }

    #[test]
    fn without_trunks_all_are_strangers() {
        assert_eq!(find(&acl(&[]), "127.0.0.1"), None);
        assert!(!acl(&[]).knows("127.0.0.1".parse().unwrap()));
    }
}
