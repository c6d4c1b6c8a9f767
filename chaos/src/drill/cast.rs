//! Who plays in a drill: the carrier beside each POP, its numbers, trunks and routes.
//!
//! Each call has numbers of its own on both sides, so that what two ears, two agents and any POP's
//! records say of it can be put together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use pop_core::codec::Codec;
use proto::control::{Route, RouteCandidate, Transport, Trunk};

use super::file::{Drill, Flow, Kind, Load, Shares};
use crate::endpoint::{Agent, Config, Dial, Live, Reinvite, Report, Side};
use crate::lab::{Mesh, SIP_PORT, Site};

/// All agents and what they reported so far.
#[derive(Debug)]
pub(super) struct Cast {
    agents: Vec<Agent>,
    sites: Vec<Site>,
    codec: Codec,
    shares: Shares,
    reports: Mutex<Vec<Report>>,
}

/// Called numbers: this, the position of the POP, and the number of the call.
const CALLED: &str = "+4930";
/// Calling numbers, likewise.
const CALLING: &str = "+4931";
/// Numbers of calls that come and go begin here.
pub(super) const BRIEF_FROM: u32 = 1_000_000;

fn numbered(base: &str, site: usize, call: u32) -> String {
    format!("{base}{site}{call:07}")
}

/// Whether a called number is of a call that stays.
pub(super) fn is_standing(to: &str) -> bool {
    let digits = to.len().checked_sub(7).and_then(|at| to.get(at..));
    digits.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|n| n < BRIEF_FROM)
}

/// Numbers of one carrier that refuse the first re-INVITE.
fn stubborn(load: &Load, site: usize) -> BTreeMap<String, Reinvite> {
    let calls = (0..load.calls).filter(|call| load.shares.kind(*call) == Kind::Stubborn);
    let refuse = |call: u32| Reinvite::RefuseOnce(if call.is_multiple_of(2) { 491 } else { 503 });
    let numbers = |call| [CALLED, CALLING].map(|base| (numbered(base, site, call), refuse(call)));
    calls.flat_map(numbers).collect()
}

impl Cast {
    pub(super) fn start(mesh: &Mesh, drill: &Drill, seed: u64) -> Result<Self> {
        let agent = |(position, site): (usize, &Site)| {
            let address = SocketAddr::new(site.carrier, SIP_PORT);
            let reinvites = stubborn(&drill.load, position);
            Agent::start(Config { seed, reinvites, diary: true, ..Config::new(address) })
        };
        Ok(Self {
            agents: mesh.sites().iter().enumerate().map(agent).collect::<Result<_>>()?,
            sites: mesh.sites().to_vec(),
            codec: drill.load.codec,
            shares: drill.load.shares,
            reports: Mutex::new(Vec::new()),
        })
    }

    fn position(&self, pop: &str) -> Result<usize> {
        self.sites.iter().position(|s| s.id == pop).with_context(|| format!("no POP {pop}"))
    }

    fn agent(&self, pop: &str) -> Result<&Agent> {
        self.agents.get(self.position(pop)?).context("no agent")
    }

    /// The numbers of a call: calling, called.
    pub(super) fn numbers(&self, flow: &Flow, call: u32) -> Result<(String, String)> {
        let (from, to) = (self.position(&flow.from)?, self.position(&flow.to)?);
        Ok((numbered(CALLING, from, call), numbered(CALLED, to, call)))
    }

    /// Places a call, in by this POP; its number at its agent.
    pub(super) fn dial(
        &self,
        flow: &Flow,
        call: u32,
        by: &str,
        talk: Option<Duration>,
    ) -> Result<u64> {
        let (from, to) = self.numbers(flow, call)?;
        let proxy = self.sites.get(self.position(by)?).context("no site")?.sip;
        Ok(self.agent(&flow.from)?.dial(Dial {
            proxy,
            from,
            to,
            codecs: vec![self.codec],
            talk,
            digits: String::new(),
            srtp: self.kind(call) == Kind::Srtp,
        }))
    }

    /// What is special about a call.
    pub(super) fn kind(&self, call: u32) -> Kind {
        if call < BRIEF_FROM { self.shares.kind(call) } else { Kind::Plain }
    }

