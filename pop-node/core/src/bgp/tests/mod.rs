//! Routers as they behave in the field, told as stories of one router with two upstreams.

mod any;
mod distrust;
mod feeds;
mod routes;
mod rpki;

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::time::{Duration, Instant};

use super::*;

const ROUTER: &str = "192.0.2.254";
const OWN: u32 = 65_001;
/// Neighbors by upstream.
const FIRST: &str = "198.51.100.1";
const SECOND: &str = "203.0.113.1";
/// Another POP's address.
const SIN: &str = "233.252.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn community(text: &str) -> Community {
    text.parse().unwrap()
}

fn peer(address: &str, rib: Rib) -> PeerHeader {
    let key = PeerKey { address: ip(address), distinguisher: 0 };
    PeerHeader { key, rib, asn: 65_002, short_asns: false }
}

fn nlri(prefix: &str) -> Nlri {
    Nlri { prefix: prefix.parse().unwrap(), path_id: 0 }
}

/// The station, its time, and what it told last of each way.
struct World {
    bgp: Bgp,
    now: Instant,
    session: Option<Session>,
    closed: Vec<Hangup>,
    alarms: Vec<Distrust>,
    hints: std::collections::BTreeMap<(u8, IpAddr), Hint>,
    events: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_millis(1_000_000);
        let neighbor = |address: &str| Neighbor { router: None, address: ip(address) };
        let config = BgpConfig {
            routers: vec![ip(ROUTER)],
            upstreams: vec![vec![neighbor(FIRST)], vec![neighbor(SECOND)]],
            policy: Policy {
                drain: vec![community("65010:666")],
                cost: vec![(community("65010:1:7"), 7.0)],
            },
        };
        let mut world = Self {
            bgp: Bgp::new(config, now),
            now,
            session: None,
            closed: Vec::new(),
            alarms: Vec::new(),
            hints: std::collections::BTreeMap::new(),
            events: 0,
        };
        world.interest(&[SIN]);
        world
    }

    /// Both neighbors up, a route by each, everything told.
    fn settled() -> Self {
        let mut world = Self::new();
        world.connect();
        for neighbor in [FIRST, SECOND] {
            world.up(neighbor);
            world.announce(neighbor, "233.252.0.0/24", &[OWN, 65_002, 64_500, 64_999]);
        }
        world.wait(20);
        world
    }

    fn interest(&mut self, addresses: &[&str]) {
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        self.bgp.set_interest(&addresses, self.now);
    }

    fn connect(&mut self) {
        self.session = Some(self.bgp.connect(ip(ROUTER), self.now).unwrap());
        self.say(Message::Initiation { name: Some("edge1".to_owned()) });
    }

    fn say(&mut self, message: Message) {
        let session = self.session.unwrap();
        if let Err(why) = self.bgp.handle_message(session, message, self.now) {
            self.closed.push(why);
        }
        self.listen();
    }

    fn listen(&mut self) {
        while let Some(event) = self.bgp.poll_event() {
            match event {
                Event::Close(_, Hangup::Replaced) => {}
                Event::Close(session, why) => {
                    assert_eq!(Some(session), self.session);
                    self.closed.push(why);
                }
                Event::Distrusted { why, .. } => self.alarms.push(why),
                Event::Hint { upstream, address, hint } => {
                    self.events += 1;
                    self.hints.insert((upstream, address), hint);
                }
            }
        }
    }

    fn up(&mut self, neighbor: &str) {
        self.say(Message::PeerUp { peer: peer(neighbor, Rib::AdjInPre), own_asn: OWN });
    }

    fn down(&mut self, neighbor: &str) {
        self.say(Message::PeerDown { peer: peer(neighbor, Rib::AdjInPre) });
    }

    fn routes(&mut self, neighbor: &str, rib: Rib, update: Update) {
        self.say(Message::Routes { peer: peer(neighbor, rib), update });
    }

    fn announce(&mut self, neighbor: &str, prefix: &str, as_path: &[u32]) {
        self.announce_with(neighbor, Rib::AdjInPre, (prefix, as_path, &[]));
    }

    fn announce_with(
        &mut self,
        neighbor: &str,
        rib: Rib,
        (prefix, as_path, communities): (&str, &[u32], &[&str]),
    ) {
        let attributes = Attributes {
            as_path: as_path.to_vec(),
            origin: as_path.last().copied(),
            next_hop: Some(ip(neighbor)),
            communities: communities.iter().map(|text| community(text)).collect(),
        };
        let announced = vec![nlri(prefix)];
        let update = Update { announced, attributes, announced_total: 1, ..Update::default() };
        self.routes(neighbor, rib, update);
    }

    fn withdraw(&mut self, neighbor: &str, rib: Rib, prefix: &str) {
        let withdrawn = vec![nlri(prefix)];
        self.routes(neighbor, rib, Update { withdrawn, withdrawn_total: 1, ..Update::default() });
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.bgp.handle_timeout(self.now);
            self.listen();
        }
    }

    fn hint(&self, upstream: u8) -> Hint {
        self.hints.get(&(upstream, ip(SIN))).cloned().unwrap_or_default()
    }

    /// In words: what speaks against an upstream.
    fn against(&self, upstream: u8) -> String {
        let hint = self.hint(upstream);
        let reasons: Vec<&str> = hint.reasons.iter().map(Reason::name).collect();
        let flags = [(hint.drain > Drain::No, " drained"), (hint.shaky, " shaky")];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
        format!("{:.1}{flags} {}", hint.risk, reasons.join(",")).trim().to_owned()
    }

    fn router(&self) -> RouterReport {
        self.bgp.report(self.now).routers.remove(0)
    }
}
