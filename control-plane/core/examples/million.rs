//! What a million allocated numbers cost: memory, time for each, and time to load them again.
//!
//! `cargo run --release -p control-core --example million [NUMBERS] [PER_REQUEST]`
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "measures and says")]

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use control_core::state::State;
use proto::control::{Block, NumberPick, NumberState, NumberType, Shelf};
use proto::raft::command::Kind;
use proto::raft::{AllocateNumbers, Command, ImportBlocks, outcome};

const FIRST: u64 = 49_150_000_000;
const TENANTS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let numbers: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let each: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let before = resident_mb()?;
    let mut state = State::bootstrap(&[1, 2, 3]);
    let import = Instant::now();
    must(&mut state, 0, Kind::ImportBlocks(ImportBlocks { blocks: vec![block()] }))?;
    println!("import of 10,000,000 numbers: {:?}", import.elapsed());
    let allocate = Instant::now();
    let requests = numbers.div_ceil(each.max(1));
    for request in 1..=requests {
        let count = u32::try_from(each)?;
        let kind = Kind::AllocateNumbers(AllocateNumbers {
            tenant: format!("tenant-{}", request % TENANTS),
            pick: Some(NumberPick { count, ..NumberPick::default() }),
            ..AllocateNumbers::default()
        });
        must(&mut state, request, kind)?;
    }
    let took = allocate.elapsed();
    println!(
        "{numbers} allocated by {requests} requests: {took:?}, {:?} each",
        took / u32::try_from(requests)?
    );
    println!("memory: {} MB", resident_mb()?.saturating_sub(before));
    println!("active: {}", state.number_counts().of(NumberState::Active));
    let own = |(key, value): (&[u8], &[u8])| (key.to_vec(), Bytes::copy_from_slice(value));
    let tables: Vec<_> = state.entries().map(own).collect();
    let hash = state.hash();
    drop(state);
    let load = Instant::now();
    let again = State::from_tables(tables)?;
    println!("load: {:?}, same: {}", load.elapsed(), again.hash() == hash);
    Ok(())
}

fn block() -> Block {
    let shelf = Some(Shelf {
        pool: "mobile".into(),
        country: "DE".into(),
        r#type: NumberType::Mobile.into(),
        ..Shelf::default()
    });
    Block { first: format!("+{FIRST}"), count: 10_000_000, shelf, ..Block::default() }
}

fn must(state: &mut State, request: u64, kind: Kind) -> Result<(), Box<dyn Error>> {
    let request_id = format!("00000000-0000-4000-8000-{request:012x}");
    let command = Command { request_id, principal: "operator/anna".into(), kind: Some(kind) };
    match state.apply(1_000_000 + request, &command).outcome.kind {
        Some(outcome::Kind::Rejected(rejected)) => Err(rejected.message.into()),
        _ => Ok(()),
    }
}

/// Resident memory of this process, where Linux tells it.
fn resident_mb() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kb.parse::<u64>()? / 1024)
}
