//! Was it good? Facts in, words and an exit code out. Pure.

use std::time::Duration;

use crate::endpoint::{End, Report, Side};
use crate::wan::{Counters, Profile};

/// A MOS below which a listener complains (ITU-T G.107, Annex B: 3.6 "some users dissatisfied").
const MOS_MIN: f64 = 3.6;
/// Likeness below which the voice did not arrive; see [`crate::speech::likeness`].
const LIKENESS_MIN: f64 = 0.75;
/// A silence that a caller takes for a broken line.
const GAP_MAX: Duration = Duration::from_millis(500);
/// What the mesh itself may lose of all packets, above what the WAN was told to lose.
const OWN_LOSS_MAX: f64 = 0.001;
/// How long numbers may be frozen after a control node died.
const ALLOCATION_BACK_MAX: Duration = Duration::from_secs(3);

/// One side of a call: its report, and what that means.
#[derive(Debug, Clone)]
pub(super) struct Ear {
    pub(super) report: Report,
    /// By the E-model, of what this side heard.
    pub(super) mos: f64,
    /// The far side spoke another codec: losses were concealed at a POP and do not show in RTP.
    pub(super) transcoded: bool,
    /// Telephone events the far side sent.
    pub(super) digits: String,
}

/// What was killed, and what followed.
#[derive(Debug, Clone)]
pub(super) struct Kill {
    pub(super) node: String,
    pub(super) led: bool,
    pub(super) calls_up: usize,
    /// From the kill to the next number allocated.
    pub(super) allocation_back: Option<Duration>,
    /// Calls up at the time that ended badly, or heard a gap that people notice.
    pub(super) calls_lost: usize,
}

/// All that is known when the calls are over.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) placed: usize,
    pub(super) ears: Vec<Ear>,
    pub(super) kill: Option<Kill>,
    pub(super) wan: Counters,
    pub(super) profile: Profile,
    /// Calls that POPs still think they have.
    pub(super) left_in_pops: Option<u32>,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) lines: Vec<String>,
    pub(super) complaints: Vec<String>,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }
}

pub(super) fn judge(facts: &Facts) -> Verdict {
    let mut verdict = Verdict { lines: Vec::new(), complaints: Vec::new() };
    calls(facts, &mut verdict);
    set_up(facts, &mut verdict);
    packets(facts, &mut verdict);
    quality(facts, &mut verdict);
    digits(facts, &mut verdict);
    kill(facts, &mut verdict);
    verdict
}

fn calls(facts: &Facts, verdict: &mut Verdict) {
    let callers = of(facts, Side::Caller);
    let completed = callers.iter().filter(|e| e.report.end == End::Completed).count();
    let failed = facts.placed - completed.min(facts.placed);
    verdict.lines.push(format!(
        "Calls: {} placed, {completed} answered and ended by their callers, {failed} failed.",
        facts.placed
    ));
    if facts.placed == 0 {
        verdict.complaints.push("no call was placed".into());
    }
    for ear in facts.ears.iter().filter(|e| e.report.end != End::Completed) {
        let Report { side, end, from, to, .. } = &ear.report;
        let how = match end {
            End::Completed => continue,
            End::Refused(status) => format!("was refused with {status}"),
            End::TimedOut => "was never answered".into(),
            End::Failed(why) => format!("failed: {why}"),
        };
        let who = if *side == Side::Caller { "caller" } else { "called side" };
        verdict.complaints.push(format!("the call {from} to {to} {how} ({who})"));
    }
    if failed > 0 && callers.len() < facts.placed {
        let missing = facts.placed - callers.len();
        verdict.complaints.push(format!("{missing} calls never came to an end"));
    }
    let answered = of(facts, Side::Callee).len();
    if answered < completed {
        verdict.complaints.push(format!("only {answered} called sides ended their calls"));
    }
    if let Some(left) = facts.left_in_pops.filter(|left| *left > 0) {
        verdict.complaints.push(format!("POPs still hold {left} calls"));
    }
}

fn set_up(facts: &Facts, verdict: &mut Verdict) {
    let times: Vec<Duration> = facts.ears.iter().filter_map(|e| e.report.set_up).collect();
    let (Some(p50), Some(p99)) = (percentile(&times, 50), percentile(&times, 99)) else { return };
    let rtt = (facts.profile.delay * 2).as_millis();
    verdict.lines.push(format!(
        "Set-up, INVITE to answer: p50 {} ms, p99 {} ms (one round trip of the WAN is {rtt} ms).",
        p50.as_millis(),
        p99.as_millis()
    ));
}

