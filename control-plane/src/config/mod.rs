//! The bootstrap facts of one control node: identity, addresses, certificates, members, timers.
//! Everything else is replicated state.
//!
//! One TOML file, parsed once into types that cannot be wrong. Unknown keys are refused. What can
//! only be known by touching the machine (ports, files, clock) is asked in `check`.

mod dns;
mod raw;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_core::liveness::TTL;
use proto::id::NodeId;

use crate::archive::Target;
use crate::audit::export::Export;
use crate::dns::DnsConfig;
use crate::problem::{Problem, Problems};

/// The most voters of one group: more only slow each write down.
const MEMBERS_MAX: usize = 7;
/// The longest silence a POP may be allowed.
const POP_TTL_MAX: Duration = Duration::from_secs(60);

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Where the gRPC API listens, for operators, POPs and the other members.
    pub api: SocketAddr,
    /// Where `/metrics` and `/healthz` are served, over plain HTTP: keep it on a private address.
    pub admin: SocketAddr,
    /// All voters, this node among them, by id.
    pub members: Vec<Member>,
    /// Certificates.
    pub tls: TlsFiles,
    /// On nodes that let new machines in.
    pub ca: Option<CaConfig>,
    /// Raft's clockwork.
    pub timers: Timers,
    /// The disk.
    pub storage: Storage,
    /// Where the log is shipped.
    pub backup: Option<BackupConfig>,
    /// Where this node answers DNS for the SIP domain, if it does.
    pub dns: Option<DnsConfig>,
    /// Where this node keeps the whole audit log, if it does.
    pub audit: Option<Export>,
}

/// An archive that this node keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// A directory, on another disk than the data, or a bucket.
    pub target: Target,
    /// How often the log is shipped: what a loss of all nodes costs.
    pub every: Duration,
    /// How often all tables are.
    pub tables_every: Duration,
    /// So many of these stay.
    pub keep: usize,
}

/// What is kept free on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Storage {
    /// Below this, writes that grow the state are refused. `None`: a tenth of the disk, at most
    /// 512 MiB.
    pub low_water_bytes: Option<u64>,
    /// Entries the log keeps: members that are further behind get all tables. `None`: 100,000.
    pub log_entries: Option<usize>,
}

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Raft id; never 0, never used again for another node.
    pub id: NodeId,
    /// Where it stands.
    pub region: String,
    /// Name of the mesh; part of every identity.
    pub mesh: String,
    /// Log and state live here. Losing it loses this node's vote.
    pub data_dir: PathBuf,
    /// A higher one wins elections among equals. Default 0.
    pub priority: i64,
    /// Where a cluster can be joined, `host:port` each; empty for one of its first members.
    pub join: Vec<String>,
    /// `host:port` of the API as others reach it; without it, `api.listen`. For nodes that join.
    pub address: Option<String>,
    /// Newest feature level this node may know, to hold an upgrade back.
    pub feature_level_max: Option<u32>,
}

/// One voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Raft id.
    pub id: NodeId,
    /// `host:port` of its API.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// A higher one wins elections among equals. Default 0.
    pub priority: i64,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The mesh's authority.
    pub ca: PathBuf,
    /// This node's certificate, leaf first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The mesh's authority on this node: who gets at its key can be anybody in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaConfig {
    /// PEM file of its private key; the certificate is found in `tls.ca`.
    pub key: PathBuf,
    /// Where join tokens are taken, without a client certificate. A port of its own, so that the
    /// API never has to look at anybody without one.
    pub listen: SocketAddr,
    /// What join tokens name: `host:port` of this node, and of others that take tokens.
    pub advertise: Vec<String>,
    /// Days of validity of what it signs. Default 90.
    pub days: u32,
}

/// Days of validity, unless configured.
const CA_DAYS: u32 = 90;

/// Raft's clockwork, in wall units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Grain of the others. Default 25 ms, and a fifth of the longest round trip more.
    pub tick: Duration,
    /// Default 2 ticks.
    pub heartbeat: Duration,
    /// Silence before an election, randomised up to 1.5 times. At least 8 heartbeats. Default 16
    /// ticks.
    pub election: Duration,
    /// Silence after which a POP expires. Default 2 s and four of the longest round trips.
    pub pop_ttl: Option<Duration>,
    /// The file says so: the tick does not follow the measured round trips.
    pub fixed: bool,
}

impl Default for Timers {
    fn default() -> Self {
        Self::with_tick(Duration::from_millis(25))
    }
}

impl Timers {
    /// The usual multiples of this tick.
    fn with_tick(tick: Duration) -> Self {
        let (heartbeat, election) = (tick.saturating_mul(2), tick.saturating_mul(16));
        Self { tick, heartbeat, election, pop_ttl: None, fixed: false }
    }

