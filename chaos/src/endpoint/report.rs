//! What an agent tells about a call when it is over.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use pop_core::codec::Codec;
use proto::time::Instant;

use super::diary::Diary;
use super::tape;
use crate::speech::{self, Likeness, Voice};

/// Which side of the call this report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We called.
    Caller,
    /// We were called.
    Callee,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Answered, and ended by a BYE of either side.
    Completed,
    /// A final response that is no 2xx.
    Refused(u16),
    /// No final response, or nobody acknowledged ours.
    TimedOut,
    /// We cannot go on, in words.
    Failed(String),
}

/// One side's account of one call.
#[derive(Debug, Clone)]
pub struct Report {
    /// The call's number at its agent.
    pub number: u64,
    /// Side.
    pub side: Side,
    /// Calling number, as this side saw it.
    pub from: String,
    /// Called number, as this side saw it.
    pub to: String,
    /// End.
    pub end: End,
    /// INVITE sent to first response above 100; callers only.
    pub ringing: Option<Duration>,
    /// INVITE sent to 2xx received; callers only.
    pub set_up: Option<Duration>,
    /// Answer to end.
    pub talked: Duration,
    /// Codec we sent, once agreed.
    pub codec: Option<Codec>,
    /// What we heard.
    pub heard: Heard,
    /// When it was answered and when it was over, on the clock of all agents ([`super::now`]).
    pub answered: Option<Instant>,
    /// When it was over.
    pub ended: Instant,
    /// Whose BYE ended it.
    pub bye: Option<Bye>,
    /// Re-INVITEs of the far side, oldest first; at most [`MOVES_MAX`].
    pub moves: Vec<Move>,
    /// Requests within the call whose CSeq was used up before (RFC 3261 §12.2.2): of somebody who
    /// does not know that the call moved; at most [`MOVES_MAX`]. They are refused and change nothing.
    pub stale: Vec<Stale>,
    /// While it had the far side on hold.
    pub hold: Option<Hold>,
    /// What was heard packet by packet, if [`super::Config::diary`] asked for it.
    pub diary: Option<Diary>,
}

/// When a side had the other on hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Since the far side agreed.
    pub from: Instant,
    /// Until the far side agreed again; `None`: to the end.
    pub until: Option<Instant>,
}

/// A request that came too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// When it came.
    pub at: Instant,
    /// Where it came from.
    pub from: SocketAddr,
    /// Its method.
    pub method: String,
}

/// Re-INVITEs kept of one call.
pub const MOVES_MAX: usize = 64;

/// Whose BYE ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bye {
    /// Theirs, from there.
    Received(SocketAddr),
    /// Ours, and this was the answer; `None`: there was none.
    Sent(Option<u16>),
}

/// A re-INVITE of the far side (RFC 3261 §14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// When it came.
    pub at: Instant,
    /// Where it came from.
    pub from: SocketAddr,
    /// What we answered; 0: nothing.
    pub answer: u16,
    /// Where media goes since; `None`: as before, or it was refused.
    pub media: Option<SocketAddr>,
}

/// What one side received, measured on RTP (RFC 3550) and on the sound itself.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets received, each sequence number once.
    pub received: u64,
    /// Received a second time.
    pub duplicates: u64,
    /// Expected by sequence numbers but not received (RFC 3550 §A.3).
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 §A.8).
    pub jitter: Duration,
    /// Longest time between two packets while the call was up.
    pub longest_gap: Duration,
    /// Answer to first packet.
    pub first_packet: Option<Duration>,
    /// Telephone events (RFC 4733), each once: digits `0-9*#A-D`.
    pub digits: String,
    /// The sound, 8 kHz mono, as it would be played: lost packets concealed.
    pub sound: Vec<i16>,
    /// How much it is the voice the other side speaks with.
    pub likeness: Likeness,
}

/// A call that goes on.
#[derive(Debug, Clone)]
pub struct Live {
    /// The call's number at its agent.
    pub number: u64,
    /// Side.
    pub side: Side,
    /// Calling number.
    pub from: String,
    /// Called number.
    pub to: String,
    /// Codec, once answered.
    pub codec: Option<Codec>,
    /// Packets received.
    pub received: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Packets lost.
    pub lost: u64,
    /// Interarrival jitter.
    pub jitter: Duration,
    /// Longest time between two packets.
    pub longest_gap: Duration,
    /// When the far side's voice was last heard, if there is a diary.
    pub last_voice: Option<Instant>,
    /// It has the far side on hold, and hears nothing.
    pub holding: bool,
}

/// A call that is over, its sound not yet looked at.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) report: Report,
    pub(super) payloads: Vec<Option<Bytes>>,
    pub(super) expect: Voice,
}

impl Finished {
    pub(super) fn report(self) -> Result<Report> {
        let mut report = self.report;
        if report.diary.is_some() {
            return Ok(report);
        }
        if let Some(codec) = report.codec {
            report.heard.sound = tape::play(codec, &self.payloads)?;
            let told = speech::samples(self.expect, tape::RATE_HZ)?;
            report.heard.likeness = speech::likeness(&report.heard.sound, &told);
        }
        Ok(report)
    }
}
