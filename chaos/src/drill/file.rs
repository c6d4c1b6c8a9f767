//! A drill as it stands in a file: mesh, load, faults, abort, verdict. Pure.
//!
//! TOML, read by people first. Everything is checked when it is read, and a complaint names the
//! file, the field, and what would be right.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pop_core::codec::Codec;
use serde::Deserialize;

use super::fault::{Fault, Target, Verb};
use super::words::{duration, percent};

/// POPs of a drill; the lab's addresses hold no more.
const POPS_MAX: usize = 9;
/// Calls of a drill; an endpoint holds 2,000.
const CALLS_MAX: u32 = 1_500;

/// A drill.
#[derive(Debug, Clone, PartialEq)]
pub struct Drill {
    /// File name without its ending.
    pub name: String,
    /// In one line.
    pub title: String,
    /// What it shows, and why.
    pub about: String,
    /// What is built.
    pub mesh: Regions,
    /// Who talks.
    pub load: Load,
    /// What happens, in order of time.
    pub faults: Vec<Fault>,
    /// When to give up.
    pub abort: Abort,
    /// What has to hold.
    pub verdict: Targets,
}

/// The mesh of a drill.
#[derive(Debug, Clone, PartialEq)]
pub struct Regions {
    /// Regions, in order.
    pub regions: Vec<Region>,
    /// Round trip between POPs.
    pub rtt: Duration,
    /// Share of overlay datagrams lost, 0.0 to 1.0.
    pub loss: f64,
    /// Upstreams of each POP.
    pub upstreams: u8,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Name.
    pub name: String,
    /// POPs in it.
    pub pops: Vec<String>,
    /// Control nodes in it.
    pub control: u8,
}

/// The load of a drill.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Calls that are up before the first fault and stay.
    pub calls: u32,
    /// How fast they are placed.
    pub per_second: u32,
    /// What all speak.
    pub codec: Codec,
    /// From the carrier beside one POP to the one beside another, in turns.
    pub flows: Vec<Flow>,
    /// What is special about some of them.
    pub shares: Shares,
    /// Calls that come and go all the time.
    pub new: Option<NewCalls>,
}

/// What is special about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// One side has the other on hold when the fault comes, and takes it back afterwards.
    Held,
    /// Media between the caller and its POP is encrypted, with a sequence number that began anew.
    Srtp,
    /// Both sides refuse the first re-INVITE, with 491 or with 503 and Retry-After.
    Stubborn,
}

impl Kind {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Held => "held",
            Self::Srtp => "SRTP",
            Self::Stubborn => "stubborn",
        }
    }
}

/// Percent of the calls that stay.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// On hold.
    pub held: f64,
    /// Encrypted.
    pub srtp: f64,
    /// With sides that refuse to move at first.
    pub stubborn: f64,
}

impl Shares {
    /// What is special about a call, by its number: spread evenly over all flows.
    pub fn kind(&self, call: u32) -> Kind {
        // 61 and 100 have no common divisor, so a hundred calls take each place once.
        let place = f64::from(call % 100 * 61 % 100);
        if place < self.held {
            Kind::Held
        } else if place < self.held + self.srtp {
            Kind::Srtp
        } else if place < self.sum() {
            Kind::Stubborn
        } else {
            Kind::Plain
        }
    }

    const fn sum(&self) -> f64 {
        self.held + self.srtp + self.stubborn
    }
}

/// Where calls go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// POP the caller's carrier is beside.
    pub from: String,
    /// POP the callee's carrier is beside.
    pub to: String,
}

/// Calls that come and go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewCalls {
    /// How many a second.
    pub per_second: f64,
    /// From answer to BYE.
    pub talk: Duration,
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    /// From the first call to the last word.
    pub longer_than: Duration,
    /// How long after the last fault calls may be silent before nobody waits any more.
    pub silent_for: Duration,
}

/// What has to hold at the end; `None`: told, not judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets {
    /// Share of calls with a leg where the fault is that are preserved, in percent.
    pub preserved: Option<f64>,
    /// Until both sides hear again what the other says.
    pub audio_back: Limits,
    /// Longest time between two packets of either side.
    pub gap: Limits,
    /// How long both sides must then be heard.
    pub two_way: Duration,
    /// Share of new calls that are answered and heard, in percent.
    pub new_calls: Option<f64>,
    /// New calls placed this long after the fault began do not count.
    pub new_calls_after: Duration,
}

