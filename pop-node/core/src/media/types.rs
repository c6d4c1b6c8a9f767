//! What goes into and comes out of [`Media`](super::Media): plain data.

use std::net::SocketAddr;

use bytes::Bytes;
use proto::id::{LegId, PopId, StreamId};
use proto::time::{Duration, Instant};

use super::measure::{Point, Rated, Rating, SilenceCause, Summary};
use super::meter::Level;
use super::quality::Band;
use crate::codec::Codec;
use crate::rtp::xr::VoipMetrics;
use crate::srtp::{SrtpError, SrtpKeys};
use crate::view::Block;
use proto::overlay::{PathId, PopTag};

/// What the machine needs to know once.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaConfig {
    /// This POP.
    pub own: PopTag,
    /// Seed of SSRCs, first sequence numbers and RTCP intervals (RFC 3550 §5.1 wants them random).
    pub seed: u64,
    /// The longest a frame waits for company in a datagram; taken as 2 ms if longer.
    pub flush_delay: Duration,
    /// The largest overlay datagram.
    pub datagram_bytes: usize,
    /// RTCP canonical name (RFC 3550 §6.5.1).
    pub cname: String,
    /// libopus complexity, 0 to 10; `None`: as much as the load of the thread leaves room for.
    pub opus_complexity: Option<u8>,
}

/// Of a leg's id, beside its lane: not used up in any process's life.
const NUMBER_BITS: u32 = 48;

/// What one media thread of each POP sends and reads of a call: a number of a thread where the call
/// came in. All legs of a call are on the same lane; a leg's id says on which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lane(pub u8);

impl Lane {
    /// The lane of a leg.
    #[allow(clippy::cast_possible_truncation, reason = "one byte is what is meant")]
    pub const fn of(leg: LegId) -> Self {
        Self((leg.0 >> NUMBER_BITS) as u8)
    }

    /// The leg of this lane with this number.
    pub const fn leg(self, number: u64) -> LegId {
        LegId((self.0 as u64) << NUMBER_BITS | number)
    }

    /// Whose it is, of so many threads.
    pub fn thread(self, threads: usize) -> usize {
        usize::from(self.0) % threads.max(1)
    }
}

/// An order to the media plane. The shell also executes `OpenLeg` and `CloseLeg` (sockets).
#[derive(Debug, Clone, PartialEq)]
pub enum MediaCommand {
    /// A leg begins: bind RTP at `local` and RTCP at the next port.
    OpenLeg {
        /// The leg.
        leg: LegId,
        /// Where RTP is received.
        local: SocketAddr,
    },
    /// What offer and answer agreed on; again after each re-INVITE.
    SetLeg {
        /// The leg.
        leg: LegId,
        /// The agreement.
        params: LegParams,
    },
    /// Joins a leg with its far side. With `Far::Leg` both legs are joined, so one command is
    /// enough (a second, mirrored one changes nothing).
    Connect {
        /// The leg.
        leg: LegId,
        /// Its far side.
        to: Far,
    },
    /// So much of what we encode for the leg's far side is lost on its way to the far peer's ear.
    ExpectLoss {
        /// The leg.
        leg: LegId,
        /// Of all packets.
        percent: u8,
    },
    /// Undoes `Connect`, for both sides.
    Disconnect {
        /// The leg.
        leg: LegId,
    },
    /// A leg ends: a last quality report, an RTCP BYE, the sockets closed.
    CloseLeg {
        /// The leg.
        leg: LegId,
    },
}

impl MediaCommand {
    /// The leg it is about.
    pub const fn leg(&self) -> LegId {
        match self {
            Self::OpenLeg { leg, .. }
            | Self::SetLeg { leg, .. }
            | Self::Connect { leg, .. }
            | Self::ExpectLoss { leg, .. }
            | Self::Disconnect { leg }
            | Self::CloseLeg { leg } => *leg,
        }
    }
}

