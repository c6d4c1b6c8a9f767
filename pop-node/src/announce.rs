//! `pop-node announce`: has routers announce the POP's own prefixes by how the POP is.
//!
//! A process of its own, for it must outlive the POP: what it watches is the POP's `/standing`. It speaks
//! to ExaBGP, whose process it is, by standard output, or to FRR by `vtysh`.
//! Deliberately absent: BGP of our own.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pop_core::bgp::{Announcement, Announcer, Prefix, Standing};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock::Clock;

/// Between two looks at the POP, which has so long to answer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// FRR may have begun anew and lost what it was told: it is told again after so long.
const TOLD_AGAIN: Duration = Duration::from_secs(30);
/// So often it is told to withdraw at the end.
const LAST_TRIES: u32 = 3;
/// For vtysh to do what it is told.
const VTYSH: Duration = Duration::from_secs(10);
/// FRR's route map, which we define, for routes that go away.
const LEAVING: &str = "voxmesh-leaving";
/// What it says when it is to withdraw what is not announced: then there is nothing to do.
const NOT_THERE: &str = "Can't find static route";
/// And about a file of its own that it does not need.
const NO_FILE: &str = "Can't open configuration file";

/// Whom to tell.
#[derive(Debug, Clone)]
pub enum Router {
    /// The ExaBGP that started this process; the next hop, if it is not the ExaBGP itself.
    ExaBgp(Option<IpAddr>),
    /// FRR, by this command.
    Frr {
        /// Its AS.
        asn: u32,
        /// The program and its first arguments.
        vtysh: Vec<String>,
    },
}

/// What to announce, for whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The POP's admin address.
    pub admin: SocketAddr,
    /// Its own prefixes.
    pub prefixes: Vec<Prefix>,
    /// Who announces them.
    pub router: Router,
}

#[derive(Deserialize)]
struct Page {
    standing: String,
    calls: u64,
}

/// Runs until a signal; then the routes are withdrawn. Ends, too, when ExaBGP does.
pub async fn run(options: Options) -> Result<()> {
    ensure!(!options.prefixes.is_empty(), "no --prefix to announce");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (clock, mut announcer) = (Clock::start(), Announcer::default());
    let mut ended = match &options.router {
        Router::ExaBgp(_) => Some(input_ended()),
        Router::Frr { .. } => None,
    };
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What the router did last, and when it is told again in any case.
    let (mut done, mut again) = (None, clock.now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = when(&mut ended) => {
                tracing::info!("ExaBGP has ended, and with it what it announced");
                return Ok(());
            }
        }
        let said = match timeout(LOOK_EVERY, standing(options.admin)).await {
            Ok(Ok(said)) => Some(said),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the POP does not answer");
                None
            }
            Err(_) => None,
        };
        let Some(wanted) = announcer.look(said, clock.now()) else { continue };
        if done != Some(wanted) {
            tracing::info!(?wanted, ?said, "the POP's prefixes");
        } else if clock.now() < again || matches!(options.router, Router::ExaBgp(_)) {
            continue;
        }
        again = clock.now() + TOLD_AGAIN;
        done = tell(&options, wanted).await?.then_some(wanted);
    }
    tracing::info!("asked to end: the POP's prefixes are withdrawn");
    for _ in 0..LAST_TRIES {
        if tell(&options, Announcement::Withdrawn).await? {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("the POP's prefixes could not be withdrawn: see above")
}

/// ExaBGP answers on our standard input, which ends with it: nothing that it says is needed.
fn input_ended() -> oneshot::Receiver<()> {
    let (ended, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut answers = [0; 4_096];
        while matches!(std::io::stdin().read(&mut answers), Ok(1..)) {}
        // Nobody waits any more: fine.
        _ = ended.send(());
    });
    told
}

async fn when(ended: &mut Option<oneshot::Receiver<()>>) {
    match ended {
        Some(ended) => _ = ended.await,
        None => std::future::pending().await,
    }
}

/// What the POP says of itself.
async fn standing(admin: SocketAddr) -> Result<(Standing, u64)> {
    let socket = TcpStream::connect(admin).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::get("/standing").header(HOST, admin.to_string()).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status() == StatusCode::OK, "http://{admin}/standing: {}", answer.status());
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("http://{admin}/standing: {error}"))?;
    let page: Page = serde_json::from_slice(&body.to_bytes())?;
    let known = Standing::ALL.iter().find(|standing| standing.name() == page.standing);
    let known = known.with_context(|| format!("unknown standing {:?}", page.standing))?;
    Ok((*known, page.calls))
}