fn packets(facts: &Facts, verdict: &mut Verdict) {
    let relayed: Vec<&Ear> = facts.ears.iter().filter(|e| !e.transcoded).collect();
    let all: u64 = facts.ears.iter().map(|e| e.report.heard.received).sum();
    let received: u64 = relayed.iter().map(|e| e.report.heard.received).sum();
    let lost: u64 = relayed.iter().map(|e| e.report.heard.lost).sum();
    let (share, told) = (share(lost, received + lost), facts.wan_loss());
    verdict.lines.push(format!(
        "Packets: {all} heard; where no codec was changed, {lost} of {} lost ({:.2} %). \
         The WAN itself dropped {} of {} datagrams ({:.2} %).",
        received + lost,
        share * 100.0,
        facts.wan.lost,
        facts.wan.received,
        told * 100.0
    ));
    let expected = told.max(facts.profile.loss) * (received + lost) as f64;
    // Chance: packets share datagrams, so that they are lost in company.
    let chance = 6.0 * expected.max(1.0).sqrt();
    let own = OWN_LOSS_MAX * (received + lost) as f64;
    if lost as f64 > expected + own + chance {
        verdict.complaints.push(format!(
            "{:.2} % of packets were lost, but the WAN lost only {:.2} %",
            share * 100.0,
            told * 100.0
        ));
    }
    if facts.wan.overflowed > 0 {
        let overflowed = facts.wan.overflowed;
        verdict.complaints.push(format!("the WAN emulator itself lost {overflowed} datagrams"));
    }
}

fn quality(facts: &Facts, verdict: &mut Verdict) {
    let mut mos: Vec<f64> = answered(facts).map(|e| e.mos).collect();
    mos.sort_by(f64::total_cmp);
    let gap = answered(facts).map(|e| e.report.heard.longest_gap).max();
    let (Some(worst), Some(median), Some(gap)) = (mos.first(), mos.get(mos.len() / 2), gap) else {
        verdict.complaints.push("nothing was heard".into());
        return;
    };
    let likeness = answered(facts).map(|e| e.report.heard.likeness.correlation);
    let likeness = likeness.fold(1.0, f64::min);
    verdict.lines.push(format!(
        "Voice: MOS median {median:.2}, worst {worst:.2}; longest gap {} ms; the speech heard \
         matches the speech told by {:.0} % or more.",
        gap.as_millis(),
        likeness * 100.0
    ));
    if *worst < MOS_MIN {
        verdict.complaints.push(format!("MOS {worst:.2} is below {MOS_MIN}"));
    }
    if gap > GAP_MAX {
        verdict.complaints.push(format!("somebody heard nothing for {} ms", gap.as_millis()));
    }
    for ear in answered(facts).filter(|e| e.report.heard.likeness.correlation < LIKENESS_MIN) {
        let Report { side, from, to, heard, .. } = &ear.report;
        verdict.complaints.push(format!(
            "{} of {from} to {to} did not hear the voice (likeness {:.2}, {} packets)",
            if *side == Side::Caller { "the caller" } else { "the called side" },
            heard.likeness.correlation,
            heard.received
        ));
    }
}

fn digits(facts: &Facts, verdict: &mut Verdict) {
    let told: usize = answered(facts).map(|e| e.digits.len()).sum();
    let heard = answered(facts).filter(|e| e.report.heard.digits == e.digits);
    let heard: usize = heard.map(|e| e.digits.len()).sum();
    if told > 0 {
        verdict
            .lines
            .push(format!("Keys pressed (RFC 4733): {told}; arrived as pressed: {heard}."));
    }
    for ear in answered(facts).filter(|e| e.report.heard.digits != e.digits) {
        let Report { from, to, heard, .. } = &ear.report;
        let (told, heard) = (&ear.digits, &heard.digits);
        verdict.complaints.push(format!("{from} to {to}: keys {told:?} arrived as {heard:?}"));
    }
}

fn kill(facts: &Facts, verdict: &mut Verdict) {
    let Some(kill) = &facts.kill else {
        verdict.complaints.push("no control node was killed: the calls ended too early".into());
        return;
    };
    let role = if kill.led { "the raft leader" } else { "a follower" };
    let cost = match kill.calls_lost {
        0 => "no call noticed".to_owned(),
        lost => format!("{lost} of them ended badly"),
    };
    let back = kill.allocation_back.map_or_else(
        || "numbers could not be allocated again".to_owned(),
        |t| format!("number allocation was back after {:.1} s", t.as_secs_f64()),
    );
    let Kill { node, calls_up, .. } = kill;
    verdict.lines.push(format!(
        "Killed: {node}, {role}, with kill -9 and {calls_up} calls up; {cost}; {back}."
    ));
    if kill.calls_up == 0 {
        verdict.complaints.push("no call was up when the control node was killed".into());
    }
    if kill.calls_lost > 0 {
        verdict.complaints.push("calls ended badly after a control node was killed".into());
    }
    if kill.allocation_back.is_none_or(|t| t > ALLOCATION_BACK_MAX) {
        verdict.complaints.push(format!(
            "number allocation was not back within {} s",
            ALLOCATION_BACK_MAX.as_secs()
        ));
    }
}

