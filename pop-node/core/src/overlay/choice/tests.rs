//! Stories of two upstreams on each side.

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn path(lower: u8, higher: u8, rtt_ms: u64) -> Candidate {
    Candidate {
        hop: Hop::direct(PathId::direct(lower, higher).unwrap()),
        health: Health::Good,
        heard: true,
        fresh: true,
        rtt: Some(Duration::from_millis(rtt_ms)),
        jitter: Duration::from_millis(1),
        queueing: Duration::ZERO,
        loss: 0.0,
        bursts: 0,
        risk: 0.0,
        shaky: false,
        drain: Drain::No,
        transit: Arc::default(),
    }
}

/// Four paths: 0-0 is the shortest, 1-1 shares nothing with it.
fn four() -> Vec<Candidate> {
    vec![path(0, 0, 60), path(0, 1, 80), path(1, 0, 80), path(1, 1, 90)]
}

#[test]
fn where_nothing_was_heard_since_the_primary_went_silent_nobody_goes() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 1_000));
    paths[0].health = Health::Suspect(at(1_000));
    paths[3].health = Health::Suspect(at(1_000));
    // 0-1 is the better one, but a rare probe says little.
    (paths[0].fresh, paths[1].fresh) = (false, false);
    assert_eq!(run(&mut choice, &paths, (1_000, 1_800)), ["1000 0-0 + 1-0 suspect"]);
    paths[0].health = Health::Down(at(1_800));
    assert_eq!(run(&mut choice, &paths, (1_800, 1_900)), ["1800 1-0 down"]);
}

/// The route in words: primary, + copy, * again.
fn words(choice: &Choice) -> String {
    let route = choice.route().unwrap();
    let copy = route.copy.as_ref().map_or(String::new(), |hop| format!(" + {hop}"));
    format!("{}{copy}{}", route.primary, if route.again.is_some() { " *" } else { "" })
}

/// Decides ten times a second until `to`; each change as "ms route why".
fn run(choice: &mut Choice, paths: &[Candidate], (from, to): (u64, u64)) -> Vec<String> {
    let times = (from..to).step_by(100);
    let changes = times.filter_map(|ms| {
        let why = choice.decide(paths, at(ms))?;
        Some(format!("{ms} {} {}", words(choice), why.name()))
    });
    changes.collect()
}

#[test]
fn silent_gets_a_copy_on_the_path_that_shares_nothing_down_is_left() {
    let (mut choice, mut paths) = (Choice::default(), four());
    assert_eq!(run(&mut choice, &paths, (0, 1_000)), ["0 0-0 first"]);
    paths[0].health = Health::Suspect(at(1_000));
    assert_eq!(run(&mut choice, &paths, (1_000, 1_800)), ["1000 0-0 + 1-1 suspect"]);
    paths[0].health = Health::Down(at(1_800));
    assert_eq!(run(&mut choice, &paths, (1_800, 9_000)), ["1800 1-1 down"]);
    // It is back, and shorter by 10 ms: that is not worth a switch, R hardly changes.
    paths[0].health = Health::Good;
    assert!(run(&mut choice, &paths, (9_000, 100_000)).is_empty());
}

#[test]
fn loss_is_repaired_step_by_step_and_repairs_end_slowly() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 1_000));
    paths[0].loss = 0.01;
    assert_eq!(run(&mut choice, &paths, (1_000, 3_000)), ["1000 0-0 * some_loss"]);
    // R falls by less than four: repaired, not left.
    paths[0].loss = 0.021;
    assert_eq!(run(&mut choice, &paths, (3_000, 4_000)), ["3000 0-0 + 1-1 loss"]);
    paths[0].loss = 0.0;
    assert_eq!(run(&mut choice, &paths, (4_000, 20_000)), ["13900 0-0 clean"]);
    (paths[0].loss, paths[0].bursts) = (0.006, 3);
    assert_eq!(run(&mut choice, &paths, (20_000, 21_000)), ["20000 0-0 + 1-1 loss"]);
}

#[test]
fn without_another_path_only_time_is_left() {
    let (mut choice, mut paths) = (Choice::default(), vec![path(0, 0, 60)]);
    run(&mut choice, &paths, (0, 1_000));
    paths[0].loss = 0.08;
    assert_eq!(run(&mut choice, &paths, (1_000, 9_000)), ["1000 0-0 * some_loss"]);
    paths[0].health = Health::Down(at(9_000));
    assert_eq!(run(&mut choice, &paths, (9_000, 19_000)), ["9000 0-0 suspect"]);
}

#[test]
fn a_better_path_is_taken_after_five_seconds_and_both_carry_for_a_moment() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 20_000));
    paths[0].rtt = Some(Duration::from_millis(260));
    let changes = run(&mut choice, &paths, (20_000, 60_000));
    assert_eq!(changes, ["25000 0-1 + 0-0 better", "25300 0-1 clean"]);
    // A short bad time is no reason.
    paths[1].rtt = Some(Duration::from_millis(300));
    assert!(run(&mut choice, &paths, (60_000, 64_900)).is_empty());
    paths[1].rtt = Some(Duration::from_millis(80));
    assert!(run(&mut choice, &paths, (64_900, 90_000)).is_empty());
}

