//! A whole mesh on one machine: real processes on own loopback addresses.
//!
//! [`Mesh::start`] makes certificates and configurations in a temporary directory, starts control
//! nodes and POPs, and puts a [`Wan`] between the POPs. Dropping the mesh kills every process and
//! removes the directory.

mod address;
pub mod admin;
mod config;
pub mod pki;
mod plan;
pub mod process;
pub mod provision;
pub mod routers;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::identity::{Identity, Kind};
use tempfile::TempDir;

pub use address::{ADMIN_PORT, API_PORT, BMP_PORT, OVERLAY_PORT, SIP_PORT};

use crate::wan::{Profile, Wan};
use address::Block;
use plan::Plan;
use process::{Process, Recipe};
use provision::Client;

/// What to build.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Name of the mesh, in every certificate.
    pub mesh: String,
    /// Region of each control node; ids count from 1.
    pub control: Vec<String>,
    /// Id and region of each POP.
    pub pops: Vec<(String, String)>,
    /// What lies between POPs; `None`: they dial each other directly.
    pub wan: Option<Profile>,
    /// Upstreams of each POP: each is a port of the overlay and a way of its own through the WAN.
    pub upstreams: u8,
    /// For the WAN's losses.
    pub seed: u64,
    /// Calls a POP accepts at once.
    pub max_calls: u32,
    /// libopus complexity of the POPs; `None`: by load.
    pub opus_complexity: Option<u8>,
    /// POPs have one media port for all calls instead of a range.
    pub shared_media: bool,
    /// Media threads of the POPs, each on a core of its own; `None`: as many as suit the machine.
    pub media_threads: Option<u8>,
    /// A POP that its routers tell of its upstreams, by BMP.
    pub bgp: Option<Routers>,
    /// Where `control-plane` and `pop-node` are.
    pub bin_dir: PathBuf,
    /// Keep certificates, data and logs here instead of in a directory that goes away.
    pub keep_dir: Option<PathBuf>,
    /// What nodes log (`RUST_LOG`).
    pub log: String,
}

impl Topology {
    /// Three regions, one control node and one POP each.
    pub fn three_regions(bin_dir: &Path) -> Self {
        let regions = [("eu", "fra1"), ("us", "iad1"), ("ap", "sin1")];
        Self {
            mesh: "demo".into(),
            control: regions.iter().map(|(region, _)| (*region).to_owned()).collect(),
            pops: regions.iter().map(|(r, p)| ((*p).to_owned(), (*r).to_owned())).collect(),
            wan: None,
            upstreams: 1,
            seed: 1,
            max_calls: 1_000,
            opus_complexity: None,
            shared_media: false,
            media_threads: None,
            bgp: None,
            bin_dir: bin_dir.to_owned(),
            keep_dir: None,
            log: "info".into(),
        }
    }
}

/// The routers of one POP.
#[derive(Debug, Clone)]
pub struct Routers {
    /// The POP; it listens at [`BMP_PORT`] of its SIP address.
    pub pop: String,
    /// Where they come from.
    pub routers: Vec<IpAddr>,
    /// BGP neighbors of each of its upstreams.
    pub upstreams: Vec<Vec<IpAddr>>,
    /// RPKI caches.
    pub rpki_caches: Vec<SocketAddr>,
}

/// Where the executables of this build are: beside the running one.
pub fn bin_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find the running executable")?;
    let dir = exe.parent().context("the running executable has no directory")?;
    // Test executables live one level below.
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_owned())
}

/// One process of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A control node, by id (from 1).
    Control(u64),
    /// A POP, by id.
    Pop(String),
}

impl Node {
    /// A POP.
    pub fn pop(id: &str) -> Self {
        Self::Pop(id.to_owned())
    }
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Control(id) => write!(f, "control-{id}"),
            Self::Pop(id) => f.write_str(id),
        }
    }
}

