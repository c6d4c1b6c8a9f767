//! Facts against targets: the rows of a report, and whether all hold. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figures::{Fate, Lost, Second, percentile};
use super::file::{Kind, Limits, Targets};

/// One call that was up when the fault came.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Calling number.
    pub from: String,
    /// Called number.
    pub to: String,
    /// POPs of its two carriers.
    pub flow: String,
    /// What is special about it.
    pub kind: Kind,
    /// It has a leg where the fault is.
    pub touched: bool,
    /// What became of it.
    pub fate: Fate,
    /// What is wrong with its end; `None`: a BYE of one side was answered with a 2xx and reached
    /// the other.
    pub farewell: Option<String>,
    /// Re-INVITEs that its sides followed.
    pub moves: usize,
    /// Sides that ended before the drill hung up, and how.
    pub ends: Vec<String>,
    /// Requests of somebody who did not know that the call had moved.
    pub stale: usize,
}

/// One call of those that come and go.
#[derive(Debug, Clone, PartialEq)]
pub struct Brief {
    /// When it was placed, after the fault; before it: negative.
    pub placed_ms: i64,
    /// Where it had to go, and by which way in.
    pub flow: String,
    /// Until the answer, over all ways in that were tried.
    pub set_up: Option<Duration>,
    /// What is wrong with it; `None`: answered, heard and ended well.
    pub wrong: Option<String>,
    /// It was under way when a fault began: neither good nor bad.
    pub excused: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// After the fault, in ms; before it: negative.
    pub at_ms: i64,
    /// Who: a node, the drill, the carriers.
    pub who: String,
    /// What.
    pub what: String,
}

/// All that is known of one run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Calls that were up.
    pub calls: Vec<Account>,
    /// Calls that came and went.
    pub briefs: Vec<Brief>,
    /// Calls without exactly one record that is billed.
    pub records: Vec<String>,
    /// Calls that two POPs held at once at the end.
    pub twice: Vec<String>,
    /// Processes that ended although nobody ended them.
    pub crashed: Vec<String>,
    /// Second by second, the calls that the fault touches.
    pub seconds: Vec<Second>,
    /// What happened, by time.
    pub events: Vec<Event>,
    /// What nodes logged from the fault on that may explain it.
    pub logs: Vec<String>,
}

/// One line of the verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The figure; not a number: it could not be measured.
    pub ours: f64,
    /// Of figure and target.
    pub unit: &'static str,
    /// What it has to reach; `None`: only told.
    pub target: Option<Bound>,
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Row {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        match self.target {
            None => true,
            Some(Bound::AtLeast(least)) => self.ours >= least,
            Some(Bound::AtMost(most)) => self.ours <= most,
        }
    }

    /// The target in words.
    pub fn bound(&self) -> String {
        match self.target {
            None => "–".into(),
            Some(Bound::AtLeast(least)) => format!("≥ {}", self.with_unit(least)),
            Some(Bound::AtMost(most)) => format!("≤ {}", self.with_unit(most)),
        }
    }

    /// The figure in words.
    pub fn figure(&self) -> String {
        if self.ours.is_nan() { "none".into() } else { self.with_unit(self.ours) }
    }

    fn with_unit(&self, value: f64) -> String {
        match self.unit {
            "" => number(value),
            "ms" if value >= 1_000.0 => format!("{} s", number(value / 1e3)),
            unit => format!("{} {unit}", number(value)),
        }
    }
}