/// Upper limits of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of the median.
    pub p50: Option<Duration>,
    /// Of the 99th percentile.
    pub p99: Option<Duration>,
    /// Of the greatest.
    pub max: Option<Duration>,
}

// ---------------------------------------------------------------- as it is written

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDrill {
    title: String,
    about: String,
    mesh: RawMesh,
    load: RawLoad,
    fault: Vec<RawFault>,
    #[serde(default)]
    abort: RawAbort,
    verdict: RawVerdict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMesh {
    rtt: String,
    loss: Option<String>,
    upstreams: Option<u8>,
    region: Vec<RawRegion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegion {
    name: String,
    pops: Vec<String>,
    control: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    calls: u32,
    per_second: u32,
    codec: Option<String>,
    flows: Vec<String>,
    held: Option<String>,
    srtp: Option<String>,
    stubborn: Option<String>,
    new: Option<RawNew>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNew {
    per_second: f64,
    talk: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    at: String,
    #[serde(rename = "do")]
    verb: String,
    what: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAbort {
    longer_than: Option<String>,
    silent_for: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVerdict {
    preserved: Option<String>,
    #[serde(default)]
    audio_back: RawLimits,
    #[serde(default)]
    gap: RawLimits,
    two_way_for: String,
    new_calls: Option<String>,
    new_calls_after: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    p50: Option<String>,
    p99: Option<String>,
    max: Option<String>,
}

impl Drill {
    /// Reads a drill; `name` is for complaints and reports.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let read = || -> Result<Self> {
            let raw: RawDrill = toml::from_str(text).map_err(|why| {
                anyhow::anyhow!("{}", why.to_string().trim_end().replace('\n', "\n  "))
            })?;
            raw.checked(name)
        };
        read().with_context(|| format!("the drill {name} cannot be read"))
    }

    /// When the first fault begins, after the load is up.
    pub fn first_fault(&self) -> Duration {
        self.faults.first().map_or(Duration::ZERO, |fault| fault.at)
    }
}

impl RawDrill {
    fn checked(self, name: &str) -> Result<Drill> {
        let mesh = self.mesh.checked().context("[mesh]")?;
        let pops: BTreeSet<&str> =
            mesh.regions.iter().flat_map(|r| &r.pops).map(String::as_str).collect();
        let load = self.load.checked(&pops).context("[load]")?;
        ensure!(!self.fault.is_empty(), "[[fault]]: a drill without a fault shows nothing");
        let mut faults = (1..)
            .zip(self.fault)
            .map(|(n, fault)| fault.checked(&mesh).with_context(|| format!("[[fault]] number {n}")))
            .collect::<Result<Vec<_>>>()?;
        faults.sort_by_key(|fault| fault.at);
        let abort = self.abort.checked().context("[abort]")?;
        let verdict = self.verdict.checked().context("[verdict]")?;
        if verdict.new_calls.is_some() {
            ensure!(load.new.is_some(), "verdict.new_calls: there are none; add [load.new]");
        }
        // Lines of a file are no lines of a page.
        let about = self.about.split_whitespace().collect::<Vec<_>>().join(" ");
        let title = self.title;
        Ok(Drill { name: name.to_owned(), title, about, mesh, load, faults, abort, verdict })
    }
}

impl RawMesh {
    pub(crate) fn checked(self) -> Result<Regions> {
        let mut pops = BTreeSet::new();
        let mut regions = Vec::new();
        for raw in self.region {
            ensure!(!raw.pops.is_empty(), "region {}: pops: name at least one", raw.name);
            for pop in &raw.pops {
                ensure!(pops.insert(pop.clone()), "region {}: POP {pop} stands twice", raw.name);
            }
            let control = raw.control.unwrap_or(1);
            regions.push(Region { name: raw.name, pops: raw.pops, control });
        }
        ensure!(pops.len() >= 2, "region: a mesh needs two POPs or more, here are {}", pops.len());
        ensure!(
            pops.len() <= POPS_MAX,
            "region: the lab holds {POPS_MAX} POPs, here are {}",
            pops.len()
        );
        let control: u8 = regions.iter().map(|r| r.control).sum();
        ensure!(
            control % 2 == 1,
            "region: {control} control nodes; raft wants an odd number: 1, 3 or 5"
        );
        let upstreams = self.upstreams.unwrap_or(1);
        ensure!((1..=4).contains(&upstreams), "upstreams = {upstreams}: 1 to 4");
        Ok(Regions {
            regions,
            rtt: duration(&self.rtt).context("rtt")?,
            loss: self.loss.map_or(Ok(0.0), |loss| percent(&loss)).context("loss")? / 100.0,
            upstreams,
        })
    }
}

impl RawLoad {
    fn checked(self, pops: &BTreeSet<&str>) -> Result<Load> {
        ensure!((1..=CALLS_MAX).contains(&self.calls), "calls = {}: 1 to {CALLS_MAX}", self.calls);
        ensure!((1..=200).contains(&self.per_second), "per_second = {}: 1 to 200", self.per_second);
        let name = self.codec.unwrap_or_else(|| "PCMU".into());
        let codec = Codec::from_name(&name)
            .with_context(|| format!("codec = {name:?}: PCMU, PCMA, G722 or opus"))?;
        ensure!(!self.flows.is_empty(), "flows: name one at least, as \"fra1 > sin1\"");
        let flow = |text: &String| -> Result<Flow> {
            let (from, to) = text
                .split_once('>')
                .with_context(|| format!("flows: {text:?} is none; write \"fra1 > sin1\""))?;
            for pop in [from.trim(), to.trim()] {
                let all = pops.iter().copied().collect::<Vec<_>>().join(", ");
                ensure!(pops.contains(pop), "flows: no POP {pop:?} in {text:?}; there are {all}");
            }
            Ok(Flow { from: from.trim().into(), to: to.trim().into() })
        };
        let share =
            |text: Option<String>, name| text.map_or(Ok(0.0), |text| percent(&text)).context(name);
        let shares = Shares {
            held: share(self.held, "held")?,
            srtp: share(self.srtp, "srtp")?,
            stubborn: share(self.stubborn, "stubborn")?,
        };
        let sum = shares.sum();
        ensure!(sum <= 100.0, "held, srtp, stubborn: {sum} % together; 100 % at most");
        let new = self.new.map(|new| -> Result<NewCalls> {
            let fits = (0.1..=100.0).contains(&new.per_second);
            ensure!(fits, "new.per_second = {}: 0.1 to 100", new.per_second);
            let talk = duration(&new.talk).context("new.talk")?;
            Ok(NewCalls { per_second: new.per_second, talk })
        });
        Ok(Load {
            calls: self.calls,
            per_second: self.per_second,
            codec,
            flows: self.flows.iter().map(flow).collect::<Result<_>>()?,
            shares,
            new: new.transpose()?,
        })
    }
}

impl RawFault {
    fn checked(self, mesh: &Regions) -> Result<Fault> {
        let verb = Verb::parse(&self.verb).context("do")?;
        let target = Target::parse(&self.what, mesh).context("what")?;
        let lasts = self.lasts.map(|text| duration(&text).context("for")).transpose()?;
        let fault = Fault { at: duration(&self.at).context("at")?, verb, target, lasts };
        fault.check(mesh)?;
        Ok(fault)
    }
}

impl RawAbort {
    fn checked(self) -> Result<Abort> {
        let read = |text: Option<String>, name, usual| {
            text.map_or(Ok(usual), |text| duration(&text).context(name))
        };
        let abort = Abort {
            longer_than: read(self.longer_than, "longer_than", Duration::from_secs(300))?,
            silent_for: read(self.silent_for, "silent_for", Duration::from_secs(20))?,
        };
        if abort.longer_than > Duration::from_secs(3_600) {
            bail!("longer_than: no drill lasts longer than an hour (60min)");
        }
        Ok(abort)
    }
}

impl RawVerdict {
    fn checked(self) -> Result<Targets> {
        let after = self.new_calls_after.map(|text| duration(&text).context("new_calls_after"));
        Ok(Targets {
            preserved: self
                .preserved
                .map(|text| percent(&text).context("preserved"))
                .transpose()?,
            audio_back: self.audio_back.checked().context("audio_back")?,
            gap: self.gap.checked().context("gap")?,
            two_way: duration(&self.two_way_for).context("two_way_for")?,
            new_calls: self
                .new_calls
                .map(|text| percent(&text).context("new_calls"))
                .transpose()?,
            new_calls_after: after.transpose()?.unwrap_or(Duration::from_secs(3)),
        })
    }
}

impl RawLimits {
    fn checked(self) -> Result<Limits> {
        let read =
            |text: Option<String>, name| text.map(|text| duration(&text).context(name)).transpose();
        Ok(Limits {
            p50: read(self.p50, "p50")?,
            p99: read(self.p99, "p99")?,
            max: read(self.max, "max")?,
        })
    }
}