/// A POP's addresses.
#[derive(Debug, Clone)]
pub struct Site {
    /// POP id.
    pub id: String,
    /// Region.
    pub region: String,
    /// Where it takes SIP, over UDP and TCP.
    pub sip: SocketAddr,
    /// Where it takes overlay connections itself, behind the WAN.
    pub overlay: SocketAddr,
    /// Its metrics, health and status.
    pub admin: SocketAddr,
    /// Address of the carrier beside it: trunk `carrier-ID` points there and accepts calls from it.
    pub carrier: IpAddr,
}

#[derive(Debug)]
enum Directory {
    Temporary(TempDir),
    Kept(PathBuf),
}

#[derive(Debug)]
struct Member {
    node: Node,
    admin: SocketAddr,
    process: Option<Process>,
    recipe: Recipe,
}

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    // Fields drop in this order: processes first, the directory last.
    members: Vec<Member>,
    wan: Option<Wan>,
    client: Client,
    sites: Vec<Site>,
    api: Vec<SocketAddr>,
    operator: pki::Files,
    bin_dir: PathBuf,
    _block: Block,
    directory: Directory,
}

impl Mesh {
    /// Starts everything, and waits until each POP serves calls and knows the others.
    pub async fn start(topology: &Topology) -> Result<Self> {
        let mut mesh = Self::prepare(topology)?;
        mesh.launch()?;
        mesh.ready(Duration::from_secs(30)).await?;
        mesh.linked(Duration::from_secs(20)).await?;
        Ok(mesh)
    }

    /// Makes addresses, certificates, configurations and the WAN; starts no process. Call it
    /// within a tokio runtime: the API client lives there.
    pub fn prepare(topology: &Topology) -> Result<Self> {
        for name in ["control-plane", "pop-node"] {
            process::check_executable(&topology.bin_dir.join(name))?;
        }
        let block = Block::claim(topology.control.len(), topology.pops.len())?;
        let directory = directory(topology.keep_dir.as_deref())?;
        let dir = directory.path().to_owned();
        std::fs::create_dir_all(dir.join("log"))
            .with_context(|| format!("cannot make {}", dir.join("log").display()))?;
        let plan = Plan::new(topology, &block, &dir);
        let authority = pki::Authority::new(&topology.mesh, &dir.join("pki"))?;
        let operator = Identity {
            mesh: topology.mesh.clone(),
            kind: Kind::Operator,
            name: "lab".into(),
            region: topology.control.first().cloned().unwrap_or_default(),
        };
        let operator = authority.issue(&operator, "operator-lab", None)?;
        let mut members = plan.controls(&authority)?;
        members.extend(plan.pops(&authority)?);
        config::operator(&dir.join("operator.toml"), &plan.api, &operator)?;
        let wan = topology.wan.map(|p| Wan::start(&plan.fronts, p, topology.seed)).transpose()?;
        Ok(Self {
            members,
            wan,
            client: Client::new(&plan.api, &operator)?,
            sites: plan.sites,
            api: plan.api,
            operator,
            bin_dir: topology.bin_dir.clone(),
            _block: block,
            directory,
        })
    }

    /// Starts every process that does not run.
    pub fn launch(&mut self) -> Result<()> {
        for member in &mut self.members {
            if member.process.is_none() {
                member.process = Some(Process::start(member.recipe.clone())?);
            }
        }
        Ok(())
    }

