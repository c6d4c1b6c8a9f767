//! From a topology to addresses, certificates and configurations.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::identity::{Identity, Kind};

use super::address::{ADMIN_PORT, API_PORT, Block, OVERLAY_PORT, SIP_PORT};
use super::process::Recipe;
use super::{Member, Node, Site, Topology, config, pki};
use crate::wan::Front;

/// Everything `prepare` derives from the topology.
pub(super) struct Plan<'a> {
    topology: &'a Topology,
    dir: &'a Path,
    pub(super) sites: Vec<Site>,
    pub(super) api: Vec<SocketAddr>,
    pub(super) fronts: Vec<Front>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(topology: &'a Topology, block: &Block, dir: &'a Path) -> Self {
        let sites: Vec<Site> = topology
            .pops
            .iter()
            .enumerate()
            .map(|(i, (id, region))| Site {
                id: id.clone(),
                region: region.clone(),
                sip: SocketAddr::new(block.pop(i), SIP_PORT),
                overlay: SocketAddr::new(block.pop(i), OVERLAY_PORT),
                admin: SocketAddr::new(block.pop(i), ADMIN_PORT),
                carrier: block.carrier(i),
            })
            .collect();
        let fronts = sites.iter().enumerate().flat_map(|(i, site)| {
            (0..topology.upstreams.max(1)).map(move |upstream| Front {
                pop: upstream_name(&site.id, upstream),
                listen: SocketAddr::new(block.front(i), OVERLAY_PORT + u16::from(upstream)),
                target: upstream_of(site.overlay, upstream),
            })
        });
        let fronts = fronts.collect();
        let api = (0..topology.control.len())
            .map(|i| SocketAddr::new(block.control(i), API_PORT))
            .collect();
        Self { topology, dir, sites, api, fronts }
    }

    pub(super) fn controls(&self, authority: &pki::Authority) -> Result<Vec<Member>> {
        let voters: Vec<config::Member> = (1..)
            .zip(self.topology.control.iter().zip(&self.api))
            .map(|(id, (region, address))| config::Member {
                id,
                address: *address,
                region: region.clone(),
            })
            .collect();
        let control = |voter: &config::Member| {
            let node = Node::Control(voter.id);
            let tls = self.issue(authority, &node, &voter.region, voter.address.ip())?;
            let admin = SocketAddr::new(voter.address.ip(), ADMIN_PORT);
            let path = self.dir.join(format!("{node}.toml"));
            config::Control {
                id: voter.id,
                region: &voter.region,
                mesh: &self.topology.mesh,
                data_dir: &self.data_dir(&node)?,
                api: voter.address,
                admin,
                members: &voters,
                tls: &tls,
            }
            .write(&path)?;
            Ok(self.member(node, admin, "control-plane", &path))
        };
        voters.iter().map(control).collect()
    }

    pub(super) fn pops(&self, authority: &pki::Authority) -> Result<Vec<Member>> {
        let reached_at = |front: &Front| match self.topology.wan {
            Some(_) => front.listen,
            None => front.target,
        };
        let pop = |(site, fronts): (&Site, &[Front])| {
            let node = Node::pop(&site.id);
            let tls = self.issue(authority, &node, &site.region, site.sip.ip())?;
            let path = self.dir.join(format!("{node}.toml"));
            config::Pop {
                id: &site.id,
                region: &site.region,
                mesh: &self.topology.mesh,
                data_dir: &self.data_dir(&node)?,
                sip: site.sip,
                media: site.sip.ip(),
                overlay: fronts.iter().map(|front| front.target).collect(),
                advertise: fronts.iter().map(reached_at).collect(),
                control: &self.api,
                admin: site.admin,
                tls: &tls,
                max_calls: self.topology.max_calls,
                opus_complexity: self.topology.opus_complexity,
                shared_media: self.topology.shared_media,
                media_threads: self.topology.media_threads,
                bgp: self.topology.bgp.as_ref().filter(|bgp| bgp.pop == site.id),
            }
            .write(&path)?;
            Ok(self.member(node, site.admin, "pop-node", &path))
        };
        let upstreams = usize::from(self.topology.upstreams.max(1));
        self.sites.iter().zip(self.fronts.chunks(upstreams)).map(pop).collect()
    }

    fn issue(
        &self,
        authority: &pki::Authority,
        node: &Node,
        region: &str,
        ip: IpAddr,
    ) -> Result<pki::Files> {
        let (kind, name) = match node {
            Node::Control(id) => (Kind::Control, id.to_string()),
            Node::Pop(id) => (Kind::Pop, id.clone()),
        };
        let (mesh, region) = (self.topology.mesh.clone(), region.to_owned());
        authority.issue(&Identity { mesh, kind, name, region }, &node.to_string(), Some(ip))
    }

    fn data_dir(&self, node: &Node) -> Result<PathBuf> {
        let dir = self.dir.join("data").join(node.to_string());
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    fn member(&self, node: Node, admin: SocketAddr, program: &str, config: &Path) -> Member {
        let recipe = Recipe {
            name: node.to_string(),
            program: self.topology.bin_dir.join(program),
            args: vec!["--config".into(), config.display().to_string()],
            // Logs are read by people and by tests: no colours.
            env: vec![
                ("RUST_LOG".into(), self.topology.log.clone()),
                ("NO_COLOR".into(), "1".into()),
            ],
            log: self.dir.join("log").join(format!("{node}.log")),
        };
        Member { node, admin, process: None, recipe }
    }
}

/// Its name in the WAN: that of the POP, and `/1`, `/2`, … from the second on.
fn upstream_name(pop: &str, upstream: u8) -> String {
    if upstream == 0 { pop.to_owned() } else { format!("{pop}/{upstream}") }
}

fn upstream_of(first: SocketAddr, upstream: u8) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + u16::from(upstream))
}
