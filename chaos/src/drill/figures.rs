//! What was heard becomes figures: silences, when both sides hear again, percentiles, a histogram,
//! calls alive and MOS second by second. Pure: instants in, numbers out.

use std::time::Duration;

use proto::time::Instant;

/// A pause between packets that people take for silence; ten packets.
pub const SILENCE: Duration = Duration::from_millis(200);
/// Sound that stops again within this time was not back.
const STABLE: Duration = Duration::from_secs(2);
/// A silence that a caller forgives; longer ones are the fault's.
const BLIP: Duration = Duration::from_secs(1);
/// Time between packets of a voice.
const PTIME: Duration = Duration::from_millis(20);
/// Share of the packets spoken afterwards that each side must hear.
const HEARD_AFTER_MIN: f64 = 0.95;

/// When one side heard the other's voice, packet by packet, in order.
pub type Ear = Vec<Instant>;

/// What became of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    /// Longest time between two packets at either side, from just before the fault to the end.
    pub gap: Duration,
    /// Longest time in which not both sides heard the other; zero: no silence at all.
    pub silent: Duration,
    /// Why it is not preserved; `None`: it is.
    pub lost: Option<Lost>,
}

/// Why a call counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// A side's dialog ended although nobody there hung up.
    Ended,
    /// A side heard nothing any more when the drill hung up.
    Silent,
    /// It was heard again, but too few packets of it.
    Thin,
    /// Both sides heard again, but not for long enough before the drill ended.
    TooLate,
}

impl Lost {
    /// All, for tables.
    pub const ALL: [Self; 4] = [Self::Ended, Self::Silent, Self::Thin, Self::TooLate];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Ended => "ended by itself",
            Self::Silent => "a side never heard again",
            Self::Thin => "heard in pieces only",
            Self::TooLate => "heard again too late",
        }
    }
}

/// The time a call was watched.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// The fault.
    pub fault: Instant,
    /// When the drill began to hang up.
    pub end: Instant,
    /// How long both sides must be heard at the end.
    pub two_way: Duration,
}

/// Judges a call by what its two sides heard; `ended`: a side ended before the drill hung up.
pub fn fate(ears: [&Ear; 2], ended: bool, watch: Watch) -> Fate {
    let gap = ears.iter().map(|ear| longest_gap(ear, watch)).max().unwrap_or_default();
    let mut silences: Vec<(Instant, Instant)> =
        ears.iter().flat_map(|ear| gaps(ear, watch)).filter(|(a, b)| *b - *a > SILENCE).collect();
    silences.sort_unstable();
    let episodes = merge(&silences);
    let silent = episodes.iter().map(|(from, to)| *to - *from).max().unwrap_or_default();
    let long = episodes.iter().rev().find(|(from, to)| *to - *from > BLIP);
    let back = long.map_or(watch.fault, |(_, to)| *to);
    // Short silences before the time that counts are told by the figures.
    let listened = back.max(Instant::from_nanos(
        watch.end.as_nanos().saturating_sub(watch.two_way.as_nanos().try_into().unwrap_or(0)),
    ));
    let at_end = |ear: &&Ear| {
        let before = ear.partition_point(|at| *at < watch.end);
        let last = before.checked_sub(1).and_then(|i| ear.get(i));
        last.is_none_or(|last| watch.end - *last > BLIP)
    };
    let lost = if ended {
        Some(Lost::Ended)
    } else if ears.iter().any(at_end) {
        Some(Lost::Silent)
    } else if watch.end - back < watch.two_way {
        Some(Lost::TooLate)
    } else if ears.iter().any(|ear| share(ear, listened, watch.end) < HEARD_AFTER_MIN) {
        Some(Lost::Thin)
    } else {
        None
    };
    Fate { gap, silent, lost }
}

/// Times between two packets that end after the fault, and the one that goes on at the end.
fn gaps(ear: &Ear, watch: Watch) -> Vec<(Instant, Instant)> {
    let first = ear.partition_point(|at| *at < watch.fault);
    // Whoever heard nothing before is silent since the fault.
    let mut last = first.checked_sub(1).and_then(|i| ear.get(i)).copied().unwrap_or(watch.fault);
    let mut found = Vec::new();
    let after = ear.get(first..).unwrap_or_default().iter().copied();
    for at in after.take_while(|at| *at < watch.end).chain([watch.end]) {
        found.push((last, at));
        last = at;
    }
    found
}

fn longest_gap(ear: &Ear, watch: Watch) -> Duration {
    gaps(ear, watch).into_iter().map(|(from, to)| to - from).max().unwrap_or_default()
}

