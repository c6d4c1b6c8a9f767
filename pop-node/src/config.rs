//! The TOML file: bootstrap facts only (identity, addresses, certificates, control endpoints).
//!
//! Parsed once into types that cannot be wrong; every refusal is one sentence that names the
//! field and the fix. Everything else is replicated state. No flags are merged over it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use pop_core::sip::Transport;
use proto::id::PopId;
use serde::Deserialize;

/// One RTP and one RTCP port.
const PORTS_PER_LEG: u32 = 2;
/// Legs a call may have at one POP.
const LEGS_PER_CALL: u32 = 2;

/// Why a configuration was refused: one sentence that names the field and the fix.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself.
    #[error("cannot read {path}: {source}; give an existing, readable file with --config")]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// From the system.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, a wrong type.
    #[error("{path} line {line}: {message}; see deploy/pop-node.toml for every key")]
    Toml {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From the TOML reader, on one line.
        message: String,
    },
    /// A value that cannot be.
    #[error("[{table}] {key} {problem}; {fix}")]
    Value {
        /// TOML table.
        table: &'static str,
        /// Key in it.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        fix: &'static str,
    },
}

/// One SIP socket of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SipListen {
    /// UDP or TCP.
    pub transport: Transport,
    /// Where; carriers see it in Via and Contact.
    pub address: SocketAddr,
}

impl fmt::Display for SipListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.as_param(), self.address)
    }
}

/// When a peer counts as gone, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// `[sip] session_expires`: the session timer we ask for and grant at most (RFC 4028).
    pub session_expires: u32,
    /// `[sip] min_session_expires`: shorter ones get 422.
    pub min_session_expires: u32,
    /// `[sip] probe_interval`: between questions to peers without session timers.
    pub probe_interval: u32,
}

