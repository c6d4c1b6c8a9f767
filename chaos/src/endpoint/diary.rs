//! What an ear heard, packet by packet, and whether that was what the far side said just then.
//!
//! A packet counts as heard only if its payload is exactly a frame of the far side's voice, and one
//! that the far side spoke a moment before: an old recording, silence, noise or the voice of
//! another call do not. Works for codecs that are relayed as they are.

use std::sync::Arc;
use std::time::Duration;

use proto::time::Instant;

use super::talker::PTIME;
use super::tape::Index;

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When it came.
    pub at: Instant,
    /// A place on the tape with this payload; `None`: it is of no tape.
    pub place: Option<u16>,
}

/// Since when somebody speaks, and from which place of the tape on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoke {
    /// When the first packet was due.
    pub from: Instant,
    /// Its place.
    pub frame: u16,
}

/// What an ear heard, and what the mouth beside it said.
#[derive(Debug, Clone)]
pub struct Diary {
    /// In order of arrival; at most [`Diary::ENTRIES_MAX`].
    pub heard: Vec<Entry>,
    /// Of the voice that was to be heard.
    pub index: Arc<Index>,
    /// What this side itself spoke.
    pub spoke: Spoke,
}

impl Diary {
    /// Entries kept: 20 minutes.
    pub const ENTRIES_MAX: usize = 60_000;
    /// What is later than this is of no use in a conversation.
    pub const LATE: Duration = Duration::from_millis(1_500);
    /// How much earlier than spoken a packet may seem to be: senders catch up.
    const EARLY: Duration = Duration::from_millis(60);

    /// When what `mouth` said was heard: arrivals of packets that it spoke at most
    /// [`Diary::LATE`] before, each place once.
    pub fn voice(&self, mouth: Spoke) -> Vec<Instant> {
        let mut heard = Vec::with_capacity(self.heard.len());
        // Each is heard once: a copy is nothing new.
        let mut next = 0;
        for entry in &self.heard {
            let Some(place) = entry.place else { continue };
            if let Some(spoken) = self.spoken(place, entry.at, mouth, next) {
                next = spoken + 1;
                heard.push(entry.at);
            }
        }
        heard
    }

    /// Number of the first packet of `mouth`, from `next` on, that can be this place of the tape
    /// when it is heard at `at`.
    fn spoken(&self, place: u16, at: Instant, mouth: Spoke, next: u64) -> Option<u64> {
        let length = u64::from(self.index.length()).max(1);
        let steps = |d: Duration| u64::try_from(d.as_nanos() / PTIME.as_nanos()).unwrap_or(0);
        // The packet that would be heard at once.
        let newest = steps(at + Self::EARLY - mouth.from);
        let oldest = newest.saturating_sub(steps(Self::LATE + Self::EARLY));
        let places = self.index.alike(place);
        (oldest.max(next)..=newest).find(|number| {
            let there = (u64::from(mouth.frame) + number) % length;
            places.iter().any(|place| u64::from(*place) == there)
        })
    }
}

#[cfg(test)]
mod tests {
    use pop_core::codec::Codec;

    use super::*;
    use crate::endpoint::tape;
    use crate::speech::Voice;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    /// A mouth that began at 1,000 ms with frame 490 of 500 or so, and an ear that hears it `late`.
    fn diary(late: u64, count: u64) -> (Diary, Spoke) {
        let index = tape::index(Voice::English, Codec::Pcmu).unwrap();
        let frames = tape::frames(Voice::English, Codec::Pcmu).unwrap();
        let mouth = Spoke { from: ms(1_000), frame: 490 };
        let heard = (0..count).map(|n| {
            let frame = (490 + n as usize) % frames.len();
            let place = index.places(&frames[frame]).first().copied();
            Entry { at: ms(1_000 + n * 20 + late), place }
        });
        (Diary { heard: heard.collect(), index, spoke: mouth }, mouth)
    }

    #[test]
    fn what_is_spoken_now_is_heard_also_over_the_end_of_the_tape() {
        for late in [0, 70, 900] {
            let (diary, mouth) = diary(late, 200);
            assert!(diary.voice(mouth).len() >= 195, "{late}: {}", diary.voice(mouth).len());
        }
    }

    #[test]
    fn what_is_late_or_of_another_call_or_of_no_tape_is_not_heard() {
        let (diary, mouth) = diary(50, 200);
        let voice = diary.voice(mouth).len();
        // Pauses look alike, so some packets of another place are taken for right ones.
        let other = Spoke { frame: 200, ..mouth };
        assert!(diary.voice(other).len() * 4 < voice, "{}", diary.voice(other).len());
        let (late, mouth) = self::diary(3_000, 200);
        assert!(late.voice(mouth).len() * 4 < voice, "{}", late.voice(mouth).len());
        let noise = Diary {
            heard: diary.heard.iter().map(|e| Entry { place: None, ..*e }).collect(),
            ..diary
        };
        assert_eq!(noise.voice(mouth), []);
    }

    #[test]
    fn a_copy_is_nothing_new() {
        let (mut diary, mouth) = diary(50, 100);
        let once = diary.voice(mouth).len();
        let stuck = diary.heard[40];
        diary.heard.truncate(41);
        diary.heard.extend((0..50).map(|n| Entry { at: stuck.at + PTIME * n, ..stuck }));
        assert!(once >= 95 && diary.voice(mouth).len() <= 45, "{}", diary.voice(mouth).len());
    }
}
