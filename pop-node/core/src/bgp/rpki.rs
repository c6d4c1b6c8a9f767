//! Which AS may originate which prefix: RPKI origin validation (RFC 6811).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::prefix::Prefix;

/// A Validated ROA Payload (RFC 6811 §2): this AS may originate the prefix, and longer ones up to so
/// many bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vrp {
    /// Which.
    pub prefix: Prefix,
    /// Bits of the longest one.
    pub max_length: u8,
    /// By whom; 0: by nobody (RFC 6483 §4).
    pub asn: u32,
}

/// What RPKI says of a route's origin (RFC 6811 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validity {
    /// Nothing.
    #[default]
    NotFound,
    /// It is allowed.
    Valid,
    /// Others are allowed, it is not.
    Invalid,
}

impl Validity {
    /// As RFC 6811 calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
        }
    }
}

/// What caches said of addresses of interest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vrps {
    all: BTreeSet<Vrp>,
    /// Everything that covers one of these is here. Of other addresses part of it may be, by which
    /// their routes would be called invalid.
    complete: Arc<BTreeSet<IpAddr>>,
}

impl Vrps {
    /// None yet, of those that cover one of these addresses.
    pub const fn new(complete: Arc<BTreeSet<IpAddr>>) -> Self {
        Self { all: BTreeSet::new(), complete }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Does one of this prefix matter?
    pub fn wants(&self, prefix: &Prefix) -> bool {
        self.complete.range(prefix.range()).next().is_some()
    }

    /// Is something missing for one of `addresses`?
    pub fn lacks(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        !addresses.is_subset(&self.complete)
    }

    /// Adds or takes away one.
    pub(super) fn change(&mut self, vrp: Vrp, announced: bool) {
        if announced {
            self.all.insert(vrp);
        } else {
            self.all.remove(&vrp);
        }
    }

    /// Of a route to `prefix`, by which `address` is reached, from the AS `origin`; `None`: from a set.
    pub fn validity(&self, address: IpAddr, prefix: Prefix, origin: Option<u32>) -> Validity {
        if !self.complete.contains(&address) {
            return Validity::NotFound;
        }
        let covering = (0..=prefix.length()).filter_map(|bits| Prefix::new(address, bits));
        let mut validity = Validity::NotFound;
        for vrp in covering.flat_map(|prefix| self.of(prefix)) {
            let is_its = Some(vrp.asn) == origin && vrp.asn != 0;
            if is_its && prefix.length() <= vrp.max_length {
                return Validity::Valid;
            }
            validity = Validity::Invalid;
        }
        validity
    }

    fn of(&self, prefix: Prefix) -> impl Iterator<Item = &Vrp> {
        let (first, last) = (Vrp { prefix, max_length: 0, asn: 0 }, u8::MAX);
        self.all.range(first..=Vrp { prefix, max_length: last, asn: u32::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "192.0.2.7";

    fn vrp(prefix: &str, max_length: u8, asn: u32) -> Vrp {
        Vrp { prefix: prefix.parse().unwrap(), max_length, asn }
    }

    fn validity(vrps: &[Vrp], prefix: &str, origin: u32) -> Validity {
        let address: IpAddr = ADDRESS.parse().unwrap();
        let mut known = Vrps::new(Arc::new(BTreeSet::from([address])));
        vrps.iter().for_each(|vrp| known.change(*vrp, true));
        known.validity(address, prefix.parse().unwrap(), Some(origin))
    }

    #[test]
    fn routes_are_judged_as_rfc_6811_says() {
        let known = [vrp("192.0.0.0/16", 24, 64_500), vrp("192.0.2.0/24", 24, 64_501)];
        for (prefix, origin, expected) in [
            ("192.0.2.0/24", 64_500, Validity::Valid),
            ("192.0.2.0/24", 64_501, Validity::Valid),
            ("192.0.2.0/24", 64_502, Validity::Invalid),
            // Longer than anybody may announce.
            ("192.0.2.0/25", 64_500, Validity::Invalid),
            ("192.0.0.0/16", 64_501, Validity::Invalid),
            // Shorter than what anything is known of.
            ("192.0.0.0/15", 64_666, Validity::NotFound),
            ("0.0.0.0/0", 64_666, Validity::NotFound),
        ] {
            assert_eq!(validity(&known, prefix, origin), expected, "{prefix} from {origin}");
        }
        assert_eq!(validity(&[], "192.0.2.0/24", 64_500), Validity::NotFound);
        let mut set = Vrps::new(Arc::new(BTreeSet::from([ADDRESS.parse().unwrap()])));
        known.iter().for_each(|vrp| set.change(*vrp, true));
        let route = "192.0.2.0/24".parse().unwrap();
        assert_eq!(set.validity(ADDRESS.parse().unwrap(), route, None), Validity::Invalid);
        let nobody = [vrp("192.0.2.0/24", 32, 0)];
        assert_eq!(validity(&nobody, "192.0.2.0/24", 0), Validity::Invalid);
        assert_eq!(validity(&nobody, "192.0.2.0/24", 64_500), Validity::Invalid);
    }

    #[test]
    fn half_of_the_truth_is_not_used() {
        let mut known = Vrps::new(Arc::new(BTreeSet::from([ADDRESS.parse().unwrap()])));
        known.change(vrp("192.0.0.0/16", 16, 64_500), true);
        let other: IpAddr = "192.0.99.1".parse().unwrap();
        let route = "192.0.99.0/24".parse().unwrap();
        assert_eq!(known.validity(other, route, Some(64_999)), Validity::NotFound);
        assert!(known.lacks(&BTreeSet::from([other])));
        assert!(!known.wants(&"192.0.99.0/24".parse().unwrap()));
    }
}
