//! Sites with a WAN between them, for everything that speaks IPv4: a network namespace for each
//! site, a TUN device in it, and one thread that carries packets from one to another through their
//! [`Link`]. What the links do can be changed at any time.
//!
//! A site has two addresses: `far`, for the other sites, over the WAN; `near`, for us and others in
//! the first namespace, over a veth pair without delay. Needs root and `ip` (iproute2).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use proto::time::{Duration, Instant};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::{Counters, Link, Profile};
use crate::rng::Rng;

/// Networks on one machine.
const SLOTS: u8 = 60;
/// Sites of a network.
const SITES_MAX: usize = 100;
/// Whoever holds this UDP port on 127.1.SLOT.254 owns the addresses 10.(64 + SLOT).0.0/16.
const CLAIM_PORT: u16 = 4432;
/// The third octet of far addresses.
const FAR: u8 = 200;
/// Packets taken from one device before the others get their turn.
const BATCH_PACKETS: usize = 256;
const PACKET_BYTES: usize = 65_536;
const WAKE: Token = Token(usize::MAX);

/// One site.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its network namespace: `ip netns exec NAME …` runs something there.
    pub namespace: String,
    /// Where we reach it, without delay.
    pub near: IpAddr,
    /// Where other sites reach it.
    pub far: IpAddr,
    /// Our own address beside it.
    pub gateway: IpAddr,
    veth: String,
}

/// The sites and what lies between them; gone when dropped.
#[derive(Debug)]
pub struct Net {
    sites: Vec<Site>,
    shared: Arc<Mutex<State>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    _claim: UdpSocket,
}

#[derive(Debug)]
struct State {
    /// By (from, to).
    links: BTreeMap<(usize, usize), Link<Vec<u8>>>,
    stop: bool,
}

impl Net {
    /// Makes so many sites; every way begins with `profile`.
    pub fn start(sites: usize, profile: Profile, seed: u64) -> Result<Self> {
        if sites > SITES_MAX {
            bail!("a network holds at most {SITES_MAX} sites");
        }
        let (slot, claim) = claim()?;
        let poll = Poll::new().context("no epoll instance for the WAN")?;
        let waker = Waker::new(poll.registry(), WAKE).context("no waker for the WAN")?;
        let ways = (0..sites).flat_map(|from| (0..sites).map(move |to| (from, to)));
        let links = ways.filter(|(from, to)| from != to).map(|way| {
            let seed = Rng::split(seed, &format!("{way:?}")).next_u64();
            (way, Link::new(profile, seed))
        });
        let state = State { links: links.collect(), stop: false };
        let shared = Arc::new(Mutex::new(state));
        let mut net = Self {
            sites: (0..sites).map(|index| Site::new(slot, index)).collect(),
            shared: Arc::clone(&shared),
            waker,
            thread: None,
            _claim: claim,
        };
        // Should one of the steps fail, dropping `net` takes back those before.
        let devices = net.sites.iter().map(|site| site.make()).collect::<Result<Vec<_>>>()?;
        for (index, device) in devices.iter().enumerate() {
            poll.registry()
                .register(&mut SourceFd(&device.as_raw_fd()), Token(index), Interest::READABLE)
                .context("a TUN device cannot be watched")?;
        }
        let origin = std::time::Instant::now();
        let mut shell = Shell { poll, devices, shared, origin, buffer: vec![0; PACKET_BYTES] };
        let thread = std::thread::Builder::new().name("net".into()).spawn(move || shell.run());
        net.thread = Some(thread.context("no thread for the WAN")?);
        Ok(net)
    }

    /// The sites, in order.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Changes one direction.
    pub fn set(&self, from: usize, to: usize, profile: Profile) {
        if let Some(link) = lock(&self.shared).links.get_mut(&(from, to)) {
            link.set_profile(profile);
        }
    }

    /// Changes all directions from and to a site; [`Profile::cut`] makes it an island.
    pub fn set_site(&self, site: usize, profile: Profile) {
        for other in (0..self.sites.len()).filter(|other| *other != site) {
            self.set(site, other, profile);
            self.set(other, site, profile);
        }
    }

    /// Takes a site's link to us down, or up again; packets just vanish.
    pub fn set_near(&self, site: usize, up: bool) -> Result<()> {
        let site = self.sites.get(site).context("no such site")?;
        let state = if up { "up" } else { "down" };
        ip(&["-n", &site.namespace, "link", "set", "near", state])
    }

    /// What one direction did so far.
    pub fn counters(&self, from: usize, to: usize) -> Counters {
        lock(&self.shared).links.get(&(from, to)).map(Link::counters).unwrap_or_default()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        let _woken = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        for site in &self.sites {
            site.remove();
        }
    }
}

impl Site {
    fn new(slot: u8, index: usize) -> Self {
        let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let ip = |third, last| IpAddr::V4(Ipv4Addr::new(10, 64 + slot, third, last));
        Self {
            namespace: format!("vox{slot}-{number}"),
            near: ip(number, 2),
            gateway: ip(number, 1),
            far: ip(FAR, number),
            veth: format!("voxv{slot}-{number}"),
        }
    }

