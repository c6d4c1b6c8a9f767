//! `pop-node`: runs a POP, or checks its configuration.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use pop_node::check;
use pop_node::config::Config;
use tracing_subscriber::EnvFilter;

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

fn run_file(file: &File) -> ExitCode {
    // It warns of each odd message of a router; those are counted.
    let quiet = "bgpkit_parser=off".parse().expect("a directive");
    let filter = EnvFilter::try_from_env("POP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = filter.add_directive(quiet);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
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
