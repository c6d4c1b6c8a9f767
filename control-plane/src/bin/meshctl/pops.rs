//! `meshctl pop`, `meshctl pops`

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use proto::control::list_pops_response::Entry;
use proto::control::pops_client::PopsClient;
use proto::control::{ListPopsRequest, SteerPopRequest, SteerPopResponse};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::cli::{Read, Write};
use crate::connect::{LIST_BYTES_MAX, Mesh, options};
use crate::docs::PopDoc;
use crate::table::{Printer, or_dash};
use crate::values::duration_ms;

/// Between looks at a POP that drains.
const LOOK: Duration = Duration::from_secs(1);
/// Its pace is that of the last so many looks.
const PACE: usize = 10;
/// Heartbeats come twice a second; what is older than this says nothing.
const HEARD_MS: u64 = 3_000;
/// A POP that no node hears for so long is waited for in vain.
const UNHEARD: Duration = Duration::from_secs(15);

#[derive(Subcommand)]
pub(crate) enum Pop {
    /// The POPs, whether they are heard, and what they may do
    List(Read),
    /// It takes no new calls; those in progress go on
    Cordon {
        /// Which POP
        name: String,
        #[command(flatten)]
        write: Write,
    },
    /// It takes no new calls, and those in progress move to other POPs; waits until none is left
    Drain(Drain),
    /// It takes calls again
    Uncordon {
        /// Which POP
        name: String,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Args)]
pub(crate) struct Drain {
    /// Which POP
    name: String,
    /// Say it, and do not wait for the calls
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this, such as 90s or 10m [default: until no call is left]
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, conflicts_with = "no_wait")]
    wait_at_most: Option<u64>,
    #[command(flatten)]
    write: Write,
}

pub(crate) async fn run(command: Pop, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Pop::List(read) => list(read, mesh, printer).await,
        Pop::Cordon { name, write } => {
            let ask = async |channel, request| PopsClient::new(channel).cordon(request).await;
            let revision = steer(&name, &write, mesh, ask).await?;
            let sentence = format!("{name} takes no new calls, as of revision {revision}");
            printer.done(&json!({ "cordoned": name, "revision": revision }), &sentence)
        }
        Pop::Uncordon { name, write } => {
            let ask = async |channel, request| PopsClient::new(channel).uncordon(request).await;
            let revision = steer(&name, &write, mesh, ask).await?;
            let sentence = format!("{name} takes calls again, as of revision {revision}");
            printer.done(&json!({ "uncordoned": name, "revision": revision }), &sentence)
        }
        Pop::Drain(drain) => self::drain(&drain, mesh, printer).await,
    }
}

async fn steer(
    name: &str,
    write: &Write,
    mesh: &Mesh,
    ask: impl AsyncFn(Channel, Request<SteerPopRequest>) -> Result<Response<SteerPopResponse>, Status>,
) -> Result<u64> {
    let request = SteerPopRequest { options: options(write), pop_id: name.to_owned() };
    Ok(mesh.call(request, ask).await?.header.unwrap_or_default().revision)
}

async fn entries(mesh: &Mesh, read: Read) -> Result<Vec<Entry>> {
    let request = ListPopsRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| {
        let client = PopsClient::new(channel);
        client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
    };
    Ok(mesh.call(request, ask).await?.pops)
}

pub(crate) async fn list(read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let entries = entries(mesh, read).await?;
    let pops: Vec<PopDoc> = entries.into_iter().map(Into::into).collect();
    let rows: Vec<Vec<String>> = pops.iter().map(row).collect();
    let head = ["POP", "REGION", "STATE", "CALLS", "EPOCH", "VIEW", "OVERLAY", "SIP", "VERSION"];
    printer.list(&pops, &head, &rows)
}

fn row(pop: &PopDoc) -> Vec<String> {
    let heard = match (pop.alive, pop.silent_ms) {
        (true, _) => "alive".to_owned(),
        (false, _) if pop.fenced => "given up".to_owned(),
        (false, Some(ms)) => format!("gone, silent here {} s", ms / 1_000),
        (false, None) => "gone, never heard here".to_owned(),
    };
    let state = match (pop.draining, pop.cordoned) {
        (true, _) => format!("{heard}, draining"),
        (false, true) => format!("{heard}, cordoned"),
        (false, false) => heard,
    };
    vec![
        pop.id.clone(),
        pop.region.clone(),
        state,
        pop.calls.to_string(),
        pop.epoch.to_string(),
        pop.view_revision.to_string(),
        or_dash(&pop.overlay_address),
        or_dash(pop.sip_addresses.join(" ")),
        or_dash(&pop.version),
    ]
}