    /// Namespace, veth pair, and the TUN device: made here, then moved in; we keep its file.
    fn make(&self) -> Result<SyncDevice> {
        // What a run that was killed left behind.
        self.remove();
        let name = self.namespace.as_str();
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        let veth = self.veth.as_str();
        ip(&["link", "add", veth, "type", "veth", "peer", "name", "near", "netns", name])?;
        ip(&["addr", "add", &format!("{}/24", self.gateway), "dev", veth])?;
        ip(&["link", "set", veth, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{}/24", self.near), "dev", "near"])?;
        ip(&["-n", name, "link", "set", "near", "up"])?;
        let tun = format!("{}t", self.namespace);
        let device = DeviceBuilder::new().name(&tun).layer(Layer::L3).inherit_enable_state();
        let device = device.build_sync().context("no TUN device (/dev/net/tun)")?;
        device.set_nonblocking(true)?;
        ip(&["link", "set", &tun, "netns", name])?;
        ip(&["-n", name, "addr", "add", &format!("{}/24", self.far), "dev", &tun])?;
        ip(&["-n", name, "link", "set", &tun, "mtu", "1500", "up"])?;
        Ok(device)
    }

    fn remove(&self) {
        // Fails when there is nothing to remove.
        let _gone = ip(&["netns", "delete", &self.namespace]);
        let _gone = ip(&["link", "delete", &self.veth]);
    }
}

struct Shell {
    poll: Poll,
    devices: Vec<SyncDevice>,
    shared: Arc<Mutex<State>>,
    origin: std::time::Instant,
    buffer: Vec<u8>,
}

impl Shell {
    fn now(&self) -> Instant {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos)
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        let mut ready: Vec<usize> = Vec::new();
        loop {
            let timeout = if ready.is_empty() { self.timeout() } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    tracing::error!(error = %e, "the WAN stopped");
                    return;
                }
            }
            if lock(&self.shared).stop {
                return;
            }
            ready.extend(events.iter().map(|e| e.token().0).filter(|site| *site != WAKE.0));
            ready.sort_unstable();
            ready.dedup();
            // Edge-triggered: a device stays ready until a read would block.
            ready.retain(|site| self.receive(*site));
            self.deliver();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let due = lock(&self.shared).links.values().filter_map(Link::poll_timeout).min()?;
        Some(due - self.now())
    }

    /// Takes a batch from one device; true when there may be more.
    fn receive(&mut self, from: usize) -> bool {
        let now = self.now();
        let Some(device) = self.devices.get(from) else { return false };
        let mut state = lock(&self.shared);
        for _ in 0..BATCH_PACKETS {
            match device.recv(&mut self.buffer) {
                Ok(len) => {
                    let packet = self.buffer.get(..len).unwrap_or_default();
                    let Some(to) = destination(packet) else { continue };
                    if let Some(link) = state.links.get_mut(&(from, to)) {
                        // A drop is counted by the link.
                        let _dropped = link.handle_sized(packet.to_vec(), len as u64, now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // The device is down, or gone.
                Err(_) => return false,
            }
        }
        true
    }

    fn deliver(&self) {
        let now = self.now();
        for ((_, to), link) in &mut lock(&self.shared).links {
            let Some(device) = self.devices.get(*to) else { continue };
            while let Some(packet) = link.poll_deliver(now) {
                // What the kernel refuses is lost, as on any way.
                let _sent = device.send(&packet);
            }
        }
    }
}

/// The site an IPv4 packet goes to, by the last octet of its far address.
fn destination(packet: &[u8]) -> Option<usize> {
    let [version, ..] = packet else { return None };
    let [_, _, third, last] = packet.get(16..20)? else { return None };
    if version >> 4 != 4 || *third != FAR {
        return None;
    }
    usize::from(*last).checked_sub(1)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A free part of the address space; ours while the socket lives.
fn claim() -> Result<(u8, UdpSocket)> {
    let claimed = (0..SLOTS).find_map(|slot| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 1, slot, 254), CLAIM_PORT)).ok()?;
        Some((slot, socket))
    });
    claimed.with_context(|| format!("{SLOTS} networks run on this machine already; stop one"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (iproute2) is missing")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("ip {} (as root?): {}", arguments.join(" "), said.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Namespaces need root, which those who run the tests may not have.
    fn net(profile: Profile) -> Option<Net> {
        match Net::start(2, profile, 1) {
            Ok(net) => Some(net),
            Err(why) if !rustix::process::geteuid().is_root() => {
                println!("not tested without root: {why:#}");
                None
            }
            Err(why) => panic!("{why:#}"),
        }
    }

    #[test]
    fn packets_go_to_the_site_of_their_address() {
        let mut packet = [0u8; 20];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 64, FAR, 3]);
        assert_eq!(destination(&packet), Some(2));
        packet[18] = 7;
        assert_eq!(destination(&packet), None);
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn sites_hear_each_other_late_and_an_island_not_at_all() {
        let Some(net) = net(Profile::delayed(Duration::from_millis(30))) else { return };
        // A port nobody listens on: the far kernel refuses, one round trip later.
        let refused = || {
            let far = net.sites()[1].far;
            let dial = format!("exec 3<>/dev/tcp/{far}/9");
            let dial =
                ["netns", "exec", &net.sites()[0].namespace, "timeout", "1", "bash", "-c", &dial];
            let begun = std::time::Instant::now();
            let output = Command::new("ip").args(dial).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (said.contains("refused"), begun.elapsed())
        };
        let (heard, after) = refused();
        assert!(heard && after >= Duration::from_millis(60), "{heard} {after:?}");
        assert!(net.counters(0, 1).delivered >= 1 && net.counters(1, 0).delivered >= 1);
        net.set_site(1, Profile::cut());
        assert!(!refused().0);
        net.set_site(1, Profile::default());
        assert!(refused().0);
    }
}
