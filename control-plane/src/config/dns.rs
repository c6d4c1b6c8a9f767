//! `[dns]` as it is written.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::Name;
use proto::id::PopId;
use serde::Deserialize;

use super::raw::{address, duration};
use crate::dns::DnsConfig;
use crate::dns::regions::Regions;
use crate::dns::zone::Settings;
use crate::problem::Problem;

/// Resolvers forget what they heard after this, unless told otherwise.
const TTL: Duration = Duration::from_secs(5);
/// Longer is no steering.
const TTL_MAX: Duration = Duration::from_secs(300);
/// All of them are looked at for a query.
const PREFIXES_MAX: usize = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    listen: Vec<String>,
    zone: String,
    servers: Vec<String>,
    ttl: Option<String>,
    #[serde(default)]
    regions: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    weights: BTreeMap<String, u16>,
}

impl RawDns {
    pub(super) fn validate(self, problems: &mut Vec<Problem>) -> Option<DnsConfig> {
        let listen = self.listen.iter().filter_map(|at| address("dns.listen", at, problems));
        let listen: Vec<_> = listen.collect();
        if self.listen.is_empty() {
            let fix = "list addresses and ports, such as \"192.0.2.11:53\"";
            problems.push(Problem::new("dns.listen", "is empty", fix));
        }
        let zone = name("dns.zone", &self.zone, problems)?;
        let servers = servers(&self.servers, &zone, problems);
        let ttl = self.ttl.as_deref().map_or(Some(TTL), duration);
        let ttl = ttl.filter(|ttl| (Duration::from_secs(1)..=TTL_MAX).contains(ttl));
        if ttl.is_none() {
            let what = format!("is \"{}\"", self.ttl.unwrap_or_default());
            problems.push(Problem::new("dns.ttl", what, "write 1s to 5m (5s is usual)"));
        }
        let regions = regions(&self.regions, problems);
        for pop in self.weights.keys().filter(|pop| PopId::new(pop).is_err()) {
            let what = format!("has \"{pop}\"");
            problems.push(Problem::new("dns.weights", what, "name POPs by their ids"));
        }
        let ttl = u32::try_from(ttl?.as_secs()).ok()?;
        let settings = Settings { zone, servers, ttl, regions, weights: self.weights };
        Some(DnsConfig { listen, settings })
    }
}

fn name(field: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Name> {
    let is_good = !text.is_empty() && text != ".";
    let name = Name::from_ascii(text).ok().filter(|_| is_good).map(|name| name.to_lowercase());
    if name.is_none() {
        let fix = "write a domain name, such as \"sip.acme.example\"";
        problems.push(Problem::new(field, format!("is \"{text}\""), fix));
    }
    name.map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

/// `name`, or `name=address,address` of those within the zone.
fn servers(texts: &[String], zone: &Name, problems: &mut Vec<Problem>) -> Vec<(Name, Vec<IpAddr>)> {
    let mut servers = Vec::new();
    for text in texts {
        let (host, addresses) = text.split_once('=').unwrap_or((text, ""));
        let Some(host) = name("dns.servers", host, problems) else { continue };
        let addresses: Option<Vec<IpAddr>> = match addresses {
            "" => Some(Vec::new()),
            some => some.split(',').map(|one| one.parse().ok()).collect(),
        };
        // Who asks for a server in the zone would have to ask that server.
        let addresses = addresses.filter(|all| zone.zone_of(&host) != all.is_empty());
        match addresses {
            Some(addresses) => servers.push((host, addresses)),
            None => {
                let fix = "give the addresses of a name in the zone, and of no other: \
                           \"ns1.sip.acme.example=192.0.2.11,2001:db8::11\"";
                problems.push(Problem::new("dns.servers", format!("has \"{text}\""), fix));
            }
        }
    }
    if texts.is_empty() {
        let fix = "list the zone's name servers, such as \"ns1.acme.example\"";
        problems.push(Problem::new("dns.servers", "is empty", fix));
    }
    servers
}

fn regions(texts: &BTreeMap<String, Vec<String>>, problems: &mut Vec<Problem>) -> Regions {
    let mut regions = Regions::default();
    let count: usize = texts.values().map(Vec::len).sum();
    if count > PREFIXES_MAX {
        let fix = format!("{PREFIXES_MAX} at most: join neighbors");
        problems.push(Problem::new("dns.regions", format!("has {count} prefixes"), fix));
        return regions;
    }
    for (region, prefixes) in texts {
        for prefix in prefixes {
            if !regions.add(region, prefix) {
                let what = format!("{region} has \"{prefix}\"");
                let fix = "write each client prefix once, such as \"192.0.2.0/24\"";
                problems.push(Problem::new("dns.regions", what, fix));
            }
        }
    }
    regions
}
