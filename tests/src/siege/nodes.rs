//! The three processes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::lab::pki::{Authority, Files};
use chaos::lab::process::{Process, Recipe, Signal, check_executable};
use proto::control::StatusRequest;
use proto::control::admin_client::AdminClient;
use proto::identity::{CONTROL_DNS_NAME, Identity, Kind};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::field::{self, Field, NODES, address};

const MESH: &str = "siege";
const API_PORT: u16 = 7000;
/// Enough for a run, and quickly full.
const DISK_MIB: u32 = 128;
/// One call to a node.
pub(super) const ATTEMPT: Duration = Duration::from_millis(1_500);

/// The nodes.
pub(super) struct Nodes {
    // Processes end before their directory goes.
    running: Vec<Option<Process>>,
    recipes: Vec<Recipe>,
    operator: Files,
    /// What fills a node's disk.
    fillers: Vec<Option<PathBuf>>,
    directory: TempDir,
}

impl Nodes {
    pub(super) fn start(field: &Field, bin_dir: &Path) -> Result<Self> {
        let program = bin_dir.join("control-plane");
        check_executable(&program)?;
        let directory = tempfile::Builder::new().prefix("voxmesh-siege-").tempdir()?;
        let dir = directory.path();
        let authority = Authority::new(MESH, &dir.join("pki"))?;
        let operator = authority.issue(&identity(Kind::Operator, "siege"), "operator", None)?;
        let mut recipes = Vec::new();
        for node in 0..NODES {
            let config = configure(&authority, dir, node)?;
            let program = program.display().to_string();
            // `ip netns exec` becomes the program: the process id stays.
            let namespace = field.namespace(node);
            let args = ["netns", "exec", &namespace, &program, "--config", &config];
            recipes.push(Recipe {
                name: format!("control node {}", node + 1),
                program: "ip".into(),
                args: args.map(str::to_owned).into(),
                env: vec![("RUST_LOG".into(), "info".into())],
                log: dir.join(format!("control-{}.log", node + 1)),
            });
        }
        let fillers = vec![None; NODES];
        let running = (0..NODES).map(|_| None).collect();
        let mut nodes = Self { running, recipes, operator, fillers, directory };
        (0..NODES).try_for_each(|node| nodes.launch(node))?;
        Ok(nodes)
    }

    pub(super) fn launch(&mut self, node: usize) -> Result<()> {
        if self.running[node].is_none() {
            self.running[node] = Some(Process::start(self.recipes[node].clone())?);
        }
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self, node: usize) {
        self.running[node] = None;
    }

    pub(super) fn signal(&mut self, node: usize, signal: Signal) -> Result<()> {
        self.running[node].as_mut().map_or(Ok(()), |process| process.signal(signal))
    }

    /// A node may end because its disk is full, and for no other reason.
    pub(super) fn check(&mut self) -> Result<()> {
        for node in 0..NODES {
            let Some(process) = &mut self.running[node] else { continue };
            if self.fillers[node].is_none() {
                process.check()?;
            }
        }
        Ok(())
    }

    /// Fills the disk of a node to the last byte.
    pub(super) fn fill_disk(&mut self, node: usize) -> Result<()> {
        let path = data_dir(self.directory.path(), node).join("filler");
        self.fillers[node] = Some(path.clone());
        let mut file = std::fs::File::create(&path)?;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    /// There is room again; a node that ended meanwhile starts.
    pub(super) fn free_disk(&mut self, node: usize) -> Result<()> {
        if let Some(path) = self.fillers[node].take() {
            std::fs::remove_file(&path)?;
            if self.running[node].as_mut().is_some_and(|process| process.ended().is_some()) {
                self.running[node] = None;
                self.launch(node)?;
            }
        }
        Ok(())
    }

    /// Everything is well again.
    pub(super) fn heal(&mut self, field: &Field) -> Result<()> {
        for node in 0..NODES {
            self.free_disk(node)?;
            self.signal(node, Signal::CONT)?;
            field.plug(node, true)?;
            self.launch(node)?;
        }
        Ok(())
    }

    /// Connections to all of them.
    pub(super) fn channels(&self) -> Result<Vec<Channel>> {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let Files { ca, cert, key } = &self.operator;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(ca)?))
            .identity(tonic::transport::Identity::from_pem(read(cert)?, read(key)?))
            .domain_name(CONTROL_DNS_NAME);
        let channel = |node| {
            let endpoint = Endpoint::from_shared(format!("https://{}:{API_PORT}", address(node)))?
                .tls_config(tls.clone())?
                .connect_timeout(Duration::from_secs(1))
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(2))
                .keep_alive_while_idle(true);
            Ok(endpoint.connect_lazy())
        };
        (0..NODES).map(channel).collect()
    }

    /// All nodes know a leader.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        for (node, channel) in self.channels()?.into_iter().enumerate() {
            loop {
                self.check()?;
                let mut client = AdminClient::new(channel.clone());
                let status = tokio::time::timeout(ATTEMPT, client.status(StatusRequest {})).await;
                if let Ok(Ok(status)) = &status
                    && status.get_ref().leader_id != 0
                {
                    break;
                }
                if Instant::now() >= deadline {
                    let log = self.running[node].as_ref().map(|p| p.log_tail(12));
                    let log = log.unwrap_or_default();
                    bail!("node {} knows no leader: {status:?}. It said:\n{log}", node + 1);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.running.clear();
        (0..NODES).for_each(|node| field::unmount(&data_dir(self.directory.path(), node)));
    }
}

fn identity(kind: Kind, name: &str) -> Identity {
    Identity { mesh: MESH.into(), kind, name: name.into(), region: "eu".into() }
}

fn data_dir(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("data-{}", node + 1))
}

/// Its disk, certificate and configuration file.
fn configure(authority: &Authority, dir: &Path, node: usize) -> Result<String> {
    let (id, data) = (node + 1, data_dir(dir, node));
    field::small_disk(&data, DISK_MIB)?;
    let ip: IpAddr = address(node).parse()?;
    let tls = authority.issue(
        &identity(Kind::Control, &id.to_string()),
        &format!("control-{id}"),
        Some(ip),
    )?;
    let mut text = format!(
        "[node]\nid = {id}\nregion = \"eu\"\nmesh = \"{MESH}\"\ndata_dir = {data:?}\n\
         [api]\nlisten = \"{ip}:{API_PORT}\"\n\
         [tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[admin]\nlisten = \"127.0.0.1:9090\"\n",
        tls.ca, tls.cert, tls.key,
    );
    for member in 0..NODES {
        let (id, address) = (member + 1, address(member));
        writeln!(
            text,
            "[[members]]\nid = {id}\naddress = \"{address}:{API_PORT}\"\nregion = \"eu\""
        )?;
    }
    let path = dir.join(format!("control-{id}.toml"));
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}