/// Two digits behind the point where they matter.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The rows of one or more runs of the same drill.
pub fn rows(runs: &[Run], targets: &Targets) -> Vec<Row> {
    let touched: Vec<&Account> = runs.iter().flat_map(|r| &r.calls).filter(|c| c.touched).collect();
    let others = runs.iter().flat_map(|r| &r.calls).filter(|c| !c.touched);
    let kept = touched.iter().filter(|c| c.fate.lost.is_none()).count();
    let mut rows = vec![
        Row {
            name: format!("calls preserved, of {} that the fault touches", touched.len()),
            ours: share(kept, touched.len()),
            unit: "%",
            target: targets.preserved.map(Bound::AtLeast),
        },
        none("calls lost that it does not touch", others.filter(|c| c.fate.lost.is_some()).count()),
    ];
    // A lost call was silent to the end: it is in here with that, so that nothing is hidden.
    let silent = touched.iter().map(|c| c.fate.silent).collect();
    limits(&mut rows, "both sides hear again", silent, &targets.audio_back);
    let gaps = touched.iter().map(|c| c.fate.gap).collect();
    limits(&mut rows, "longest gap", gaps, &targets.gap);
    let ended = runs.iter().flat_map(|r| &r.calls).filter(|c| c.fate.lost.is_none());
    rows.push(none(
        "preserved calls that could not be ended by a BYE",
        ended.filter(|c| c.farewell.is_some()).count(),
    ));
    let count = |of: fn(&Run) -> usize| runs.iter().map(of).sum::<usize>();
    rows.push(none("calls without exactly one record", count(|r| r.records.len())));
    rows.push(none("calls held by two POPs at the end", count(|r| r.twice.len())));
    let stale = runs.iter().flat_map(|r| &r.calls).filter(|call| call.stale > 0);
    rows.push(none("calls disturbed by who no longer has them", stale.count()));
    rows.push(none("processes that ended by themselves", count(|r| r.crashed.len())));
    new_calls(&mut rows, runs, targets);
    rows
}

fn new_calls(rows: &mut Vec<Row>, runs: &[Run], targets: &Targets) {
    let counted: Vec<&Brief> = runs.iter().flat_map(|r| &r.briefs).filter(|b| !b.excused).collect();
    if counted.is_empty() && targets.new_calls.is_none() {
        return;
    }
    let good = counted.iter().filter(|b| b.wrong.is_none()).count();
    rows.push(Row {
        name: format!("new calls that were good, of {}", counted.len()),
        ours: share(good, counted.len()),
        unit: "%",
        target: targets.new_calls.map(Bound::AtLeast),
    });
    let mut times: Vec<Duration> = counted.iter().filter_map(|b| b.set_up).collect();
    times.sort_unstable();
    rows.push(Row {
        name: "set-up of new calls, p99".into(),
        ours: percentile(&times, 99.0).map_or(f64::NAN, |t| (t.as_secs_f64() * 1e3).round()),
        unit: "ms",
        target: None,
    });
}

/// Of lost calls, how many for which reason.
pub fn reasons(runs: &[Run]) -> BTreeMap<(Lost, Kind), usize> {
    let mut found = BTreeMap::new();
    for call in runs.iter().flat_map(|run| &run.calls) {
        if let Some(lost) = call.fate.lost {
            *found.entry((lost, call.kind)).or_default() += 1;
        }
    }
    found
}

fn none(name: &str, ours: usize) -> Row {
    Row { name: name.into(), ours: ours as f64, unit: "", target: Some(Bound::AtMost(0.0)) }
}

/// Nothing of nothing is no success.
fn share(part: usize, of: usize) -> f64 {
    if of == 0 { f64::NAN } else { part as f64 * 100.0 / of as f64 }
}