impl Facts {
    fn wan_loss(&self) -> f64 {
        share(self.wan.lost, self.wan.received)
    }
}

fn of(facts: &Facts, side: Side) -> Vec<&Ear> {
    facts.ears.iter().filter(|e| e.report.side == side).collect()
}

fn answered(facts: &Facts) -> impl Iterator<Item = &Ear> {
    facts.ears.iter().filter(|e| e.report.codec.is_some())
}

pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Nearest rank.
fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use pop_core::codec::Codec;

    use super::*;
    use crate::endpoint::Heard;
    use crate::speech::Likeness;

    fn ear(side: Side) -> Ear {
        let heard = Heard {
            sent: 700,
            received: 699,
            lost: 1,
            longest_gap: Duration::from_millis(41),
            likeness: Likeness { correlation: 0.97, ..Likeness::default() },
            ..Heard::default()
        };
        let report = Report {
            number: 2,
            side,
            from: "+493023125910".into(),
            to: "+12025550100".into(),
            end: End::Completed,
            ringing: Some(Duration::from_millis(85)),
            set_up: (side == Side::Caller).then_some(Duration::from_millis(88)),
            talked: Duration::from_secs(14),
            codec: Some(Codec::Pcmu),
            heard,
            answered: None,
            ended: proto::time::Instant::ZERO,
            bye: None,
            moves: Vec::new(),
            stale: Vec::new(),
            hold: None,
            diary: None,
        };
        Ear { report, mos: 4.3, transcoded: false, digits: String::new() }
    }

    fn good() -> Facts {
        Facts {
            placed: 2,
            ears: vec![ear(Side::Caller), ear(Side::Callee), ear(Side::Caller), ear(Side::Callee)],
            kill: Some(Kill {
                node: "control-2".into(),
                led: true,
                calls_up: 2,
                allocation_back: Some(Duration::from_millis(1_400)),
                calls_lost: 0,
            }),
            wan: Counters { received: 1_000, delivered: 998, lost: 2, ..Counters::default() },
            profile: Profile { loss: 0.002, ..Profile::delayed(Duration::from_millis(40)) },
            left_in_pops: Some(0),
        }
    }

    /// Spoils one thing; the verdict must complain, with this word.
    fn complains(spoil: impl FnOnce(&mut Facts), word: &str) {
        let mut facts = good();
        spoil(&mut facts);
        let verdict = judge(&facts);
        let found = verdict.complaints.iter().any(|c| c.contains(word));
        assert!(found && !verdict.is_good(), "{word}: {:?}", verdict.complaints);
    }

    #[test]
    fn good_facts_are_good_and_told_in_words() {
        let verdict = judge(&good());
        assert_eq!(verdict.complaints, Vec::<String>::new());
        let text = verdict.lines.join("\n");
        for word in [
            "2 placed",
            "0 failed",
            "p50 88 ms",
            "MOS median 4.30",
            "the raft leader",
            "no call noticed",
            "after 1.4 s",
            "(0.14 %)",
        ] {
            assert!(text.contains(word), "{word} missing in\n{text}");
        }
    }

    #[test]
    fn every_flaw_is_named() {
        complains(|f| f.ears[0].report.end = End::Refused(503), "503");
        complains(|f| f.ears[1].report.end = End::TimedOut, "never answered");
        complains(|f| f.placed = 3, "never came to an end");
        complains(|f| drop(f.ears.remove(1)), "called sides");
        complains(|f| f.placed = 0, "no call");
        complains(|f| f.ears.clear(), "nothing was heard");
        complains(|f| f.ears[2].mos = 3.1, "MOS 3.10");
        complains(|f| f.ears[2].report.heard.longest_gap = Duration::from_secs(2), "2000 ms");
        complains(|f| f.ears[3].report.heard.likeness.correlation = 0.1, "did not hear");
        complains(|f| f.ears[1].digits = "1#".into(), "arrived as");
        complains(|f| f.ears[3].report.heard.lost = 50, "were lost");
        complains(|f| f.wan.overflowed = 1, "emulator");
        complains(|f| f.kill = None, "no control node");
        complains(|f| f.left_in_pops = Some(2), "still hold 2");
        complains(|f| kill_of(f).calls_up = 0, "no call was up");
        complains(|f| kill_of(f).calls_lost = 1, "ended badly");
        complains(|f| kill_of(f).allocation_back = None, "not back");
        complains(|f| kill_of(f).allocation_back = Some(Duration::from_secs(9)), "not back");
    }

    fn kill_of(facts: &mut Facts) -> &mut Kill {
        facts.kill.as_mut().unwrap()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&times, 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&[], 99), None);
    }
}
