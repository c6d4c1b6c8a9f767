//! `pop-node`: runs a POP, or checks its configuration.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use pop_core::bgp::Prefix;
use pop_node::announce::{self, Router};
use pop_node::check;
use pop_node::config::Config;

/// A Voxmesh POP: SIP and RTP to carriers, QUIC to other POPs.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    run: Option<File>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Explains what is wrong with a configuration before anything starts
    Check(File),
    /// Makes this machine a POP of a mesh: key, certificate and a first configuration
    Join {
        /// As `meshctl token create --pop NAME` printed it
        token: String,
        /// Where the files go
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Has ExaBGP or FRR announce the POP's own prefixes while it serves, and take them back in the order a drain needs
    ///
    /// A process of its own, beside the POP. It looks at the POP's /standing once a second: while it serves the
    /// prefixes are announced; when it is cordoned or drained, with the community 65535:0 (RFC 8326), so
    /// that whoever has another way uses it; when the last call has moved, or the POP has said nothing for 3 s, they
    /// are withdrawn.
    Announce(Announce),
}

#[derive(Args)]
struct Announce {
    #[command(flatten)]
    file: File,
    /// A prefix of the POP's own, such as 192.0.2.0/24; may be given again
    #[arg(long = "prefix", value_name = "PREFIX", required = true)]
    prefixes: Vec<Prefix>,
    /// Who announces: exabgp, as its process (commands on standard output), or frr, by vtysh
    #[arg(long, value_name = "WHO")]
    to: Speaker,
    /// Where ExaBGP's routes lead, if not to ExaBGP
    #[arg(long, value_name = "ADDRESS")]
    next_hop: Option<IpAddr>,
    /// FRR's AS
    #[arg(long = "as", value_name = "ASN", required_if_eq("to", "frr"))]
    asn: Option<u32>,
    /// How to start vtysh, with its arguments
    #[arg(long, value_name = "COMMAND", default_value = "vtysh")]
    vtysh: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Speaker {
    #[value(name = "exabgp")]
    ExaBgp,
    Frr,
}

#[derive(Args)]
struct File {
    /// The TOML file (see deploy/pop-node.toml)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match (cli.command, cli.run) {
        (Some(Command::Check(file)), _) => check_file(&file),
        (Some(Command::Join { token, dir }), _) => join(&token, &dir),
        (Some(Command::Announce(options)), _) => announce(options),
        (None, Some(file)) => run_file(&file),
        (None, None) => ExitCode::FAILURE,
    }
}

/// One sentence per line on standard error.
fn say(text: impl std::fmt::Display) {
    // A closed standard error changes nothing about the outcome.
    let _ = writeln!(std::io::stderr(), "pop-node: {text}");
}

fn check_file(file: &File) -> ExitCode {
    let config = match Config::load(&file.config) {
        Ok(config) => config,
        Err(error) => {
            say(error);
            return ExitCode::FAILURE;
        }
    };
    let findings = check::check(&config, SystemTime::now());
    findings.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    findings.problems.iter().for_each(say);
    if findings.problems.is_empty() {
        say(format_args!("{} can start as {}", file.config.display(), config.id));
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn join(token: &str, dir: &Path) -> ExitCode {
    let joined = token.parse().map_err(anyhow::Error::from).and_then(|token| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(pop_node::join::run(&token, dir))?)
    });
    match joined {
        Ok(text) => {
            text.lines().for_each(say);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}

fn announce(options: Announce) -> ExitCode {
    let _log = pop_node::log::start();
    let Announce { file, prefixes, to, next_hop, asn, vtysh } = options;
    let vtysh = vtysh.split_whitespace().map(str::to_owned).collect();
    let router = match to {
        Speaker::ExaBgp => Router::ExaBgp(next_hop),
        Speaker::Frr => Router::Frr { asn: asn.unwrap_or_default(), vtysh },
    };
    let ended = Config::load(&file.config).map_err(anyhow::Error::from).and_then(|config| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let options = announce::Options { admin: config.admin, prefixes, router };
        runtime.block_on(announce::run(options))
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_file(file: &File) -> ExitCode {
    let _log = pop_node::log::start();
    let outcome = Config::load(&file.config).map_err(anyhow::Error::from).and_then(|config| {
        // Calls are one loop and media is its own thread: more threads would only cost memory.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(4)
            .enable_all()
            .build()?;
        Ok(runtime.block_on(pop_node::run::run(config))?)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    }
}
