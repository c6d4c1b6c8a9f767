//! The file as it is written, before its meaning is checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proto::id::{NodeId, PopId};
use serde::Deserialize;

use super::dns::RawDns;
use super::{BackupConfig, CA_DAYS, CaConfig, Config, Member, Node, Storage, Timers, TlsFiles};
use crate::archive::Target;
use crate::audit::export::{Export, ROTATE_BYTES};
use crate::problem::{Problem, Problems};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    node: RawNode,
    api: Listen,
    #[serde(default)]
    members: Vec<RawMember>,
    tls: RawTls,
    ca: Option<RawCa>,
    admin: Listen,
    #[serde(default)]
    timers: RawTimers,
    #[serde(default)]
    storage: RawStorage,
    backup: Option<RawBackup>,
    audit: Option<RawAudit>,
    dns: Option<RawDns>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: u64,
    region: String,
    mesh: String,
    data_dir: PathBuf,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    join: Vec<String>,
    address: Option<String>,
    feature_level_max: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    listen: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    id: u64,
    address: String,
    region: String,
    #[serde(default)]
    priority: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCa {
    key: PathBuf,
    listen: String,
    #[serde(default)]
    advertise: Vec<String>,
    days: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawStorage {
    low_water: Option<String>,
    log_entries: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBackup {
    target: String,
    every: Option<String>,
    tables_every: Option<String>,
    keep: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    export: PathBuf,
    rotate: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTimers {
    tick: Option<String>,
    heartbeat: Option<String>,
    election: Option<String>,
    pop_ttl: Option<String>,
}

impl File {
    /// `None` when a field has no usable value at all; `problems` says which.
    pub(super) fn validate(self, problems: &mut Vec<Problem>) -> Option<Config> {
        let region = label("node.region", self.node.region, problems);
        let mesh = label("node.mesh", self.node.mesh, problems);
        let id = node_id("node.id", self.node.id, problems);
        let api = address("api.listen", &self.api.listen, problems);
        let admin = address("admin.listen", &self.admin.listen, problems);
        let mut members: Vec<Member> =
            self.members.into_iter().filter_map(|m| member(m, problems)).collect();
        members.sort_by_key(|m| m.id);
        let timers = self.timers.validate(problems);
        let storage = self.storage.validate(problems);
        let ca = self.ca.and_then(|ca| ca.validate(problems));
        let backup = self.backup.and_then(|backup| backup.validate(problems));
        let audit = self.audit.and_then(|audit| audit.validate(problems));
        let dns = self.dns.and_then(|dns| dns.validate(problems));
        let data_dir = self.node.data_dir.clone();
        if data_dir.as_os_str().is_empty() {
            let fix = "name a directory on a local disk";
            problems.push(Problem::new("node.data_dir", "is empty", fix));
        }
        if !problems.is_empty() {
            return None;
        }
        let RawNode { priority, join, address, feature_level_max, .. } = self.node;
        Some(Config {
            node: Node {
                id: id?,
                region: region?,
                mesh: mesh?,
                data_dir,
                priority,
                join,
                address,
                feature_level_max,
            },
            api: api?,
            admin: admin?,
            members,
            tls: TlsFiles { ca: self.tls.ca, cert: self.tls.cert, key: self.tls.key },
            ca,
            timers: timers?,
            storage,
            backup,
            dns,
            audit,
        })
    }
}

/// What a loss of all nodes may cost.
const SHIP_EVERY: Duration = Duration::from_secs(5);
/// Between backups of all tables.
const TABLES_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Backups of all tables that stay.
const KEEP: usize = 7;

/// Fewer would send tables for nothing, more would not fit into memory.
const LOG_ENTRIES: std::ops::RangeInclusive<usize> = 100..=10_000_000;

impl RawStorage {
    fn validate(&self, problems: &mut Vec<Problem>) -> Storage {
        let low_water_bytes = self.low_water.as_ref().and_then(|text| {
            let read = bytes(text);
            if read.is_none() {
                let fix = "write a number and a unit, such as \"512MiB\" or \"2GiB\"";
                let what = format!("is \"{text}\", no size");
                problems.push(Problem::new("storage.low_water", what, fix));
            }
            read
        });
        let log_entries = self.log_entries;
        if log_entries.is_some_and(|entries| !LOG_ENTRIES.contains(&entries)) {
            let what = format!("is {}", log_entries.unwrap_or_default());
            let fix = "choose 100 to 10000000 (100000 is usual), or leave it out";
            problems.push(Problem::new("storage.log_entries", what, fix));
        }
        Storage { low_water_bytes, log_entries }
    }
}

impl RawBackup {
    fn validate(&self, problems: &mut Vec<Problem>) -> Option<BackupConfig> {
        let target = match Target::parse(&self.target) {
            Ok(target) => Some(target),
            Err(what) => {
                let fix = "name an absolute directory, file:///… or s3://bucket/prefix";
                problems.push(Problem::new("backup.target", what, fix));
                None
            }
        };
        let mut read = |name: &str, text: &Option<String>, usual: Duration| {
            let value = text.as_ref().map_or(Some(usual), |text| duration(text));
            let value = value.filter(|value| *value >= Duration::from_millis(100));
            if value.is_none() {
                let what = format!("is \"{}\"", text.as_deref().unwrap_or_default());
                let fix = "write a number and a unit, such as \"5s\" or \"24h\"; 100ms at least";
                problems.push(Problem::new(name, what, fix));
            }
            value
        };
        let every = read("backup.every", &self.every, SHIP_EVERY);
        let tables_every = read("backup.tables_every", &self.tables_every, TABLES_EVERY);
        let keep = self.keep.unwrap_or(KEEP);
        if keep == 0 {
            problems.push(Problem::new("backup.keep", "is 0", "keep one at least (7 is usual)"));
        }
        Some(BackupConfig { target: target?, every: every?, tables_every: tables_every?, keep })
    }
}

impl RawCa {
    fn validate(self, problems: &mut Vec<Problem>) -> Option<CaConfig> {
        let listen = address("ca.listen", &self.listen, problems)?;
        let mut advertise = self.advertise;
        if advertise.is_empty() {
            advertise.push(listen.to_string());
        }
        if listen.ip().is_unspecified() && advertise.iter().any(|a| *a == listen.to_string()) {
            let what = format!("is missing, and ca.listen is {listen}");
            let fix = "list host:port as new machines reach it, such as \"10.0.0.11:7001\"";
            problems.push(Problem::new("ca.advertise", what, fix));
        }
        let days = self.days.unwrap_or(CA_DAYS);
        if !(1..=825).contains(&days) {
            let fix = "choose 1 to 825: machines renew by themselves";
            problems.push(Problem::new("ca.days", format!("is {days}"), fix));
        }
        Some(CaConfig { key: self.key, listen, advertise, days })
    }
}

impl RawAudit {
    fn validate(self, problems: &mut Vec<Problem>) -> Option<Export> {
        if self.export.as_os_str().is_empty() {
            let fix = "name a directory of this node's own, or leave [audit] out";
            problems.push(Problem::new("audit.export", "is empty", fix));
            return None;
        }
        let rotate_bytes = match &self.rotate {
            None => ROTATE_BYTES,
            Some(text) => bytes(text).filter(|bytes| *bytes > 0).or_else(|| {
                let fix = "write a number and a unit, such as \"64MiB\"";
                let what = format!("is \"{text}\", no size");
                problems.push(Problem::new("audit.rotate", what, fix));
                None
            })?,
        };
        Some(Export { dir: self.export, rotate_bytes })
    }
}

impl RawTimers {
    fn validate(&self, problems: &mut Vec<Problem>) -> Option<Timers> {
        let mut read = |name: &str, text: &Option<String>, default| match text {
            None => Some(default),
            Some(text) => duration(text).or_else(|| {
                let fix = "write a number and a unit, such as \"25ms\" or \"1s\"";
                problems.push(Problem::new(name, format!("is \"{text}\", no duration"), fix));
                None
            }),
        };
        let tick = read("timers.tick", &self.tick, Timers::default().tick);
        let usual = Timers::with_tick(tick.unwrap_or_default());
        let heartbeat = read("timers.heartbeat", &self.heartbeat, usual.heartbeat);
        let election = read("timers.election", &self.election, usual.election);
        let fixed = [&self.tick, &self.heartbeat, &self.election].iter().any(|t| t.is_some());
        let pop_ttl = match &self.pop_ttl {
            None => None,
            some => Some(read("timers.pop_ttl", some, Duration::ZERO)?),
        };
        Some(Timers { tick: tick?, heartbeat: heartbeat?, election: election?, pop_ttl, fixed })
    }
}

fn member(raw: RawMember, problems: &mut Vec<Problem>) -> Option<Member> {
    let name = format!("members (id {})", raw.id);
    let id = node_id(&format!("{name} id"), raw.id, problems);
    let region = label(&format!("{name} region"), raw.region, problems);
    let port = raw.address.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && port != 0 && !host.contains('/')).then_some(port)
    });
    if port.is_none() {
        let what = format!("is \"{}\"", raw.address);
        let fix = "write host:port as other members reach it, such as \"10.0.0.11:7000\"";
        problems.push(Problem::new(format!("{name} address"), what, fix));
        return None;
    }
    Some(Member { id: id?, address: raw.address, region: region?, priority: raw.priority })
}

