//! A mesh of the lab, with a trunk to the carrier beside each POP, and one number range behind each.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use chaos::lab::{Mesh, Node, SIP_PORT, Topology, admin, bin_dir};
use pop_core::view::View;
use proto::control::{Route, RouteCandidate, Transport, Trunk};
use proto::id::Revision;
use serde_json::Value;

/// How long a small thing may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// Three regions; the carrier of POP `fra1` has +4930…, of `iad1` +1202…, of `sin1` +656….
pub struct Scene {
    pub mesh: Mesh,
    /// Of the view with everything provisioned.
    pub revision: u64,
}

/// Prefixes of the carriers, by POP.
pub const RANGES: [(&str, &str); 3] = [("fra1", "4930"), ("iad1", "1202"), ("sin1", "656")];
/// A number behind each carrier.
pub const FRA: &str = "+493012345678";
pub const IAD: &str = "+12025550123";
pub const SIN: &str = "+6561234567";

impl Scene {
    /// The usual one: three regions, no WAN in between.
    pub async fn start() -> Result<Self> {
        Self::with(|_| {}, |_| {}).await
    }

    /// With another topology, and trunks changed before they are provisioned.
    pub async fn with(
        topology: impl FnOnce(&mut Topology),
        trunk: impl Fn(&mut Trunk),
    ) -> Result<Self> {
        let mut plan = Topology::three_regions(&bin_dir()?);
        topology(&mut plan);
        let mesh = Mesh::start(&plan).await?;
        let mut scene = Self { mesh, revision: 0 };
        for site in scene.mesh.sites() {
            let mut carrier = Trunk {
                trunk_id: format!("carrier-{}", site.id),
                pop_ids: vec![site.id.clone()],
                host: site.carrier.to_string(),
                port: u32::from(SIP_PORT),
                transport: Transport::Udp.into(),
                // baresip binds its media to any address: on loopback it speaks from 127.0.0.1.
                sources: vec![site.carrier.to_string(), "127.0.0.1".into()],
                ..Trunk::default()
            };
            trunk(&mut carrier);
            scene.mesh.client().put_trunk(carrier).await?;
        }
        for (pop, prefix) in RANGES {
            scene.revision = scene.route(prefix, &[pop]).await?;
        }
        scene.mesh.in_view(scene.revision, SOON).await?;
        Ok(scene)
    }

    /// Routes a prefix to the carriers of these POPs, in order.
    pub async fn route(&self, prefix: &str, pops: &[&str]) -> Result<u64> {
        let candidate = |(priority, pop): (u32, &&str)| RouteCandidate {
            trunk_id: format!("carrier-{pop}"),
            priority,
            weight: 1,
        };
        let candidates = (0..).zip(pops).map(candidate).collect();
        let route =
            Route { route_id: format!("to-{prefix}"), prefix: prefix.to_owned(), candidates };
        self.mesh.client().put_route(route).await
    }

    /// Where a POP takes SIP.
    pub fn sip(&self, pop: &str) -> Result<SocketAddr> {
        Ok(self.mesh.site(pop)?.sip)
    }

    /// The address of a POP's carrier.
    pub fn carrier(&self, pop: &str) -> Result<IpAddr> {
        Ok(self.mesh.site(pop)?.carrier)
    }

    /// A POP's `/status`.
    pub async fn status(&self, pop: &str) -> Result<Value> {
        let address = self.mesh.admin(&Node::pop(pop))?;
        let text = admin::get(address, "/status").await?;
        serde_json::from_str(&text).with_context(|| format!("/status of {pop} is no JSON: {text}"))
    }

    /// The sum of a metric over its labels; absent metrics are 0.
    pub async fn metric(&self, node: &Node, name: &str) -> Result<f64> {
        let text = admin::get(self.mesh.admin(node)?, "/metrics").await?;
        Ok(sum(&text, name))
    }

    /// Waits until no POP has a call.
    pub async fn idle(&self, patience: Duration) -> Result<()> {
        for site in self.mesh.sites() {
            let node = Node::pop(&site.id);
            if !self.mesh.is_running(&node) {
                continue;
            }
            let what = format!("{} has no call left", site.id);
            crate::peers::eventually(&what, patience, async || {
                Ok((self.metric(&node, "pop_calls_active").await? == 0.0).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until a POP's copy on disk has everything that was provisioned.
    pub async fn copy_on_disk(&self, pop: &str) -> Result<()> {
        let path = self.mesh.dir().join("data").join(pop).join("view");
        crate::peers::eventually("the view is on disk", SOON, async || {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let view = View::decode(&bytes).ok();
            Ok(view.filter(|view| view.revision() >= Revision(self.revision)).map(drop))
        })
        .await
    }

    /// CDRs a POP wrote, oldest first.
    pub fn cdrs(&self, pop: &str) -> Result<Vec<Value>> {
        let path = self.mesh.dir().join("data").join(pop).join("cdr.jsonl");
        // None was written yet.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let records: serde_json::Result<Vec<Value>> =
            text.lines().map(serde_json::from_str).collect();
        records.with_context(|| format!("{} is damaged", path.display()))
    }

    /// Waits until a POP wrote so many CDRs, and returns them.
    pub async fn wait_for_cdrs(&self, pop: &str, count: usize) -> Result<Vec<Value>> {
        let mut records = Vec::new();
        let wanted = format!("{count} CDRs at {pop}");
        crate::peers::eventually(&wanted, SOON, async || {
            records = self.cdrs(pop)?;
            Ok((records.len() >= count).then_some(()))
        })
        .await
        .with_context(|| format!("{} are there", self.cdrs(pop).map_or(0, |r| r.len())))?;
        Ok(records)
    }
}

/// Sums the samples of one metric in the Prometheus text format.
pub fn sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    samples.sum()
}