async fn drain(drain: &Drain, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let name = &drain.name;
    let ask = async |channel, request| PopsClient::new(channel).drain(request).await;
    let revision = steer(name, &drain.write, mesh, ask).await?;
    if drain.no_wait || drain.write.dry_run {
        let sentence = format!("{name} is draining, as of revision {revision}");
        return printer.done(&json!({ "draining": name, "revision": revision }), &sentence);
    }
    let began = Instant::now();
    let moved = wait(drain, revision, mesh, began).await?;
    let seconds = began.elapsed().as_secs_f64();
    let sentence =
        format!("{name} carries no call any more: {moved} moved or ended in {seconds:.0} s");
    let document =
        json!({ "drained": name, "revision": revision, "calls": moved, "seconds": seconds });
    printer.done(&document, &sentence)
}

/// Until the POP, that knows it is to drain, carries no call: how many it carried.
async fn wait(drain: &Drain, revision: u64, mesh: &Mesh, began: Instant) -> Result<u32> {
    let name = &drain.name;
    let (mut most, mut last, mut heard) = (0, None, began);
    let mut looks = Looks::default();
    loop {
        let found = entries(mesh, Read::default()).await?.into_iter();
        let mut found = found.filter(|e| e.pop.as_ref().is_some_and(|pop| pop.pop_id == *name));
        let Some(entry) = found.next() else { bail!("POP \"{name}\" is no longer of this mesh") };
        let pop = entry.pop.clone().unwrap_or_default();
        if pop.fenced {
            bail!(
                "POP \"{name}\" was given up meanwhile: its calls were taken over, see `meshctl pop list`"
            );
        }
        if !pop.draining {
            bail!(
                "somebody ended the drain of POP \"{name}\" meanwhile: {} calls left",
                entry.calls
            );
        }
        if entry.silent_ms.is_some_and(|ms| ms <= HEARD_MS) {
            heard = Instant::now();
            most = most.max(entry.calls);
            // What it said before it knew is not the end.
            if entry.calls == 0 && entry.view_revision >= revision {
                return Ok(most);
            }
            looks.add(began.elapsed(), entry.calls);
            let said = looks.words(entry.calls);
            if last.as_ref() != Some(&said) {
                // Nobody misses a line that could not be written.
                let _ = writeln!(std::io::stderr(), "{name}: {said}");
                last = Some(said);
            }
        } else if heard.elapsed() > UNHEARD {
            bail!(
                "no heartbeats of POP \"{name}\" arrive: see `meshctl pop list`; it stays draining"
            );
        }
        if drain.wait_at_most.is_some_and(|ms| began.elapsed() >= Duration::from_millis(ms)) {
            bail!(
                "POP \"{name}\" still carries {} calls; it stays draining: wait on with the same \
                 command, or end it with `meshctl pop uncordon {name}`",
                entry.calls
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many calls there were lately, and when.
#[derive(Default)]
struct Looks(VecDeque<(Duration, u32)>);

impl Looks {
    fn add(&mut self, at: Duration, calls: u32) {
        if self.0.len() > PACE {
            self.0.pop_front();
        }
        self.0.push_back((at, calls));
    }

    fn words(&self, left: u32) -> String {
        let pace = match (self.0.front(), self.0.back()) {
            (Some((from, before)), Some((to, now))) if to > from && before > now => {
                f64::from(before - now) / (*to - *from).as_secs_f64()
            }
            _ => return format!("{left} calls left"),
        };
        let eta = f64::from(left) / pace;
        format!("{left} calls left, {pace:.1} a second, {eta:.0} s to go")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_pace_of_the_last_looks() {
        let mut looks = Looks::default();
        let at = Duration::from_secs;
        looks.add(at(0), 200);
        assert_eq!(looks.words(200), "200 calls left");
        looks.add(at(1), 180);
        assert_eq!(looks.words(180), "180 calls left, 20.0 a second, 9 s to go");
        // A pause: the pace of long ago does not count.
        (2..=12).for_each(|second| looks.add(at(second), 180));
        assert_eq!(looks.words(180), "180 calls left");
        // Calls that came meanwhile are no negative pace.
        looks.add(at(13), 190);
        assert_eq!(looks.words(190), "190 calls left");
    }
}
