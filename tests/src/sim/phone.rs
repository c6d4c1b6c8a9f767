//! A phone of the simulation: it follows the plan of its call, talks, and counts what it hears.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use pop_core::sip::{ClientTx, Dialog, Request, ServerTx};
use proto::time::{Duration, Instant, earlier};

use super::net::carrier_sip;
use super::plan::{CallPlan, End};

const PACKET: Duration = Duration::from_millis(20);
const FIRST_PORT: u16 = 30_000;
const SAMPLES: u32 = 160;
pub(super) const PCMU: u8 = 0;
pub(super) const PCMA: u8 = 8;

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Caller,
    Callee,
}

/// What a phone tells at the end.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// INVITE sent or received.
    pub began: Option<Instant>,
    /// 2xx received or sent.
    pub answered: Option<Instant>,
    /// Final status at the caller, or the one the callee sent.
    pub status: Option<u16>,
    /// It stopped talking: hung up, or was told.
    pub quiet: Option<Instant>,
    /// The call is over for this phone.
    pub ended: Option<Instant>,
    /// It hung up, by the plan.
    pub hung_up: Option<Instant>,
    /// It ended because nobody answered a request.
    pub timed_out: bool,
    /// A CANCEL was sent.
    pub cancelled: bool,
    /// RTP packets.
    pub sent: u64,
    pub received: u64,
    /// Received, but of another call or side.
    pub foreign: u64,
    /// Offered hold, and was answered.
    pub held: bool,
}

#[derive(Debug)]
pub(super) enum State {
    Idle,
    /// Our INVITE is out.
    Calling {
        tx: ClientTx,
        invite: Box<Request>,
    },
    /// Their INVITE is in.
    Ringing {
        tx: ServerTx,
        invite: Box<Request>,
        dialog: Box<Dialog>,
    },
    Up {
        dialog: Box<Dialog>,
    },
    /// Our BYE is out.
    Ending {
        bye: ClientTx,
    },
    Over,
}

/// A phone.
pub(super) struct Phone {
    pub(super) side: Side,
    pub(super) plan: CallPlan,
    pub(super) state: State,
    pub(super) report: Report,
    pub(super) port: u16,
    pub(super) remote: Option<SocketAddr>,
    pub(super) payload_type: u8,
    pub(super) may_send: bool,
    pub(super) sequence: u16,
    pub(super) next_packet: Option<Instant>,
    /// The next thing to do by the plan.
    pub(super) due: BTreeMap<Todo, Instant>,
    pub(super) reinvite: Option<ClientTx>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Todo {
    Answer,
    Call,
    Cancel,
    /// Nothing came of it: its POP may be gone.
    GiveUp,
    HangUp,
    Hold,
    Resume,
}

impl Phone {
    pub(super) fn new(plan: &CallPlan, side: Side) -> Self {
        let offset = if side == Side::Callee { 2 } else { 0 };
        let port = FIRST_PORT + 4 * u16::try_from(plan.number).unwrap_or(0) + offset;
        Self {
            side,
            plan: plan.clone(),
            state: State::Idle,
            report: Report::default(),
            port,
            remote: None,
            payload_type: PCMU,
            may_send: true,
            sequence: 0,
            next_packet: None,
            due: BTreeMap::new(),
            reinvite: None,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        let region = if self.side == Side::Caller { self.plan.from } else { self.plan.to };
        SocketAddr::new(carrier_sip(region).ip(), self.port)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.due.values().min().copied(), self.next_packet)
    }

    /// Answered: speech begins, and the plan's end comes nearer.
    pub(super) fn talk(&mut self, now: Instant) {
        self.due.remove(&Todo::Cancel);
        self.due.remove(&Todo::GiveUp);
        match (self.plan.end, self.side) {
            (End::Caller(after), Side::Caller) | (End::Callee(after), Side::Callee) => {
                self.due.insert(Todo::HangUp, now + after);
            }
            // Answered before it was cancelled: hangs up instead.
            (End::Cancel(after), Side::Caller) => {
                self.due.insert(Todo::HangUp, now + after);
            }
            (End::Cancel(_) | End::Caller(_) | End::Callee(_), _) => {}
        }
        if let (Some(after), Side::Caller) = (self.plan.hold_after, self.side) {
            self.due.insert(Todo::Hold, now + after);
        }
        self.talk_again(now);
    }