/// Certificate files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The mesh's certificate authority.
    pub ca: PathBuf,
    /// Our certificate, its chain after it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The whole file, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[pop] id`
    pub id: PopId,
    /// `[pop] region`
    pub region: String,
    /// `[pop] mesh`
    pub mesh: String,
    /// `[pop] data_dir`: view copy and CDRs.
    pub data_dir: PathBuf,
    /// `[sip] listen`
    pub sip: Vec<SipListen>,
    /// `[sip]`: how dead peers are found.
    pub liveness: Liveness,
    /// `[media] address`
    pub media_address: IpAddr,
    /// `[media] ports`, first even, last odd; or from `[media] shared_port` a pair for each thread.
    pub media_ports: RangeInclusive<u16>,
    /// `[media] opus_complexity`, 0 to 10; `None`: by load.
    pub opus_complexity: Option<u8>,
    /// `[media] shared_port` is given: all legs use it.
    pub media_shared: bool,
    /// `[media] threads`; by default as many as leave half of the cores to all the rest.
    pub media_threads: u8,
    /// `[media] threads` is given: each stays on a core of its own.
    pub media_pinned: bool,
    /// `[media] dscp`
    pub media_dscp: u8,
    /// `[overlay] listen`
    /// One for each upstream.
    pub overlay_listen: Vec<SocketAddr>,
    /// `[overlay] advertise`: what other POPs dial, for each upstream.
    pub overlay_advertise: Vec<String>,
    /// `[control] endpoints`, in the order they are tried.
    pub control: Vec<String>,
    /// `[tls]`
    pub tls: TlsFiles,
    /// `[admin] listen`
    pub admin: SocketAddr,
    /// `[bgp]`: what routers tell of the upstreams.
    pub bgp: Option<crate::bgp::Settings>,
    /// `[limits] max_calls`
    pub max_calls: u32,
    /// `[limits] takeover_rate`: peers of a lost POP called over, for each trunk and second.
    pub takeover_rate: u32,
    /// `[limits] max_tcp_connections`
    pub max_tcp_connections: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pop: Pop,
    sip: Sip,
    media: Media,
    overlay: Overlay,
    control: Control,
    tls: Tls,
    admin: Admin,
    bgp: Option<crate::bgp::BgpFile>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pop {
    id: String,
    region: String,
    mesh: String,
    data_dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sip {
    listen: Vec<String>,
    #[serde(default = "session_expires")]
    session_expires: u32,
    #[serde(default = "min_session_expires")]
    min_session_expires: u32,
    #[serde(default = "probe_interval")]
    probe_interval: u32,
}

/// As RFC 4028 §4 recommends.
const fn session_expires() -> u32 {
    1_800
}

/// The least that RFC 4028 §5 allows.
const fn min_session_expires() -> u32 {
    90
}

const fn probe_interval() -> u32 {
    180
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Media {
    address: String,
    opus_complexity: Option<u8>,
    ports: Option<String>,
    shared_port: Option<u16>,
    threads: Option<u8>,
    #[serde(default = "dscp")]
    dscp: u8,
}

/// Expedited forwarding, as RFC 4594 §4.1 wants for voice.
const fn dscp() -> u8 {
    46
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Overlay {
    listen: OneOrMore,
    advertise: Option<OneOrMore>,
}

/// `"a"` or `["a", "b"]`.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    endpoints: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Admin {
    listen: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    max_calls: u32,
    takeover_rate: u32,
    max_tcp_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_calls: 1000, takeover_rate: 200, max_tcp_connections: 1024 }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| toml_error(text, path, &error))?;
        let bgp = bgp(&file)?;
        let config = Self {
            id: pop_id(&file.pop.id)?,
            region: label("region", &file.pop.region)?,
            mesh: label("mesh", &file.pop.mesh)?,
            data_dir: file.pop.data_dir,
            sip: sip_listen(&file.sip.listen)?,
            liveness: liveness(&file.sip)?,
            media_address: media_address(&file.media.address)?,
            opus_complexity: opus_complexity(file.media.opus_complexity)?,
            media_ports: media_ports(&file.media)?,
            media_shared: file.media.shared_port.is_some(),
            media_threads: media_threads(file.media.threads)?,
            media_pinned: file.media.threads.is_some(),
            media_dscp: media_dscp(file.media.dscp)?,
            overlay_listen: upstreams(&file.overlay)?,
            overlay_advertise: advertise(&file.overlay)?,
            bgp,
            control: endpoints(file.control.endpoints)?,
            tls: TlsFiles { ca: file.tls.ca, cert: file.tls.cert, key: file.tls.key },
            admin: socket_address("admin", "listen", &file.admin.listen)?,
            max_calls: file.limits.max_calls,
            takeover_rate: file.limits.takeover_rate,
            max_tcp_connections: file.limits.max_tcp_connections,
        };
        config.check_limits()?;
        Ok(config)
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        if self.max_calls == 0 {
            let problem = "is 0, so no call could ever be taken".into();
            let fix = "give the number of calls this machine may carry at once";
            return Err(ConfigError::Value { table: "limits", key: "max_calls", problem, fix });
        }
        if self.takeover_rate == 0 {
            let problem = "is 0, so no call of a lost POP could ever be saved".into();
            let fix = "give how many re-INVITEs a second a carrier takes, such as 200";
            return Err(ConfigError::Value { table: "limits", key: "takeover_rate", problem, fix });
        }
        if self.max_tcp_connections == 0 {
            let problem = "is 0, so no SIP over TCP could ever be taken".into();
            let fix = "give a number of connections, such as 1024";
            let key = "max_tcp_connections";
            return Err(ConfigError::Value { table: "limits", key, problem, fix });
        }
        let ports = u32::try_from(self.media_ports.len()).unwrap_or(u32::MAX);
        let needed = self.max_calls.saturating_mul(PORTS_PER_LEG * LEGS_PER_CALL);
        if ports < needed && !self.media_shared {
            let problem = format!("has {ports} ports, but {} calls need {needed}", self.max_calls);
            let fix = "widen the range or lower [limits] max_calls";
            return Err(ConfigError::Value { table: "media", key: "ports", problem, fix });
        }
        Ok(())
    }
}

