//! Who calls whom: regions, numbers, trunks, routes and codecs of the demo.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pop_core::codec::Codec;
use proto::control::{Route, RouteCandidate, Transport, Trunk};

use crate::endpoint::{Dial, Reply};
use crate::lab::{SIP_PORT, Site};

/// Numbers of one region. All are possible numbers; the German and American ones are kept for
/// fiction by their administrations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// For people.
    pub(super) place: &'static str,
    /// Of the route out of this region.
    pub(super) prefix: &'static str,
    /// Two digits follow. These are in the mesh's inventory.
    pub(super) owned: &'static str,
    /// Two digits follow. These are the carrier's and reached by prefix.
    pub(super) carrier: &'static str,
}

const NUMBERS: [Numbers; 3] = [
    Numbers { place: "Frankfurt", prefix: "49", owned: "+4930231250", carrier: "+4930231259" },
    Numbers { place: "Washington", prefix: "1", owned: "+120255501", carrier: "+120255502" },
    Numbers { place: "Singapore", prefix: "65", owned: "+65610000", carrier: "+65610001" },
];

/// Name of the pool all inventory numbers are in.
pub(super) const POOL: &str = "demo";
/// Who owns the numbers that calls go to.
pub(super) const TENANT: &str = "demo";
/// The trunk of softphones on this machine.
pub(super) const SOFTPHONE: &str = "softphone";

/// The numbers of a site, by position.
pub(super) fn numbers(site: usize) -> Numbers {
    let [first, second, third] = NUMBERS;
    match site % 3 {
        0 => first,
        1 => second,
        _ => third,
    }
}

/// The last digit of a called number says which codec its phone speaks.
pub(super) fn called(base: &str, codec: Codec) -> String {
    let index = Codec::ALL.iter().position(|c| *c == codec).unwrap_or(0);
    format!("{base}0{index}")
}

/// The codec that a called number's phone speaks.
pub(super) fn spoken(number: &str) -> Option<Codec> {
    let digit = number.chars().last()?.to_digit(10)?;
    Codec::ALL.into_iter().nth(digit as usize)
}

/// The inventory numbers that are allocated, so that calls to them go by owner.
pub(super) fn owned(site: usize) -> impl Iterator<Item = String> {
    Codec::ALL.into_iter().map(move |codec| called(numbers(site).owned, codec))
}

/// Which site a number belongs to.
pub(super) fn site_of(number: &str) -> Option<usize> {
    let digits = number.strip_prefix('+')?;
    NUMBERS.iter().position(|n| digits.starts_with(n.prefix))
}

/// The trunk to the carrier beside a POP.
pub(super) fn trunk_id(site: &Site) -> String {
    format!("carrier-{}", site.id)
}

/// One trunk per carrier, and one for softphones on this machine.
pub(super) fn trunks(sites: &[Site]) -> Vec<Trunk> {
    let mut trunks: Vec<Trunk> = sites
        .iter()
        .map(|site| Trunk {
            trunk_id: trunk_id(site),
            pop_ids: vec![site.id.clone()],
            host: site.carrier.to_string(),
            port: SIP_PORT.into(),
            transport: Transport::Udp.into(),
            sources: vec![site.carrier.to_string()],
            ..Trunk::default()
        })
        .collect();
    trunks.push(Trunk {
        trunk_id: SOFTPHONE.into(),
        pop_ids: sites.iter().map(|s| s.id.clone()).collect(),
        transport: Transport::Udp.into(),
        sources: vec!["127.0.0.1".into()],
        ..Trunk::default()
    });
    trunks
}

/// One route per region.
pub(super) fn routes(sites: &[Site]) -> Vec<Route> {
    let route = |(index, site): (usize, &Site)| Route {
        route_id: format!("to-{}", site.region),
        prefix: numbers(index).prefix.into(),
        candidates: vec![candidate(site)],
    };
    sites.iter().enumerate().map(route).collect()
}

