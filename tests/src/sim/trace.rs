//! One hash over everything that happened, to compare runs by.
#![allow(clippy::print_stdout, reason = "TRACE=1 asks for it")]

use std::fmt::Arguments;

use proto::time::Instant;
use sha2::{Digest, Sha256};

/// The trace of a run.
pub struct Trace {
    hash: Sha256,
    lines: u64,
    print: bool,
}

impl Trace {
    /// `TRACE=1` in the environment prints each line.
    pub fn new() -> Self {
        Self { hash: Sha256::new(), lines: 0, print: std::env::var_os("TRACE").is_some() }
    }

    /// One line; `bytes` go into the hash only.
    pub fn note(&mut self, now: Instant, line: Arguments<'_>, bytes: &[u8]) {
        let line = format!("{now} {line} [{}]", bytes.len());
        if self.print {
            println!("{line}{}", said(bytes));
        }
        self.lines += 1;
        self.hash.update(line.as_bytes());
        self.hash.update(bytes);
    }

    /// Lines so far.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// The hash, short.
    pub fn digest(&self) -> String {
        let bytes = self.hash.clone().finalize();
        bytes.iter().take(8).map(|b| format!("{b:02x}")).collect()
    }
}

/// What a SIP message says, in short; empty for anything else.
fn said(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.lines().next().is_some_and(|line| line.contains("SIP/2.0")) {
        return String::new();
    }
    let named = |line: &&str| ["Call-ID", "CSeq", "Reason"].iter().any(|n| line.starts_with(n));
    let lines = text.lines().take(1).chain(text.lines().skip(1).filter(named));
    lines.fold(String::new(), |all, line| all + "  " + line)
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
