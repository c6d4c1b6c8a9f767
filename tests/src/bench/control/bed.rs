//! Where the nodes of one system stand: directory, certificates, addresses, processes.
//!
//! Both systems get the same: a directory on the same disk (under `target`, never tmpfs), mutual
//! TLS with certificates of the same kind, the same addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::lab::pki::{Authority, Files};
use chaos::lab::process::{Process, Recipe};
use proto::identity::{CONTROL_DNS_NAME, Identity, Kind};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Voters of each system.
pub(super) const NODES: usize = 3;
const MESH: &str = "bench";
/// The POP that dies with the leader.
pub(super) const POP: &str = "fra1";

/// Where one node lives.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    /// Network namespace; `None`: ours.
    pub(super) namespace: Option<String>,
    /// Clients dial it here.
    pub(super) client: IpAddr,
    /// Other nodes dial it here.
    pub(super) peer: IpAddr,
}

impl Spot {
    /// All nodes on loopback: throughput, with nothing between them.
    pub(super) fn loopback(block: u8) -> Result<Vec<Self>> {
        let spots = (1..=NODES).map(|node| {
            let last = u8::try_from(node).unwrap_or(u8::MAX);
            let ip = IpAddr::V4(Ipv4Addr::new(127, 211, block, last));
            TcpListener::bind((ip, 7000)).with_context(|| format!("{ip}:7000 is taken"))?;
            Ok(Self { namespace: None, client: ip, peer: ip })
        });
        spots.collect()
    }
}

/// The ground one system stands on.
pub(super) struct Bed {
    // Processes end before their disks and their directory go.
    processes: Vec<Process>,
    disks: Vec<Disk>,
    pub(super) spots: Vec<Spot>,
    pub(super) certs: Vec<Files>,
    operator: Files,
    pop: Files,
    directory: TempDir,
}

