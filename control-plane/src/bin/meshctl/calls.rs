//! `meshctl call`, `meshctl drill preview`: calls as their POPs know them, and what would become of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use proto::control::list_pops_response::Entry;
use proto::control::pop_question::About;
use proto::control::pops_client::PopsClient;
use proto::control::{AskPopRequest, CallsQuestion, ListPopsRequest, PopQuestion};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::connect::{LIST_BYTES_MAX, Mesh};
use crate::table::{Printer, or_dash};

#[derive(Subcommand)]
pub(crate) enum Call {
    /// The calls of all POPs, or of one, and who would take each over
    List {
        /// Only of this POP
        pop: Option<String>,
    },
    /// One call: where its halves are, and whether it would survive the loss of each POP and region
    Show {
        /// Its id, of `meshctl call list` or a call record
        call: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Drill {
    /// Counts what would be lost; nothing is touched
    #[command(
        subcommand,
        after_help = "Examples:\n  meshctl drill preview region-loss eu\n  meshctl drill preview pop-loss fra1"
    )]
    Preview(Preview),
}

#[derive(Subcommand)]
pub(crate) enum Preview {
    /// All POPs of a region at once
    RegionLoss {
        /// Which region
        region: String,
    },
    /// One POP
    PopLoss {
        /// Which POP
        pop: String,
    },
}

/// A half of a call, or a whole one that has both at one POP.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Half {
    #[serde(default)]
    pop: String,
    call_id: String,
    role: String,
    phase: String,
    trunk_in: Option<String>,
    trunk_out: Option<String>,
    peer: Option<String>,
    moved_from: Option<String>,
    age_seconds: f64,
    mos: Option<f64>,
    guardians: Vec<Guardian>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Guardian {
    pop: String,
    fresh: bool,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// None of its halves is there.
    Untouched,
    Survives,
    /// No POP that is left has it.
    Lost,
    /// It is not answered yet: its caller has to call again, or the next candidate gets it.
    SettingUp,
}

#[derive(Deserialize)]
struct Calls {
    calls: Vec<Half>,
}

/// Halves of one call against the loss of these POPs.
fn fate(halves: &[&Half], lost: &BTreeSet<&str>) -> Fate {
    let mut touched = halves.iter().filter(|half| lost.contains(half.pop.as_str())).peekable();
    if touched.peek().is_none() {
        return Fate::Untouched;
    }
    if halves.iter().any(|half| half.phase == "setting_up") {
        return Fate::SettingUp;
    }
    let saved = |half: &&&Half| {
        let next = half.guardians.iter().find(|guardian| !lost.contains(guardian.pop.as_str()));
        next.is_some_and(|guardian| guardian.fresh)
    };
    if touched.all(|half| saved(&half)) { Fate::Survives } else { Fate::Lost }
}

pub(crate) async fn run(command: Call, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Call::List { pop } => list(pop, mesh, printer).await,
        Call::Show { call } => show(&call, mesh, printer).await,
    }
}

