//! Real control nodes under attack, for a minute. `cargo e2e`, as root; longer:
//! `target/release/control-chaos --seconds 600`.
#![allow(clippy::print_stdout, reason = "a test may speak")]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tests::siege;

/// Whether no rule was broken.
fn attack(seconds: u64, more: &[&str]) -> bool {
    let program = Path::new(env!("CARGO_BIN_EXE_control-chaos"));
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = nanos.map_or(1, |d| d.subsec_nanos()).to_string();
    let flags = ["--seconds", &seconds.to_string(), "--seed", &seed].map(str::to_owned);
    let flags = [&flags[..], &more.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()].concat();
    println!("control-chaos {}", flags.join(" "));
    siege::enter(program, &flags).unwrap_or_else(|why| panic!("{why:?}"))
}

#[test]
fn nothing_is_lost_or_given_twice() {
    assert!(attack(45, &[]), "see above");
}

/// A judge who never complains proves nothing.
#[test]
fn stale_reads_are_seen() {
    assert!(!attack(10, &["--stale-reads"]), "a planted bug went unseen");
}
