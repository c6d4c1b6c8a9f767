//! A mesh that stays up: `chaos lab`. One command brings it up, others look at it, change what lies
//! between its POPs and hurt its nodes, one takes it down with nothing left.
//!
//! - [`file`] reads what is built, [`order`] is what can be asked of it; both are pure;
//! - `host` holds the mesh, and answers on a Unix socket.

pub mod file;
mod host;
pub mod order;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::screen::Screen;
use order::{Answer, Order, Quality};

/// A status of nine POPs with four upstreams each fits.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A rolling restart of a large mesh takes its time.
const PATIENCE: Duration = Duration::from_secs(900);

/// What `chaos lab` can be told.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// Where the lab listens for these commands
    #[arg(long, global = true, value_name = "PATH", default_value_os_t = usual_socket())]
    pub socket: PathBuf,
    /// What is done.
    #[command(subcommand)]
    pub action: Action,
}

/// What is done.
#[derive(Subcommand, Debug, Clone)]
pub enum Action {
    /// Brings a mesh up, and keeps it until Ctrl-C or `chaos lab down`
    Up(Up),
    /// Nodes with their addresses, and the ways between POPs
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Changes the way between two POPs, or one upstream of each; what is not named stays
    Link {
        /// fra1 (all its upstreams) or fra1/1 (one, counted from 0)
        from: String,
        /// As FROM; `all`: every other POP
        to: String,
        /// In this direction only
        #[arg(long)]
        one_way: bool,
        /// How good it is.
        #[command(flatten)]
        quality: Quality,
    },
    /// Does what a drill can do: `chaos lab do kill pop fra1`, `… do cut upstream fra1/0`
    Do {
        /// cut, drain, kill, pause, restart, silence
        verb: String,
        /// pop NAME, region NAME, control plane, control leader, upstream NAME/0, all nodes
        #[arg(required = true)]
        what: Vec<String>,
        /// Take it back
        #[arg(long)]
        undo: bool,
    },
    /// Ends all processes; nothing is left
    Down,
}

/// What `chaos lab up` can be told.
#[derive(Args, Debug, Clone)]
pub struct Up {
    /// A file of a lab, or the name of a drill whose mesh is built
    #[arg(value_name = "FILE|DRILL", default_value = "upstream-down")]
    pub what: String,
    /// For losses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep configurations, certificates, data and logs in this (new or empty) directory
    #[arg(long, value_name = "DIR")]
    pub keep_dir: Option<PathBuf>,
    /// Where control-plane, pop-node and meshctl are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

fn usual_socket() -> PathBuf {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    dir.join("voxmesh-lab.sock")
}

/// `chaos lab`: true if it worked.
pub async fn run(options: &Options, screen: &mut Screen) -> Result<bool> {
    let order = match &options.action {
        Action::Up(up) => {
            host::run(up, &options.socket, screen).await?;
            return Ok(true);
        }
        Action::Show { .. } => Order::Show,
        Action::Link { from, to, one_way, quality } => Order::Link {
            from: from.clone(),
            to: to.clone(),
            one_way: *one_way,
            quality: quality.clone(),
        },
        Action::Do { verb, what, undo } => {
            Order::Do { verb: verb.clone(), what: what.join(" "), undo: *undo }
        }
        Action::Down => Order::Down,
    };
    let answer = ask(&options.socket, &order).await?;
    if let Some(error) = answer.error {
        bail!("{error}");
    }
    match &options.action {
        Action::Show { json: true } => screen.line(&answer.facts.to_string()),
        _ => answer.lines.iter().for_each(|line| screen.line(line)),
    }
    Ok(true)
}

/// Asks the lab that listens there.
pub async fn ask(socket: &std::path::Path, order: &Order) -> Result<Answer> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no lab listens at {}: start one with chaos lab up", socket.display())
    })?;
    let exchange = async {
        let (read, mut write) = stream.into_split();
        write.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(read.take(ANSWER_BYTES_MAX)).read_line(&mut line).await?;
        ensure!(!line.is_empty(), "the lab ended before it answered");
        serde_json::from_str(&line).context("the lab answers what this version cannot read")
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("the lab does not answer")?
}