    /// Ticks between heartbeats.
    pub fn heartbeat_ticks(&self) -> u32 {
        ticks(self.heartbeat, self.tick)
    }

    /// Ticks of silence before an election: shortest and longest.
    pub fn election_ticks(&self) -> (u32, u32) {
        let shortest = ticks(self.election, self.tick);
        (shortest, shortest.saturating_add(shortest / 2))
    }
}

fn ticks(period: Duration, tick: Duration) -> u32 {
    let ticks = period.as_nanos() / tick.as_nanos().max(1);
    u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
}

impl Config {
    /// Reads and validates a file.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let fix =
                "give --config a readable TOML file (an example is deploy/control-plane.toml)";
            Problem::new(path.display().to_string(), format!("cannot be read ({error})"), fix)
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Validates the text of a file; `name` is for messages.
    pub fn parse(text: &str, name: &str) -> Result<Self, Problems> {
        let file: raw::File =
            toml::from_str(text).map_err(|error| raw::explain(&error, text, name))?;
        let mut problems = Vec::new();
        let config = file.validate(&mut problems);
        let Some(config) = config else { return Err(Problems(problems)) };
        config.cross_check(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// This node's own entry in `members`.
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|m| m.id == self.node.id)
    }

    /// All members but this node.
    pub fn peers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.id != self.node.id)
    }

    fn cross_check(&self, problems: &mut Vec<Problem>) {
        self.check_members(problems);
        self.check_timers(problems);
        if self.api == self.admin && self.api.port() != 0 {
            let what = format!("and api.listen are both {}", self.api);
            problems.push(Problem::new("admin.listen", what, "give each its own port"));
        }
    }

    fn check_members(&self, problems: &mut Vec<Problem>) {
        if !self.node.join.is_empty() {
            if !self.members.is_empty() {
                let fix = "leave [[members]] out: the cluster tells this node who they are";
                let what = "is given, and [[members]] too";
                problems.push(Problem::new("node.join", what, fix));
            }
            return;
        }
        let count = self.members.len();
        if count.is_multiple_of(2) || count > MEMBERS_MAX {
            let what = format!("lists {count} voters");
            let fix = "list 1, 3, 5 or 7 (an even number survives no more failures than one less)";
            problems.push(Problem::new("[[members]]", what, fix));
        }
        let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            if !ids.insert(member.id) {
                let what = format!("lists id {} twice", member.id);
                problems.push(Problem::new("[[members]]", what, "give each voter its own id"));
            }
            if !addresses.insert(member.address.as_str()) {
                let what = format!("lists address {} twice", member.address);
                let fix = "give each voter its own address";
                problems.push(Problem::new("[[members]]", what, fix));
            }
        }
        match self.own_member() {
            None => {
                let known: Vec<String> = ids.iter().map(ToString::to_string).collect();
                let what =
                    format!("is {}, but [[members]] lists {}", self.node.id, known.join(", "));
                let fix = "set it to one of these or add this node to [[members]] on every node";
                problems.push(Problem::new("node.id", what, fix));
            }
            Some(own) if own.region != self.node.region => {
                let what = format!(
                    "is \"{}\", but [[members]] places node {} in \"{}\"",
                    self.node.region, own.id, own.region
                );
                problems.push(Problem::new("node.region", what, "make the two agree"));
            }
            Some(_) => {}
        }
    }

    fn check_timers(&self, problems: &mut Vec<Problem>) {
        let Timers { tick, heartbeat, election, pop_ttl, fixed: _ } = self.timers;
        if tick < Duration::from_millis(5) || tick > Duration::from_secs(1) {
            let what = format!("is {tick:?}");
            problems.push(Problem::new("timers.tick", what, "choose 5ms to 1s (25ms is usual)"));
        }
        if pop_ttl.is_some_and(|ttl| ttl < TTL || ttl > POP_TTL_MAX) {
            let what = format!("is {:?}", pop_ttl.unwrap_or_default());
            let fix = "choose 2s to 1m, or leave it out: it follows the measured round trips";
            problems.push(Problem::new("timers.pop_ttl", what, fix));
        }
        if heartbeat < tick {
            let what = format!("({heartbeat:?}) is shorter than timers.tick ({tick:?})");
            let fix = "make it a multiple of the tick (two are usual)";
            problems.push(Problem::new("timers.heartbeat", what, fix));
        }
        if election < heartbeat.saturating_mul(8) {
            let what = format!("({election:?}) is less than 8 heartbeats of {heartbeat:?}");
            let fix = "raise it, or lower timers.heartbeat: shorter ones elect leaders for nothing";
            problems.push(Problem::new("timers.election", what, fix));
        }
    }
}

#[cfg(test)]
mod tests;