impl Bed {
    pub(super) fn new(name: &str, spots: Vec<Spot>) -> Result<Self> {
        let disk = std::env::current_exe()?.parent().context("no directory")?.join("bench-data");
        std::fs::create_dir_all(&disk)?;
        let directory = tempfile::Builder::new().prefix(name).tempdir_in(disk)?;
        let authority = Authority::new(MESH, &directory.path().join("pki"))?;
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let certs = spots.iter().enumerate().map(|(index, spot)| {
            let identity = identity(Kind::Control, &(index + 1).to_string());
            let stem = format!("control-{}", index + 1);
            authority.issue(&identity, &stem, [spot.client, spot.peer, local])
        });
        let certs = certs.collect::<Result<Vec<_>>>()?;
        // etcd compares a client's address with its certificate.
        let gateways = spots.iter().filter_map(|spot| gateway(spot.client));
        let ips: Vec<IpAddr> = gateways.chain([local]).collect();
        let operator = authority.issue(&identity(Kind::Operator, "bench"), "operator", ips)?;
        let pop = authority.issue(&identity(Kind::Pop, POP), "pop", None)?;
        for index in 0..spots.len() {
            std::fs::create_dir(directory.path().join(format!("disk-{index}")))?;
        }
        let (processes, disks) = (Vec::new(), Vec::new());
        Ok(Self { processes, disks, spots, certs, operator, pop, directory })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Gives each node a file system of its own, in a file beside it: one that can be frozen.
    pub(super) fn with_disks(mut self) -> Result<Self> {
        let disks = (0..self.spots.len()).map(|index| Disk::mount(self.disk(index)));
        self.disks = disks.collect::<Result<_>>()?;
        Ok(self)
    }

    /// Where a node's disk is mounted, if it has its own.
    pub(super) fn disk(&self, node: usize) -> PathBuf {
        self.path().join(format!("disk-{node}"))
    }

    /// Where a node keeps its data; not there yet.
    pub(super) fn data(&self, node: usize) -> PathBuf {
        self.disk(node).join("data")
    }

    /// Starts the next node.
    pub(super) fn start(
        &mut self,
        program: &Path,
        args: Vec<String>,
        env: &[(&str, &str)],
    ) -> Result<()> {
        let index = self.processes.len();
        let spot = self.spots.get(index).context("more nodes than spots")?;
        let program_text = program.display().to_string();
        // `ip netns exec` becomes the program: the process id stays.
        let (program, args) = match &spot.namespace {
            None => (program.to_owned(), args),
            Some(namespace) => {
                let mut all: Vec<String> =
                    ["netns", "exec", namespace, &program_text].map(str::to_owned).into();
                all.extend(args);
                (PathBuf::from("ip"), all)
            }
        };
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let log = self.path().join(format!("node-{}.log", index + 1));
        let name = format!("{program_text} {}", index + 1);
        self.processes.push(Process::start(Recipe { name, program, args, env, log })?);
        Ok(())
    }

    pub(super) fn process(&mut self, node: usize) -> Result<&mut Process> {
        self.processes.get_mut(node).context("no such node")
    }

    /// CPU time of all nodes, theirs alone.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// Fails with the last words of a node that ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The largest resident memory of a node.
    pub(super) fn rss(&self) -> Result<u64> {
        let all = self.processes.iter().map(Process::rss_bytes).collect::<Result<Vec<_>>>()?;
        all.into_iter().max().context("no node")
    }

    /// A new connection to a node, as an operator; made when first used.
    pub(super) fn channel(&self, node: usize, port: u16) -> Result<Channel> {
        self.connect(node, port, &self.operator)
    }

    /// The same as a POP.
    pub(super) fn pop_channel(&self, node: usize, port: u16) -> Result<Channel> {
        self.connect(node, port, &self.pop)
    }

    fn connect(&self, node: usize, port: u16, files: &Files) -> Result<Channel> {
        let address = SocketAddr::new(self.spots.get(node).context("no such node")?.client, port);
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let identity = tonic::transport::Identity::from_pem(read(&files.cert)?, read(&files.key)?);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&files.ca)?))
            .identity(identity)
            .domain_name(CONTROL_DNS_NAME);
        Ok(Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(1))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_lazy())
    }
}

/// A file system in a file.
struct Disk(PathBuf);

/// Sparse; more than a benchmark writes.
const DISK_BYTES: u64 = 1 << 30;

impl Disk {
    fn mount(on: PathBuf) -> Result<Self> {
        let image = on.with_extension("img");
        let name = image.display().to_string();
        std::fs::File::create(&image)?.set_len(DISK_BYTES)?;
        run("mkfs.ext4", &["-q", "-F", &name])?;
        run("mount", &["-o", "loop", &name, &on.display().to_string()])?;
        Ok(Self(on))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let on = self.0.display().to_string();
        // It is frozen only if a measurement failed.
        let _thawed = run("fsfreeze", &["-u", &on]);
        let _gone = run("umount", &[&on]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} is missing"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{program} {} (as root?): {}", arguments.join(" "), said.trim())
}

/// Freezes a mounted file system, or thaws it.
pub(super) fn freeze(disk: &Path, frozen: bool) -> Result<()> {
    run("fsfreeze", &[if frozen { "-f" } else { "-u" }, &disk.display().to_string()])
}

fn identity(kind: Kind, name: &str) -> Identity {
    Identity { mesh: MESH.into(), kind, name: name.into(), region: "eu".into() }
}

/// Our own address beside a node in a namespace of its own.
fn gateway(client: IpAddr) -> Option<IpAddr> {
    match client {
        IpAddr::V4(ip) if !ip.is_loopback() => {
            let [a, b, c, _] = ip.octets();
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, 1)))
        }
        _ => None,
    }
}

/// Polls until it answers, or fails with the last reason.
pub(super) async fn until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= deadline => {
                bail!("{what} did not happen within {patience:?}: {why:#}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