fn toml_error(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
    let message = error.message().trim().replace('\n', ", ");
    ConfigError::Toml { path: path.into(), line, message }
}

fn pop_id(id: &str) -> Result<PopId, ConfigError> {
    let fix = "use the name in this POP's certificate, such as \"fra1\"";
    PopId::new(id).map_err(|e| ConfigError::Value {
        table: "pop",
        key: "id",
        problem: e.to_string(),
        fix,
    })
}

fn label(key: &'static str, value: &str) -> Result<String, ConfigError> {
    // Regions and meshes obey the same rule as POP names: they are parts of the same URI.
    let fix = "use the name in this POP's certificate";
    PopId::new(value).map(|_| value.to_owned()).map_err(|e| ConfigError::Value {
        table: "pop",
        key,
        problem: e.to_string(),
        fix,
    })
}

fn bgp(file: &File) -> Result<Option<crate::bgp::Settings>, ConfigError> {
    let upstreams = file.overlay.listen.all().len();
    file.bgp.as_ref().map(|bgp| crate::bgp::settings(bgp, upstreams)).transpose()
}

pub(crate) fn socket_address(
    table: &'static str,
    key: &'static str,
    value: &str,
) -> Result<SocketAddr, ConfigError> {
    let refused = |problem| ConfigError::Value {
        table,
        key,
        problem,
        fix: "write an IP address and a port, such as \"192.0.2.1:4433\" or \"[2001:db8::1]:4433\"",
    };
    let address: SocketAddr =
        value.parse().map_err(|_| refused(format!("is {value:?}, not an address with a port")))?;
    if address.port() == 0 {
        return Err(refused("has port 0".into()));
    }
    Ok(address)
}

fn sip_listen(values: &[String]) -> Result<Vec<SipListen>, ConfigError> {
    let refused = |problem| ConfigError::Value {
        table: "sip",
        key: "listen",
        problem,
        fix: "write \"udp:ADDRESS:PORT\" or \"tcp:ADDRESS:PORT\", each once, \
              with the address carriers reach",
    };
    let mut seen = BTreeSet::new();
    for value in values {
        let (transport, address) =
            value.split_once(':').ok_or_else(|| refused(format!("has {value:?}")))?;
        let transport = match transport {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            _ => return Err(refused(format!("has {value:?}"))),
        };
        let address: SocketAddr = address.parse().map_err(|_| refused(format!("has {value:?}")))?;
        // Via and Contact are written from it.
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(refused(format!("has {value:?}, which no carrier could answer")));
        }
        if !seen.insert(SipListen { transport, address }) {
            return Err(refused(format!("has {value:?} twice")));
        }
    }
    if seen.is_empty() {
        return Err(refused("is empty".into()));
    }
    Ok(values_in_order(values, &seen))
}

fn liveness(sip: &Sip) -> Result<Liveness, ConfigError> {
    let Sip { session_expires, min_session_expires, probe_interval, .. } = *sip;
    let refused = |key, value: u32, fix| {
        let problem = format!("is {value}");
        Err(ConfigError::Value { table: "sip", key, problem, fix })
    };
    if !(90..=86_400).contains(&min_session_expires) {
        let fix = "give seconds from 90 (RFC 4028) to 86400";
        return refused("min_session_expires", min_session_expires, fix);
    }
    if !(min_session_expires..=86_400).contains(&session_expires) {
        let fix = "give seconds from min_session_expires to 86400, such as 1800";
        return refused("session_expires", session_expires, fix);
    }
    if !(30..=86_400).contains(&probe_interval) {
        let fix = "give seconds from 30 to 86400, such as 180";
        return refused("probe_interval", probe_interval, fix);
    }
    Ok(Liveness { session_expires, min_session_expires, probe_interval })
}

/// The order of the file: the first address of a transport is the one used towards carriers.
fn values_in_order(values: &[String], seen: &BTreeSet<SipListen>) -> Vec<SipListen> {
    let index = |listen: &SipListen| {
        let text = listen.to_string();
        values.iter().position(|value| *value == text).unwrap_or(usize::MAX)
    };
    let mut ordered: Vec<_> = seen.iter().copied().collect();
    ordered.sort_by_key(index);
    ordered
}

