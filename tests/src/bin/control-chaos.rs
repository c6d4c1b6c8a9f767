//! `control-chaos --seconds 600`: three real control nodes under attack, judged at the end.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output")]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tests::siege::{self, Options};

const HELP: &str = "control-chaos [--seconds N] [--seed N] [--stale-reads]
Attacks three control nodes in network namespaces for N seconds (600), then judges what clients and
watchers saw. --stale-reads plants a bug that must be seen. Needs root, ip (iproute2), and control-plane beside it: cargo build --release";

fn options(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let bin_dir = chaos::lab::bin_dir()?;
    let mut options = Options { seconds: 600, seed: nanos.into(), stale_reads: false, bin_dir };
    while let Some(flag) = args.next() {
        let mut value = || -> Result<u64> {
            let text = args.next().with_context(|| format!("{flag} needs a number"))?;
            text.parse().with_context(|| format!("{flag} {text} is no number"))
        };
        match flag.as_str() {
            "--seconds" => options.seconds = value()?,
            "--seed" => options.seed = value()?,
            "--stale-reads" => options.stale_reads = true,
            "--help" | "-h" => return Ok(None),
            _ => bail!("no flag {flag}\n{HELP}"),
        }
    }
    Ok(Some(options))
}

fn attack() -> Result<bool> {
    let Some(options) = options(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(true);
    };
    if !siege::is_inside() {
        println!("{} s of attacks, --seed {}", options.seconds, options.seed);
        let flags = [("--seconds", options.seconds), ("--seed", options.seed)];
        let mut flags = flags.map(|(flag, value)| [flag.to_owned(), value.to_string()]).concat();
        if options.stale_reads {
            flags.push("--stale-reads".into());
        }
        return siege::enter(&std::env::current_exe()?, &flags);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let verdict = runtime.block_on(siege::run(&options))?;
    println!("{}", verdict.summary);
    verdict.complaints.iter().for_each(|complaint| println!("BROKEN {complaint}"));
    println!("{} rules broken", verdict.complaints.len());
    Ok(verdict.complaints.is_empty())
}

fn main() -> ExitCode {
    match attack() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("control-chaos: {why:?}");
            ExitCode::from(2)
        }
    }
}
