//! FRR and GoBGP on loopback addresses, without rights: the routers of a POP and its upstreams.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::process::{Process, Recipe, start_in};

/// BGP without rights; FRR dials there, GoBGP listens.
const PORT: u16 = 1790;
const FRR_PORT: u16 = 1791;
/// Where each GoBGP takes commands.
pub const API_PORT: u16 = 50_051;
/// The POP's own AS.
const OWN: u32 = 65_001;

/// Which program is the POP's router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Frr,
    GoBgp,
}

/// Which program announces the POP's own prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcing {
    Frr,
    ExaBgp,
}

/// What an upstream says of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It does not answer.
    Nothing,
    NoRoute,
    /// One that asks to be left (RFC 8326).
    Leaving,
    Route,
}

/// Where announced routes lead.
const NEXT_HOP: &str = "192.0.2.1";
/// 65535:0 as a number.
const GRACEFUL_SHUTDOWN: &str = "4294901760";

/// A router and the neighbors it has: one for each upstream.
pub struct Edge {
    dir: PathBuf,
    router: Option<Process>,
    upstreams: Vec<Process>,
}

/// Of the router (0) and of each upstream, apart from other tests on this machine.
pub fn address(n: u8) -> IpAddr {
    let [.., low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 201, low, n + 1).into()
}

/// Where the router's BMP comes from: the system picks it, for loopback.
pub fn router() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

impl Edge {
    /// Starts them; the router tells `station`.
    pub fn start(dir: &Path, kind: Kind, upstreams: u8, station: SocketAddr) -> Result<Self> {
        let mut edge = Self { dir: dir.join("bgp"), router: None, upstreams: Vec::new() };
        std::fs::create_dir_all(&edge.dir).context("no directory for routers")?;
        for n in 1..=upstreams {
            let neighbor = gobgp_neighbor(address(n), (address(0), OWN), true);
            edge.upstreams.push(edge.gobgp(n, 65_001 + u32::from(n), &neighbor)?);
        }
        let neighbors: Vec<(IpAddr, u32)> =
            (1..=upstreams).map(|n| (address(n), 65_001 + u32::from(n))).collect();
        let router = match kind {
            Kind::Frr => edge.frr(
                &neighbors,
                &format!(
                    " bmp targets pop\n  bmp monitor ipv4 unicast post-policy\n  \
                     bmp connect {} port {} min-retry 100 max-retry 500\n",
                    station.ip(),
                    station.port(),
                ),
            )?,
            Kind::GoBgp => {
                let all = neighbors.iter().map(|to| gobgp_neighbor(address(0), *to, false));
                let bmp = format!(
                    "[[bmp-servers]]\n[bmp-servers.config]\naddress = \"{}\"\nport = {}\n\
                     route-monitoring-policy = \"pre-policy\"\n",
                    station.ip(),
                    station.port()
                );
                edge.gobgp(0, OWN, &(all.collect::<String>() + &bmp))?
            }
        };
        edge.router = Some(router);
        Ok(edge)
    }

    fn gobgp(&self, n: u8, asn: u32, more: &str) -> Result<Process> {
        let (address, name) = (address(n), format!("gobgp-{n}"));
        let global = format!(
            "[global.config]\nas = {asn}\nrouter-id = \"{address}\"\nport = {PORT}\n\
             local-address-list = [\"{address}\"]\n"
        );
        let file = self.dir.join(format!("{name}.toml"));
        std::fs::write(&file, global + more).context("cannot write a router's configuration")?;
        let api = format!("{address}:{API_PORT}");
        let args = ["-f", &file.display().to_string(), "--api-hosts", &api, "--pprof-disable"];
        start_in(&self.dir, &name, "gobgpd", args.map(str::to_owned).into())
    }

    /// One upstream, and a router that announces what `pop-node announce` says, which is started
    /// with `pop_node` and these arguments, and those for the router.
    pub fn announcing(dir: &Path, who: Announcing, pop_node: &Path, args: &str) -> Result<Self> {
        let mut edge = Self { dir: dir.join("bgp"), router: None, upstreams: Vec::new() };
        std::fs::create_dir_all(&edge.dir).context("no directory for routers")?;
        let neighbor = gobgp_neighbor(address(1), (address(0), OWN), true);
        edge.upstreams.push(edge.gobgp(1, OWN + 1, &neighbor)?);
        let pop_node = pop_node.display().to_string();
        match who {
            Announcing::Frr => {
                // GoBGP takes no next hop of loopback.
                let more = format!(
                    " no bgp network import-check\n address-family ipv4 unicast\n  \
                     neighbor {} route-map hop out\n exit-address-family\nexit\n\
                     route-map hop permit 10\n set ip next-hop {NEXT_HOP}\n",
                    address(1)
                );
                edge.router = Some(edge.frr(&[(address(1), OWN + 1)], &more)?);
                let vtysh = format!("vtysh --vty_socket {}", edge.dir.display());
                let mut all: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
                all.extend(["--to", "frr", "--as", &OWN.to_string()].map(str::to_owned));
                all.extend(["--vtysh".to_owned(), vtysh]);
                edge.upstreams.push(start_in(&edge.dir, "announce", &pop_node, all)?);
            }
            Announcing::ExaBgp => {
                let run = format!("{pop_node} {args} --to exabgp --next-hop {NEXT_HOP}");
                edge.router = Some(edge.exabgp(&run)?);
            }
        }
        Ok(edge)
    }