/// False if the router did not do it: it is told again. An error if it never will be.
async fn tell(options: &Options, wanted: Announcement) -> Result<bool> {
    match &options.router {
        Router::ExaBgp(next_hop) => {
            let text = exabgp(&options.prefixes, *next_hop, wanted);
            let mut out = std::io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            written.context("ExaBGP does not listen any more")?;
            Ok(true)
        }
        Router::Frr { asn, vtysh } => {
            // Each by itself: vtysh leaves the rest when one fails.
            let mut all = true;
            for prefix in &options.prefixes {
                if let Err(error) = run_vtysh(vtysh, &frr(prefix, *asn, wanted)).await {
                    tracing::warn!(%prefix, "FRR was not told, again in a second: {error:#}");
                    all = false;
                }
            }
            Ok(all)
        }
    }
}

/// Commands of ExaBGP's API, one in each line.
fn exabgp(prefixes: &[Prefix], next_hop: Option<IpAddr>, wanted: Announcement) -> String {
    let hop = next_hop.map_or("self".to_owned(), |hop| hop.to_string());
    let line = |prefix: &Prefix| match wanted {
        Announcement::Announced => format!("announce route {prefix} next-hop {hop}\n"),
        Announcement::Leaving => {
            format!("announce route {prefix} next-hop {hop} community [65535:0]\n")
        }
        Announcement::Withdrawn => format!("withdraw route {prefix} next-hop {hop}\n"),
    };
    prefixes.iter().map(line).collect()
}

/// Commands of FRR's configuration mode for one prefix.
fn frr(prefix: &Prefix, asn: u32, wanted: Announcement) -> Vec<String> {
    let mut commands = vec!["configure terminal".to_owned()];
    if wanted == Announcement::Leaving {
        commands.push(format!("route-map {LEAVING} permit 10"));
        commands.push("set community 65535:0 additive".to_owned());
        commands.push("exit".to_owned());
    }
    let family = if prefix.is_ipv6() { "ipv6" } else { "ipv4" };
    commands.push(format!("router bgp {asn}"));
    commands.push(format!("address-family {family} unicast"));
    commands.push(match wanted {
        Announcement::Announced => format!("network {prefix}"),
        Announcement::Leaving => format!("network {prefix} route-map {LEAVING}"),
        Announcement::Withdrawn => format!("no network {prefix}"),
    });
    commands
}

async fn run_vtysh(vtysh: &[String], commands: &[String]) -> Result<()> {
    let (program, first) = vtysh.split_first().context("no program")?;
    let mut command = tokio::process::Command::new(program);
    command.args(first).kill_on_drop(true).stdin(std::process::Stdio::null());
    commands.iter().for_each(|text| _ = command.args(["-c", text]));
    let output = timeout(VTYSH, command.output()).await.context("vtysh does not end")?;
    let output = output.with_context(|| format!("{program} does not start"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // It says what it does not take, also with success: "% Unknown command…".
    let is_complaint = |line: &&str| line.starts_with('%') && !line.contains(NO_FILE);
    match said.lines().find(is_complaint) {
        Some(line) if line.contains(NOT_THERE) => Ok(()),
        Some(line) => bail!("vtysh says: {line}"),
        None if !output.status.success() => {
            bail!("vtysh: {}: {}", output.status, said.lines().next().unwrap_or("no word"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes() -> Vec<Prefix> {
        ["192.0.2.0/24", "2001:db8::/48"].map(|text| text.parse().unwrap()).to_vec()
    }

    #[test]
    fn exabgp_is_told_in_its_words() {
        let told = |wanted| exabgp(&prefixes(), None, wanted);
        assert_eq!(
            told(Announcement::Leaving),
            "announce route 192.0.2.0/24 next-hop self community [65535:0]\n\
             announce route 2001:db8::/48 next-hop self community [65535:0]\n"
        );
        assert!(told(Announcement::Announced).ends_with("2001:db8::/48 next-hop self\n"));
        assert!(told(Announcement::Withdrawn).starts_with("withdraw route 192.0.2.0/24 "));
        let elsewhere = exabgp(&prefixes(), "192.0.2.1".parse().ok(), Announcement::Announced);
        assert!(elsewhere.starts_with("announce route 192.0.2.0/24 next-hop 192.0.2.1\n"));
    }

    #[test]
    fn frr_is_told_in_its_words() {
        let [ipv4, ipv6] = prefixes().try_into().unwrap();
        assert_eq!(
            frr(&ipv4, 65_001, Announcement::Leaving).join("\n"),
            "configure terminal\nroute-map voxmesh-leaving permit 10\n\
             set community 65535:0 additive\nexit\nrouter bgp 65001\n\
             address-family ipv4 unicast\nnetwork 192.0.2.0/24 route-map voxmesh-leaving"
        );
        let withdrawn = frr(&ipv6, 65_001, Announcement::Withdrawn).join("\n");
        assert!(withdrawn.ends_with("address-family ipv6 unicast\nno network 2001:db8::/48"));
    }
}
