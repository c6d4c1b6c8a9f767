//! `chaos demo`: a mesh of three regions, calls with a human voice across it, a control node
//! killed in the middle, and the verdict in words.

mod next;
mod plan;
mod stage;
mod table;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub use crate::screen::Screen;

use crate::drill;
use crate::lab::{self, Topology};
use crate::wan::Profile;
use stage::Stage;

/// What the demo can be told.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// End after the verdict, also on a terminal
    #[arg(long)]
    pub once: bool,
    /// Calls to place
    #[arg(long, value_name = "N", default_value_t = 24)]
    pub calls: u16,
    /// How long each call talks
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub seconds: u16,
    /// One-way delay between any two POPs
    #[arg(long, value_name = "MS", default_value_t = 40)]
    pub delay_ms: u16,
    /// At most this much more delay, packet by packet
    #[arg(long, value_name = "MS", default_value_t = 4)]
    pub jitter_ms: u16,
    /// Share of datagrams that the WAN loses
    #[arg(long, value_name = "PERCENT", default_value_t = 0.2)]
    pub loss_percent: f64,
    /// Same seed: the same calls, and the same rule of losses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep configurations, certificates, data and logs in this (new or empty) directory
    #[arg(long, value_name = "DIR")]
    pub keep_dir: Option<PathBuf>,
    /// Where control-plane and pop-node are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

impl Options {
    fn topology(&self) -> Result<Topology> {
        ensure!((1..=200).contains(&self.calls), "--calls: 1 to 200");
        ensure!((6..=600).contains(&self.seconds), "--seconds: 6 to 600");
        ensure!((0.0..=100.0).contains(&self.loss_percent), "--loss-percent: 0 to 100");
        let bin_dir = self.bin_dir.clone().map_or_else(lab::bin_dir, Ok)?;
        let profile = Profile {
            delay: Duration::from_millis(self.delay_ms.into()),
            jitter: Duration::from_millis(self.jitter_ms.into()),
            loss: self.loss_percent / 100.0,
            ..Profile::default()
        };
        Ok(Topology {
            wan: Some(profile),
            seed: self.seed,
            keep_dir: self.keep_dir.clone(),
            ..Topology::three_regions(&bin_dir)
        })
    }
}

/// Lines that somebody types.
fn keys() -> tokio::sync::mpsc::Receiver<String> {
    let (typed, keys) = tokio::sync::mpsc::channel(4);
    // A plain thread: a blocking read on the runtime would hold up its end.
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|length| length > 0)
            && typed.blocking_send(std::mem::take(&mut line)).is_ok()
        {}
    });
    keys
}

/// A drill with few calls: what is lost, and what they hear of it.
async fn lose(name: &str, options: &Options, screen: &mut Screen) -> Result<()> {
    let mut drill = drill::find(name)?;
    drill::shorten(&mut drill);
    drill.load.calls = 24;
    drill.load.new = None;
    drill.verdict.new_calls = None;
    let bin_dir = options.bin_dir.clone().map_or_else(lab::bin_dir, Ok)?;
    let settings = drill::Settings { seed: options.seed, repeat: 1, keep_dir: None, bin_dir };
    let outcome = drill::perform(drill, &settings, screen).await?;
    let told =
        outcome.rows.iter().filter(|row| row.name.contains("calls") || row.name.contains("hear"));
    screen.line(if outcome.holds() { "The calls survived." } else { "Not all calls survived." });
    told.for_each(|row| screen.line(&format!("  {:55} {}", row.name, row.figure())));
    screen.line("");
    Ok(())
}

/// Runs the demo; true if the calls were good. Dropping the future ends and cleans everything.
pub async fn run(options: &Options, screen: &mut Screen) -> Result<bool> {
    let topology = options.topology()?;
    let mut stage = Stage::open(&topology, screen).await?;
    let talk = Duration::from_secs(options.seconds.into());
    let facts = stage.perform(options.calls.into(), talk, screen).await?;
    let verdict = verdict::judge(&facts);
    screen.line("");
    screen.line(if verdict.is_good() { "VERDICT: good." } else { "VERDICT: not good." });
    verdict.lines.iter().for_each(|line| screen.line(&format!("  {line}")));
    verdict.complaints.iter().take(20).for_each(|why| screen.line(&format!("  NOT GOOD: {why}")));
    if verdict.complaints.len() > 20 {
        screen.line(&format!("  … and {} more.", verdict.complaints.len() - 20));
    }
    screen.line("");
    if !options.once && screen.is_terminal() {
        stage.heal(screen).await?;
        next::call_in(stage.mesh()).iter().for_each(|line| screen.line(line));
        screen.line("");
        next::real_mesh(stage.mesh()).iter().for_each(|line| screen.line(line));
        screen.line("");
        let mut keys = keys();
        loop {
            screen.line("r and Enter: a region falls silent under 24 calls, in a mesh of its own.");
            screen.line("p and Enter: a POP is killed under 24 calls. Enter or Ctrl-C: the end.");
            match stage.attend(&mut keys).await?.trim() {
                "p" => lose("pop-kill", options, screen).await?,
                "r" => lose("region-loss", options, screen).await?,
                _ => break,
            }
        }
    } else {
        screen.line(
            "Next: on a terminal, without --once, the mesh stays up, and any softphone may call in.",
        );
        screen.line("");
        next::real_mesh(stage.mesh()).iter().for_each(|line| screen.line(line));
    }
    if let Some(dir) = &options.keep_dir {
        screen.line(&format!("Kept: {}", dir.display()));
    }
    stage.close().await.context("the mesh did not end as it should")?;
    Ok(verdict.is_good())
}