/// One agreed audio format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// The codec.
    pub codec: Codec,
    /// Its RTP payload type, the same in both directions.
    pub payload_type: u8,
    /// Milliseconds per packet we send when we encode; 0 means the codec's default.
    pub ptime_ms: u32,
    /// The peer's `a=fmtp`: what it wants to receive (RFC 7587 §6.1).
    pub fmtp: Option<String>,
}

/// The agreed telephone-event format (RFC 4733).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// Its RTP payload type, the same in both directions.
    pub payload_type: u8,
    /// The clock of its timestamps and durations.
    pub clock_rate: u32,
}

/// What **we** may do on a leg (RFC 3264 §5.1), as our own SDP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Send and receive.
    #[default]
    SendRecv,
    /// Send only: what arrives is dropped.
    SendOnly,
    /// Receive only.
    RecvOnly,
    /// Neither; RTCP goes on.
    Inactive,
}

impl Direction {
    /// May we send?
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// May the peer send to us?
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// What offer and answer agreed on for a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegParams {
    /// Where the peer wants RTP; `None` while unknown (we may learn it from packets of `trusted` hosts).
    pub remote_rtp: Option<SocketAddr>,
    /// Where the peer wants RTCP; `None`: the port after RTP's.
    pub remote_rtcp: Option<SocketAddr>,
    /// The SSRC the peer said it will send (`a=ssrc`, RFC 5576): finds its packets on a shared port.
    pub remote_ssrc: Option<u32>,
    /// Where the peer's media may come from besides `remote_rtp`'s host: where its SIP comes from,
    /// and its trunk's sources. From other hosts nothing is taken.
    pub trusted: Vec<Block>,
    /// RTCP shares the RTP port (RFC 5761).
    pub rtcp_mux: bool,
    /// The peer wants VoIP metrics in RTCP XR (`a=rtcp-xr`, RFC 3611 §5).
    pub rtcp_xr: bool,
    /// The audio format.
    pub codec: Format,
    /// The DTMF format, if the peer has one.
    pub telephone_event: Option<TelephoneEvent>,
    /// The payload type our offer gave the DTMF format: it is understood too.
    pub offered_telephone_event: Option<u8>,
    /// The payload type of comfort noise (RFC 3389), if the peer takes it. From the peer it is
    /// taken in any case.
    pub comfort_noise: Option<u8>,
    /// The payload type of redundant audio (RFC 2198) of the format, if agreed on.
    pub redundant: Option<u8>,
    /// The payload type our offer gave it: it is understood too.
    pub offered_redundant: Option<u8>,
    /// Each packet of audio we send carries a copy of the one before, if `redundant` is agreed on.
    pub copies: bool,
    /// The noise in the peer's voice is suppressed: it is decoded, also where no codec changes.
    pub suppress_noise: bool,
    /// What we may do.
    pub direction: Direction,
    /// Media of this leg is SRTP with these keys (RFC 3711), both ways, RTCP too.
    pub srtp: Option<Box<SrtpKeys>>,
}

impl LegParams {
    /// Is it redundant audio from the peer?
    pub(super) fn is_redundant(&self, payload_type: u8) -> bool {
        [self.redundant, self.offered_redundant].contains(&Some(payload_type))
    }

    /// The payload type of audio with a copy of the packet before, if we send it so.
    pub(super) fn sent_redundant(&self) -> Option<u8> {
        self.redundant.filter(|_| self.copies)
    }
}

/// The other side of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Far {
    /// Another leg at this POP.
    Leg(LegId),
    /// A stream to another POP.
    Stream(Stream),
}

/// A pair of overlay streams, one each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The other POP.
    pub peer: PopId,
    /// Whose datagrams carry them.
    pub lane: Lane,
    /// What the peer calls what we send.
    pub send: StreamId,
    /// What we call what the peer sends; unique at this POP.
    pub receive: StreamId,
    /// The codec on the overlay, both ways.
    pub codec: Codec,
    /// May telephone events be sent to the peer? On the overlay their timestamps and durations
    /// count in `codec`'s clock rate.
    pub telephone_event: bool,
    /// Milliseconds per packet the far peer wants of what we encode; 0: the codec's default.
    pub ptime_ms: u32,
    /// The far peer's `a=fmtp` of the codec.
    pub fmtp: Option<String>,
}