/// The way out to a site's carrier.
pub(super) fn candidate(site: &Site) -> RouteCandidate {
    RouteCandidate { trunk_id: trunk_id(site), priority: 1, weight: 1 }
}

/// A hundred numbers per region.
pub(super) fn inventory(sites: &[Site]) -> Vec<String> {
    let of = |index| (0..100).map(move |n| format!("{}{n:02}", numbers(index).owned));
    (0..sites.len()).flat_map(of).collect()
}

/// The numbers calls go to: each speaks one codec.
pub(super) fn replies(site: usize) -> BTreeMap<String, Reply> {
    let numbers = numbers(site);
    let reply = |codec| Reply::Answer { ring: Duration::ZERO, codecs: vec![codec] };
    [numbers.owned, numbers.carrier]
        .into_iter()
        .flat_map(|base| Codec::ALL.map(|codec| (called(base, codec), reply(codec))))
        .collect()
}

/// One call of the plan.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Position of the calling region.
    pub(super) from: usize,
    /// Position of the called region.
    #[cfg(test)]
    pub(super) to: usize,
    pub(super) dial: Dial,
}

/// `count` calls between different regions: all pairs of regions and of codecs in turn, every
/// other one to a number of our inventory.
pub(super) fn calls(sites: &[Site], count: usize, talk: Duration) -> Vec<Planned> {
    let all = sites.len().max(1);
    let call = |n: usize| {
        let from = n % all;
        let to = (from + 1 + (n / all) % all.saturating_sub(1).max(1)) % all;
        let pick = |n: usize| Codec::ALL.into_iter().cycle().nth(n % 4).unwrap_or(Codec::Pcmu);
        let (offered, spoken) = (pick(n), pick(n / 4));
        let base = if n.is_multiple_of(2) { numbers(to).owned } else { numbers(to).carrier };
        let proxy = sites.get(from).map(|s| s.sip);
        let dial = Dial {
            proxy: proxy.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], SIP_PORT))),
            from: format!("{}{:02}", numbers(from).carrier, 10 + n % 90),
            to: called(base, spoken),
            codecs: vec![offered],
            talk: Some(talk),
            digits: if n.is_multiple_of(3) { "1#".into() } else { String::new() },
            srtp: false,
        };
        Planned {
            from,
            #[cfg(test)]
            to,
            dial,
        }
    };
    (0..count).map(call).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sites() -> Vec<Site> {
        (1..=3u8)
            .map(|n| Site {
                id: format!("pop{n}"),
                region: format!("r{n}"),
                sip: format!("127.0.{n}.1:5060").parse().unwrap(),
                overlay: format!("127.0.{n}.1:4433").parse().unwrap(),
                admin: format!("127.0.{n}.1:9090").parse().unwrap(),
                carrier: format!("127.0.{n}.2").parse().unwrap(),
            })
            .collect()
    }

    #[test]
    fn every_number_is_a_possible_one() {
        for number in inventory(&sites()) {
            proto::e164::E164::parse(&number).unwrap();
        }
        for call in calls(&sites(), 200, Duration::from_secs(1)) {
            proto::e164::E164::parse(&call.dial.from).unwrap();
            proto::e164::E164::parse(&call.dial.to).unwrap();
        }
    }

    #[test]
    fn calls_cover_all_pairs_of_regions_and_codecs_and_never_stay_at_home() {
        let calls = calls(&sites(), 48, Duration::from_secs(1));
        assert!(calls.iter().all(|c| c.from != c.to));
        let regions: BTreeSet<_> = calls.iter().map(|c| (c.from, c.to)).collect();
        assert_eq!(regions.len(), 6);
        let codecs: BTreeSet<_> =
            calls.iter().map(|c| (c.dial.codecs[0], c.dial.to.clone().pop())).collect();
        assert_eq!(codecs.len(), 16);
    }

    #[test]
    fn every_called_number_has_a_phone() {
        for call in calls(&sites(), 48, Duration::from_secs(1)) {
            assert!(replies(call.to).contains_key(&call.dial.to), "{call:?}");
        }
    }
}
