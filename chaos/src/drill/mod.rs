//! Drills: a fault under calls, written down in a file, and whether the calls survived it.
//!
//! - [`file`] reads a drill, [`fault`] is what can be done to a mesh;
//! - `stage` builds the mesh in the lab, places the calls, does it, and watches;
//! - [`figures`] turns what ears heard into silences and percentiles, [`verdict`] compares them with
//!   the targets; both are pure;
//! - `report` writes a page and JSON.
//!
//! What counts is what is heard: see [`crate::endpoint::diary`]. A lost call stays in all
//! percentiles, with the silence until the end.
//!
//! Not here yet: delay between POPs and control nodes (the lab's WAN carries the overlay only), and
//! hosts that lose power under their kernel (a silent host is a stopped process).

mod account;
mod briefs;
mod cast;
pub mod fault;
pub mod figures;
pub mod file;
mod hands;
mod records;
mod report;
mod restart;
mod stage;
mod svg;
mod timeline;
pub mod verdict;
mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub(crate) use cast::provision;
pub use file::Drill;
pub(crate) use hands::Hands;
pub use report::write;
pub(crate) use words::{duration, percent};

use crate::lab::{self, Topology};
use crate::screen::Screen;
use crate::wan::Profile;
use verdict::{Row, Run};

/// The drills that are compiled in: name, text.
const BUILT_IN: [(&str, &str); 9] = [
    ("control-plane-gone", include_str!("../../drills/control-plane-gone.toml")),
    ("drain", include_str!("../../drills/drain.toml")),
    ("pop-kill", include_str!("../../drills/pop-kill.toml")),
    ("pop-pause", include_str!("../../drills/pop-pause.toml")),
    ("pop-silent", include_str!("../../drills/pop-silent.toml")),
    ("region-loss", include_str!("../../drills/region-loss.toml")),
    ("region-loss-leader", include_str!("../../drills/region-loss-leader.toml")),
    ("rolling-restart", include_str!("../../drills/rolling-restart.toml")),
    ("upstream-down", include_str!("../../drills/upstream-down.toml")),
];

/// Beyond what a drill allows itself, for starting, placing calls and cleaning up.
const AROUND: Duration = Duration::from_secs(180);
/// What `--quick` leaves of the time calls are listened to afterwards, and of long faults.
const QUICK_TWO_WAY: Duration = Duration::from_secs(10);
const QUICK_FAULT: Duration = Duration::from_secs(30);

/// What `chaos run` can be told.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// A drill of `chaos drills`, or a file
    #[arg(value_name = "NAME|FILE")]
    pub drill: String,
    /// Calls, in place of what the drill says
    #[arg(long, value_name = "N")]
    pub calls: Option<u32>,
    /// For losses, ports and voices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// So many runs, each with a mesh of its own; figures are of all together
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub repeat: u32,
    /// Listen for 10 s afterwards only, and shorten faults to 30 s
    #[arg(long)]
    pub quick: bool,
    /// Write the report (NAME.html, NAME.json) into this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the verdict as JSON
    #[arg(long)]
    pub json: bool,
    /// Keep configurations, certificates, data and logs of each run in this (new or empty) directory
    #[arg(long, value_name = "DIR")]
    pub keep_dir: Option<PathBuf>,
    /// Where control-plane, pop-node and meshctl are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

/// All runs of a drill, and what they come to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// As it was run.
    pub drill: Drill,
    /// The runs, in order.
    pub runs: Vec<Run>,
    /// Figures and targets.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// Whether every figure reached its target.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }
}

/// Finds a drill by name, else by file.
pub fn find(drill: &str) -> Result<Drill> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == drill) {
        return Drill::parse(name, text);
    }
    let path = Path::new(drill);
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{drill} is no file that can be read, and no drill; there are {}", names.join(", "))
    })?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Drill::parse(&name, &text)
}

/// A line for each drill that is compiled in.
pub fn list() -> Result<Vec<String>> {
    let line =
        |(name, text): &(&str, &str)| Ok(format!("{name:20} {}", Drill::parse(name, text)?.title));
    BUILT_IN.iter().map(line).collect()
}

/// `chaos run`: runs, prints, writes; true if the verdict holds.
pub async fn run(options: &Options, screen: &mut Screen) -> Result<bool> {
    let mut drill = find(&options.drill)?;
    if let Some(calls) = options.calls {
        ensure!((1..=1_500).contains(&calls), "--calls: 1 to 1500");
        drill.load.calls = calls;
    }
    ensure!((1..=100).contains(&options.repeat), "--repeat: 1 to 100");
    if options.quick {
        shorten(&mut drill);
    }
    let mut quiet = Screen::none();
    let progress = if options.json { &mut quiet } else { &mut *screen };
    let settings = Settings {
        seed: options.seed,
        repeat: options.repeat,
        keep_dir: options.keep_dir.clone(),
        bin_dir: options.bin_dir.clone().map_or_else(lab::bin_dir, Ok)?,
    };
    let outcome = perform(drill, &settings, progress).await?;
    if options.json {
        screen.line(&report::json(&outcome).to_string());
    } else {
        report::words(&outcome).iter().for_each(|line| screen.line(line));
    }
    if let Some(dir) = &options.out {
        let page = write(&outcome, dir)?;
        if !options.json {
            screen.line(&format!("Report: {}", page.display()));
        }
    }
    Ok(outcome.holds())
}

/// What `--quick` means.
pub fn shorten(drill: &mut Drill) {
    drill.verdict.two_way = drill.verdict.two_way.min(QUICK_TWO_WAY);
    for fault in &mut drill.faults {
        fault.lasts = fault.lasts.map(|lasts| lasts.min(QUICK_FAULT));
    }
}

