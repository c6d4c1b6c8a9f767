//! Stories: POPs and scripted phones in virtual time.
//!
//! A script in `testdata/call` is what people do, `----`, then all that happened; `REWRITE=1`
//! writes the lower part anew. After each script nothing may be left in any POP.

mod guarding;
mod numbers;
mod phone;
mod random;
mod script;
mod setups;
mod world;

use std::path::Path;

use proto::id::{CallId, LegId};

use self::script::play;
use super::Which;
use crate::media::tests::point;
use crate::media::{MediaEvent, QualityReport};

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/call");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "scripts are missing");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (input, expected) = text.split_once("----\n").unwrap();
        let output = play(&file.display().to_string(), input);
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, format!("{input}----\n{output}")).unwrap();
        } else {
            assert_eq!(output, expected, "{}", file.display());
        }
    }
}

/// What the control plane says of a POP counts only where this one has not seen for itself.
#[test]
fn a_link_that_is_up_counts_more_than_a_replicated_expiry() {
    let call = "alice calls +6561234567 pcmu\nwait 50ms\ncarol answers pcmu\nwait 50ms\n\
                alice acks\nalice hangs up\nwait 50ms\ncarol oks\n";
    let seen = play("link up", &format!("link up\nexpired sin1\n{call}"));
    assert!(seen.contains("fra1 => sin1: setup by carol"), "{seen}");
    let told = play("no link yet", "expired sin1\nalice calls +6561234567 pcmu\nwait 2s\n");
    assert!(told.contains("503 to INVITE") && !told.contains("setup by carol"), "{told}");
}

#[test]
fn equal_inputs_give_equal_traces() {
    let script = "alice calls +6561234567 pcmu,dtmf\nwait 50ms\ncarol rings\ncarol answers pcma\n\
                  wait 50ms\nalice acks\nwait 1s\nalice hangs up\nwait 50ms\ncarol oks\n";
    assert_eq!(play("first", script), play("second", script));
}

#[test]
fn a_call_keeps_its_timeline_until_it_is_over() {
    let mut world = world::World::new();
    let act = |world: &mut world::World, line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        script::act(world, &words).unwrap();
    };
    for line in
        ["alice calls +4930901820 pcmu", "wait 50ms", "bob answers pcmu", "wait 50ms", "alice acks"]
    {
        act(&mut world, line);
    }
    let (id, now) = (world.pops.keys().next().unwrap().clone(), world.now);
    let pop = world.pop(&id);
    let call = pop.calls()[0].call_id;
    let legs: Vec<_> = pop.timelines(call).into_iter().map(|leg| leg.which).collect();
    assert_eq!(legs, [Which::In, Which::Out]);
    for (second, mos) in [(5, 4.4), (10, 3.0)] {
        let point = Some(point(second, mos));
        let report = QualityReport { point, received: second, ..QualityReport::default() };
        let event = MediaEvent::LegQuality { leg: LegId(2), report: report.into(), last: false };
        pop.handle_media_event(event, now);
    }
    assert_eq!(pop.calls()[0].mos, Some(3.0));
    let caller = &pop.timelines(call)[0];
    let mos: Vec<_> = caller.timeline.points().map(|point| point.mos).collect();
    assert_eq!(mos, [Some(4.4), Some(3.0)]);
    assert_eq!(caller.quality.as_ref().map(|quality| quality.received), Some(10));
    assert!(pop.timelines(CallId([9; 16])).is_empty());
}

/// Each answer that is of no use is counted once, by why.
#[test]
fn refused_answers_are_counted_by_reason() {
    use crate::sdp::offer_answer::NegotiationError as E;
    let mut world = world::World::new();
    let call = ["alice calls +4930901820 pcmu,srtp1", "bob answers pcmu", "alice acks"];
    let over = ["bob oks", "alice oks"];
    for (answer, reason) in [
        ("alice answers pcma,srtp9", E::Encrypted),
        ("alice answers pcma", E::Plain),
        ("alice answers g729,srtp1", E::NoCommonCodec),
        ("alice answers none", E::Malformed),
    ] {
        for line in call.iter().chain(&["bob reinvites pcma", answer]).chain(&over) {
            let words: Vec<&str> = line.split_whitespace().collect();
            script::act(&mut world, &words).unwrap();
        }
        let pop = world.pops.values().next().unwrap();
        assert_eq!(pop.counters().answers_refused(reason), 1, "{answer}\n{}", world.trace);
        assert_eq!(world.cdrs.last().unwrap().cause, crate::call::EndCause::NoMedia);
    }
}