/// Silences with less than [`STABLE`] between them are one.
fn merge(silences: &[(Instant, Instant)]) -> Vec<(Instant, Instant)> {
    let mut merged: Vec<(Instant, Instant)> = Vec::new();
    for (from, to) in silences {
        match merged.last_mut() {
            Some(last) if *from <= last.1 + STABLE => last.1 = last.1.max(*to),
            _ => merged.push((*from, *to)),
        }
    }
    merged
}

/// Share of the packets spoken in this time that were heard.
fn share(ear: &Ear, from: Instant, to: Instant) -> f64 {
    let heard = ear.iter().filter(|at| (from..to).contains(at)).count();
    let spoken = (to - from).as_secs_f64() / PTIME.as_secs_f64();
    if spoken < 1.0 { 0.0 } else { heard as f64 / spoken }
}

/// One second of all calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Second {
    /// Seconds after the fault.
    pub at: i64,
    /// Calls with both sides hearing more than half of what is spoken.
    pub alive: usize,
    /// Mean share of packets heard, 0.0 to 1.0.
    pub heard: f64,
    /// Mean MOS.
    pub mos: f64,
}

/// Second by second, `before` the fault to the end of the watch; `mos` of a share of lost packets.
pub fn seconds(
    calls: &[[&Ear; 2]],
    watch: Watch,
    before: u32,
    mos: impl Fn(f64) -> f64,
) -> Vec<Second> {
    const SECOND: Duration = Duration::from_secs(1);
    // The clock begins with the agents.
    let before = before.min(u32::try_from(watch.fault.as_millis() / 1_000).unwrap_or(before));
    let begin = Instant::ZERO + (watch.fault - Instant::ZERO).saturating_sub(SECOND * before);
    let whole = usize::try_from((watch.end - begin).as_secs()).unwrap_or(0);
    let mut alive = vec![0; whole];
    let mut heard = vec![0.0; whole];
    let mut rated = vec![0.0; whole];
    for ears in calls {
        let counts = ears.map(|ear| count(ear, begin, whole, SECOND));
        for second in 0..whole {
            let of = |counts: &Vec<u32>| {
                f64::from(counts.get(second).copied().unwrap_or(0)).min(50.0) / 50.0
            };
            let shares = [of(&counts[0]), of(&counts[1])];
            let both = shares.iter().all(|share| *share > 0.5);
            if let (Some(a), Some(h), Some(m)) =
                (alive.get_mut(second), heard.get_mut(second), rated.get_mut(second))
            {
                *a += usize::from(both);
                *h += f64::midpoint(shares[0], shares[1]);
                *m += f64::midpoint(mos(1.0 - shares[0]), mos(1.0 - shares[1]));
            }
        }
    }
    let all = calls.len().max(1) as f64;
    (-i64::from(before)..)
        .zip(alive.into_iter().zip(heard.into_iter().zip(rated)))
        .map(|(at, (alive, (heard, mos)))| Second { at, alive, heard: heard / all, mos: mos / all })
        .collect()
}

fn count(ear: &Ear, begin: Instant, whole: usize, step: Duration) -> Vec<u32> {
    let mut counts = vec![0; whole];
    for at in ear.iter().filter(|at| **at >= begin) {
        let second = (*at - begin).as_nanos() / step.as_nanos();
        if let Some(count) = usize::try_from(second).ok().and_then(|s| counts.get_mut(s)) {
            *count += 1;
        }
    }
    counts
}