fn limits(rows: &mut Vec<Row>, name: &str, mut values: Vec<Duration>, limits: &Limits) {
    values.sort_unstable();
    for (label, percent, limit) in
        [("p50", 50.0, limits.p50), ("p99", 99.0, limits.p99), ("max", 100.0, limits.max)]
    {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        rows.push(Row {
            name: format!("{name}, {label}"),
            ours: percentile(&values, percent).map_or(f64::NAN, |value| ms(value).round()),
            unit: "ms",
            target: limit.map(|limit| Bound::AtMost(ms(limit))),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(silent_ms: u64, lost: Option<Lost>) -> Account {
        let silent = Duration::from_millis(silent_ms);
        Account {
            from: "+1".into(),
            to: "+2".into(),
            flow: "fra1 > sin1".into(),
            touched: true,
            kind: Kind::Plain,
            fate: Fate { gap: silent, silent, lost },
            farewell: None,
            moves: 1,
            ends: Vec::new(),
            stale: 0,
        }
    }

    fn targets() -> Targets {
        let limit = |s| Some(Duration::from_secs(s));
        Targets {
            preserved: Some(99.5),
            audio_back: Limits { p50: limit(2), p99: limit(5), max: None },
            new_calls: Some(99.9),
            ..Targets::default()
        }
    }

    fn good() -> Run {
        let brief = Brief {
            placed_ms: 4_000,
            flow: String::new(),
            set_up: Some(Duration::from_millis(230)),
            wrong: None,
            excused: false,
        };
        Run {
            calls: (0..200).map(|n| account(1_000 + n, None)).collect(),
            briefs: vec![brief],
            ..Run::default()
        }
    }

    /// Spoils one thing; exactly the row with this word must fail.
    fn fails(spoil: impl FnOnce(&mut Run), word: &str) {
        let mut run = good();
        spoil(&mut run);
        let rows = rows(&[run], &targets());
        let failed: Vec<&str> =
            rows.iter().filter(|r| !r.holds()).map(|r| r.name.as_str()).collect();
        assert!(failed.len() == 1 && failed[0].contains(word), "{word}: {failed:?}");
    }

    #[test]
    fn a_good_run_holds() {
        let rows = rows(&[good(), good()], &targets());
        assert!(rows.iter().all(Row::holds), "{rows:?}");
        assert!(rows[0].name.contains("of 400"));
        assert_eq!((rows[1].figure(), rows[1].bound()), ("0".into(), "≤ 0".into()));
        assert_eq!((rows[2].figure(), rows[2].bound()), ("1.10 s".into(), "≤ 2 s".into()));
        assert_eq!((rows[0].figure(), rows[0].bound()), ("100 %".into(), "≥ 99.50 %".into()));
    }

    #[test]
    fn every_flaw_fails_its_row() {
        fails(|r| (0..2).for_each(|n| r.calls[n].fate.lost = Some(Lost::Ended)), "preserved");
        fails(
            |r| r.calls.push(Account { touched: false, ..account(0, Some(Lost::Ended)) }),
            "touch",
        );
        fails(|r| (0..3).for_each(|n| r.calls[n].fate.silent = Duration::from_secs(9)), "p99");
        fails(|r| r.calls[5].farewell = Some("481".into()), "BYE");
        fails(|r| r.records.push("+1: no record".into()), "record");
        fails(|r| r.twice.push("+1".into()), "two POPs");
        fails(|r| r.calls[9].stale = 1, "disturbed");
        fails(|r| r.crashed.push("fra1".into()), "processes");
        fails(|r| r.briefs[0].wrong = Some("503".into()), "new calls");
    }

    #[test]
    fn nothing_measured_is_no_success() {
        let rows = rows(&[Run::default()], &targets());
        let failed = rows.iter().filter(|r| !r.holds()).count();
        assert_eq!(failed, 4, "{rows:?}");
        assert_eq!(rows[0].figure(), "none");
        assert!(good().calls.iter().all(|c| c.fate.lost.is_none()));
        let mut lost = good();
        lost.calls[0].fate.lost = Some(Lost::Silent);
        assert_eq!(reasons(&[lost]), BTreeMap::from([((Lost::Silent, Kind::Plain), 1)]));
    }

    #[test]
    fn calls_under_way_at_a_fault_are_excused_and_not_counted() {
        let mut run = good();
        run.briefs.push(Brief {
            wrong: Some("silent".into()),
            excused: true,
            ..run.briefs[0].clone()
        });
        let rows = rows(&[run], &targets());
        assert!(rows.iter().all(Row::holds), "{rows:?}");
    }
}