/// A received packet at the begin of a buffer. Where it is forwarded protected it grows by up to
/// [`TRAILER_BYTES_MAX`](crate::srtp::TRAILER_BYTES_MAX): so much room should be behind it.
#[derive(Debug)]
pub struct Received<'a> {
    pub(super) buffer: &'a mut [u8],
    pub(super) length: usize,
}

impl<'a> Received<'a> {
    /// A packet of `length` bytes; no more than `buffer` has.
    pub fn new(buffer: &'a mut [u8], length: usize) -> Self {
        let length = length.min(buffer.len());
        Self { buffer, length }
    }

    pub(super) fn packet(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    pub(super) fn packet_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.length).unwrap_or_default()
    }
}

impl Received<'_> {
    /// Moves a part of the packet to `start`, in front of it; what was behind it, padding too, goes.
    pub(super) fn keep(&mut self, start: usize, part: std::ops::Range<usize>) {
        let end = start + part.len();
        let packet = self.packet_mut();
        if start > part.start || part.start > part.end || part.end > packet.len() {
            return;
        }
        packet.copy_within(part, start);
        if let Some(flags) = packet.first_mut() {
            *flags &= !0x20;
        }
        self.length = end;
    }
}

/// A packet with no room behind it.
impl<'a> From<&'a mut Vec<u8>> for Received<'a> {
    fn from(packet: &'a mut Vec<u8>) -> Self {
        let length = packet.len();
        Self::new(packet, length)
    }
}

/// What to do with a received RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet, rewritten in place, from `leg`'s RTP socket to `dst`.
    Forward {
        /// The leg it leaves by.
        leg: LegId,
        /// Where to.
        dst: SocketAddr,
        /// How long it is now.
        length: usize,
    },
    /// Taken: anything to send comes out of `poll_transmit`.
    Consumed,
    /// Dropped and counted.
    Drop(DropReason),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal),* $(,)?) => {
        /// Why media was dropped. Each has a counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $name),*
        }

        impl DropReason {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }
        }
    };
}

reasons! {
    /// On the shared port: it could belong to several legs, so it is given to none.
    AmbiguousSource = "ambiguous_source",
    /// The encoder or decoder refused it.
    CodecFailed = "codec_failed",
    /// A datagram that came twice.
    DuplicateDatagram = "duplicate_datagram",
    /// Its far side is not connected (yet).
    NotConnected = "not_connected",
    /// Our side of the leg may not receive now (hold).
    NotReceiving = "not_receiving",
    /// The leg it should leave by may not send now (hold).
    NotSending = "not_sending",
    /// We do not know where the peer of the leg is (yet).
    NoRemote = "no_remote",
    /// The far side does not take comfort noise: it hears silence instead.
    NoComfortNoise = "no_comfort_noise",
    /// The far side did not agree on telephone events.
    NoTelephoneEvent = "no_telephone_event",
    /// A malformed overlay datagram or frame.
    MalformedDatagram = "malformed_datagram",
    /// Malformed RTCP.
    MalformedRtcp = "malformed_rtcp",
    /// Malformed redundant audio.
    MalformedRedundancy = "malformed_redundancy",
    /// Malformed RTP.
    MalformedRtp = "malformed_rtp",
    /// Already in the playout buffer, or already played.
    PlayoutDuplicate = "playout_duplicate",
    /// The playout buffer was full.
    PlayoutFull = "playout_full",
    /// Its time to be played was over.
    PlayoutLate = "playout_late",
    /// More RTCP than any peer has to say.
    RtcpFlood = "rtcp_flood",
    /// An SRTCP packet that came before, or is too old to know.
    SrtcpReplayed = "srtcp_replayed",
    /// SRTCP not protected with the key agreed on, or changed on the way.
    SrtcpTag = "srtcp_tag",
    /// The key of an SRTP leg protected as many packets as it may.
    SrtpKeyUsedUp = "srtp_key_used_up",
    /// An SRTP packet that came before, or is too old to know.
    SrtpReplayed = "srtp_replayed",
    /// It would have used a packet index of an SRTP leg twice, and with it a key stream.
    SrtpReused = "srtp_reused",
    /// Not protected with the key agreed on, or changed on the way.
    SrtpTag = "srtp_tag",
    /// Larger than a datagram or packet may be.
    TooLarge = "too_large",
    /// Output waited too long to be fetched.
    TransmitFull = "transmit_full",
    /// No such leg.
    UnknownLeg = "unknown_leg",
    /// A payload type nobody agreed on.
    UnknownPayloadType = "unknown_payload_type",
    /// No such overlay stream (the call may have just ended).
    UnknownStream = "unknown_stream",
    /// The stream belongs to another POP than the one which sent the datagram.
    WrongPeer = "wrong_peer",
    /// No path to the POP it is for.
    NoPath = "no_path",
    /// Not from the address the leg is latched to.
    WrongSource = "wrong_source",
}

