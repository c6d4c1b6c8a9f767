//! `tests/bench NAME`: one benchmark, its table and its JSON lines.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output")]

use std::process::ExitCode;

use tests::bench::{BENCHES, process, run};
use tokio::signal::unix::{SignalKind, signal};

/// Returns at Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "--list" || name == "--help" || name == "-h" {
        BENCHES.iter().for_each(|(name, what)| println!("{name:10} {what}"));
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    if let Some(ended) = process(&name, &arguments) {
        return ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let measured = tokio::select! {
        measured = run(&name, &arguments) => measured,
        () = told_to_stop() => {
            // What is measured runs in processes of its own.
            chaos::lab::process::kill_all();
            eprintln!("{name}: stopped");
            return ExitCode::from(130);
        }
    };
    match measured {
        None => {
            let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
            eprintln!("no benchmark '{name}'; there are: {}", names.join(", "));
            ExitCode::from(2)
        }
        Some(Err(why)) => {
            eprintln!("{name} could not be measured: {why:?}");
            ExitCode::from(2)
        }
        Some(Ok(table)) => {
            print!("{}", table.text());
            let out = tests::root().join("tests/out");
            if let Err(why) = table.write(&out) {
                eprintln!("{why:?}");
                return ExitCode::from(2);
            }
            if table.met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
