//! A cluster of real processes on loopback, gone with its value.
#![allow(dead_code, clippy::indexing_slicing, reason = "each test uses its part, and may panic")]

mod front;
pub(crate) mod tools;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control_plane::config::TlsFiles;
use control_plane::peer::endpoint;
use control_plane::pki;
use control_plane::tls::Credentials;
use proto::control::StatusRequest;
use proto::control::admin_client::AdminClient;
use proto::identity::{CONTROL_DNS_NAME, Kind};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

pub(crate) use front::Front;

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) api: SocketAddr,
    admin: SocketAddr,
    /// Where it takes join tokens, on the node that has the authority.
    join: SocketAddr,
    child: Option<Child>,
    program: Program,
    /// Stopped by SIGSTOP: it runs, but nobody asks it.
    paused: bool,
}

/// Which version a node runs.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// It takes no newer commands than these.
    pub(crate) level_max: Option<u32>,
}

impl Program {
    /// The one under test.
    pub(crate) fn current() -> Self {
        Self { path: env!("CARGO_BIN_EXE_control-plane").into(), level_max: None }
    }
}

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    nodes: Vec<Node>,
    /// Of nodes that start from now on.
    pub(crate) environment: Vec<(String, String)>,
}

/// Polls until `found` finds something.
pub(crate) async fn eventually<T>(what: &str, found: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Node {
    /// Of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }
}

impl Cluster {
    /// Three nodes that have a leader.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// With more lines in each configuration; told the directory of all.
    pub(crate) async fn start_with(more: impl FnOnce(&Path) -> String) -> Self {
        Self::build(&Program::current(), more).await
    }

    /// Of another version.
    pub(crate) async fn start_as(program: &Program) -> Self {
        Self::build(program, |_| String::new()).await
    }

    async fn build(program: &Program, more: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::init("demo", &dir.path().join("ca")).unwrap();
        let issue = |kind, name: &str, region: &str| {
            let (name, region) = (name.to_owned(), region.to_owned());
            let request = pki::Request { kind, name, region, ..<_>::default() };
            pki::issue(&dir.path().join("ca"), &request, dir.path()).unwrap();
        };
        issue(Kind::Operator, "anna", "eu");
        issue(Kind::Pop, "fra1", "eu");
        issue(Kind::Service, "portal", "eu");
        for (id, region) in [("1", "eu"), ("2", "us"), ("3", "ap")] {
            issue(Kind::Control, id, region);
        }
        // Own addresses of this test in 127.0.0.0/8, so that ports never meet those of others.
        let block = dir.path().metadata().unwrap().ino();
        let host = |id: u64| format!("127.{}.{}.{id}", 64 + block / 256 % 128, block % 256);
        let nodes = (1..=3).map(|id| {
            let free = || {
                let listener = TcpListener::bind(format!("{}:0", host(id))).unwrap();
                listener.local_addr().unwrap()
            };
            let (api, admin, join) = (free(), free(), free());
            Node { id, api, admin, join, child: None, program: program.clone(), paused: false }
        });
        let nodes: Vec<Node> = nodes.collect();
        let mut cluster = Self { dir, nodes, environment: Vec::new() };
        cluster.configure(&more(cluster.path()));
        (1..=3).for_each(|id| cluster.run_as(id, program));
        cluster.start_all();
        cluster.ready().await;
        cluster
    }

    fn configure(&self, more: &str) {
        let members: String = self
            .nodes
            .iter()
            .map(|n| {
                let region = region(n.id);
                format!(
                    "[[members]]\nid = {}\naddress = \"{}\"\nregion = \"{region}\"\n",
                    n.id, n.api
                )
            })
            .collect();
        for node in &self.nodes {
            let (id, region, dir) = (node.id, region(node.id), self.path());
            let text = format!(
                "[node]\nid = {id}\nregion = \"{region}\"\nmesh = \"demo\"\n\
                 data_dir = {:?}\n[api]\nlisten = \"{}\"\n{members}\
                 [tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[admin]\nlisten = \"{}\"\n",
                self.data_dir(id),
                node.api,
                dir.join("ca.pem"),
                dir.join(format!("control-{id}.pem")),
                dir.join(format!("control-{id}.key")),
                node.admin,
            );
            let authority =
                format!("[ca]\nkey = {:?}\nlisten = \"{}\"\n", dir.join("ca/ca.key"), node.join);
            let text = if id == 1 { text + &authority } else { text };
            let export = format!("[audit]\nexport = {:?}\nrotate = \"1KiB\"\n", self.audit_dir());
            let text = if id == 3 { text + &export } else { text };
            fs::write(self.config(id), text + more).unwrap();
        }
    }

    /// What a node runs from its next start on.
    pub(crate) fn run_as(&mut self, id: u64, program: &Program) {
        const HELD: &str = "feature_level_max = ";
        let text = fs::read_to_string(self.config(id)).unwrap();
        let kept = text.lines().filter(|line| !line.starts_with(HELD));
        let mut text = kept.collect::<Vec<_>>().join("\n");
        if let Some(level) = program.level_max {
            text = text.replacen("[api]", &format!("{HELD}{level}\n[api]"), 1);
        }
        fs::write(self.config(id), text).unwrap();
        self.node(id).program = program.clone();
    }

    /// An empty node that asks the others to let it in, running.
    pub(crate) fn join(&mut self, id: u64, region: &str) {
        self.join_with(id, region, None, &Program::current());
    }

    /// The others reach it at this address.
    pub(crate) fn join_behind(&mut self, id: u64, region: &str, front: Option<&Front>) {
        self.join_with(id, region, front, &Program::current());
    }

    /// Of another version.
    pub(crate) fn join_as(&mut self, id: u64, region: &str, program: &Program) {
        self.join_with(id, region, None, program);
    }

    fn join_with(&mut self, id: u64, region: &str, front: Option<&Front>, program: &Program) {
        let request = pki::Request {
            kind: Kind::Control,
            name: id.to_string(),
            region: region.into(),
            ..<_>::default()
        };
        pki::issue(&self.path().join("ca"), &request, self.path()).unwrap();
        let host = self.nodes.first().unwrap().api.ip();
        let free = || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
        let (api, admin, own) = (free(), free(), free());
        let program = program.clone();
        let node = Node {
            id,
            api,
            admin,
            join: own,
            child: None,
            program: program.clone(),
            paused: false,
        };
        let join: Vec<String> = self.nodes.iter().map(|n| n.api.to_string()).collect();
        let dir = self.path();
        let address = front.map_or(api, |front| front.address);
        front.iter().for_each(|front| front.lead_to(api));
        let text = format!(
            "[node]\nid = {id}\nregion = \"{region}\"\nmesh = \"demo\"\njoin = {join:?}\n\
             address = \"{address}\"\n\
             data_dir = {:?}\n[api]\nlisten = \"{api}\"\n\
             [tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[admin]\nlisten = \"{admin}\"\n",
            self.data_dir(id),
            dir.join("ca.pem"),
            dir.join(format!("control-{id}.pem")),
            dir.join(format!("control-{id}.key")),
        );
        fs::write(self.config(id), text).unwrap();
        self.nodes.push(node);
        self.run_as(id, &program);
        self.spawn(id);
    }

    /// Starts a node that does not start: what it says.
    pub(crate) fn refused(&mut self, id: u64) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_control-plane"))
            .arg("--config")
            .arg(self.config(id))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    /// This node as the only member, running; the others are gone for good.
    pub(crate) fn go_on_alone(&mut self, id: u64) {
        let text = fs::read_to_string(self.config(id)).unwrap();
        let (before, rest) = text.split_once("[[members]]").unwrap();
        let (members, after) = rest.split_once("[tls]").unwrap();
        let own = members.split("[[members]]").find(|m| m.contains(&format!("id = {id}\n")));
        let text = format!("{before}[[members]]{}[tls]{after}", own.unwrap());
        fs::write(self.config(id), text).unwrap();
        self.nodes.retain(|node| node.id == id);
        self.spawn(id);
    }

    /// These nodes on other addresses, configured as all the members there are; none runs.
    pub(crate) fn move_away(&mut self, ids: &[u64]) {
        self.nodes.retain(|node| ids.contains(&node.id));
        for node in &mut self.nodes {
            assert!(node.child.is_none(), "stopped before");
            let host = node.api.ip();
            let free = || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
            (node.api, node.admin, node.join) = (free(), free(), free());
        }
        self.configure("");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where node 3 keeps the audit log.
    pub(crate) fn audit_dir(&self) -> PathBuf {
        self.path().join("audit-3")
    }

    pub(crate) fn config(&self, id: u64) -> PathBuf {
        self.path().join(format!("control-{id}.toml"))
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.path().join(format!("data-{id}"))
    }

    /// All that a node said on standard error.
    pub(crate) fn log(&self, id: u64) -> String {
        fs::read_to_string(self.path().join(format!("control-{id}.log"))).unwrap_or_default()
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.child.is_some() && !node.paused)
    }

    pub(crate) fn start_all(&mut self) {
        (1..=3).for_each(|id| self.spawn(id));
    }

    pub(crate) fn spawn(&mut self, id: u64) {
        let log = self.path().join(format!("control-{id}.log"));
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let program = self.node(id).program.path.clone();
        let child = Command::new(program)
            .arg("--config")
            .arg(self.config(id))
            .envs(self.environment.iter().cloned())
            .env("RUST_LOG", "debug,h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tonic=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.node(id).child = Some(child);
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// kill -9
    pub(crate) fn kill(&mut self, id: u64) {
        let mut child = self.node(id).child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP
    pub(crate) fn pause(&mut self, id: u64) {
        self.signal(id, "-STOP");
        self.node(id).paused = true;
    }

    /// SIGCONT
    pub(crate) fn resume(&mut self, id: u64) {
        self.signal(id, "-CONT");
        self.node(id).paused = false;
    }

    fn signal(&mut self, id: u64, signal: &str) {
        let pid = self.node(id).child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill_all(&mut self) {
        let running = self.nodes.iter().filter(|node| node.child.is_some());
        let alive: Vec<u64> = running.map(|node| node.id).collect();
        alive.into_iter().for_each(|id| self.kill(id));
    }

    /// SIGTERM to all; each ends well.
    pub(crate) async fn stop(mut self) {
        for node in self.alive() {
            let pid = node.child.as_ref().unwrap().id().to_string();
            assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        }
        let ids: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
        for id in ids {
            let Some(mut child) = self.node(id).child.take() else { continue };
            let began = Instant::now();
            let status = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break status,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
                assert!(began.elapsed() < PATIENCE, "node {id} does not stop: {}", self.log(id));
            };
            assert!(status.success(), "node {id} ended with {status}: {}", self.log(id));
        }
    }

    pub(crate) fn wipe(&self, id: u64) {
        fs::remove_dir_all(self.data_dir(id)).unwrap();
    }

    /// Each running node has a leader and says it is healthy.
    pub(crate) async fn ready(&self) {
        for node in self.alive() {
            eventually(&format!("node {} is ready:\n{}", node.id, self.log(node.id)), async || {
                http(node.admin, "/healthz").filter(|answer| answer.starts_with("HTTP/1.1 200"))
            })
            .await;
        }
    }

    /// A node other than this one that says it leads.
    pub(crate) async fn leader_but(&self, not: u64) -> Option<u64> {
        for node in self.alive().filter(|node| node.id != not) {
            let mut admin = AdminClient::new(self.channel(node, "anna"));
            if let Ok(status) = admin.status(StatusRequest {}).await
                && status.get_ref().role == "leader"
            {
                return Some(node.id);
            }
        }
        None
    }

    /// Waits until a node has ended by itself: its exit code.
    pub(crate) async fn ended(&mut self, id: u64) -> Option<i32> {
        let began = Instant::now();
        let mut child = self.node(id).child.take().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "node {id} does not end: {}", self.log(id));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The leader, as the nodes see it.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a leader", async || {
            for node in self.alive() {
                let mut admin = AdminClient::new(self.channel(node, "anna"));
                if let Ok(status) = admin.status(StatusRequest {}).await
                    && status.get_ref().role == "leader"
                {
                    return Some(node.id);
                }
            }
            None
        })
        .await
    }

    fn files(&self, name: &str) -> TlsFiles {
        let file = |end: &str| self.path().join(format!("{name}.{end}"));
        TlsFiles { ca: self.path().join("ca.pem"), cert: file("pem"), key: file("key") }
    }

    /// A connection with the certificate of `name`.
    pub(crate) fn channel(&self, node: &Node, name: &str) -> Channel {
        self.channel_by(node.api, name)
    }

    /// To whatever leads to a node.
    pub(crate) fn channel_by(&self, address: SocketAddr, name: &str) -> Channel {
        let credentials = Credentials::load(&self.files(name)).unwrap();
        let endpoint = endpoint(&address.to_string(), CONTROL_DNS_NAME, &credentials).unwrap();
        endpoint.connect_lazy()
    }

    /// A certificate of the authority in `ca`, where those of all nodes are.
    pub(crate) fn issue(&self, ca: &str, kind: Kind, name: &str, region: &str) {
        let (name, region) = (name.to_owned(), region.to_owned());
        let request = pki::Request { kind, name, region, force: true, ..<_>::default() };
        pki::issue(&self.path().join(ca), &request, self.path()).unwrap();
    }

    /// A certificate of another authority, for the same mesh.
    pub(crate) fn issue_foreign(&self) {
        let (dir, name) = (self.path().join("foreign"), String::from("foreign"));
        pki::init("demo", &dir).unwrap();
        let request = pki::Request { kind: Kind::Operator, name, ..<_>::default() };
        let request = pki::Request { region: "eu".into(), ..request };
        pki::issue(&dir, &request, self.path()).unwrap();
    }

    /// Connection flags for meshctl.
    pub(crate) fn connection(&self, name: &str) -> Vec<String> {
        let api: Vec<String> = self.nodes.iter().map(|node| node.api.to_string()).collect();
        let TlsFiles { ca, cert, key } = self.files(name);
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            "--endpoint".into(),
            api.join(","),
            "--ca".into(),
            path(ca),
            "--cert".into(),
            path(cert),
            "--key".into(),
            path(key),
        ]
    }

    /// A write through whichever running node does it, as a patient client would.
    pub(crate) async fn write<A: Clone, T>(
        &self,
        message: A,
        ask: impl AsyncFn(Channel, Request<A>) -> Result<Response<T>, Status>,
    ) -> T {
        eventually("a write is taken", async || {
            for node in self.alive() {
                let channel = self.channel(node, "anna");
                match ask(channel, Request::new(message.clone())).await {
                    Ok(answer) => return Some(answer.into_inner()),
                    Err(status) if status.code() == Code::Unavailable => {}
                    Err(status) => panic!("{status:?}"),
                }
            }
            None
        })
        .await
    }

    /// Of each node, from the kernel.
    pub(crate) fn resident_kib(&self) -> Vec<u64> {
        let resident = |node: &Node| {
            let pid = node.child.as_ref().unwrap().id();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        self.alive().map(resident).collect()
    }
}

/// Where a node is, by its number.
fn region(id: u64) -> &'static str {
    ["ap", "eu", "us"][(id % 3) as usize]
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// The metrics of a node.
pub(crate) fn metrics(node: &Node) -> String {
    http(node.admin, "/metrics").unwrap_or_default()
}

fn http(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
