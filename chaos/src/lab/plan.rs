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
        let front = |(i, site): (usize, &Site)| Front {
            pop: site.id.clone(),
            listen: SocketAddr::new(block.front(i), OVERLAY_PORT),
            target: site.overlay,
        };
        let fronts = sites.iter().enumerate().map(front).collect();
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
        let pop = |(site, front): (&Site, &Front)| {
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
                overlay: site.overlay,
                advertise: self.topology.wan.map_or(site.overlay, |_| front.listen),
                control: &self.api,
                admin: site.admin,
                tls: &tls,
                max_calls: self.topology.max_calls,
                opus_complexity: self.topology.opus_complexity,
                shared_media: self.topology.shared_media,
            }
            .write(&path)?;
            Ok(self.member(node, site.admin, "pop-node", &path))
        };
        self.sites.iter().zip(&self.fronts).map(pop).collect()
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