/// How a drill is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the first run; each has the next one.
    pub seed: u64,
    /// Runs.
    pub repeat: u32,
    /// Where the traces of the runs stay.
    pub keep_dir: Option<PathBuf>,
    /// Where the programs are.
    pub bin_dir: PathBuf,
}

/// Runs a drill, as often as told. An error: it could not be run, and shows nothing.
pub async fn perform(drill: Drill, settings: &Settings, screen: &mut Screen) -> Result<Outcome> {
    screen.line(&format!("{}: {}", drill.name, drill.title));
    let mut runs = Vec::new();
    for number in 1..=settings.repeat {
        let several = settings.repeat > 1;
        let label = if several { format!("{number}/{}  ", settings.repeat) } else { String::new() };
        let seed = settings.seed + u64::from(number) - 1;
        let keep_dir = settings
            .keep_dir
            .as_ref()
            .map(|dir| if several { dir.join(format!("run-{number}")) } else { dir.clone() });
        let topology = topology(&drill.mesh, settings, seed, keep_dir);
        let around = stage::Surroundings { topology: &topology, seed, label };
        let limit = drill.abort.longer_than + AROUND;
        let run = tokio::time::timeout(limit, stage::run(&drill, &around, screen));
        runs.push(run.await.with_context(|| format!("not over after {limit:?}"))??);
    }
    let rows = verdict::rows(&runs, &drill.verdict);
    Ok(Outcome { drill, runs, rows })
}

/// One node after the other, as an operator would; nobody watches.
pub(crate) async fn restart(mesh: &mut lab::Mesh, nodes: &[lab::Node]) -> Result<()> {
    restart::all(mesh, nodes, &timeline::Notes::default(), &mut Screen::none()).await
}

/// What the lab builds for such a mesh.
pub(crate) fn topology(
    mesh: &file::Regions,
    settings: &Settings,
    seed: u64,
    keep_dir: Option<PathBuf>,
) -> Topology {
    let regions = &mesh.regions;
    let control = regions
        .iter()
        .flat_map(|r| std::iter::repeat_n(r.name.clone(), usize::from(r.control)))
        .collect();
    let wan = Profile { loss: mesh.loss, ..Profile::delayed(mesh.rtt / 2) };
    let pop = |region: &file::Region| {
        let name = region.name.clone();
        region.pops.clone().into_iter().map(move |pop| (pop, name.clone()))
    };
    Topology {
        mesh: "drill".into(),
        control,
        pops: regions.iter().flat_map(pop).collect(),
        wan: Some(wan),
        upstreams: mesh.upstreams,
        seed,
        max_calls: 2_000,
        keep_dir,
        ..Topology::three_regions(&settings.bin_dir)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_drill_that_is_compiled_in_can_be_read() {
        assert_eq!(list().unwrap().len(), BUILT_IN.len());
        for (name, _) in BUILT_IN {
            let drill = find(name).unwrap();
            assert!(drill.title.len() <= 100 && !drill.about.is_empty(), "{name}");
            let flows = drill.load.flows.iter();
            let touched = flows.filter(|flow| {
                drill.faults.iter().any(|f| f.touches(flow, &drill.mesh, Some("eu")))
            });
            assert!(touched.count() > 0, "{name} touches no call");
        }
        let why = format!("{:#}", find("nowhere").unwrap_err());
        assert!(why.contains("pop-kill"), "{why}");
    }

    fn complaint(from: &str, to: &str) -> String {
        let (name, text) = BUILT_IN[2];
        assert!(text.contains(from), "{from}");
        format!("{:#}", Drill::parse(name, &text.replace(from, to)).unwrap_err())
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_its_cure() {
        for (from, to, words) in [
            ("title =", "titel =", "titel"),
            ("two_way_for = \"60s\"", "two_way_for = \"60\"", "two_way_for"),
            ("\"pop fra1\"", "\"pop nowhere\"", "there are fra1"),
            ("\"kill\"", "\"hurt\"", "it can: cut, drain, kill"),
            ("fra1 > sin1", "fra1 > sing1", "no POP \"sing1\""),
            ("calls = 200", "calls = 0", "1 to 1500"),
            ("codec = \"PCMU\"", "codec = \"MP3\"", "PCMU, PCMA"),
            ("\"100 %\"", "\"all\"", "preserved"),
            ("held = \"5 %\"", "held = \"5\"", "held"),
            ("srtp = \"5 %\"", "srtp = \"96 %\"", "100 % at most"),
        ] {
            let why = complaint(from, to);
            assert!(why.contains("pop-kill") && why.contains(words), "{from}: {why}");
        }
    }

    #[test]
    fn special_calls_are_spread_over_all_flows() {
        let drill = find("pop-kill").unwrap();
        for kind in [file::Kind::Held, file::Kind::Srtp] {
            let of_kind = |call: &u32| drill.load.shares.kind(*call) == kind;
            let calls: Vec<u32> = (0..drill.load.calls).filter(of_kind).collect();
            assert_eq!(calls.len(), 10, "{kind:?}");
            let all = drill.load.flows.len();
            let flows: BTreeSet<usize> = calls.iter().map(|call| *call as usize % all).collect();
            assert_eq!(flows.len(), all, "{kind:?}: {calls:?}");
        }
    }

    #[test]
    fn quick_shortens_and_never_lengthens() {
        let mut drill = find("control-plane-gone").unwrap();
        shorten(&mut drill);
        assert_eq!(drill.verdict.two_way, QUICK_TWO_WAY);
        assert_eq!(drill.faults[0].lasts, Some(QUICK_FAULT));
        drill.verdict.two_way = Duration::from_secs(2);
        shorten(&mut drill);
        assert_eq!(drill.verdict.two_way, Duration::from_secs(2));
    }
}