#[test]
fn heavy_loss_is_left_after_a_second_of_copies() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 1_000));
    paths[0].loss = 0.2;
    let changes = run(&mut choice, &paths, (1_000, 4_000));
    assert_eq!(
        changes,
        ["1000 0-0 + 1-1 loss", "2000 0-1 + 0-0 lossy", "2300 0-1 clean"],
        "first saved, then moved"
    );
}

#[test]
fn good_and_bad_in_turns_is_followed_less_often_than_it_changes() {
    let (mut choice, mut paths) = (Choice::default(), four());
    paths.truncate(2);
    run(&mut choice, &paths, (0, 1_000));
    let mut switches = 0;
    for second in 1..600_u64 {
        // Twenty seconds of each: long enough to look better for five.
        let bad = second % 40 < 20;
        paths[0].loss = if bad { 0.15 } else { 0.0 };
        paths[1].rtt = Some(Duration::from_millis(if bad { 80 } else { 400 }));
        let span = (second * 1_000, second * 1_000 + 1_000);
        let why = ["better", "lossy"];
        let changes = run(&mut choice, &paths, span);
        switches += changes.iter().filter(|c| why.iter().any(|w| c.ends_with(w))).count();
    }
    // Twenty-nine changes of fortune.
    assert!((1..=18).contains(&switches), "{switches}");
}

#[test]
fn another_path_that_is_better_in_between_does_not_begin_the_wait_anew() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 20_000));
    paths[0].rtt = Some(Duration::from_millis(260));
    for second in 20..24 {
        // The best of the others is each second another one.
        paths[1].queueing = Duration::from_millis(if second % 2 == 0 { 5 } else { 0 });
        let span = (second * 1_000, second * 1_000 + 1_000);
        assert!(run(&mut choice, &paths, span).is_empty());
    }
    assert_eq!(run(&mut choice, &paths, (24_000, 26_000))[0], "25000 0-1 + 0-0 better");
    // One that is better for a moment only is not taken because others were for long.
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 20_000));
    paths[0].rtt = Some(Duration::from_millis(260));
    paths[2].rtt = Some(Duration::from_millis(400));
    run(&mut choice, &paths, (20_000, 24_900));
    paths[2].rtt = Some(Duration::from_millis(10));
    assert_eq!(run(&mut choice, &paths, (24_900, 26_000))[0], "25000 0-1 + 0-0 better");
}

#[test]
fn a_path_that_is_down_is_left_for_any_that_is_heard() {
    let (mut choice, mut paths) = (Choice::default(), four());
    paths.truncate(2);
    run(&mut choice, &paths, (0, 1_000));
    let down = |path: &mut Candidate, ms, heard| {
        path.health = Health::Down(at(ms));
        (path.heard, path.fresh) = (heard, heard);
    };
    down(&mut paths[0], 1_000, false);
    paths[1].health = Health::Unmeasured;
    assert_eq!(run(&mut choice, &paths, (1_000, 2_000)), ["1000 0-1 down"]);
    // Heard again, but not trusted yet: better than silence. There it stays.
    down(&mut paths[0], 1_000, true);
    down(&mut paths[1], 2_000, false);
    assert_eq!(run(&mut choice, &paths, (2_000, 3_000)), ["2000 0-0 down"]);
    down(&mut paths[1], 2_000, true);
    assert_eq!(run(&mut choice, &paths, (3_000, 4_000)), ["3000 0-0 + 0-1 suspect"]);
    // Also one that is to be left.
    paths[1].drain = Drain::Asked;
    paths[1].health = Health::Good;
    assert_eq!(run(&mut choice, &paths, (4_000, 5_000)), ["4000 0-1 down"]);
    paths[1].drain = Drain::No;
    // Drained is less bad than dead.
    paths[0].drain = Drain::Asked;
    paths[0].health = Health::Good;
    down(&mut paths[1], 5_000, false);
    assert_eq!(run(&mut choice, &paths, (5_000, 6_000)), ["5000 0-0 down"]);
    // And silent needs a copy, also where nothing is trusted.
    paths[0].health = Health::Suspect(at(6_000));
    down(&mut paths[1], 5_000, true);
    assert_eq!(run(&mut choice, &paths, (6_000, 7_000)), ["6000 0-0 + 0-1 suspect"]);
}

#[test]
fn what_is_lost_counts_more_than_what_is_said() {
    let (mut choice, mut paths) = (Choice::default(), four());
    paths.truncate(2);
    run(&mut choice, &paths, (0, 16_000));
    paths[0].drain = Drain::Asked;
    paths[1].loss = 0.15;
    assert!(run(&mut choice, &paths, (16_000, 20_000)).is_empty(), "the other loses too much");
    paths[1].loss = 0.04;
    assert_eq!(run(&mut choice, &paths, (20_000, 20_100)), ["20000 0-1 + 0-0 drained"]);
    run(&mut choice, &paths, (20_100, 30_000));
    // Now it does: back to what is drained but carries everything.
    paths[1].loss = 0.3;
    let changes = run(&mut choice, &paths, (30_000, 32_000));
    assert!(changes.iter().any(|change| change.ends_with("0-0 + 0-1 lossy")), "{changes:?}");
    paths[1].loss = 0.08;
    assert!(run(&mut choice, &paths, (32_000, 40_000)).is_empty(), "and there it stays");
}