pub(crate) async fn drill(command: Drill, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let Drill::Preview(preview) = command;
    let pops = pops(mesh).await?;
    let of_region = |region: &str| -> BTreeSet<String> {
        pops.iter().filter(|(_, r)| r == region).map(|(id, _)| id.clone()).collect()
    };
    let (what, lost) = match preview {
        Preview::RegionLoss { region } => (format!("region {region}"), of_region(&region)),
        Preview::PopLoss { pop } => {
            let known = pops.iter().any(|(id, _)| *id == pop);
            (format!("POP {pop}"), known.then_some(pop).into_iter().collect())
        }
    };
    if lost.is_empty() {
        bail!("there is no live POP in {what}: see `meshctl pop list`");
    }
    let halves = all(mesh, &pops, "").await?;
    let lost: BTreeSet<&str> = lost.iter().map(String::as_str).collect();
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let calls = by_call(&halves);
    for (call, halves) in &calls {
        let word = match fate(halves, &lost) {
            Fate::Untouched => "untouched",
            Fate::Survives => "survive",
            Fate::Lost => "lost",
            Fate::SettingUp => "setting_up",
        };
        found.entry(word).or_default().push(call);
    }
    let count = |word: &str| found.get(word).map_or(0, Vec::len);
    let document = json!({
        "what": what, "pops": lost, "calls": calls.len(), "untouched": count("untouched"),
        "survive": count("survive"), "lost": count("lost"), "setting_up": count("setting_up"),
        "lost_calls": found.get("lost"),
    });
    let named = found.get("lost").map(|calls| calls.iter().take(5).copied().collect::<Vec<_>>());
    let names =
        named.map_or(String::new(), |calls| format!(" (for instance {})", calls.join(", ")));
    let words = format!(
        "If {what} were lost now: of {} calls {} would go on elsewhere, {} would be lost{names}, {} are being \
         set up there and would be tried again or fail, {} are not touched.",
        calls.len(),
        count("survive"),
        count("lost"),
        count("setting_up"),
        count("untouched"),
    );
    printer.done(&document, &words)
}

fn by_call(halves: &[Half]) -> BTreeMap<&str, Vec<&Half>> {
    let mut calls: BTreeMap<&str, Vec<&Half>> = BTreeMap::new();
    for half in halves {
        calls.entry(&half.call_id).or_default().push(half);
    }
    calls
}

/// Living POPs and their regions.
async fn pops(mesh: &Mesh) -> Result<Vec<(String, String)>> {
    let ask = async |channel, request| {
        let client = PopsClient::new(channel);
        client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
    };
    let pops = mesh.call(ListPopsRequest::default(), ask).await?.pops;
    let living = pops.into_iter().filter(|entry: &Entry| entry.alive).filter_map(|e| e.pop);
    Ok(living.map(|pop| (pop.pop_id, pop.region)).collect())
}

async fn ask(mesh: &Mesh, pop: &str, call: &str) -> Result<Vec<Half>> {
    let about = About::Calls(CallsQuestion { call_id: call.to_owned() });
    let question = Some(PopQuestion { number: 0, about: Some(about) });
    let request = AskPopRequest { pop_id: pop.to_owned(), question };
    let ask = async |channel, request| PopsClient::new(channel).ask(request).await;
    let answer = mesh.call(request, ask).await?.answer.context("the answer is empty")?;
    let calls: Calls = serde_json::from_str(&answer.document)
        .with_context(|| format!("the answer of {pop} is no list of calls"))?;
    let mut halves = calls.calls;
    halves.iter_mut().for_each(|half| pop.clone_into(&mut half.pop));
    Ok(halves)
}

/// Of all these POPs; one that does not answer ends it: what is missing would look safe.
async fn all(mesh: &Mesh, pops: &[(String, String)], call: &str) -> Result<Vec<Half>> {
    let mut halves = Vec::new();
    for (pop, _) in pops {
        halves.extend(ask(mesh, pop, call).await?);
    }
    Ok(halves)
}

fn guards(half: &Half) -> String {
    let guardian = |g: &Guardian| format!("{}{}", g.pop, if g.fresh { "" } else { " (not yet)" });
    or_dash(half.guardians.iter().map(guardian).collect::<Vec<_>>().join(", "))
}

async fn list(pop: Option<String>, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let halves = match pop {
        Some(pop) => ask(mesh, &pop, "").await?,
        None => all(mesh, &pops(mesh).await?, "").await?,
    };
    let row = |half: &Half| {
        let text = |value: &Option<String>| or_dash(value.clone().unwrap_or_default());
        vec![
            half.call_id.clone(),
            half.pop.clone(),
            half.role.clone(),
            half.phase.clone(),
            text(&half.trunk_in),
            text(&half.trunk_out),
            text(&half.peer),
            format!("{:.0}", half.age_seconds),
            half.mos.map_or("-".to_owned(), |mos| format!("{mos:.2}")),
            guards(half),
        ]
    };
    let rows: Vec<_> = halves.iter().map(row).collect();
    let head = ["CALL", "POP", "ROLE", "PHASE", "IN", "OUT", "PEER", "AGE S", "MOS", "GUARDIANS"];
    printer.list(&halves, &head, &rows)
}