impl From<SrtpError> for DropReason {
    fn from(error: SrtpError) -> Self {
        match error {
            SrtpError::Tag => Self::SrtpTag,
            SrtpError::Replayed => Self::SrtpReplayed,
            SrtpError::Malformed => Self::MalformedRtp,
            SrtpError::NoRoom => Self::TooLarge,
            SrtpError::Reused => Self::SrtpReused,
            SrtpError::KeyUsedUp => Self::SrtpKeyUsedUp,
        }
    }
}

/// Something to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaTransmit {
    /// From a leg's RTP socket.
    Rtp {
        /// The leg.
        leg: LegId,
        /// Where to.
        dst: SocketAddr,
        /// The packet.
        bytes: Bytes,
    },
    /// RTCP of a leg: from its RTCP socket, or from its RTP socket when `mux`.
    Rtcp {
        /// The leg.
        leg: LegId,
        /// Where to.
        dst: SocketAddr,
        /// Sent from the RTP port (RFC 5761).
        mux: bool,
        /// The compound packet.
        bytes: Bytes,
    },
    /// A datagram on a connection to a POP.
    Datagram {
        /// The POP.
        peer: PopId,
        /// The path that the connection is.
        path: PathId,
        /// The datagram.
        bytes: Bytes,
    },
}

/// Something worth telling the call.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaEvent {
    /// The sockets of a leg are open.
    Opened {
        /// The leg.
        leg: LegId,
    },
    /// The shell could not open the sockets of a leg: another program has a port.
    PortTaken {
        /// The leg.
        leg: LegId,
    },
    /// The first RTP packet of a leg arrived.
    FirstPacket {
        /// The leg.
        leg: LegId,
    },
    /// The peer's address moved from what SDP said (symmetric RTP, RFC 4961).
    Latched {
        /// The leg.
        leg: LegId,
        /// Where RTP goes now.
        remote: SocketAddr,
    },
    /// Every 5 s and once more at `CloseLeg` (with `last`).
    LegQuality {
        /// The leg.
        leg: LegId,
        /// Totals so far.
        report: Box<QualityReport>,
        /// The leg is closed.
        last: bool,
    },
    /// What is lost between the POP whose stream we send on to the leg's peer, and its ear, has
    /// changed; at most once per report of the leg.
    Lossy {
        /// The leg.
        leg: LegId,
        /// Of all packets, 0 to 100.
        percent: u8,
    },
    /// Nothing was heard for 10 s though the peer may send; told once per silence and cause.
    Silent {
        /// The leg.
        leg: LegId,
        /// When the last packet came, the leg could first receive, or the audio fell silent.
        since: Instant,
        /// Why.
        cause: SilenceCause,
    },
}

