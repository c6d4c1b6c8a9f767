//! Drills, as an operator runs them: small ones, through the same code.

use std::time::Duration;

use anyhow::Result;
use chaos::drill::fault::{Fault, Target};
use chaos::drill::file::Limits;
use chaos::drill::verdict::Event;
use chaos::drill::{self, Settings};
use chaos::lab::bin_dir;
use chaos::screen::Screen;

use crate::run;

fn small(name: &str) -> Result<drill::Drill> {
    let mut drill = drill::find(name)?;
    drill.load.calls = 10;
    drill.verdict.two_way = Duration::from_secs(4);
    Ok(drill)
}

fn once() -> Result<Settings> {
    Ok(Settings { seed: 1, repeat: 1, keep_dir: None, bin_dir: bin_dir()? })
}

/// Media leaves the upstream that fell silent, and the drill says so in words, JSON and a page.
#[test]
fn an_upstream_fails_and_every_call_survives() {
    run(async {
        let mut drill = small("upstream-down")?;
        // How fast is for the benchmark; a busy machine is slow.
        drill.verdict.gap = Limits::default();
        let outcome = drill::perform(drill, &once()?, &mut Screen::stdout()).await?;
        let failed: Vec<_> = outcome.rows.iter().filter(|row| !row.holds()).collect();
        assert!(outcome.holds(), "{failed:?}");
        let calls = &outcome.runs[0].calls;
        let touched: Vec<_> = calls.iter().filter(|call| call.touched).collect();
        assert_eq!((calls.len(), touched.len()), (10, 8));
        // Media may have been on the other upstream, or on both: then nobody notices.
        let cut = |event: &Event| event.what == "cut upstream fra1/0";
        assert!(outcome.runs[0].events.iter().any(cut), "{:?}", outcome.runs[0].events);
        let dir = tempfile::tempdir()?;
        let page = std::fs::read_to_string(drill::write(&outcome, dir.path())?)?;
        assert!(page.contains("<b>Holds</b>") && !page.contains("http://www.w3.org/1999"));
        let json = std::fs::read_to_string(dir.path().join("upstream-down.json"))?;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        assert_eq!(json["holds"], true);
        Ok(())
    });
}

/// kill -9: other POPs take its calls over, both sides hear on, BYE works, and one record tells of it.
#[test]
fn a_killed_pop_costs_no_call() {
    run(async {
        let mut drill = small("pop-kill")?;
        drill.load.new = None;
        drill.verdict.new_calls = None;
        drill.verdict.audio_back = Limits::default();
        drill.faults[0].at = Duration::from_secs(1);
        let outcome = drill::perform(drill, &once()?, &mut Screen::stdout()).await?;
        let failed: Vec<_> = outcome.rows.iter().filter(|row| !row.holds()).collect();
        assert!(outcome.holds(), "{failed:?}");
        let touched = outcome.runs[0].calls.iter().filter(|call| call.touched);
        let moved: Vec<usize> = touched.map(|call| call.moves).collect();
        assert_eq!(moved.len(), 8);
        assert!(moved.iter().all(|moves| *moves > 0), "nobody was asked to move: {moved:?}");
        Ok(())
    });
}

/// The instrument does not call alive what is dead: no POP is left that could take a call over.
#[test]
fn calls_that_nobody_can_save_are_not_called_saved() {
    run(async {
        let mut drill = small("region-loss")?;
        drill.load.new = None;
        drill.verdict.new_calls = None;
        drill.faults[0].at = Duration::from_secs(1);
        for region in ["us", "ap"] {
            let target = Target::Region(region.to_owned());
            drill.faults.push(Fault { target, ..drill.faults[0].clone() });
        }
        drill.abort.silent_for = Duration::from_secs(2);
        let outcome = drill::perform(drill, &once()?, &mut Screen::stdout()).await?;
        assert!(!outcome.holds());
        let calls = &outcome.runs[0].calls;
        assert_eq!(calls.len(), 10);
        for call in calls {
            assert!(call.touched && call.fate.lost.is_some(), "{call:?}");
            assert!(call.fate.silent > Duration::from_secs(2), "{call:?}");
        }
        Ok(())
    });
}