fn node_id(field: &str, id: u64, problems: &mut Vec<Problem>) -> Option<NodeId> {
    if id == 0 {
        problems.push(Problem::new(field, "is 0", "use 1 or more"));
        return None;
    }
    Some(NodeId(id))
}

/// Regions and meshes are named like POPs: they become parts of names in certificates.
fn label(field: &str, text: String, problems: &mut Vec<Problem>) -> Option<String> {
    match PopId::new(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            let fix = "choose a name such as \"eu\"";
            problems.push(Problem::new(field, format!("\"{text}\" {error}"), fix));
            None
        }
    }
}

pub(super) fn address(field: &str, text: &str, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let what = format!("is \"{text}\"");
            let fix = "write IP address and port, such as \"127.0.0.11:7000\" or \"[::1]:7000\"";
            problems.push(Problem::new(field, what, fix));
            None
        }
    }
}

/// `"25ms"`, `"1s"`, `"2m"`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(split)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

/// `"64KiB"`, `"512MiB"`, `"2GiB"`.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let unit = match unit.trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A TOML error in our words: file, line, what, fix.
pub(super) fn explain(error: &toml::de::Error, text: &str, name: &str) -> Problems {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    let message = error.message().trim().replace('\n', " ");
    let fix = if message.starts_with("unknown field") {
        "correct the spelling or remove the key"
    } else if message.starts_with("missing field") {
        "add it (an example is deploy/control-plane.toml)"
    } else {
        "correct this line"
    };
    Problem::new(format!("{name} line {line}"), format!("is not valid ({message})"), fix).into()
}