    /// Puts the far side of a call of this number at the agent beside a POP on hold, or takes it back.
    pub(super) fn hold(&self, pop: &str, number: u64, holds: bool) -> Result<()> {
        self.agent(pop)?.hold(number, holds);
        Ok(())
    }

    /// Ends a call of this number at the agent beside a POP.
    pub(super) fn hang_up(&self, pop: &str, number: u64) -> Result<()> {
        self.agent(pop)?.hang_up(number);
        Ok(())
    }

    pub(super) fn give_up(&self) {
        self.agents.iter().for_each(Agent::give_up);
    }

    /// Both sides of the calls that are up or being set up, by called number.
    pub(super) fn live(&self) -> BTreeMap<String, [Option<Live>; 2]> {
        let mut all: BTreeMap<String, [Option<Live>; 2]> = BTreeMap::new();
        for live in self.agents.iter().flat_map(Agent::live) {
            let [caller, callee] = all.entry(live.to.clone()).or_default();
            match live.side {
                Side::Caller => *caller = Some(live),
                Side::Callee => *callee = Some(live),
            }
        }
        all
    }

    /// Takes what agents reported since; all reports so far.
    pub(super) fn reports(&self) -> Result<MutexGuard<'_, Vec<Report>>> {
        let mut all = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for agent in &self.agents {
            all.extend(agent.reports()?);
        }
        Ok(all)
    }

    /// Ways in for a caller beside a POP, as SRV records would list them: its own POP, others of
    /// the region, others.
    pub(super) fn ways_in(&self, pop: &str) -> Vec<String> {
        let region = self.sites.iter().find(|s| s.id == pop).map(|s| s.region.clone());
        let mut ways: Vec<&Site> = self.sites.iter().collect();
        ways.sort_by_key(|site| (site.id != pop, Some(&site.region) != region.as_ref()));
        ways.into_iter().map(|site| site.id.clone()).collect()
    }
}

/// Two trunks to each carrier, one over its own region and one over all others, and a route to it.
pub(crate) async fn provision(mesh: &Mesh) -> Result<()> {
    let client = mesh.client();
    let sites = mesh.sites();
    let mut revision = 0;
    for (position, site) in sites.iter().enumerate() {
        let (near, far): (Vec<&Site>, Vec<&Site>) =
            sites.iter().partition(|other| other.region == site.region);
        let mut near: Vec<String> = near.iter().map(|s| s.id.clone()).collect();
        near.sort_by_key(|id| *id != site.id);
        let far: Vec<String> = far.iter().map(|s| s.id.clone()).collect();
        let (id, over) = (format!("carrier-{}", site.id), format!("carrier-{}-over", site.id));
        let trunk = |trunk_id: &str, pop_ids: Vec<String>, sources| Trunk {
            trunk_id: trunk_id.to_owned(),
            pop_ids,
            host: site.carrier.to_string(),
            port: SIP_PORT.into(),
            transport: Transport::Udp.into(),
            sources,
            ..Trunk::default()
        };
        client.put_trunk(trunk(&id, near, vec![site.carrier.to_string()])).await?;
        let mut candidates = vec![RouteCandidate { trunk_id: id, priority: 1, weight: 1 }];
        if !far.is_empty() {
            // Calls from this carrier are the other trunk's.
            client.put_trunk(trunk(&over, far, Vec::new())).await?;
            candidates.push(RouteCandidate { trunk_id: over, priority: 2, weight: 1 });
        }
        let prefix = format!("{}{position}", CALLED.trim_start_matches('+'));
        let route = Route { route_id: format!("to-{}", site.id), prefix, candidates };
        revision = client.put_route(route).await?;
    }
    mesh.in_view(revision, Duration::from_secs(10)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_possible_numbers_of_its_own() {
        for (site, call) in [(0, 0), (8, 1_499), (3, BRIEF_FROM + 72_000)] {
            for base in [CALLED, CALLING] {
                proto::e164::E164::parse(&numbered(base, site, call)).unwrap();
            }
        }
        assert_ne!(numbered(CALLED, 1, 1), numbered(CALLED, 0, 1));
    }
}
