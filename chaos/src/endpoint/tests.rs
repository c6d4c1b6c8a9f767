//! Two agents, no mesh between them: the instrument, measured on itself.

use std::time::Instant;

use super::*;
use crate::lab::SIP_PORT;

/// Everybody's own loopback address.
fn agent(ip: &str, configure: impl FnOnce(&mut Config)) -> Agent {
    let mut config = Config::new(format!("{ip}:{SIP_PORT}").parse().unwrap());
    configure(&mut config);
    Agent::start(config).unwrap()
}

fn dial(to: &Agent, codec: Codec) -> Dial {
    Dial {
        proxy: to.address(),
        from: "+493023125910".into(),
        to: "+12025550100".into(),
        codecs: vec![codec],
        talk: Some(Duration::from_millis(2_500)),
        digits: "42#".into(),
        srtp: false,
    }
}

/// Looks again and again until it is so; fails rather than wait for ever.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(45);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for that many reports of an agent.
fn reports(agent: &Agent, count: usize) -> Vec<Report> {
    let deadline = Instant::now() + Duration::from_secs(45);
    let mut all = Vec::new();
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} reports: {all:?}", all.len());
        all.extend(agent.reports().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    all
}

#[test]
fn both_sides_hear_the_other_voice_in_every_codec() {
    let callee = agent("127.0.212.2", |_| {});
    let caller = agent("127.0.211.2", |c| c.seed = 7);
    for codec in Codec::ALL {
        caller.dial(dial(&callee, codec));
    }
    let all: Vec<Report> = reports(&caller, 4).into_iter().chain(reports(&callee, 4)).collect();
    for report in all {
        assert_eq!(report.end, End::Completed, "{report:?}");
        let heard = &report.heard;
        assert!(heard.received > 110 && heard.lost == 0, "{:?} {heard:?}", report.codec);
        let likeness_min = match report.side {
            Side::Caller => {
                assert!(report.set_up.is_some() && heard.digits.is_empty());
                0.95
            }
            Side::Callee => {
                assert_eq!(heard.digits, "42#");
                // Three keys take the place of 420 ms of voice.
                0.85
            }
        };
        let likeness = heard.likeness;
        assert!(likeness.correlation > likeness_min, "{:?} {likeness:?}", report.codec);
    }
    assert_eq!((caller.open(), caller.live().len()), (0, 0));
}

#[test]
fn refusals_busy_codecs_and_silence_end_calls() {
    let callee = agent("127.0.214.2", |c| {
        c.default_reply = Reply::Refuse(486);
        let never = Duration::from_secs(3_600);
        let codecs = vec![Codec::Pcmu];
        c.replies.insert("+12025550101".into(), Reply::Answer { ring: never, codecs });
    });
    let caller = agent("127.0.213.2", |_| {});
    caller.dial(dial(&callee, Codec::Pcmu));
    assert_eq!(reports(&caller, 1)[0].end, End::Refused(486));

    let ringing = Dial { to: "+12025550101".into(), ..dial(&callee, Codec::Pcmu) };
    caller.dial(Dial { codecs: vec![Codec::Opus], ..ringing.clone() });
    assert_eq!(reports(&caller, 1)[0].end, End::Refused(488));

    let number = caller.dial(ringing);
    until(|| !callee.live().is_empty());
    caller.hang_up(number);
    let report = &reports(&caller, 1)[0];
    assert_eq!((&report.end, report.number), (&End::Refused(487), number));
    assert!(report.ringing.is_some() && report.set_up.is_none());
    assert_eq!(reports(&callee, 1)[0].end, End::Refused(487));
}

#[test]
fn the_called_side_may_hang_up_too() {
    let callee = agent("127.0.216.2", |_| {});
    let caller = agent("127.0.215.2", |_| {});
    caller.dial(Dial { talk: None, ..dial(&callee, Codec::Pcma) });
    until(|| callee.live().iter().any(|l| l.received > 20));
    callee.hang_up_all();
    assert_eq!(reports(&caller, 1)[0].end, End::Completed);
    assert_eq!(reports(&callee, 1)[0].end, End::Completed);
}

#[test]
fn encrypted_calls_are_held_and_taken_back() {
    let callee = agent("127.0.222.2", |_| {});
    let caller = agent("127.0.221.2", |c| c.diary = true);
    let number = caller.dial(Dial { talk: None, srtp: true, ..dial(&callee, Codec::Pcmu) });
    let packets = |agent: &Agent| agent.live().first().map_or(0, |live| live.received);
    let hears = |agent: &Agent| {
        let before = packets(agent);
        until(|| packets(agent) >= before + 50);
    };
    // Beyond the end of its sequence numbers.
    (0..3).for_each(|_| hears(&callee));
    hears(&caller);
    caller.hold(number, true);
    until(|| caller.live().iter().any(|live| live.holding));
    let before = packets(&caller);
    hears(&callee);
    assert!(packets(&caller) < before + 15, "who holds hears");
    caller.hold(number, false);
    hears(&caller);
    caller.hang_up(number);
    let (here, there) = (&reports(&caller, 1)[0], &reports(&callee, 1)[0]);
    assert_eq!((&here.end, &there.end), (&End::Completed, &End::Completed));
    assert!(there.heard.likeness.correlation > 0.85 && there.moves.len() == 2, "{there:?}");
    let hold = here.hold.unwrap();
    assert!(hold.until.is_some_and(|until| until - hold.from > Duration::from_millis(500)));
}
