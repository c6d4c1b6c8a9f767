//! What the state costs in memory and in a database: CPU per command.
//!
//! `cargo run --release -p control-core --example stores [COMMANDS]`
#![allow(clippy::expect_used, clippy::print_stdout, reason = "measures and says")]

#[path = "../tests/database/mod.rs"]
mod database;

use std::error::Error;

use control_core::group::GroupId;
use control_core::state::State;
use control_core::state::store::Store;
use database::Database;
use proto::control::{Block, NumberPick, Shelf, Trunk};
use proto::raft::command::Kind;
use proto::raft::{AllocateNumbers, Command, ImportBlocks, outcome};

fn main() -> Result<(), Box<dyn Error>> {
    let commands = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse::<u64>())?;
    println!("µs of CPU per command, {commands} of each:  write  allocate any");
    let (memory, write, any) = measure(State::bootstrap(&[1, 2, 3]), commands)?;
    println!("memory {write:>7.1} {any:>7.1}");
    let database = State::bootstrap_in(Database::default(), GroupId::ROOT, &[1, 2, 3]);
    let (database, write, any) = measure(database, commands)?;
    println!("redb   {write:>7.1} {any:>7.1}");
    println!(
        "same: {}, {} records",
        memory.hash() == database.hash(),
        database.store().committed().len()
    );
    Ok(())
}

fn measure<S: Store>(
    mut state: State<S>,
    commands: u64,
) -> Result<(State<S>, f64, f64), Box<dyn Error>> {
    let shelf = Some(Shelf { pool: "mobile".into(), country: "DE".into(), ..Shelf::default() });
    let block =
        Block { first: "+49150000000".into(), count: 10_000_000, shelf, ..Block::default() };
    must(&mut state, 0, Kind::ImportBlocks(ImportBlocks { blocks: vec![block] }))?;
    let write = timed(commands, |at| {
        let trunk = Trunk { trunk_id: format!("t{}", at % 1_000), ..Trunk::default() };
        must(&mut state, at, Kind::PutTrunk(trunk))
    })?;
    let any = timed(commands, |at| {
        let tenant = format!("tenant-{}", at % 1_000);
        let pick = Some(NumberPick { count: 1, ..NumberPick::default() });
        let allocate = AllocateNumbers { tenant, pick, ..AllocateNumbers::default() };
        must(&mut state, commands + at, Kind::AllocateNumbers(allocate))
    })?;
    Ok((state, write, any))
}

/// µs of CPU of each.
fn timed(
    commands: u64,
    mut run: impl FnMut(u64) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let before = cpu_ns()?;
    (1..=commands).try_for_each(&mut run)?;
    Ok((cpu_ns()? - before) as f64 / 1_000.0 / commands as f64)
}

fn must<S: Store>(state: &mut State<S>, request: u64, kind: Kind) -> Result<(), Box<dyn Error>> {
    let request_id = format!("00000000-0000-4000-8000-{request:012x}");
    let command = Command { request_id, principal: "operator/anna".into(), kind: Some(kind) };
    match state.apply(1_000_000 + request, &command).outcome.kind {
        Some(outcome::Kind::Rejected(rejected)) => Err(rejected.message.into()),
        _ => Ok(()),
    }
}

/// Of this thread, as Linux tells it.
fn cpu_ns() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("no schedstat")?.parse()?)
}