/// The value that `percent` of the sorted values do not exceed: nearest rank.
pub fn percentile(sorted: &[Duration], percent: f64) -> Option<Duration> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank in a short list"
    )]
    let rank = (sorted.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Upper ends of the histogram's bars; the last one takes the rest.
pub const BARS_MS: [u64; 14] =
    [40, 60, 100, 200, 400, 700, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 15_000];

/// How many of the values fall into each bar.
pub fn histogram(values: &[Duration]) -> [usize; BARS_MS.len() + 1] {
    let mut bars = [0; BARS_MS.len() + 1];
    for value in values {
        let bar = BARS_MS.partition_point(|end| u128::from(*end) < value.as_millis());
        if let Some(bar) = bars.get_mut(bar) {
            *bar += 1;
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    /// Packets every 20 ms in these spans of ms.
    fn ear(spans: &[(u64, u64)]) -> Ear {
        spans.iter().flat_map(|(from, to)| (*from..*to).step_by(20)).map(ms).collect()
    }

    const WATCH: Watch =
        Watch { fault: ms_at(10_000), end: ms_at(30_000), two_way: Duration::from_secs(10) };

    const fn ms_at(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    fn judge(a: &[(u64, u64)], b: &[(u64, u64)]) -> Fate {
        fate([&ear(a), &ear(b)], false, WATCH)
    }

    #[test]
    fn a_call_that_hears_on_is_preserved() {
        let all = [(0, 30_000)];
        let fate = judge(&all, &all);
        assert_eq!(fate.lost, None);
        assert_eq!((fate.gap, fate.silent), (Duration::from_millis(20), Duration::ZERO));
    }

    #[test]
    fn the_slower_side_counts_and_silence_before_the_fault_does_not() {
        let fate = judge(
            &[(0, 3_000), (8_000, 10_000), (11_500, 30_000)],
            &[(0, 10_040), (12_300, 30_000)],
        );
        assert_eq!(fate.lost, None);
        // 9,980 is the last packet of the first side: both hear again at 12,300.
        assert_eq!(fate.silent, Duration::from_millis(12_300 - 9_980));
        assert_eq!(fate.gap, Duration::from_millis(12_300 - 10_020));
    }

    #[test]
    fn sound_that_dies_again_was_not_back() {
        let all = [(0, 30_000)];
        let fate = judge(&[(0, 10_000), (11_000, 12_000), (14_000, 30_000)], &all);
        assert_eq!(fate.silent, Duration::from_millis(14_000 - 9_980));
        assert_eq!(fate.lost, None);
        let blip = judge(&[(0, 24_000), (24_500, 30_000)], &all);
        assert_eq!((blip.lost, blip.silent), (None, Duration::from_millis(520)));
        let gone = judge(&[(0, 10_000), (11_000, 25_000)], &all);
        assert_eq!(gone.lost, Some(Lost::Silent));
        assert_eq!(gone.gap, Duration::from_millis(30_000 - 24_980));
    }

    #[test]
    fn what_was_not_heard_is_never_preserved() {
        let all = [(0, 30_000)];
        assert_eq!(judge(&all, &[]).lost, Some(Lost::Silent));
        assert_eq!(judge(&[], &[]).lost, Some(Lost::Silent));
        assert_eq!(judge(&[], &[]).gap, Duration::from_secs(20));
        assert_eq!(judge(&all, &[(0, 10_000), (21_000, 30_000)]).lost, Some(Lost::TooLate));
        let ears = [&ear(&all), &ear(&all)];
        assert_eq!(fate(ears, true, WATCH).lost, Some(Lost::Ended));
        // Each second packet only, but never 200 ms without one.
        let thin: Ear = (0..30_000).step_by(40).map(ms).collect();
        assert_eq!(fate([&thin, &thin], false, WATCH).lost, Some(Lost::Thin));
    }

    #[test]
    fn seconds_count_calls_that_both_sides_hear() {
        let all = ear(&[(0, 30_000)]);
        let half = ear(&[(0, 10_000), (15_000, 30_000)]);
        let calls = [[&all, &all], [&all, &half]];
        let seconds = seconds(&calls, WATCH, 3, |loss| 4.0 - loss);
        assert_eq!(seconds.len(), 23);
        assert_eq!((seconds[0].at, seconds[0].alive), (-3, 2));
        let silent = seconds.iter().find(|s| s.at == 2).unwrap();
        assert_eq!((silent.alive, silent.heard, silent.mos), (1, 0.75, 3.75));
        assert_eq!(seconds.last().unwrap().alive, 2);
        // A fault right after the clock began.
        let early = Watch { fault: ms(2_500), end: ms(6_000), ..WATCH };
        let seconds = self::seconds(&[[&all, &all]], early, 5, |loss| loss);
        assert_eq!((seconds.len(), seconds[0].at, seconds[0].alive), (5, -2, 1));
    }

    #[test]
    fn percentiles_are_nearest_ranks_and_bars_hold_everything() {
        let values: Vec<Duration> = (1..=200).map(|n| Duration::from_millis(n * 100)).collect();
        assert_eq!(percentile(&values, 50.0), Some(Duration::from_secs(10)));
        assert_eq!(percentile(&values, 99.0), Some(Duration::from_millis(19_800)));
        assert_eq!(percentile(&values, 100.0), Some(Duration::from_secs(20)));
        assert_eq!(percentile(&[], 50.0), None);
        let bars = histogram(&values);
        assert_eq!(bars.iter().sum::<usize>(), 200);
        assert_eq!((bars[2], bars[3], bars[14]), (1, 1, 50));
    }
}