async fn show(call: &str, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let pops = pops(mesh).await?;
    let halves = all(mesh, &pops, call).await?;
    if halves.is_empty() {
        bail!("no living POP has a call {call:?}: it is over, or the id is another one's");
    }
    let halves: Vec<&Half> = halves.iter().collect();
    let mut words = Vec::new();
    for half in &halves {
        let since =
            half.moved_from.as_ref().map_or(String::new(), |pop| format!(", before at {pop}"));
        words.push(format!(
            "{} at {}{since}: {}, for {:.0} s; guarded by {}",
            half.role,
            half.pop,
            half.phase.replace('_', " "),
            half.age_seconds,
            guards(half)
        ));
    }
    let mut losses: Vec<(String, BTreeSet<&str>)> = Vec::new();
    let at: BTreeSet<&str> = halves.iter().map(|half| half.pop.as_str()).collect();
    losses.extend(at.iter().map(|pop| (format!("POP {pop}"), BTreeSet::from([*pop]))));
    let regions: BTreeSet<&str> = pops
        .iter()
        .filter(|(id, _)| at.contains(id.as_str()))
        .map(|(_, region)| region.as_str())
        .collect();
    for region in regions {
        let of = pops.iter().filter(|(_, r)| r == region).map(|(id, _)| id.as_str());
        losses.push((format!("region {region}"), of.collect()));
    }
    let mut fates = Vec::new();
    for (what, lost) in &losses {
        let fate = fate(&halves, lost);
        let word = match fate {
            Fate::Untouched => "is not touched by",
            Fate::Survives => "survives",
            Fate::Lost => "does NOT survive",
            Fate::SettingUp => "is not answered yet, and would be tried again or fail after",
        };
        words.push(format!("It {word} the loss of {what}."));
        fates.push(json!({ "loss_of": what, "survives": fate == Fate::Survives }));
    }
    printer.done(&json!({ "halves": halves, "losses": fates }), &words.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(pop: &str, phase: &str, guardians: &[(&str, bool)]) -> Half {
        Half {
            pop: pop.into(),
            call_id: "c".into(),
            role: "ingress".into(),
            phase: phase.into(),
            trunk_in: None,
            trunk_out: None,
            peer: None,
            moved_from: None,
            age_seconds: 1.0,
            mos: None,
            guardians: guardians
                .iter()
                .map(|(pop, fresh)| Guardian { pop: (*pop).into(), fresh: *fresh })
                .collect(),
        }
    }

    #[test]
    fn a_call_survives_if_the_first_guardian_that_is_left_has_it() {
        let a = half("fra1", "answered", &[("sin1", true), ("iad1", false)]);
        let b = half("sin1", "answered", &[("fra1", true), ("iad1", true)]);
        let of = |lost: &[&str]| fate(&[&a, &b], &lost.iter().copied().collect());
        assert_eq!(of(&["iad1"]), Fate::Untouched);
        assert_eq!((of(&["fra1"]), of(&["sin1"])), (Fate::Survives, Fate::Survives));
        assert_eq!(of(&["fra1", "sin1"]), Fate::Lost, "iad1 has not heard of one half yet");
        assert_eq!(of(&["sin1", "iad1"]), Fate::Survives);
        let alone = half("fra1", "answered", &[]);
        assert_eq!(fate(&[&alone], &BTreeSet::from(["fra1"])), Fate::Lost);
        let rings = half("fra1", "setting_up", &[]);
        assert_eq!(fate(&[&rings], &BTreeSet::from(["fra1"])), Fate::SettingUp);
    }
}