/// The quality of what a leg receives, from its beginning.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QualityReport {
    /// The codec of the leg.
    pub codec: Option<Codec>,
    /// RTP packets received.
    pub received: u64,
    /// RTP packets sent to the peer.
    pub sent: u64,
    /// Packets lost on the way to us (RFC 3550 A.3; duplicates make it too small, never negative).
    pub lost: u64,
    /// Packets that came too late to be played, when this POP decodes.
    pub late: u64,
    /// BurstR of the losses (G.107 §3.5): 1 by chance, more when they come together.
    pub burst_ratio: f64,
    /// Interarrival jitter (RFC 3550 A.8).
    pub jitter: Duration,
    /// Packets the peer says it lost of ours, if it sends RTCP.
    pub remote_lost: Option<u64>,
    /// The peer's interarrival jitter of ours, if it sends RTCP.
    pub remote_jitter: Option<Duration>,
    /// Round trip to the peer by RTCP (RFC 3550 §6.4.1), if it answers.
    pub round_trip: Option<Duration>,
    /// What the peer says of the voice it hears, if it sends RTCP XR.
    pub remote: Option<VoipMetrics>,
    /// Playout delay at this POP, when it decodes.
    pub playout_delay: Duration,
    /// Frames played from their packets, when this POP decodes.
    pub played: u64,
    /// Frames made up for missing ones.
    pub concealed: u64,
    /// Lost frames played from a copy in a later packet.
    pub repaired: u64,
    /// Level of the voice, where this POP can hear it (not in relayed G.722 and Opus).
    pub level: Option<Level>,
    /// The band it is rated in.
    pub band: Band,
    /// E-model rating (ITU-T G.107, G.107.1) of what the leg receives.
    pub r_factor: f64,
    /// Mean opinion score estimated from it (G.107 annex B).
    pub mos: f64,
    /// The last 5 s; at the end, what was left of them.
    pub point: Option<Point>,
    /// What all such points came to.
    pub summary: Summary,
    /// What the leg's stream from another POP brings.
    pub stream: Option<StreamReport>,
    /// What the peer of the leg hears, if it says by RTCP what it loses.
    pub heard: Option<HeardReport>,
}

/// What comes over the stream from another POP, from its beginning: that POP's leg and the hop.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamReport {
    /// The other POP.
    pub peer: PopId,
    /// Frames received.
    pub received: u64,
    /// Frames missing: lost on the hop, or before it.
    pub lost: u64,
    /// Frames that came too late to be played, when this POP decodes.
    pub late: u64,
    /// BurstR of the losses.
    pub burst_ratio: f64,
    /// Interarrival jitter.
    pub jitter: Duration,
    /// Frames played, when this POP decodes.
    pub played: u64,
    /// Frames made up for missing ones.
    pub concealed: u64,
    /// E-model rating, without the delay of the hop.
    pub r_factor: f64,
    /// MOS estimated from it.
    pub mos: f64,
    /// The last 5 s.
    pub point: Option<Point>,
    /// What all such points came to.
    pub summary: Summary,
}

/// What the peer of a leg hears: all hops this POP knows of, together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeardReport {
    /// Share of the packets lost on the whole way, 0 to 1.
    pub loss: f64,
    /// Mouth to ear, as far as this POP knows: without the delay between POPs.
    pub delay: Duration,
    /// E-model rating of the whole way.
    pub r_factor: f64,
    /// MOS estimated from it.
    pub mos: f64,
}