    pub(super) fn talk_again(&mut self, now: Instant) {
        self.next_packet.get_or_insert(now + PACKET);
    }

    pub(super) fn quiet(&mut self, now: Instant) {
        self.report.quiet.get_or_insert(now);
        self.next_packet = None;
        self.due.clear();
    }

    /// The next RTP packet, when it is time.
    pub(super) fn speak(&mut self, now: Instant) -> Option<(SocketAddr, Bytes)> {
        let due = self.next_packet.filter(|due| *due <= now)?;
        self.next_packet = Some(due + PACKET);
        self.sequence = self.sequence.wrapping_add(1);
        let remote = self.remote.filter(|_| self.may_send)?;
        self.report.sent += 1;
        let mut packet = vec![0x80, self.payload_type];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * SAMPLES).to_be_bytes());
        packet.extend((u32::from(self.port)).to_be_bytes());
        packet.extend(mark(self.plan.number, self.side));
        packet.resize(12 + SAMPLES as usize, 0x55);
        Some((remote, packet.into()))
    }

    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let other = if self.side == Side::Caller { Side::Callee } else { Side::Caller };
        let expected = mark(self.plan.number, other);
        self.report.received += 1;
        let same_codec = !self.plan.transcoded;
        if same_codec && bytes.get(12..12 + expected.len()) != Some(&expected) {
            self.report.foreign += 1;
        }
    }

    /// Where the far side wants RTP, and which codec it chose.
    pub(super) fn agree(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let Some((port, codecs)) = audio(&text) else { return };
        let ip = text.lines().find_map(|line| line.strip_prefix("c=IN IP4 ")?.trim().parse().ok());
        self.remote = ip.map(|ip| SocketAddr::new(ip, port));
        self.payload_type = codecs.first().copied().unwrap_or(self.payload_type);
    }

    /// A callee chooses from an offer.
    pub(super) fn pick(&mut self, body: &[u8]) -> Result<(), u16> {
        self.agree(body);
        let text = String::from_utf8_lossy(body);
        let (_, offered) = audio(&text).ok_or(488_u16)?;
        let wanted: &[u8] = if self.plan.transcoded { &[PCMA] } else { &[PCMU, PCMA] };
        let chosen = offered.into_iter().find(|codec| wanted.contains(codec));
        self.payload_type = chosen.ok_or(488_u16)?;
        Ok(())
    }
}

/// What a payload begins with. PCMU and PCMA relayed without change keep it.
fn mark(number: usize, side: Side) -> [u8; 4] {
    let [low, high, ..] = number.to_le_bytes();
    [0xa5, low, high, if side == Side::Caller { 1 } else { 2 }]
}

pub(super) fn sdp(local: SocketAddr, codecs: &[u8], direction: &str) -> Bytes {
    let types: Vec<String> = codecs.iter().map(ToString::to_string).collect();
    let ip = local.ip();
    let text = format!(
        "v=0\r\no=phone {port} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {}\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
         a=ptime:20\r\na={direction}\r\n",
        types.join(" "),
        port = local.port(),
    );
    text.into()
}

/// Port and payload types of the audio line.
fn audio(text: &str) -> Option<(u16, Vec<u8>)> {
    let line = text.lines().find_map(|line| line.strip_prefix("m=audio "))?;
    let mut words = line.split_whitespace();
    let port = words.next()?.parse().ok()?;
    Some((port, words.skip(1).filter_map(|t| t.parse().ok()).collect()))
}

pub(super) fn direction(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let known = ["sendonly", "recvonly", "inactive"];
    let found = known.into_iter().find(|d| text.contains(&format!("a={d}")));
    found.unwrap_or("sendrecv").to_owned()
}

pub(super) fn mirrored(direction: String) -> &'static str {
    match direction.as_str() {
        "sendonly" => "recvonly",
        "recvonly" => "sendonly",
        "inactive" => "inactive",
        _ => "sendrecv",
    }
}
