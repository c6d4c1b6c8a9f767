//! What a node may do with what its disk holds.
//!
//! A node that cannot read what it promised must not help to elect a leader without it: it would
//! undo acknowledged writes (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based
//! Storage", FAST '18). So damage has three ends:
//! - all that is unreadable is in the tables already: the rest is kept, nothing was lost;
//! - entries or tables are lost, term and vote are known: the node starts, but neither votes nor
//!   leads until the leader has brought it past everything it may have acknowledged;
//! - term or vote may be lost: it refuses to start, nobody else can tell it what it voted.

use std::path::Path;

use bytes::Bytes;
use control_core::replica::{HardState, Position, Repair, Restored};

use super::error::{WalError, damaged};
use super::log::vote_path;
use super::scan::Scanned;
use super::slots::Found;

/// The tables as they were read.
pub(super) struct Image {
    pub(super) applied: Position,
    pub(super) rows: Vec<(Vec<u8>, Bytes)>,
}

/// All that was read.
pub(super) struct Evidence {
    pub(super) log: Scanned,
    /// An error: what is damaged.
    pub(super) tables: Result<Image, WalError>,
    pub(super) vote: Found,
    pub(super) acked: Found,
    /// A repair that has not ended.
    pub(super) repair: Option<Repair>,
    /// No other node could bring back what is lost.
    pub(super) alone: bool,
}

/// What to do.
pub(super) struct Verdict {
    pub(super) restored: Restored,
    pub(super) repair: Option<Repair>,
    /// The log has to begin anew: its tail does not lead to the tables.
    pub(super) reset: Option<Position>,
    /// Move the log aside and write what is left of it anew.
    pub(super) rewrite_log: bool,
    /// Move the tables aside.
    pub(super) discard_tables: bool,
    /// For the operator.
    pub(super) said: Vec<String>,
}

/// Judges; see the module.
pub(super) fn assess(dir: &Path, mut evidence: Evidence) -> Result<Verdict, WalError> {
    let hard_state = hard_state(dir, &evidence)?;
    let mut said = std::mem::take(&mut evidence.log.damage);
    let log_damaged = !said.is_empty();
    let (image, gap) = match evidence.tables {
        Ok(image) => {
            let gap = !log_damaged && evidence.log.base.index > image.applied.index;
            if gap {
                said.push(format!("tables after index {}", image.applied.index));
            }
            (Some(image), gap)
        }
        Err(error) => {
            said.push(error.to_string());
            (None, false)
        }
    };
    let image = image.filter(|_| !gap);
    let discard_tables = image.is_none();
    if !said.is_empty() && evidence.alone {
        return Err(damaged(dir, said.join(", ")));
    }
    let acked = evidence.acked.values.map_or(0, |[_, index]| index);
    let loss = Repair { index: evidence.log.highest.max(acked), term: hard_state.term };
    let mut repair = evidence.repair;
    let Some(image) = image else {
        repair = Some(worse(repair, loss));
        let restored = Restored { hard_state, ..Restored::default() };
        return Ok(Verdict {
            restored,
            repair,
            reset: None,
            rewrite_log: true,
            discard_tables,
            said,
        });
    };
    let kept = keep(evidence.log, image.applied);
    if !kept.is_whole && log_damaged {
        if evidence.acked.unreadable > 0 && evidence.acked.values.is_none() {
            return Err(damaged(
                dir,
                format!("the mark of what was acknowledged, beside {}", said.join(", ")),
            ));
        }
        repair = Some(worse(repair, loss));
    }
    let applied = image.applied;
    let last = kept.entries.last().map_or(kept.base.index, |entry| entry.index);
    let HardState { term, vote, commit } = hard_state;
    // A snapshot's term can be newer than the last promise: nothing was voted in it yet.
    let (term, vote) = if term < applied.term { (applied.term, 0) } else { (term, vote) };
    let hard_state = HardState { term, vote, commit: commit.min(last).max(applied.index) };
    let Kept { base, entries, reset, is_whole: _ } = kept;
    let restored =
        Restored { hard_state, base, entries, tables: image.rows, applied: applied.index };
    Ok(Verdict { restored, repair, reset, rewrite_log: log_damaged, discard_tables, said })
}

fn worse(known: Option<Repair>, new: Repair) -> Repair {
    let known = known.unwrap_or(new);
    Repair { index: known.index.max(new.index), term: known.term.max(new.term) }
}

/// Term and vote, from both places that keep them.
fn hard_state(dir: &Path, evidence: &Evidence) -> Result<HardState, WalError> {
    let refuse = |what: &str| Err(damaged(&vote_path(dir), what));
    let in_log = evidence.log.hard_state;
    let log_damaged = !evidence.log.damage.is_empty();
    if evidence.vote.unreadable > 0 && (log_damaged || evidence.vote.values.is_none()) {
        return refuse("term and vote");
    }
    match evidence.vote.values {
        None if evidence.log.frames == 0 && !log_damaged => Ok(HardState::default()),
        None => refuse("term and vote (they are missing)"),
        Some([term, _]) if term < in_log.term && evidence.vote.unreadable == 0 => {
            refuse("term and vote (the log knows a later term)")
        }
        // The readable slot is older than the log: the other one was what the log says.
        Some([term, _]) if term < in_log.term => Ok(in_log),
        Some([term, vote]) => {
            // A vote is not taken back in its term.
            let voted = vote.max(if term == in_log.term { in_log.vote } else { 0 });
            Ok(HardState { term, vote: voted, commit: in_log.commit })
        }
    }
}

/// What of the log goes with the tables.
struct Kept {
    base: Position,
    entries: Vec<control_core::replica::LogEntry>,
    reset: Option<Position>,
    /// Nothing between the tables and the end of the log is missing.
    is_whole: bool,
}

fn keep(log: Scanned, applied: Position) -> Kept {
    let tail_lost = log.tail_lost;
    let fits = |base: Position, entries: &std::collections::VecDeque<_>| {
        term_at(base, entries, applied.index) == Some(applied.term)
    };
    if !tail_lost && fits(log.base, &log.entries) {
        return Kept { base: log.base, entries: log.entries.into(), reset: None, is_whole: true };
    }
    let from_tables =
        Kept { base: applied, entries: Vec::new(), reset: Some(applied), is_whole: false };
    match log.before_damage {
        Some((base, entries)) if fits(base, &entries) => {
            Kept { base, entries: entries.into(), reset: None, is_whole: false }
        }
        _ => from_tables,
    }
}

fn term_at(
    base: Position,
    entries: &std::collections::VecDeque<control_core::replica::LogEntry>,
    index: u64,
) -> Option<u64> {
    if index == base.index {
        return Some(base.term);
    }
    let offset = index.checked_sub(base.index + 1)?;
    entries.get(usize::try_from(offset).ok()?).map(|entry| entry.term)
}
