//! Which trunk a source address belongs to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto::control::Trunk;
use proto::id::TrunkId;

/// Source addresses and CIDR blocks of all trunks. The longest block wins; of equal ones the first
/// trunk by id. Kept trunk by trunk: a change costs what that trunk has, a search one step for each
/// length of block in use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acl {
    /// By length, longest first, then by network.
    blocks: BTreeMap<Reverse<u32>, BTreeMap<Network, BTreeSet<TrunkId>>>,
    /// Literal addresses we call out to, and how many trunks have them: not callers, but no
    /// strangers either.
    hosts: BTreeMap<IpAddr, u32>,
}

/// Family, and the leading bits of an address.
type Network = (bool, u128);

/// An address block (CIDR, RFC 4632), IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    address: u128,
    v6: bool,
    /// Counted in the IPv6 space: 96 more for IPv4.
    length: u32,
}

impl Acl {
    /// Adds what a trunk lists; sources that do not parse match nothing.
    pub(super) fn insert(&mut self, id: &TrunkId, trunk: &Trunk) {
        for block in trunk.sources.iter().filter_map(|source| Block::parse(source)) {
            let networks = self.blocks.entry(Reverse(block.length)).or_default();
            networks.entry(block.network(block.address)).or_default().insert(id.clone());
        }
        if let Some(host) = host(trunk) {
            *self.hosts.entry(host).or_default() += 1;
        }
    }

    /// Takes it out again.
    pub(super) fn remove(&mut self, id: &TrunkId, trunk: &Trunk) {
        for block in trunk.sources.iter().filter_map(|source| Block::parse(source)) {
            let network = block.network(block.address);
            let Some(networks) = self.blocks.get_mut(&Reverse(block.length)) else { continue };
            if let Some(trunks) = networks.get_mut(&network) {
                trunks.remove(id);
                if trunks.is_empty() {
                    networks.remove(&network);
                }
            }
            if networks.is_empty() {
                self.blocks.remove(&Reverse(block.length));
            }
        }
        if let Some(host) = host(trunk)
            && let Some(trunks) = self.hosts.get_mut(&host)
        {
            *trunks = trunks.saturating_sub(1);
            if *trunks == 0 {
                self.hosts.remove(&host);
            }
        }
    }

    /// The trunk that calls from `source`.
    pub fn trunk(&self, source: IpAddr) -> Option<&TrunkId> {
        let (address, v6) = bits(source);
        let found = self.blocks.iter().find_map(|(Reverse(length), networks)| {
            networks.get(&Block { address, v6, length: *length }.network(address))
        });
        found.and_then(BTreeSet::first)
    }

    /// Whether the address is of a trunk, calling or called.
    pub fn knows(&self, source: IpAddr) -> bool {
        self.hosts.contains_key(&source.to_canonical()) || self.trunk(source).is_some()
    }
}

fn host(trunk: &Trunk) -> Option<IpAddr> {
    trunk.host.parse().ok()
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
        v6 == self.v6 && self.network(source) == self.network(self.address)
    }

    /// Of an address of its family, the bits that count.
    fn network(&self, address: u128) -> Network {
        (self.v6, address.checked_shr(128 - self.length).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acl(trunks: &[(&str, &[&str])]) -> Acl {
        let trunks: Vec<_> = trunks
            .iter()
            .map(|(id, sources)| {
                let sources = sources.iter().map(|s| (*s).to_owned()).collect();
                (TrunkId::new(id).unwrap(), Trunk { sources, ..Trunk::default() })
            })
            .collect();
        let mut acl = Acl::default();
        trunks.iter().for_each(|(id, trunk)| acl.insert(id, trunk));
        acl
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

    fn trunks() -> impl Strategy<Value = Vec<(u8, Option<Vec<String>>)>> {
        let source = (0..4_u8, 0..4_u8, prop_oneof![Just(0_u8), Just(8), Just(24), Just(32)])
            .prop_map(|(b, c, length)| format!("10.{b}.{c}.1/{length}"));
        let v6 = (0..3_u8).prop_map(|n| format!("2001:db8:{n}::/48"));
        let sources = prop::collection::vec(prop_oneof![4 => source, 1 => v6], 0..4);
        prop::collection::vec((0..5_u8, prop::option::weighted(0.7, sources)), 0..40)
    }

    proptest! {
        /// Trunk by trunk it comes to what a search through all of them finds, and to nothing in
        /// the end.
        #[test]
        fn what_was_changed_is_as_if_built_anew(changes in trunks(), asked in any::<(u8, u8, u8)>()) {
            let mut acl = Acl::default();
            let mut held: BTreeMap<TrunkId, Trunk> = BTreeMap::new();
            for (id, sources) in changes {
                let id = TrunkId::new(&format!("t{id}")).unwrap();
                if let Some(old) = held.remove(&id) {
                    acl.remove(&id, &old);
                }
                if let Some(sources) = sources {
                    let host = sources.first().map_or("", |s| s.split('/').next().unwrap());
                    let trunk = Trunk { host: host.to_owned(), sources, ..Trunk::default() };
                    acl.insert(&id, &trunk);
                    held.insert(id, trunk);
                }
            }
            let (b, c, d) = asked;
            for source in [IpAddr::from([10, b % 4, c % 4, d % 3]), "2001:db8:1::5".parse().unwrap()] {
                let all = held.iter().flat_map(|(id, trunk)| {
                    let blocks = trunk.sources.iter().filter_map(|text| Block::parse(text));
                    blocks.filter(|block| block.contains(source)).map(move |block| (Reverse(block.length), id))
                });
                prop_assert_eq!(acl.trunk(source), all.min().map(|(_, id)| id));
                let called = held.values().any(|trunk| host(trunk) == Some(source));
                prop_assert_eq!(acl.knows(source), called || acl.trunk(source).is_some());
            }
            held.iter().for_each(|(id, trunk)| acl.remove(id, trunk));
            prop_assert_eq!(acl, Acl::default());
        }
    }

    #[test]
    fn without_trunks_all_are_strangers() {
        assert_eq!(find(&acl(&[]), "127.0.0.1"), None);
        assert!(!acl(&[]).knows("127.0.0.1".parse().unwrap()));
    }
}