#[test]
fn what_the_operator_or_bgp_holds_against_a_path_counts() {
    let (mut choice, mut paths) = (Choice::default(), four());
    run(&mut choice, &paths, (0, 16_000));
    paths[0].shaky = true;
    paths[0].risk = 3.0;
    assert_eq!(run(&mut choice, &paths, (16_000, 17_000)), ["16000 0-0 + 1-1 shaky"]);
    paths[0].drain = Drain::Asked;
    let changes = run(&mut choice, &paths, (17_000, 18_000));
    assert_eq!(changes, ["17000 0-1 + 0-0 drained", "17300 0-1 clean"]);
    // The last one is used whatever is said against it.
    paths.iter_mut().for_each(|path| path.drain = Drain::Asked);
    assert!(run(&mut choice, &paths, (18_000, 40_000)).is_empty());
}

#[test]
fn a_path_through_another_pop_must_be_worth_it() {
    let relay = Candidate { hop: Hop::via("iad1".parse().unwrap()), ..path(0, 0, 60) };
    let paths = vec![path(0, 0, 60), relay];
    let mut choice = Choice::default();
    assert_eq!(run(&mut choice, &paths, (0, 30_000)), ["0 0-0 first"]);
    let slow = vec![path(0, 0, 300), paths[1].clone()];
    let changes = run(&mut choice, &slow, (30_000, 40_000));
    assert_eq!(changes, ["35000 via iad1 + 0-0 better", "35300 via iad1 clean"]);
    let route = choice.route().unwrap();
    assert_eq!(route.direct, Some(slow[0].hop.path), "what others send through us");
}

#[test]
fn a_standby_shares_no_transit_with_the_primary_if_it_can() {
    let (mut choice, mut paths) = (Choice::default(), four());
    paths[0].transit = [64_500, 64_501].into();
    assert_eq!(run(&mut choice, &paths, (0, 100)), ["0 0-0 first"]);
    assert_eq!(watched(&paths, &paths[0].hop)[0], Some(paths[3].hop.clone()));
    // 1-1 shares no upstream, but four ASes between; each counts 2 of R, an upstream 6.
    paths[0].transit = [1, 2, 3, 4].into();
    paths[3].transit = [1, 2, 3, 4].into();
    assert_eq!(watched(&paths, &paths[0].hop)[0], Some(paths[1].hop.clone()));
}

#[test]
fn what_bgp_withdraws_is_left_at_once_with_copies_until_the_new_path_has_proven_itself() {
    let (mut choice, mut paths) = (Choice::default(), four());
    assert_eq!(run(&mut choice, &paths, (0, 1_000)), ["0 0-0 first"]);
    paths[0].drain = Drain::Asked;
    paths[1].drain = Drain::Asked;
    assert_eq!(
        run(&mut choice, &paths, (1_000, 9_000)),
        ["1000 1-0 + 0-0 drained", "1300 1-0 clean"]
    );
    // What is to be left is better than nothing.
    for path in &mut paths[2..] {
        (path.health, path.heard, path.fresh) = (Health::Down(at(9_000)), false, false);
    }
    assert_eq!(run(&mut choice, &paths, (9_000, 10_000)), ["9000 0-0 down"]);
    (paths[2].health, paths[2].heard) = (Health::Good, true);
    assert_eq!(run(&mut choice, &paths, (10_000, 10_300)), ["10000 1-0 + 0-0 drained"]);
}

#[test]
fn a_path_whose_route_changed_gets_copies_and_is_left_if_it_stays_worse() {
    let (mut choice, mut paths) = (Choice::default(), four());
    assert_eq!(run(&mut choice, &paths, (0, 16_000)), ["0 0-0 first"]);
    (paths[0].risk, paths[0].shaky) = (5.0, true);
    let story = run(&mut choice, &paths, (16_000, 30_000));
    assert_eq!(story[0], "16000 0-0 + 1-1 shaky");
    assert_eq!(story[1], "21000 0-1 + 0-0 better");
}

#[test]
fn a_path_without_a_route_is_left_for_one_that_is_merely_drained() {
    let (mut choice, mut paths) = (Choice::default(), four());
    paths.truncate(3);
    run(&mut choice, &paths, (0, 1_000));
    paths.iter_mut().for_each(|path| path.drain = Drain::Withdrawn);
    assert!(run(&mut choice, &paths, (1_000, 2_000)).is_empty(), "none is better");
    // The slowest, but it still carries.
    paths[2].drain = Drain::Asked;
    assert_eq!(
        run(&mut choice, &paths, (2_000, 3_000)),
        ["2000 1-0 + 0-0 drained", "2300 1-0 clean"]
    );
    paths[2].health = Health::Down(at(3_000));
    paths[1].drain = Drain::Asked;
    assert_eq!(run(&mut choice, &paths, (3_000, 4_000)), ["3000 0-1 down"]);
}
