//! Who is who in the stories.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proto::control::resource::Kind;
use proto::control::{DigestCredentials, Pop, Resource, Route, RouteCandidate, Transport, Trunk};

use super::phone::Phone;
use crate::pop::ResolveError;

/// Name, address, POPs of its trunk, what calls to it begin with.
pub(super) const NAMES: [(&str, &str, &[&str], &str); 13] = [
    ("alice", "10.0.0.1", &["fra1"], "41"),
    ("bob", "10.0.0.2", &["fra1"], "49"),
    ("carol", "10.0.0.3", &["sin1"], "65"),
    ("dave", "10.0.0.4", &["sin1"], "1"),
    // Must answer our challenge.
    ("erin", "10.0.0.5", &["fra1"], "31"),
    // Challenges us.
    ("frank", "10.0.0.6", &["fra1"], "33"),
    // Called by name.
    ("grace", "10.0.0.7", &["fra1"], "34"),
    // At most one call; calls us from nowhere.
    ("henry", "10.0.0.8", &["fra1"], "39"),
    // Its host has no socket of ours.
    ("ivan", "2001:db8::9", &["fra1"], "48"),
    // Two ways out.
    ("judy", "10.0.0.10", &["sin1", "fra1"], "36"),
    // Called over TCP.
    ("kate", "10.0.0.11", &["fra1"], "45"),
    // His link carries little.
    ("leo", "10.0.0.12", &["sin1"], "47"),
    // No trunk at all.
    ("mallory", "10.0.0.66", &[], ""),
];

/// POPs and their regions; the last has no trunk of its own.
pub(super) const POPS: [(&str, &str); 3] = [("fra1", "eu"), ("sin1", "as"), ("iad1", "us")];

fn credentials(name: &str) -> DigestCredentials {
    let (username, password) = (name.to_owned(), format!("{name}-secret"));
    DigestCredentials { username, password, ..DigestCredentials::default() }
}

fn trunk(name: &str, address: &str, pops: &[&str]) -> Trunk {
    let named = name == "grace";
    let transport = if name == "kate" { Transport::Tcp } else { Transport::Udp };
    let codecs: &[&str] = if name == "dave" { &["opus"] } else { &[] };
    Trunk {
        trunk_id: name.to_owned(),
        pop_ids: pops.iter().map(|pop| (*pop).to_owned()).collect(),
        host: if named { "grace.example".to_owned() } else { address.to_owned() },
        port: 5060,
        transport: i32::from(transport),
        sources: if name == "henry" { Vec::new() } else { vec![address.to_owned()] },
        codecs: codecs.iter().map(|codec| (*codec).to_owned()).collect(),
        outbound_auth: (name == "frank").then(|| credentials(name)),
        inbound_auth: (name == "erin").then(|| credentials(name)),
        max_calls: u32::from(name == "henry"),
        default_region: if name == "alice" { "CH".to_owned() } else { String::new() },
        media_encryption: 0,
        low_bandwidth: name == "leo",
        noise_suppression: name == "leo",
    }
}

pub(super) fn pops() -> BTreeMap<proto::id::PopId, Pop> {
    let pop = |(id, region): (&str, &str)| {
        let (pop_id, region) = (id.to_owned(), region.to_owned());
        (proto::id::PopId::new(id).unwrap(), Pop { pop_id, region, epoch: 1, ..Pop::default() })
    };
    POPS.into_iter().map(pop).collect()
}

fn route(prefix: &str, trunks: &[&str]) -> Kind {
    let candidates = (0..).zip(trunks).map(|(priority, trunk_id)| RouteCandidate {
        trunk_id: (*trunk_id).to_owned(),
        priority,
        weight: 1,
    });
    let route_id = format!("r{prefix}");
    Kind::Route(Route { route_id, prefix: prefix.to_owned(), candidates: candidates.collect() })
}

pub(super) fn resources() -> Vec<Resource> {
    let mut kinds = Vec::new();
    for (name, address, pops, prefix) in NAMES.iter().filter(|(_, _, pops, _)| !pops.is_empty()) {
        kinds.push(Kind::Trunk(trunk(name, address, pops)));
        kinds.push(route(prefix, &[name]));
    }
    // Bob first, then Carol.
    kinds.push(route("44", &["bob", "carol"]));
    kinds.push(route("46", &["kate", "bob"]));
    kinds.extend(pops().into_values().map(Kind::Pop));
    kinds.into_iter().map(|kind| Resource { kind: Some(kind) }).collect()
}

pub(super) fn phones() -> BTreeMap<String, Phone> {
    let phone = |(name, address, pops, _): &(&str, &str, &[&str], &str)| {
        let ip = address.parse().unwrap();
        let pop = if pops.first() == Some(&"sin1") { "127.0.2.1:5060" } else { "127.0.1.1:5060" };
        let address = SocketAddr::new(ip, 5060);
        ((*name).to_owned(), Phone::new(name, address, pop.parse().unwrap()))
    };
    NAMES.iter().map(phone).collect()
}

pub(super) fn resolve(host: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    // Nobody is at the first address.
    let addresses = ["10.9.9.9:5060", "10.0.0.7:5060"].iter().filter_map(|a| a.parse().ok());
    if host == "grace.example" { Ok(addresses.collect()) } else { Err(ResolveError::NotFound) }
}
