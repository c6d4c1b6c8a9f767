//! What a fault does to a running mesh: for drills, and for the lab that stays up.

use std::collections::BTreeMap;

use anyhow::Result;

use super::fault::{Target, Verb};
use crate::lab::process::Signal;
use crate::lab::{Mesh, Node, Topology};
use crate::wan::Profile;

/// What must be known of the mesh to hurt it, and to heal it again.
#[derive(Debug)]
pub(crate) struct Hands {
    /// Upstreams of each POP.
    upstreams: u8,
    /// Region of each control node, by id from 1.
    control: Vec<String>,
    /// What the ways that are cut were like.
    before: BTreeMap<(String, String), Profile>,
}

impl Hands {
    /// For a mesh that was built so.
    pub(crate) fn new(topology: &Topology) -> Self {
        let (upstreams, control) = (topology.upstreams, topology.control.clone());
        Self { upstreams, control, before: BTreeMap::new() }
    }

    /// The nodes that a target means now; `led` is the region of the leader.
    pub(crate) async fn nodes(&self, mesh: &Mesh, target: &Target, led: Option<&str>) -> Vec<Node> {
        match target {
            Target::All => mesh.nodes().cloned().collect(),
            Target::ControlPlane => {
                let control = |node: &&Node| matches!(node, Node::Control(_));
                mesh.nodes().filter(control).cloned().collect()
            }
            Target::Leader => leader(mesh).await.map(Node::Control).into_iter().collect(),
            Target::Pop(pop) => vec![Node::pop(pop)],
            Target::Region(region) => self.in_region(mesh, region),
            Target::RegionOfLeader => led.map(|r| self.in_region(mesh, r)).unwrap_or_default(),
            Target::Upstream(..) => Vec::new(),
        }
    }

    fn in_region(&self, mesh: &Mesh, name: &str) -> Vec<Node> {
        let pops = mesh.sites().iter().filter(|site| site.region == name);
        let mut nodes: Vec<Node> = pops.map(|site| Node::pop(&site.id)).collect();
        let regions = (1..).zip(&self.control);
        nodes.extend(regions.filter(|(_, r)| *r == name).map(|(id, _)| Node::Control(id)));
        nodes
    }

    /// Where the leader is.
    pub(crate) async fn leader_region(&self, mesh: &Mesh) -> Option<String> {
        let index = usize::try_from(leader(mesh).await?).ok()?.checked_sub(1)?;
        self.control.get(index).cloned()
    }

    /// Kills, pauses, silences or cuts; or takes it back. What takes time (drain, restart) is not
    /// done here.
    pub(crate) fn strike(
        &mut self,
        mesh: &mut Mesh,
        (verb, target): (Verb, &Target),
        nodes: &[Node],
        undo: bool,
    ) -> Result<()> {
        match (verb, undo) {
            (Verb::Kill, false) => nodes.iter().try_for_each(|node| mesh.kill(node)),
            (Verb::Kill, true) => nodes.iter().try_for_each(|node| mesh.restart(node)),
            (Verb::Pause, _) => signal(mesh, nodes, undo),
            (Verb::Silence, _) => {
                for node in nodes {
                    if let Node::Pop(pop) = node {
                        self.shut(mesh, pop, None, undo);
                    }
                }
                signal(mesh, nodes, undo)
            }
            (Verb::Cut, _) => {
                if let Target::Upstream(pop, number) = target {
                    self.shut(mesh, pop, Some(*number), undo);
                }
                Ok(())
            }
            (Verb::Drain | Verb::Restart, _) => Ok(()),
        }
    }

    /// Nothing reaches or leaves the overlay of a POP (or one upstream of it), or all does again.
    fn shut(&mut self, mesh: &Mesh, pop: &str, only: Option<u8>, over: bool) {
        let Some(wan) = mesh.wan() else { return };
        let both = self.ways(mesh, (pop, only), None);
        let both = both.into_iter().flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]);
        for (from, to) in both {
            let way = (from.clone(), to.clone());
            let profile = if over {
                self.before.remove(&way)
            } else {
                let _first = self.before.entry(way).or_insert_with(|| wan.profile(&from, &to));
                Some(Profile::cut())
            };
            if let Some(profile) = profile {
                wan.set(&from, &to, profile);
            }
        }
    }

    /// Names of the ends of all ways from a POP (or one upstream of it) to others, or to one.
    pub(crate) fn ways(
        &self,
        mesh: &Mesh,
        (pop, only): (&str, Option<u8>),
        to: Option<(&str, Option<u8>)>,
    ) -> Vec<(String, String)> {
        let name = |pop: &str, n: u8| if n == 0 { pop.to_owned() } else { format!("{pop}/{n}") };
        let of =
            |only: Option<u8>| (0..self.upstreams).filter(move |n| only.is_none_or(|o| o == *n));
        let wanted = |id: &str| id != pop && to.is_none_or(|(to, _)| to == id);
        let others = mesh.sites().iter().filter(|site| wanted(&site.id));
        others
            .flat_map(|other| {
                let ways = of(only).flat_map(|a| of(to.and_then(|to| to.1)).map(move |b| (a, b)));
                ways.map(|(a, b)| (name(pop, a), name(&other.id, b))).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn signal(mesh: &mut Mesh, nodes: &[Node], go: bool) -> Result<()> {
    let signal = if go { Signal::CONT } else { Signal::STOP };
    nodes.iter().try_for_each(|node| mesh.signal(node, signal))
}

async fn leader(mesh: &Mesh) -> Option<u64> {
    for node in 0..mesh.api().len() {
        if let Ok(status) = mesh.client().status(node).await
            && status.leader_id != 0
        {
            return Some(status.leader_id);
        }
    }
    None
}
