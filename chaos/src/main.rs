//! The lab's command line.

use std::process::ExitCode;

use chaos::demo::{self, Screen};
use chaos::{drill, lab, live};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// The Voxmesh lab: a whole mesh on one machine.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Three regions, calls with a human voice, a control node killed, and a verdict
    Demo(demo::Options),
    /// Lists the drills
    Drills,
    /// A mesh that stays up, to be changed and hurt by hand
    Lab(live::Options),
    /// Runs a drill: a fault under calls, and whether they survive; exit code 0 if they do
    Run(drill::Options),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    clean_up_on_panic();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(why) => return fail(&format!("no async runtime: {why}")),
    };
    let code = runtime.block_on(perform(&command));
    // Its only blocking task may be somebody's unpressed Enter.
    runtime.shutdown_background();
    code
}

async fn perform(command: &Command) -> ExitCode {
    let mut screen = Screen::stdout();
    // Leaving the select drops the demo, and with it processes, sockets and directory. Signals
    // first: Ctrl-C on a terminal also ends the nodes, and that is no failure of theirs.
    tokio::select! {
        biased;
        name = interrupted() => {
            complain(&format!("{name}: ending; nothing is left behind."));
            ExitCode::from(130)
        }
        result = carry_out(command, &mut screen) => match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(why) => fail(&format!("{why:#}")),
        },
    }
}

async fn carry_out(command: &Command, screen: &mut Screen) -> anyhow::Result<bool> {
    match command {
        Command::Demo(options) => demo::run(options, screen).await,
        Command::Drills => {
            drill::list()?.iter().for_each(|line| screen.line(line));
            Ok(true)
        }
        Command::Lab(options) => live::run(options, screen).await,
        Command::Run(options) => drill::run(options, screen).await,
    }
}

async fn interrupted() -> &'static str {
    let mut signals = [
        (SignalKind::interrupt(), "Ctrl-C"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
    ]
    .into_iter()
    .filter_map(|(kind, name)| Some((signal(kind).ok()?, name)))
    .collect::<Vec<_>>();
    std::future::poll_fn(|context| {
        for (signal, name) in &mut signals {
            if signal.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*name);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// A panic aborts (see the release profile) and drops nothing.
fn clean_up_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        lab::abandon();
    }));
}

fn fail(why: &str) -> ExitCode {
    complain(&format!("chaos: {why}"));
    ExitCode::from(2)
}

fn complain(text: &str) {
    use std::io::Write;
    let _gone = writeln!(std::io::stderr(), "{text}");
}
