//! Holds the mesh of a lab, and does what it is told on its socket.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::file::Lab;
use super::order::{Answer, Order, Quality, end};
use super::{Up, show};
use crate::drill::fault::{Fault, Target, Verb};
use crate::drill::{self, Hands};
use crate::lab::routers::{self, Edge};
use crate::lab::{self, BMP_PORT, Mesh, Routers};
use crate::screen::Screen;

/// Between looks at the processes.
const LOOK: Duration = Duration::from_secs(1);
/// Nodes may take so long to end.
const GRACE: Duration = Duration::from_secs(10);
/// Who has connected says what it wants within this.
const SPEAK: Duration = Duration::from_secs(5);
const ORDER_BYTES_MAX: u64 = 64 << 10;
/// What covers the addresses of all POPs.
const ALL: &str = "127.0.0.0/8";

/// The mesh and what it takes to change it.
struct Host {
    lab: Lab,
    // Dropped in this order: routers go before the directory of the mesh.
    edge: Option<Edge>,
    mesh: Mesh,
    hands: Hands,
    crashed: BTreeSet<String>,
}

/// `chaos lab up`: until it is told to end.
pub(super) async fn run(up: &Up, path: &Path, screen: &mut Screen) -> Result<()> {
    let lab = read(&up.what)?;
    let socket = Socket::bind(path).await?;
    let mut host = Host::start(lab, up).await?;
    show::words(&host.mesh, &host.hands).iter().for_each(|line| screen.line(line));
    host.hints(path).iter().for_each(|line| screen.line(line));
    loop {
        tokio::select! {
            connected = socket.listener.accept() => {
                let (stream, _) = connected.context("the lab's socket broke")?;
                // Whoever asks badly, or leaves, is no reason to end.
                if host.attend(stream).await.unwrap_or(false) {
                    screen.line("The lab is down; nothing is left.");
                    return Ok(());
                }
            }
            () = tokio::time::sleep(LOOK) => host.look(screen),
        }
    }
}

/// A file of a lab, else the mesh of a drill.
fn read(what: &str) -> Result<Lab> {
    if Path::new(what).is_file() {
        let text =
            std::fs::read_to_string(what).with_context(|| format!("{what} cannot be read"))?;
        return Lab::parse(&text).with_context(|| format!("the lab {what} cannot be built"));
    }
    let drill = drill::find(what).with_context(|| format!("{what} is no file of a lab either"))?;
    Ok(Lab::of(drill))
}

impl Host {
    async fn start(lab: Lab, up: &Up) -> Result<Self> {
        let settings = drill::Settings {
            seed: up.seed,
            repeat: 1,
            keep_dir: up.keep_dir.clone(),
            bin_dir: up.bin_dir.clone().map_or_else(lab::bin_dir, Ok)?,
        };
        let mut topology = drill::topology(&lab.mesh, &settings, up.seed, up.keep_dir.clone());
        topology.mesh = "lab".into();
        let upstreams = lab.mesh.upstreams;
        topology.bgp = lab.bgp.as_ref().map(|bgp| Routers {
            pop: bgp.pop.clone(),
            routers: vec![routers::router()],
            upstreams: (1..=upstreams).map(|n| vec![routers::address(n)]).collect(),
            rpki_caches: Vec::new(),
        });
        let mut mesh = Mesh::start(&topology).await?;
        drill::provision(&mesh).await?;
        let hands = Hands::new(&topology);
        let edge = match &lab.bgp {
            Some(bgp) => {
                let station = (mesh.site(&bgp.pop)?.sip.ip(), BMP_PORT).into();
                let edge = Edge::start(mesh.dir(), bgp.router, upstreams, station)?;
                // Each neighbor has a route to all POPs, of an AS of its own.
                for n in 0..upstreams {
                    announce(&edge, n).await?;
                }
                Some(edge)
            }
            None => None,
        };
        mesh.check()?;
        let host = Self { lab, edge, mesh, hands, crashed: BTreeSet::new() };
        for way in &host.lab.links {
            let [(a, a_number), (b, b_number)] = &way.between;
            let ends = host.hands.ways(&host.mesh, (a, *a_number), Some((b, *b_number)));
            host.set(ends, &way.quality, false)?;
        }
        Ok(host)
    }

    /// What can be done with it, for who sees it for the first time.
    fn hints(&self, path: &Path) -> Vec<String> {
        let dir = self.mesh.dir().display();
        let bin = self.mesh.bin_dir().display();
        let mut lines = vec![
            String::new(),
            format!("meshctl:  {bin}/meshctl --config {dir}/operator.toml status"),
            format!("logs:     {dir}/log"),
        ];
        for (position, site) in self.mesh.sites().iter().enumerate() {
            lines.push(format!(
                "numbers:  +4930{position}0000000 and up ring at {}:5060, the carrier beside {}",
                site.carrier, site.id
            ));
        }
        if self.edge.is_some() {
            lines.push(format!(
                "BGP:      gobgp -u {} -p {} global rib del {ALL}   (upstream 0 withdraws)",
                routers::address(1),
                routers::API_PORT
            ));
        }
        let socket = path.display();
        lines.push(format!(
            "change:   chaos lab link|do|show|down (--socket {socket}), or Ctrl-C to end"
        ));
        lines
    }

