//! What calls hear when POPs, regions and the control plane are lost: the drills, as figures.
#![allow(clippy::print_stderr, reason = "progress of a command")]

use anyhow::{Result, bail};
use chaos::drill::verdict::{Bound, Row};
use chaos::drill::{self, Outcome, Settings};
use chaos::lab::bin_dir;
use chaos::screen::Screen;

use super::{Figure, Table, Target};

/// Name of the group, its drill, and the event in words.
const GROUPS: [(&str, &str, &str); 9] = [
    ("kill", "pop-kill", "kill -9 of a POP"),
    ("silent", "pop-silent", "a POP's host gone silent"),
    ("region", "region-loss", "a whole region at once"),
    ("leader", "region-loss-leader", "the raft leader's region at once"),
    ("pause", "pop-pause", "SIGSTOP of a POP for a while"),
    ("upstream", "upstream-down", "one upstream of a POP"),
    ("control", "control-plane-gone", "the control plane gone"),
    ("drain", "drain", "drain of a POP"),
    ("restart", "rolling-restart", "restart of all nodes one by one"),
];
/// Not an event: what being ready for them costs.
const COST: &str = "cost";
const REPETITIONS: u32 = 10;
/// Without its control plane for ten minutes each time.
const LONG: &str = "control";
const QUICK_REPETITIONS: u32 = 1;
const QUICK_CALLS: u32 = 40;

/// Why there is nothing to compare with.
const NO_PEER: &str = "No peer: FreeSWITCH recovers calls in 3 to 5 s with a shared database and one \
    address in one L2 segment, rtpengine in about 1 s likewise, OpenSIPS re-anchors by hand; across \
    a WAN none of them keeps a call (their documentation and issues).";

pub(super) async fn run(arguments: &[String]) -> Result<Table> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|a| *a != "--quick").collect();
    let names: Vec<&str> = GROUPS.iter().map(|(name, ..)| *name).chain([COST]).collect();
    if let Some(unknown) = wanted.iter().find(|group| !names.contains(group)) {
        bail!("no group '{unknown}'; there are: {}", names.join(", "));
    }
    let out = crate::root().join("tests/out/survive");
    let mut table = Table::new("survive");
    table.note(NO_PEER);
    if wanted.is_empty() || wanted.contains(&COST) {
        super::guarding::cost(&mut table).await?;
    }
    for (group, name, event) in GROUPS {
        if !wanted.is_empty() && !wanted.contains(&group) {
            continue;
        }
        let mut drill = drill::find(name)?;
        if quick {
            drill::shorten(&mut drill);
            drill.load.calls = QUICK_CALLS;
        }
        let once = quick || group == LONG;
        let repeat = if once { QUICK_REPETITIONS } else { REPETITIONS };
        let settings = Settings { seed: 1, repeat, keep_dir: None, bin_dir: bin_dir()? };
        // One event that cannot be shown does not hide the others.
        match drill::perform(drill, &settings, &mut Screen::stderr()).await {
            Ok(outcome) => {
                let page = drill::write(&outcome, &out)?;
                eprintln!("survive: {event}: {}", page.display());
                add(&mut table, event, &outcome);
            }
            Err(why) => {
                eprintln!("survive: {event} could not be shown: {why:#}");
                table.add(Figure {
                    name: format!("{event}: could not be shown"),
                    peer: None,
                    ours: f64::NAN,
                    target: Target::AtLeast(0.0),
                    unit: "",
                });
            }
        }
    }
    Ok(table)
}

/// The rows that are judged, and what belongs to them.
fn add(table: &mut Table, event: &str, outcome: &Outcome) {
    for row in outcome.rows.iter().filter(|row| row.target.is_some() || tells(row)) {
        table.add(Figure {
            name: format!("{event}: {}", row.name),
            peer: None,
            ours: row.ours,
            target: match row.target {
                Some(Bound::AtLeast(least)) => Target::AtLeast(least),
                Some(Bound::AtMost(most)) => Target::AtMost(most),
                None => Target::Told,
            },
            unit: row.unit,
        });
    }
}

/// Told without a target: the tail of the gaps is never left out.
fn tells(row: &Row) -> bool {
    row.name.ends_with("gap, p99") || row.name.ends_with("again, p99") || row.name.ends_with("max")
}
