//! `meshctl path`: how POPs reach each other, as they measure it themselves.

use anyhow::{Context, Result};
use clap::Subcommand;
use proto::control::pop_question::About;
use proto::control::pops_client::PopsClient;
use proto::control::{AskPopRequest, ListPopsRequest, PathsQuestion, PopAnswer, PopQuestion};
use serde::Deserialize;
use serde_json::Value;

use crate::connect::{LIST_BYTES_MAX, Mesh};
use crate::table::Printer;
use crate::values::duration_ms;

/// How far POPs remember, in ms.
const REMEMBERED: u64 = 3_600_000;

#[derive(Subcommand)]
pub(crate) enum Path {
    /// The path in use between each pair of POPs, and how good it is
    List {
        /// Only from this POP
        from: Option<String>,
    },
    /// Which path carries calls from one POP to another, why, and what would change it
    #[command(after_help = "Example:\n  meshctl path explain fra1 sin1")]
    Explain {
        /// Whose choice
        from: String,
        /// Calls to which POP
        to: String,
    },
    /// What changed between two POPs lately; or all paths as they were at a moment of the last hour
    #[command(after_help = "Examples:
  meshctl path history fra1 sin1            what changed, newest first
  meshctl path history fra1 sin1 --ago 20m  the paths as they were then")]
    History {
        /// Whose choice
        from: String,
        /// Calls to which POP
        to: String,
        /// A moment so long ago, such as 90s or 20m; an hour at most
        #[arg(long, value_name = "DURATION", value_parser = ago)]
        ago: Option<u64>,
    },
}

fn ago(text: &str) -> Result<u64, String> {
    match duration_ms(text)? {
        ms @ 1_000..=REMEMBERED => Ok(ms),
        _ => Err("must be from 1s to 1h".to_owned()),
    }
}

pub(crate) async fn run(command: Path, mesh: &Mesh, printer: &Printer) -> Result<()> {
    match command {
        Path::List { from } => list(from, mesh, printer).await,
        Path::Explain { from, to } => {
            let answer = ask(mesh, &from, &to, 0).await?;
            let words = answer.words.split("\n\nChanges").next().unwrap_or_default();
            printer.done(&document(&answer)?, words.trim_end())
        }
        Path::History { from, to, ago } => {
            let seconds = u32::try_from(ago.unwrap_or(0) / 1_000).unwrap_or(0);
            let answer = ask(mesh, &from, &to, seconds).await?;
            let words = match answer.words.find("Changes") {
                Some(changes) if ago.is_none() => answer.words.split_at(changes).1,
                _ => &answer.words,
            };
            printer.done(&document(&answer)?, words.trim_end())
        }
    }
}

async fn ask(mesh: &Mesh, pop: &str, peer: &str, seconds_ago: u32) -> Result<PopAnswer> {
    let about = About::Paths(PathsQuestion { peer: peer.to_owned(), seconds_ago });
    let question = Some(PopQuestion { number: 0, about: Some(about) });
    let request = AskPopRequest { pop_id: pop.to_owned(), question };
    let ask = async |channel, request| PopsClient::new(channel).ask(request).await;
    mesh.call(request, ask).await?.answer.context("the answer is empty")
}

fn document(answer: &PopAnswer) -> Result<Value> {
    serde_json::from_str(&answer.document).context("the POP's answer is no JSON")
}

async fn list(from: Option<String>, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let all = from.is_none();
    let pops = match from {
        Some(from) => vec![from],
        None => living(mesh).await?,
    };
    let (mut documents, mut rows) = (Vec::new(), Vec::new());
    for pop in pops {
        let answer = match ask(mesh, &pop, "", 0).await {
            Ok(answer) => answer,
            // One that is just dying hides no other.
            Err(error) if all => {
                documents.push(serde_json::json!({ "pop": pop, "error": error.to_string() }));
                rows.push(vec![pop, "-".to_owned(), format!("no answer: {error}")]);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut found = document(&answer)?;
        let peers = found.get_mut("peers").map(Value::take).unwrap_or_default();
        let known = Vec::<Peer>::deserialize(&peers).context("the POP's answer is no such list")?;
        rows.extend(known.into_iter().map(|peer| row(&pop, peer)));
        documents.push(serde_json::json!({ "pop": pop, "peers": peers }));
    }
    let head = ["FROM", "TO", "PATH", "COPY", "STATE", "RTT MS", "LOSS %", "R", "FOR", "WHY"];
    printer.list(&documents, &head, &rows)
}

/// What is shown of `/paths` of a POP.
#[derive(Deserialize)]
struct Peer {
    peer: String,
    primary: Option<String>,
    copy: Option<String>,
    why: Option<String>,
    since_seconds: Option<f64>,
    /// Of the primary path alone; POPs of older builds do not say it.
    primary_why: Option<String>,
    primary_since_seconds: Option<f64>,
    paths: Vec<Measured>,
}

#[derive(Deserialize)]
struct Measured {
    path: String,
    state: String,
    rtt_ms: Option<f64>,
    loss: f64,
    r_factor: f64,
}

async fn living(mesh: &Mesh) -> Result<Vec<String>> {
    let ask = async |channel, request| {
        let client = PopsClient::new(channel);
        client.max_decoding_message_size(LIST_BYTES_MAX).list(request).await
    };
    let pops = mesh.call(ListPopsRequest::default(), ask).await?.pops;
    let living = pops.into_iter().filter(|entry| entry.alive).filter_map(|entry| entry.pop);
    Ok(living.map(|pop| pop.pop_id).collect())
}

fn row(pop: &str, peer: Peer) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let used = peer.paths.into_iter().find(|path| Some(&path.path) == peer.primary.as_ref());
    let used = used.as_ref();
    let since = peer.primary_since_seconds.or(peer.since_seconds);
    vec![
        pop.to_owned(),
        peer.peer,
        text(peer.primary),
        text(peer.copy),
        text(used.map(|path| path.state.clone())),
        number(used.and_then(|path| path.rtt_ms)),
        number(used.map(|path| path.loss * 100.0)),
        number(used.map(|path| path.r_factor)),
        since.map_or("-".to_owned(), |seconds| format!("{seconds:.0} s")),
        text(peer.primary_why.or(peer.why)),
    ]
}