    /// True if this was the last thing to do.
    async fn attend(&mut self, stream: UnixStream) -> Result<bool> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(read.take(ORDER_BYTES_MAX));
        tokio::time::timeout(SPEAK, reader.read_line(&mut line)).await??;
        let order = serde_json::from_str::<Order>(&line);
        let last = matches!(order, Ok(Order::Down));
        let answer = match order {
            Ok(order) => self.carry_out(order).await,
            Err(why) => Err(why).context("that is no order of this version"),
        };
        let answer = answer
            .unwrap_or_else(|why| Answer { error: Some(format!("{why:#}")), ..Answer::default() });
        let text = format!("{}\n", serde_json::to_string(&answer)?);
        // The lab ends whether or not somebody still listens.
        let _gone = tokio::time::timeout(SPEAK, write.write_all(text.as_bytes())).await;
        Ok(last)
    }

    async fn carry_out(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Show => Ok(Answer {
                lines: show::words(&self.mesh, &self.hands),
                facts: show::facts(&self.mesh, &self.hands),
                ..Answer::default()
            }),
            Order::Link { from, to, one_way, quality } => {
                ensure!(
                    quality != Quality::default(),
                    "say what changes: --delay, --loss, --cut, …"
                );
                let from = end(&from, &self.lab.mesh)?;
                let to = (to != "all").then(|| end(&to, &self.lab.mesh)).transpose()?;
                let to = to.as_ref().map(|(pop, number)| (pop.as_str(), *number));
                let ends = self.hands.ways(&self.mesh, (&from.0, from.1), to);
                ensure!(!ends.is_empty(), "there is no way from {} to itself", from.0);
                let lines = self.set(ends, &quality, one_way)?;
                Ok(Answer { lines, ..Answer::default() })
            }
            Order::Do { verb, what, undo } => self.perform(&verb, &what, undo).await,
            Order::Down => {
                self.edge = None;
                self.mesh.stop_all(GRACE);
                Ok(Answer { lines: vec!["The lab is down.".into()], ..Answer::default() })
            }
        }
    }

    fn set(
        &self,
        ends: Vec<(String, String)>,
        quality: &Quality,
        one_way: bool,
    ) -> Result<Vec<String>> {
        let wan = self.mesh.wan().context("no WAN")?;
        let mut lines = Vec::new();
        for (a, b) in ends {
            let back = (!one_way).then(|| (b.clone(), a.clone()));
            for (from, to) in [Some((a, b)), back].into_iter().flatten() {
                wan.set(&from, &to, quality.change(wan.profile(&from, &to))?);
                lines.push(format!("{from} > {to} changed"));
            }
        }
        Ok(lines)
    }

    async fn perform(&mut self, verb: &str, what: &str, undo: bool) -> Result<Answer> {
        let verb = Verb::parse(verb)?;
        let target = Target::parse(what, &self.lab.mesh)?;
        // A pause that is undone by hand needs no end of its own.
        let lasts = (verb == Verb::Pause).then_some(Duration::ZERO);
        let fault = Fault { at: Duration::ZERO, verb, target, lasts };
        fault.check(&self.lab.mesh)?;
        let led = self.hands.leader_region(&self.mesh).await;
        let nodes = self.hands.nodes(&self.mesh, &fault.target, led.as_deref()).await;
        match (verb, undo) {
            (Verb::Drain, _) => {
                for node in &nodes {
                    let word = if undo { "uncordon" } else { "drain" };
                    self.mesh.meshctl(&["pop", word, &node.to_string()]).await?;
                }
            }
            (Verb::Restart, true) => bail!("a restart cannot be taken back"),
            (Verb::Restart, false) => drill::restart(&mut self.mesh, &nodes).await?,
            _ => self.hands.strike(&mut self.mesh, (verb, &fault.target), &nodes, undo)?,
        }
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() { what.to_owned() } else { names.join(", ") };
        let done = if undo { "taken back" } else { "done" };
        Ok(Answer { lines: vec![format!("{verb} {names}: {done}")], ..Answer::default() })
    }

    /// Says once of each process that ended by itself.
    fn look(&mut self, screen: &mut Screen) {
        if let Err(why) = self.mesh.check() {
            let head = format!("{why:#}").lines().next().unwrap_or_default().to_owned();
            if self.crashed.insert(head.clone()) {
                screen.line(&head);
            }
        }
    }
}

/// A router just started takes a moment to hear commands.
async fn announce(edge: &Edge, upstream: u8) -> Result<()> {
    let path = format!("64500 {}", 64_998 + u32::from(upstream));
    let mut tries = 0;
    while let Err(why) = edge.announce(upstream, ALL, &path, &[]) {
        tries += 1;
        if tries > 50 {
            return Err(why.context("a router does not answer (packages frr and gobgpd)"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The lab's socket; its file goes with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    async fn bind(path: &Path) -> Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            bail!(
                "a lab is up already at {}: chaos lab down ends it, --socket names another place",
                path.display()
            );
        }
        // What a lab that was killed left behind; nothing else.
        if std::fs::symlink_metadata(path).is_ok_and(|file| is_socket(&file)) {
            let _gone = std::fs::remove_file(path);
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen at {} (--socket)", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

fn is_socket(file: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    file.file_type().is_socket()
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
