//! The zone of the mesh's SIP domain (RFC 3263, RFC 2782), made from the POPs of the state.
//!
//! Of the POPs only those count that live: not expired, given up, cordoned or draining. When none is
//! left those that merely expired do: better a POP that may be cut off than none.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::rdata::{A, AAAA, NAPTR, NS, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proto::control::Pop;

use super::regions::Regions;

/// Targets of one answer: what fits into a datagram, and more than any client tries.
const TARGETS_MAX: usize = 12;
/// Priorities of POPs in the client's region, and elsewhere.
const NEAR: u16 = 10;
const FAR: u16 = 20;
/// Of a POP that has none configured.
const WEIGHT: u16 = 100;
/// Times of the SOA that nobody uses: there are no zone transfers.
const REFRESH: i32 = 3_600;
const EXPIRE: i32 = 86_400;

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The SIP domain, and the zone.
    pub zone: Name,
    /// Name servers, and the addresses of those within the zone. The first one is the primary.
    pub servers: Vec<(Name, Vec<IpAddr>)>,
    /// Seconds; also of negative answers.
    pub ttl: u32,
    /// Where clients are.
    pub regions: Regions,
    /// Shares of POPs among those of one priority.
    pub weights: BTreeMap<String, u16>,
}

/// SIP over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// One address a POP takes calls at.
#[derive(Debug, Clone)]
struct Target {
    name: Name,
    at: SocketAddr,
    transport: Transport,
    region: String,
    weight: u16,
}

/// The zone at a revision.
#[derive(Debug, Clone)]
pub struct Zone {
    settings: Settings,
    serial: u32,
    udp: Name,
    tcp: Name,
    /// Of POPs that take calls.
    targets: Vec<Target>,
    /// All names below the zone that exist, and their addresses.
    names: BTreeMap<Name, Vec<IpAddr>>,
}

/// What there is at a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of the type that was asked for.
    pub answers: Vec<Record>,
    /// What the client will ask next.
    pub additionals: Vec<Record>,
    /// The name exists, with whatever types.
    pub exists: bool,
}

impl Zone {
    /// From the state at this revision.
    pub fn new(settings: Settings, revision: u64, pops: &[Pop]) -> Self {
        let zone = settings.zone.clone();
        let below = |labels: &[&str]| {
            let prepend = |name: Name, label: &&str| name.prepend_label(*label).unwrap_or(name);
            labels.iter().rev().fold(zone.clone(), prepend)
        };
        let (udp, tcp) = (below(&["_sip", "_udp"]), below(&["_sip", "_tcp"]));
        let mut names: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        names.insert(udp.clone(), Vec::new());
        names.insert(tcp.clone(), Vec::new());
        let inside = settings.servers.iter().filter(|(name, _)| zone.zone_of(name));
        names.extend(inside.map(|(name, addresses)| (name.to_lowercase(), addresses.clone())));
        let open = |pop: &&Pop| !pop.fenced && !pop.cordoned && !pop.draining;
        let lives = |pop: &&Pop| open(pop) && !pop.expired;
        let any = pops.iter().any(|pop| lives(&pop));
        let mut targets = Vec::new();
        for pop in pops {
            names.entry(below(&[&pop.pop_id])).or_default();
            let takes_calls = if any { lives(&pop) } else { open(&pop) };
            if !takes_calls {
                continue;
            }
            let mut hosts: Vec<IpAddr> = Vec::new();
            for (transport, at) in pop.sip_addresses.iter().filter_map(|text| reached(text)) {
                let known = hosts.iter().position(|host| *host == at.ip());
                let number = known.unwrap_or(hosts.len());
                if known.is_none() {
                    hosts.push(at.ip());
                }
                // Each address has a name of its own, or a port would be tried at the other one.
                let name = match number {
                    0 => below(&[&pop.pop_id]),
                    number => below(&[&(number + 1).to_string(), &pop.pop_id]),
                };
                names.insert(name.clone(), vec![at.ip()]);
                let weight = settings.weights.get(&pop.pop_id).copied().unwrap_or(WEIGHT);
                let region = pop.region.clone();
                targets.push(Target { name, at, transport, region, weight });
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "serials wrap (RFC 1982)")]
        let serial = revision as u32;
        Self { settings, serial, udp, tcp, targets, names }
    }

    /// What is configured.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Names and addresses calls are steered to, for people.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// What there is, for a client in this region. `turn` decides who is left out, and who comes
    /// first, of many.
    pub fn find(&self, name: &Name, kind: RecordType, region: Option<&str>, turn: u16) -> Found {
        let name = &name.to_lowercase();
        let mut found = Found { exists: self.exists(name), ..Found::default() };
        if *name == self.settings.zone {
            self.apex(kind, region, turn, &mut found);
        } else if *name == self.udp {
            self.services(name, Transport::Udp, kind, (region, turn), &mut found);
        } else if *name == self.tcp {
            self.services(name, Transport::Tcp, kind, (region, turn), &mut found);
        } else if let Some(addresses) = self.names.get(name) {
            found.answers = self.addresses(name, addresses, kind);
        }
        if kind == RecordType::ANY && found.exists && found.answers.is_empty() {
            // RFC 8482 §4.1: one of what there is.
            found.answers = vec![self.soa()];
            found.answers.retain(|_| *name == self.settings.zone);
        }
        found
    }