    /// Waits until every running node is healthy: control nodes know a leader, POPs have a view.
    pub async fn ready(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for index in 0..self.members.len() {
            loop {
                self.check()?;
                let Some(member) = self.members.get(index) else { break };
                if member.process.is_none() {
                    break;
                }
                let Err(why) = admin::get(member.admin, "/healthz").await else { break };
                if Instant::now() >= deadline {
                    let tail = member.process.as_ref().map(|p| p.log_tail(12)).unwrap_or_default();
                    let name = &member.node;
                    bail!("{name} is not ready after {patience:?}: {why:#}. It said:\n{tail}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until every running POP has an overlay link to every other one.
    pub async fn linked(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let running: Vec<Site> =
            self.sites.iter().filter(|s| self.is_running(&Node::pop(&s.id))).cloned().collect();
        loop {
            self.check()?;
            let mut missing = Vec::new();
            for site in &running {
                let status: serde_json::Value =
                    serde_json::from_str(&admin::get(site.admin, "/status").await?)
                        .with_context(|| format!("/status of {} is no JSON", site.id))?;
                let links = status.get("links").and_then(serde_json::Value::as_array);
                let up = |peer: &str| {
                    links.into_iter().flatten().any(|link| {
                        link.get("peer").is_some_and(|p| p == peer)
                            && link.get("up").is_some_and(|up| up == true)
                    })
                };
                let others = running.iter().filter(|other| other.id != site.id);
                let absent = others.filter(|other| !up(&other.id));
                missing.extend(absent.map(|other| format!("{} to {}", site.id, other.id)));
            }
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("no overlay link from {} after {patience:?}", missing.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until each POP that runs works with this revision of the view, or a later one.
    pub async fn in_view(&self, revision: u64, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let list = self.client.pops().await?;
            let late: Vec<_> = self
                .sites
                .iter()
                .filter(|s| self.is_running(&Node::pop(&s.id)))
                .filter(|s| {
                    !list.pops.iter().any(|e| {
                        e.pop.as_ref().is_some_and(|p| p.pop_id == s.id)
                            && e.view_revision >= revision
                    })
                })
                .map(|s| s.id.as_str())
                .collect();
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} did not see revision {revision} in {patience:?}", late.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Fails if a process ended that nobody stopped.
    pub fn check(&mut self) -> Result<()> {
        self.members.iter_mut().filter_map(|m| m.process.as_mut()).try_for_each(Process::check)
    }

    /// kill -9.
    pub fn kill(&mut self, node: &Node) -> Result<()> {
        self.member(node)?.process = None;
        Ok(())
    }

    /// SIGTERM, then kill -9 after `grace`; its exit status.
    pub fn stop(
        &mut self,
        node: &Node,
        grace: Duration,
    ) -> Result<Option<std::process::ExitStatus>> {
        Ok(self.member(node)?.process.take().and_then(|mut p| p.stop(grace)))
    }

    /// SIGTERM to all, POPs first (they say BYE), then kill -9 to what is left after `grace`.
    pub fn stop_all(&mut self, grace: Duration) {
        for pops in [true, false] {
            let chosen = |m: &&mut Member| matches!(m.node, Node::Pop(_)) == pops;
            for member in self.members.iter_mut().filter(chosen) {
                let _asked = member.process.as_mut().map(|p| p.signal(process::Signal::TERM));
            }
            let deadline = Instant::now() + grace;
            for member in self.members.iter_mut().filter(chosen) {
                if let Some(mut process) = member.process.take() {
                    process.wait(deadline.saturating_duration_since(Instant::now()));
                }
            }
        }
    }

    /// Sends a signal (SIGSTOP, SIGCONT, …).
    pub fn signal(&mut self, node: &Node, signal: process::Signal) -> Result<()> {
        self.member(node)?.process.as_mut().map_or(Ok(()), |p| p.signal(signal))
    }

    /// Starts a node again, on its own data.
    pub fn restart(&mut self, node: &Node) -> Result<()> {
        let member = self.member(node)?;
        member.process = None;
        member.process = Some(Process::start(member.recipe.clone())?);
        Ok(())
    }

    /// Whether a node's process runs.
    pub fn is_running(&self, node: &Node) -> bool {
        self.process(node).is_some()
    }

    /// A node's process, while it runs.
    pub fn process(&self, node: &Node) -> Option<&Process> {
        self.members.iter().find(|m| m.node == *node).and_then(|m| m.process.as_ref())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().map(|m| &m.node)
    }

    /// The client of the public API.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The API addresses of the control nodes, by id.
    pub fn api(&self) -> &[SocketAddr] {
        &self.api
    }

    /// The operator's certificate, for `meshctl`.
    pub const fn operator(&self) -> &pki::Files {
        &self.operator
    }

    /// The POPs' addresses.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// One POP's addresses.
    pub fn site(&self, pop: &str) -> Result<&Site> {
        self.sites.iter().find(|s| s.id == pop).with_context(|| format!("no POP {pop}"))
    }

    /// A node's admin address.
    pub fn admin(&self, node: &Node) -> Result<SocketAddr> {
        let member = self.members.iter().find(|m| m.node == *node);
        Ok(member.with_context(|| format!("no node {node}"))?.admin)
    }

    /// What lies between the POPs.
    pub const fn wan(&self) -> Option<&Wan> {
        self.wan.as_ref()
    }

    /// Certificates (`pki/`), configurations, data, logs (`log/`), and `operator.toml` for
    /// `meshctl --config`.
    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    /// Where the executables are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Runs `meshctl` as the operator, against all control nodes; what it printed.
    pub async fn meshctl(&self, args: &[&str]) -> Result<String> {
        said(self.meshctl_command(args), args).await
    }

    /// The same, to be awaited without the mesh.
    pub fn meshctl_later(&self, args: &[&str]) -> impl Future<Output = Result<String>> + use<> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let command = self.meshctl_command(&args);
        async move { said(command, &args).await }
    }

    fn meshctl_command(&self, args: &[impl AsRef<std::ffi::OsStr>]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.bin_dir.join("meshctl"));
        let endpoints: Vec<String> = self.api.iter().map(ToString::to_string).collect();
        let pki::Files { ca, cert, key } = &self.operator;
        command.args(["--endpoint", &endpoints.join(",")]);
        for (flag, file) in [("--ca", ca), ("--cert", cert), ("--key", key)] {
            command.arg(flag).arg(file);
        }
        command.args(args).kill_on_drop(true);
        command
    }

    /// A node's configuration file.
    pub fn config(&self, node: &Node) -> PathBuf {
        self.dir().join(format!("{node}.toml"))
    }

    fn member(&mut self, node: &Node) -> Result<&mut Member> {
        let found = self.members.iter_mut().find(|m| m.node == *node);
        found.with_context(|| format!("no node {node}"))
    }
}

async fn said(
    mut command: tokio::process::Command,
    args: &[impl AsRef<str> + std::fmt::Debug],
) -> Result<String> {
    let output = command.output().await?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    anyhow::ensure!(output.status.success(), "meshctl {args:?}: {}", said(&output.stderr));
    Ok(said(&output.stdout))
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Before the directory goes: a living node would write into it again.
        self.members.clear();
        if let Directory::Temporary(dir) = &self.directory {
            forget_directory(dir.path());
        }
    }
}

/// Temporary directories of meshes that live.
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn forget_directory(path: &Path) {
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).retain(|dir| dir != path);
}

/// Kills every process and removes every temporary directory of every mesh: for the panic hook,
/// because a panic that aborts drops nothing.
pub fn abandon() {
    process::kill_all();
    let Ok(mut directories) = DIRECTORIES.try_lock() else { return };
    for directory in directories.drain(..) {
        let _gone = std::fs::remove_dir_all(directory);
    }
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }
}

fn directory(keep: Option<&Path>) -> Result<Directory> {
    match keep {
        Some(dir) => {
            if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                bail!("{} is not empty: name another directory to keep the run in", dir.display());
            }
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            let dir = dir.canonicalize().with_context(|| format!("no {}", dir.display()))?;
            Ok(Directory::Kept(dir))
        }
        None => {
            let dir = tempfile::Builder::new().prefix("voxmesh-").tempdir();
            let dir = dir.context("no temporary directory")?;
            let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
            directories.push(dir.path().to_owned());
            Ok(Directory::Temporary(dir))
        }
    }
}