fn media_address(value: &str) -> Result<IpAddr, ConfigError> {
    let refused = |problem| ConfigError::Value {
        table: "media",
        key: "address",
        problem,
        fix: "write the IP address carriers send RTP to, such as \"192.0.2.1\"",
    };
    let address: IpAddr =
        value.parse().map_err(|_| refused(format!("is {value:?}, not an IP address")))?;
    if address.is_unspecified() {
        return Err(refused(format!("is {value:?}, which cannot stand in an SDP")));
    }
    Ok(address)
}

fn media_dscp(value: u8) -> Result<u8, ConfigError> {
    let problem = format!("is {value}, but a DSCP has six bits");
    let fix = "give 0 to 63: 46 is expedited forwarding, 0 marks nothing";
    let refused = ConfigError::Value { table: "media", key: "dscp", problem, fix };
    if value < 64 { Ok(value) } else { Err(refused) }
}

/// More would only be in each other's way.
const THREADS_MAX: u8 = 64;

/// Without a word of the operator as many as leave half of the cores to signaling, QUIC and the
/// kernel.
fn media_threads(value: Option<u8>) -> Result<u8, ConfigError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let default = u8::try_from(cores / 2).unwrap_or(THREADS_MAX).clamp(1, THREADS_MAX);
    let threads = value.unwrap_or(default);
    let problem = format!("is {threads}");
    let fix = "give 1 to 64: about one for 1,500 calls, and no more than there are cores";
    let refused = ConfigError::Value { table: "media", key: "threads", problem, fix };
    if (1..=THREADS_MAX).contains(&threads) { Ok(threads) } else { Err(refused) }
}

fn media_ports(media: &Media) -> Result<RangeInclusive<u16>, ConfigError> {
    let refused = |key, problem: &str, fix| {
        Err(ConfigError::Value { table: "media", key, problem: problem.to_owned(), fix })
    };
    match (&media.ports, media.shared_port) {
        (Some(ports), None) => port_range(ports),
        (None, Some(port)) if port >= 1024 && port.is_multiple_of(2) => {
            let others = 2 * u16::from(media_threads(media.threads)? - 1);
            match (port + 1).checked_add(others) {
                Some(last) => Ok(port..=last),
                None => refused(
                    "shared_port",
                    &format!("is {port}, which leaves no port for each media thread"),
                    "write a lower one: each of [media] threads takes two",
                ),
            }
        }
        (None, Some(port)) => refused(
            "shared_port",
            &format!("is {port}"),
            "write an even port from 1024 up; RTCP takes the next one",
        ),
        (Some(_), Some(_)) => refused(
            "shared_port",
            "is given together with ports",
            "keep ports for a pair of ports a leg, or shared_port for one pair for all legs",
        ),
        (None, None) => refused(
            "ports",
            "is missing",
            "write ports = \"20000-29999\", or shared_port = 20000 for one port for all calls",
        ),
    }
}

fn port_range(value: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let refused = || ConfigError::Value {
        table: "media",
        key: "ports",
        problem: format!("is {value:?}"),
        fix: "write an even first and an odd last port from 1024 up, such as \"20000-29999\" \
              (RTP even, RTCP odd)",
    };
    let (first, last) = value.split_once('-').ok_or_else(refused)?;
    let first: u16 = first.trim().parse().map_err(|_| refused())?;
    let last: u16 = last.trim().parse().map_err(|_| refused())?;
    if first < 1024 || first >= last || !first.is_multiple_of(2) || last.is_multiple_of(2) {
        return Err(refused());
    }
    Ok(first..=last)
}

fn opus_complexity(value: Option<u8>) -> Result<Option<u8>, ConfigError> {
    match value {
        Some(value) if value > 10 => Err(ConfigError::Value {
            table: "media",
            key: "opus_complexity",
            problem: format!("is {value}"),
            fix: "give 0 (least CPU) to 10 (best sound), or leave it out to follow the load",
        }),
        value => Ok(value),
    }
}