    /// `announce`, which it runs, and the upstream.
    fn exabgp(&self, announce: &str) -> Result<Process> {
        let (own, upstream) = (address(0), address(1));
        let text = format!(
            "process announce {{\n  run {announce};\n  encoder text;\n}}\n\
             neighbor {upstream} {{\n  router-id {own};\n  local-address {own};\n  \
             local-as {OWN};\n  peer-as {};\n  connect {PORT};\n  \
             api {{\n    processes [ announce ];\n  }}\n}}\n",
            OWN + 1
        );
        let file = self.dir.join("exabgp.conf");
        std::fs::write(&file, text).context("cannot write a router's configuration")?;
        // It would become nobody, who cannot read our files.
        let user = "exabgp_daemon_user=root";
        let more = ["exabgp_api_cli=false", "/usr/sbin/exabgp", &file.display().to_string()];
        start_in(&self.dir, "exabgp", user, more.map(str::to_owned).into())
    }

    /// What the upstream has of a prefix.
    pub fn heard(&self, prefix: &str) -> Result<Heard> {
        let output = std::process::Command::new("gobgp")
            .args(["-u", &address(1).to_string(), "-p", &API_PORT.to_string()])
            .args(["global", "rib", "-j"])
            .output()
            .context("gobgp does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(match (output.status.success(), text.contains(prefix)) {
            (false, _) => Heard::Nothing,
            (true, false) => Heard::NoRoute,
            (true, true) if text.contains(GRACEFUL_SHUTDOWN) => Heard::Leaving,
            (true, true) => Heard::Route,
        })
    }

    /// The announcer beside FRR is asked to end.
    pub fn end_announcer(&mut self) -> Result<()> {
        let mut announcer = self.upstreams.pop().context("no announcer")?;
        let ended = announcer.stop(Duration::from_secs(10)).context("it does not end")?;
        ensure!(ended.success(), "{}", announcer.log_tail(3));
        Ok(())
    }

    fn frr(&self, neighbors: &[(IpAddr, u32)], more: &str) -> Result<Process> {
        let own = address(0);
        let neighbor = |(address, asn): &(IpAddr, u32)| {
            format!(
                " neighbor {address} remote-as {asn}\n neighbor {address} disable-connected-check\n \
                 neighbor {address} update-source {own}\n neighbor {address} port {PORT}\n \
                 neighbor {address} timers connect 1\n"
            )
        };
        let text = format!(
            "router bgp {OWN}\n bgp router-id {own}\n no bgp ebgp-requires-policy\n{}{more}",
            neighbors.iter().map(neighbor).collect::<String>(),
        );
        let file = self.dir.join("bgpd.conf");
        std::fs::write(&file, text).context("cannot write a router's configuration")?;
        let at = |name: &str| self.dir.join(name).display().to_string();
        let pairs = [
            ("-f", file.display().to_string()),
            ("-p", FRR_PORT.to_string()),
            ("-l", own.to_string()),
            ("-M", "bmp".to_owned()),
            ("-i", at("bgpd.pid")),
            ("-z", at("zserv.api")),
            ("--vty_socket", self.dir.display().to_string()),
            ("-P", "0".to_owned()),
        ];
        let mut args = vec!["-S".to_owned(), "-n".to_owned()];
        args.extend(pairs.into_iter().flat_map(|(key, value)| [key.to_owned(), value]));
        start_in(&self.dir, "bgpd", "/usr/lib/frr/bgpd", args)
    }

    fn command(&self, upstream: u8, words: &[&str]) -> Result<()> {
        let mut args = vec!["-u".to_owned(), address(upstream + 1).to_string()];
        args.extend(["-p".to_owned(), API_PORT.to_string()]);
        args.extend(words.iter().map(|word| (*word).to_owned()));
        let recipe = Recipe {
            name: "gobgp".into(),
            program: "gobgp".into(),
            args,
            env: Vec::new(),
            log: self.dir.join("gobgp.log"),
        };
        let mut command = Process::start(recipe)?;
        let ended = command.wait(Duration::from_secs(5)).context("gobgp does not end")?;
        ensure!(ended.success(), "gobgp {words:?}: {}", command.log_tail(3));
        Ok(())
    }

    /// The upstream announces a prefix; `path` begins behind its own AS.
    pub fn announce(&self, upstream: u8, prefix: &str, path: &str, more: &[&str]) -> Result<()> {
        let mut words = vec!["global", "rib", "add", prefix, "nexthop", "192.0.2.1"];
        words.extend(["aspath", path]);
        words.extend(more);
        self.command(upstream, &words)
    }

    /// The upstream withdraws it.
    pub fn withdraw(&self, upstream: u8, prefix: &str) -> Result<()> {
        self.command(upstream, &["global", "rib", "del", prefix])
    }

    /// The upstream's router dies.
    pub fn kill_upstream(&mut self, upstream: u8) {
        self.upstreams.get_mut(usize::from(upstream)).into_iter().for_each(Process::kill);
    }

    /// The POP's router dies.
    pub fn kill_router(&mut self) {
        self.router = None;
    }
}

fn gobgp_neighbor(own: IpAddr, (address, asn): (IpAddr, u32), passive: bool) -> String {
    format!(
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
         [neighbors.timers.config]\nconnect-retry = 1\n\
         [neighbors.transport.config]\nlocal-address = \"{own}\"\npassive-mode = {passive}\n\
         remote-port = {PORT}\n"
    )
}