/// Totals since start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// RTP packets received from legs.
    pub rtp_received: u64,
    /// RTP packets sent to legs.
    pub rtp_sent: u64,
    /// RTCP packets received.
    pub rtcp_received: u64,
    /// RTCP packets sent.
    pub rtcp_sent: u64,
    /// Overlay datagrams received.
    pub datagrams_received: u64,
    /// Overlay datagrams sent.
    pub datagrams_sent: u64,
    /// Overlay datagrams whose frames another path had brought before.
    pub copies_received: u64,
    /// Overlay datagrams passed on from one POP to another.
    pub datagrams_passed: u64,
    /// Overlay frames received.
    pub frames_received: u64,
    /// Overlay frames sent.
    pub frames_sent: u64,
    /// Packets encoded by transcoding.
    pub transcoded: u64,
    /// Frames made up because theirs was missing at its time.
    pub concealed: u64,
    /// Lost frames played from the copy in the packet after them, or sent on from it.
    pub repaired: u64,
    /// Frames of 10 ms whose noise was suppressed.
    pub suppressed: u64,
    /// Frames of 10 ms left as they were, because the media thread was too busy.
    pub suppression_skipped: u64,
    /// RTP packets received protected, and opened (SRTP).
    pub srtp_opened: u64,
    /// RTP packets sent protected.
    pub srtp_protected: u64,
    /// RTCP packets received protected, and opened (SRTCP).
    pub srtcp_opened: u64,
    /// RTCP packets sent protected.
    pub srtcp_protected: u64,
    /// Packets legs did not receive, as their 5 s ended.
    pub lost: u64,
    pub(super) silences: [u64; SilenceCause::ALL.len()],
    pub(super) ratings: [[u64; Rating::ALL.len()]; Rated::ALL.len()],
    pub(super) dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// How many were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many silences of a cause were told.
    pub fn silences(&self, cause: SilenceCause) -> u64 {
        self.silences.get(cause as usize).copied().unwrap_or(0)
    }

    /// How many times 5 s of something were so good.
    pub fn ratings(&self, of: Rated, rating: Rating) -> u64 {
        let row = self.ratings.get(of as usize);
        row.and_then(|row| row.get(rating as usize)).copied().unwrap_or(0)
    }

    pub(super) fn rate(&mut self, of: Rated, mos: f64) {
        let row = self.ratings.get_mut(of as usize);
        if let Some(count) = row.and_then(|row| row.get_mut(Rating::of(mos) as usize)) {
            *count += 1;
        }
    }

    pub(super) fn silence(&mut self, cause: SilenceCause) {
        if let Some(count) = self.silences.get_mut(cause as usize) {
            *count += 1;
        }
    }

    /// Adds those of another media thread.
    pub fn add(&mut self, other: &Self) {
        let Self {
            rtp_received,
            rtp_sent,
            rtcp_received,
            rtcp_sent,
            datagrams_received,
            datagrams_sent,
            frames_received,
            frames_sent,
            transcoded,
            concealed,
            repaired,
            suppressed,
            suppression_skipped,
            srtp_opened,
            srtp_protected,
            srtcp_opened,
            srtcp_protected,
            copies_received,
            datagrams_passed,
            silences,
            ratings,
            lost,
            dropped,
        } = self;
        *rtp_received += other.rtp_received;
        *rtp_sent += other.rtp_sent;
        *rtcp_received += other.rtcp_received;
        *rtcp_sent += other.rtcp_sent;
        *datagrams_received += other.datagrams_received;
        *datagrams_sent += other.datagrams_sent;
        *frames_received += other.frames_received;
        *frames_sent += other.frames_sent;
        *transcoded += other.transcoded;
        *concealed += other.concealed;
        *repaired += other.repaired;
        *suppressed += other.suppressed;
        *suppression_skipped += other.suppression_skipped;
        *srtp_opened += other.srtp_opened;
        *srtp_protected += other.srtp_protected;
        *srtcp_opened += other.srtcp_opened;
        *srtcp_protected += other.srtcp_protected;
        *copies_received += other.copies_received;
        *datagrams_passed += other.datagrams_passed;
        *lost += other.lost;
        dropped.iter_mut().zip(other.dropped).for_each(|(sum, more)| *sum += more);
        silences.iter_mut().zip(other.silences).for_each(|(sum, more)| *sum += more);
        let rows = ratings.iter_mut().zip(other.ratings);
        let all = rows.flat_map(|(row, other)| row.iter_mut().zip(other));
        all.for_each(|(sum, more)| *sum += more);
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(super) fn drop_many(&mut self, reason: DropReason, count: u64) {
        if let Some(counter) = self.dropped.get_mut(reason as usize) {
            *counter += count;
        }
    }
}