/// `host:port`, the host a name or an address.
fn is_host_port(value: &str) -> bool {
    if let Ok(address) = value.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = value.rsplit_once(':') else { return false };
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !host.is_empty() && host.chars().all(name) && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// Upstreams a POP can have.
const UPSTREAMS_MAX: usize = proto::overlay::PathId::UPSTREAMS_MAX as usize;

fn upstreams(overlay: &Overlay) -> Result<Vec<SocketAddr>, ConfigError> {
    let listen = overlay.listen.all();
    if listen.is_empty() || listen.len() > UPSTREAMS_MAX {
        return Err(ConfigError::Value {
            table: "overlay",
            key: "listen",
            problem: format!("lists {} addresses", listen.len()),
            fix: "write one address for each upstream, 16 at most",
        });
    }
    listen.iter().map(|address| socket_address("overlay", "listen", address)).collect()
}

fn advertise(overlay: &Overlay) -> Result<Vec<String>, ConfigError> {
    let refused =
        |problem, fix| ConfigError::Value { table: "overlay", key: "advertise", problem, fix };
    let values = overlay.advertise.as_ref().unwrap_or(&overlay.listen).all();
    if values.len() != overlay.listen.all().len() {
        return Err(refused(
            format!("lists {} addresses, listen {}", values.len(), overlay.listen.all().len()),
            "list what other POPs dial for each address of listen, in its order",
        ));
    }
    match values.iter().find(|value| !is_host_port(value)) {
        None => Ok(values.to_vec()),
        Some(value) => Err(refused(
            format!("is {value:?}"),
            "write the host and port other POPs reach this one at, such as \"192.0.2.1:4433\"",
        )),
    }
}

fn endpoints(values: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let refused = |problem| ConfigError::Value {
        table: "control",
        key: "endpoints",
        problem,
        fix: "list every control node as \"host:port\", such as \"192.0.2.11:7000\"",
    };
    if values.is_empty() {
        return Err(refused("is empty".into()));
    }
    match values.iter().find(|value| !is_host_port(value)) {
        Some(bad) => Err(refused(format!("has {bad:?}"))),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const GOOD: &str = include_str!("../../deploy/pop-node.toml");

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("pop.toml"))
    }

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the example has no {from}");
        parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_example_is_good() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.id.as_str(), "fra1");
        assert_eq!(config.sip.first().unwrap().transport, Transport::Udp);
        assert_eq!(*config.media_ports.start() % 2, 0);
    }

    #[test]
    fn one_media_port_is_enough_for_any_number_of_calls() {
        let text = GOOD.replacen("ports = \"20000-29999\"", "shared_port = 20000\nthreads = 2", 1);
        let text = text.replacen("dscp = 46", "dscp = 0", 1);
        let config = parse(&text.replacen("max_calls = 1000", "max_calls = 90000", 1)).unwrap();
        assert_eq!((config.media_shared, config.media_dscp), (true, 0));
        assert_eq!((config.media_threads, config.media_pinned), (2, true));
        assert_eq!(config.media_ports, 20_000..=20_003);
    }

    /// The example with its `[bgp]`, changed.
    fn with_bgp(from: &str, to: &str) -> Result<Config, ConfigError> {
        let keys = ["[bgp]", "bmp_", "routers = ", "upstreams = ", "drain_", "cost_", "rpki_"];
        let line = |line: &str| match line.strip_prefix("# ") {
            Some(key) if keys.iter().any(|k| key.starts_with(k)) => format!("{key}\n"),
            Some(_) | None => format!("{line}\n"),
        };
        let text: String = GOOD.lines().map(line).collect();
        assert!(text.contains(from), "the example has no {from}");
        parse(&text.replacen(from, to, 1))
    }

    #[test]
    fn routers_and_their_neighbors_are_checked() {
        let bgp = with_bgp("[bgp]", "[bgp]").unwrap().bgp.unwrap();
        assert_eq!(bgp.bmp_listen.port(), 11_019);
        assert_eq!(bgp.station.routers.len(), 1);
        assert_eq!(bgp.station.upstreams[0][0].address.to_string(), "198.51.100.1");
        assert_eq!((bgp.station.policy.drain.len(), bgp.station.policy.cost.len()), (1, 1));
        assert_eq!(bgp.rpki_caches, ["192.0.2.5:323".parse().unwrap()]);
        assert!(with_bgp("198.51.100.1\"]]", "198.51.100.1@192.0.2.254\"]]").is_ok());
        for (from, to, expected) in [
            ("[[\"198.51.100.1\"]]", "[]", "[bgp] upstreams lists 0, [overlay] listen 1"),
            ("\"198.51.100.1\"", "\"198.51.100.1@10.0.0.1\"", "[bgp] upstreams has"),
            ("\"198.51.100.1\"", "\"transit\"", "[bgp] upstreams has \"transit\""),
            ("routers = [\"192.0.2.254\"]", "routers = []", "[bgp] routers lists 0"),
            ("192.0.2.1:11019", "192.0.2.1", "[bgp] bmp_listen is \"192.0.2.1\""),
            ("65010:666", "65010:66666", "[bgp] drain_communities has \"65010:66666\""),
            ("192.0.2.5:323", "192.0.2.5", "[bgp] rpki_caches has \"192.0.2.5\""),
            ("= 5.0", "= -5.0", "[bgp] cost_communities gives \"65010:70\" -5"),
        ] {
            let text = with_bgp(from, to).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = refusal("region = ", "regoin = ");
        assert!(text.starts_with("pop.toml line "), "{text}");
        assert!(text.contains("unknown field `regoin`"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_missing_table_is_named() {
        let text = parse("[pop]\nid=\"a\"\nregion=\"eu\"\nmesh=\"m\"\ndata_dir=\"/x\"\n")
            .unwrap_err()
            .to_string();
        assert!(text.contains("missing field `sip`"), "{text}");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_a_fix() {
        let cases = [
            ("id = \"fra1\"", "id = \"Fra 1\"", "[pop] id has 'F'"),
            ("udp:192.0.2.1:5060", "192.0.2.1:5060", "[sip] listen has \"192.0.2.1:5060\""),
            ("udp:192.0.2.1:5060", "udp:0.0.0.0:5060", "no carrier could answer"),
            ("20000-29999", "20001-29999", "[media] ports is \"20001-29999\""),
            ("20000-29999", "20000-20099", "[media] ports has 100 ports, but 1000 calls need"),
            ("ports = \"20000-29999\"", "", "[media] ports is missing"),
            ("ports = \"20000-29999\"", "shared_port = 20001", "[media] shared_port is 20001"),
            (
                "ports = \"20000-29999\"",
                "threads = 2\nshared_port = 65534",
                "[media] shared_port is 65534, which leaves",
            ),
            ("ports = ", "threads = 0\nports = ", "[media] threads is 0"),
            ("ports = ", "shared_port = 20000\nports = ", "[media] shared_port is given together"),
            ("dscp = 46", "dscp = 64", "[media] dscp is 64"),
            ("listen = \"192.0.2.1:4433\"", "listen = \"4433\"", "[overlay] listen is \"4433\""),
            ("\"192.0.2.11:7000\"", "\"192.0.2.11\"", "[control] endpoints has \"192.0.2.11\""),
            ("max_calls = 1000", "max_calls = 0", "[limits] max_calls is 0"),
            ("session_expires = 1800", "session_expires = 60", "[sip] session_expires is 60"),
            ("min_session_expires = 90", "min_session_expires = 30", "[sip] min_session_expires"),
            ("probe_interval = 180", "probe_interval = 1", "[sip] probe_interval is 1"),
        ];
        for (from, to, expected) in cases {
            let text = refusal(from, to);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("; "), "no fix in {text}");
        }
    }
}
