//! `control-plane`: runs a control node, or checks its configuration.
//!
//! Exit codes: 0 stopped when asked to, or the check passed; 1 refused to start; 2 wrong arguments;
//! 3 stopped itself while running (disk failed, state differs).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand};
use control_plane::config::Config;
use control_plane::{check, run, telemetry};

/// The C library's allocator gives pages back to the kernel after each write and takes them again
/// for the next: a tenth of all CPU under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Voxmesh control node: one raft voter with the mesh's numbers, trunks, routes and POPs.
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
    /// Explain what is wrong with a configuration before anything starts
    Check(File),
    /// Make this machine a control node of a mesh: key, certificate and a first configuration
    Join {
        /// As `meshctl token create --control NODE` printed it
        token: String,
        /// Where the files go
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Args)]
struct File {
    /// The TOML file (see deploy/control-plane.toml)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match (cli.command, cli.run) {
        (Some(Command::Check(file)), _) => check_file(&file),
        (Some(Command::Join { token, dir }), _) => match join(&token, &dir) {
            Ok(text) => {
                say(text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                say(error);
                ExitCode::FAILURE
            }
        },
        (None, Some(file)) => run_file(&file),
        (None, None) => ExitCode::from(2), // clap shows the help first.
    }
}

/// Lines on standard error.
fn say(text: impl std::fmt::Display) {
    for line in text.to_string().lines() {
        // A closed standard error changes nothing about the outcome.
        let _ = writeln!(std::io::stderr(), "control-plane: {line}");
    }
}

fn check_file(file: &File) -> ExitCode {
    let config = match Config::load(&file.config) {
        Ok(config) => config,
        Err(problems) => {
            say(problems);
            return ExitCode::FAILURE;
        }
    };
    let problems = check::check(&config, SystemTime::now());
    problems.iter().for_each(say);
    if !problems.is_empty() {
        return ExitCode::FAILURE;
    }
    let (id, members) = (config.node.id, config.members.len());
    say(format_args!("{} can start as node {id} of {members}", file.config.display()));
    ExitCode::SUCCESS
}

fn join(token: &str, dir: &Path) -> anyhow::Result<String> {
    let token = token.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(control_plane::join::run(&token, dir))?)
}

fn run_file(file: &File) -> ExitCode {
    let config = match Config::load(&file.config) {
        Ok(config) => config,
        Err(problems) => {
            say(problems);
            return ExitCode::FAILURE;
        }
    };
    let _log = telemetry::log();
    // The allocator asks for huge pages, and the kernel moves pages about to make them: an eighth of
    // all CPU under load, in the middle of requests. An older kernel that refuses only costs that.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // The driver has its own thread; requests are small. More threads would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run::run(config));
            // Whatever still runs holds nothing that has to be saved.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