    /// For negative answers (RFC 2308 §3).
    pub fn soa(&self) -> Record {
        let Settings { zone, servers, ttl, .. } = &self.settings;
        let primary = servers.first().map_or_else(|| zone.clone(), |(name, _)| name.clone());
        let contact = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
        let retry = i32::try_from(*ttl).unwrap_or(i32::MAX);
        let soa = SOA::new(primary, contact, self.serial, REFRESH, retry, EXPIRE, *ttl);
        self.record(zone, RData::SOA(soa))
    }

    fn exists(&self, name: &Name) -> bool {
        // A name with others below it exists, too (RFC 8020).
        *name == self.settings.zone || self.names.keys().any(|known| name.zone_of(known))
    }

    fn apex(&self, kind: RecordType, region: Option<&str>, turn: u16, found: &mut Found) {
        let zone = &self.settings.zone;
        match kind {
            RecordType::SOA => found.answers.push(self.soa()),
            RecordType::NS => {
                for (name, addresses) in &self.settings.servers {
                    found.answers.push(self.record(zone, RData::NS(NS(name.clone()))));
                    found.additionals.extend(self.both(name, addresses));
                }
            }
            RecordType::NAPTR => {
                let services = [
                    (Transport::Udp, 10, &b"SIP+D2U"[..], &self.udp),
                    (Transport::Tcp, 20, &b"SIP+D2T"[..], &self.tcp),
                ];
                for (transport, order, service, name) in services {
                    if self.targets.iter().any(|target| target.transport == transport) {
                        let (flags, none) = (Box::from(&b"s"[..]), Box::from(&b""[..]));
                        let naptr =
                            NAPTR::new(order, 50, flags, Box::from(service), none, name.clone());
                        found.answers.push(self.record(zone, RData::NAPTR(naptr)));
                    }
                }
            }
            RecordType::A | RecordType::AAAA => {
                // Clients that know no SRV try these as they come: only the best.
                let best = self.chosen(|_| true, (region, turn));
                let first = best.first().map(|(priority, _)| *priority);
                let best = best.iter().filter(|(priority, _)| Some(*priority) == first);
                let mut addresses: Vec<IpAddr> = Vec::new();
                for (_, target) in best {
                    if !addresses.contains(&target.at.ip()) {
                        addresses.push(target.at.ip());
                    }
                }
                found.answers = self.addresses(zone, &addresses, kind);
            }
            _ => {}
        }
    }

    fn services(
        &self,
        name: &Name,
        transport: Transport,
        kind: RecordType,
        whom: (Option<&str>, u16),
        found: &mut Found,
    ) {
        if kind != RecordType::SRV {
            return;
        }
        for (priority, target) in self.chosen(|target| target.transport == transport, whom) {
            let srv = SRV::new(priority, target.weight, target.at.port(), target.name.clone());
            found.answers.push(self.record(name, RData::SRV(srv)));
            let records = self.both(&target.name, &[target.at.ip()]);
            records.into_iter().for_each(|record| {
                if !found.additionals.contains(&record) {
                    found.additionals.push(record);
                }
            });
        }
    }

    /// With their priorities, the client's region first; others take turns.
    fn chosen(
        &self,
        is_wanted: impl Fn(&Target) -> bool,
        (region, turn): (Option<&str>, u16),
    ) -> Vec<(u16, &Target)> {
        let is_near = |target: &Target| region.is_none_or(|region| region == target.region);
        let wanted = || self.targets.iter().filter(|target| is_wanted(target));
        let near: Vec<_> = wanted().filter(|target| is_near(target)).map(|t| (NEAR, t)).collect();
        let far: Vec<_> = wanted().filter(|target| !is_near(target)).map(|t| (FAR, t)).collect();
        let mut chosen = Vec::new();
        for mut group in [near, far] {
            let by = usize::from(turn) % group.len().max(1);
            group.rotate_left(by);
            chosen.extend(group);
        }
        chosen.truncate(TARGETS_MAX);
        chosen
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr], kind: RecordType) -> Vec<Record> {
        let mut records = self.both(name, addresses);
        records.retain(|record| record.record_type() == kind);
        records
    }

    fn both(&self, name: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        let data = |address: &IpAddr| match address {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        };
        addresses.iter().map(|address| self.record(name, data(address))).collect()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.settings.ttl, data)
    }
}

/// `udp:192.0.2.1:5060`; names and wildcards are nothing clients could be sent to.
fn reached(text: &str) -> Option<(Transport, SocketAddr)> {
    let (transport, address) = match text.split_once(':')? {
        ("udp", address) => (Transport::Udp, address),
        ("tcp", address) => (Transport::Tcp, address),
        _ => return None,
    };
    let address: SocketAddr = address.parse().ok()?;
    (!address.ip().is_unspecified()).then_some((transport, address))
}
