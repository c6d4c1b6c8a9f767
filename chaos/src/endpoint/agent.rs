//! The thread of an agent: sockets, timers, voices. Its SIP is in `signaling`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use pop_core::sip::{self, ClientTx, DialogId, Flow, ServerTx};
use pop_core::srtp::{KeySource, MasterKey, Profile};
use proto::time::{Instant, earlier};

use super::call::{Call, Media, State};
use super::listener::{Listener, Packet};
use super::report::{End, Side};
use super::secure::Secure;
use super::session::{Agreed, Ours};
use super::talker::Talker;
use super::{Board, Config, Dial, tape};
use crate::rng::Rng;
use crate::speech::Voice;

/// Datagrams taken from one socket before the others get their turn.
const BATCH_DATAGRAMS: usize = 64;
/// How often the handle sees news.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// RTP ports: below the kernel's ephemeral ones.
const FIRST_PORT: u16 = 10_000;
const PORT_PAIRS: u64 = 10_000;
const SIP: Token = Token(0);
const WAKE: Token = Token(usize::MAX);

/// What the handle wants.
#[derive(Debug)]
pub(super) enum Order {
    Dial(u64, Box<Dial>),
    GiveUp,
    Press(u64, String),
    Hold(u64, bool),
    HangUp(u64),
    HangUpAll,
    Stop,
}

pub(super) struct Shell {
    pub(super) config: Config,
    poll: Poll,
    socket: UdpSocket,
    pub(super) endpoint: sip::Endpoint,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) by_client: BTreeMap<ClientTx, u64>,
    pub(super) by_server: BTreeMap<ServerTx, u64>,
    pub(super) by_dialog: BTreeMap<DialogId, u64>,
    inbox: Receiver<Order>,
    board: Arc<Mutex<Board>>,
    rng: Rng,
    keys: KeySource,
    pub(super) next_incoming: u64,
    shown: Instant,
    stop: bool,
}

impl Shell {
    pub(super) fn new(
        config: Config,
        inbox: Receiver<Order>,
        board: Arc<Mutex<Board>>,
    ) -> Result<(Self, Waker)> {
        tape::warm_up()?;
        let poll = Poll::new().context("no epoll instance")?;
        let waker = Waker::new(poll.registry(), WAKE).context("no waker")?;
        let mut socket = UdpSocket::bind(config.address)
            .with_context(|| format!("udp {} cannot be bound", config.address))?;
        poll.registry().register(&mut socket, SIP, Interest::READABLE)?;
        let mut rng = Rng::split(config.seed, &config.address.to_string());
        let endpoint = sip::Endpoint::new(
            sip::Config {
                seed: rng.next_u64(),
                user_agent: "Voxmesh lab".into(),
                ..sip::Config::default()
            },
            Self::now(),
        );
        let mut secret = [0; 32];
        secret.fill_with(|| u8::try_from(rng.below(256)).unwrap_or(0));
        let shell = Self {
            keys: KeySource::new(secret),
            config,
            poll,
            socket,
            endpoint,
            calls: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_server: BTreeMap::new(),
            by_dialog: BTreeMap::new(),
            inbox,
            board,
            rng,
            next_incoming: 1,
            shown: Self::now(),
            stop: false,
        };
        Ok((shell, waker))
    }

    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        let mut ready: BTreeSet<Token> = BTreeSet::new();
        let mut buffer = vec![0; 65_536];
        while !self.stop {
            let timeout = if ready.is_empty() { self.timeout() } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(error = %e, "an endpoint stopped");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            ready.extend(events.iter().map(|e| e.token()).filter(|t| *t != WAKE));
            // Edge-triggered: a socket stays ready until a read would block.
            for token in std::mem::take(&mut ready) {
                if self.receive(token, &mut buffer) {
                    ready.insert(token);
                }
            }
            while let Ok(order) = self.inbox.try_recv() {
                self.order(order);
            }
            let now = Self::now();
            self.endpoint.handle_timeout(now);
            self.advance(now);
            self.drain(now);
            self.show(now);
        }
    }

    fn now() -> Instant {
        super::now()
    }

    fn timeout(&self) -> Duration {
        let calls = self.calls.values().filter_map(Call::poll_timeout).min();
        let due = earlier(calls, self.endpoint.poll_timeout());
        let due = due.unwrap_or(self.shown + SHOW_EVERY).min(self.shown + SHOW_EVERY);
        due - Self::now()
    }

    /// Takes a batch from one socket; true when there may be more.
    fn receive(&mut self, token: Token, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH_DATAGRAMS {
            let now = Self::now();
            let number = u64::try_from(token.0).unwrap_or(u64::MAX);
            let got = if token == SIP {
                self.socket.recv_from(buffer)
            } else {
                let Some(call) = self.calls.get_mut(&number) else { return false };
                call.rtp.recv_from(buffer)
            };
            match got {
                Ok((len, source)) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    if token == SIP {
                        let flow = Flow::udp(self.config.address, source);
                        self.endpoint.handle_message(flow, bytes, now);
                        self.drain(now);
                    } else {
                        self.hear(number, bytes, now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // ICMP port unreachable of an earlier send.
                Err(_) => {}
            }
        }
        true
    }

    fn hear(&mut self, number: u64, bytes: &[u8], now: Instant) {
        let media = self.calls.get_mut(&number).and_then(|call| call.media.as_mut());
        let Some(media) = media else { return };
        let opened = media.secure.as_mut().map(|secure| secure.open(bytes).unwrap_or_default());
        if let Some(packet) = Packet::parse(opened.as_deref().unwrap_or(bytes)) {
            media.listener.handle_packet(&packet, now);
        }
    }

    fn order(&mut self, order: Order) {
        let now = Self::now();
        match order {
            Order::Dial(number, dial) => {
                if let Err(why) = self.dial(number, *dial, now) {
                    tracing::error!(error = %why, "a call could not be placed");
                    self.lock().open -= 1;
                }
            }
            Order::GiveUp => {
                let all: Vec<u64> = self.calls.keys().copied().collect();
                let end = End::Failed("given up".into());
                all.into_iter().for_each(|number| self.finish(number, end.clone(), now));
            }
            Order::Press(number, digits) => {
                let media = self.calls.get_mut(&number).and_then(|call| call.media.as_mut());
                media.into_iter().for_each(|media| media.talker.dial(&digits));
            }
            Order::Hold(number, holds) => self.hold(number, holds, now),
            Order::HangUp(number) => self.hang_up(number, now),
            Order::HangUpAll => {
                let all: Vec<u64> = self.calls.keys().copied().collect();
                all.into_iter().for_each(|number| self.hang_up(number, now));
            }
            Order::Stop => self.stop = true,
        }
        self.drain(now);
    }

    /// What calls do by themselves: answer, speak, hang up.
    fn advance(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.poll_timeout().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(call) = self.calls.get_mut(&number) else { continue };
            match &call.state {
                State::Ringing(_) => self.answer(number, now),
                State::Up { until: Some(until), .. } if *until <= now => self.hang_up(number, now),
                State::Up { .. } => {
                    if let Some(media) = &mut call.media {
                        while let Some(packet) = media.poll_packet(now) {
                            // A full socket buffer loses the packet, as a network would.
                            let _sent = call.rtp.send_to(&packet, media.agreed.remote);
                        }
                    }
                }
                State::Calling { .. } | State::Ending { .. } | State::Over => {}
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            self.event(event, now);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            if self.socket.send_to(&transmit.bytes, transmit.flow.remote).is_err() {
                self.endpoint.handle_transport_error(transmit.flow, now);
            }
        }
    }

    pub(super) fn media(
        &mut self,
        agreed: Agreed,
        key: &MasterKey,
        (digits, voice): (&str, Voice),
        now: Instant,
    ) -> Option<Media> {
        let tape = tape::frames(voice, agreed.codec)
            .inspect_err(|e| tracing::error!(error = %e, "no voice"))
            .ok()?;
        let mut talker = Talker::new(&agreed, tape, &mut self.rng, now);
        talker.dial(digits);
        if self.config.diary {
            talker.scatter(&mut self.rng);
        }
        let secure = agreed.key.as_ref().map(|theirs| Secure::new(key, theirs));
        if secure.is_some() {
            talker.wrap_soon();
        }
        let clock = agreed.codec.clock_rate();
        let listener = Listener::new(agreed.payload_type, agreed.event_type, clock, now);
        Some(Media { agreed, talker, listener, secure, since: now, last: None })
    }

    /// The voice that a side which speaks with `voice` is to hear.
    pub(super) const fn expected(&self, voice: Voice) -> Voice {
        if self.config.echoed { voice } else { voice.other() }
    }

    /// What the far side says will be written down.
    pub(super) fn keep_diary(&mut self, number: u64) {
        if !self.config.diary {
            return;
        }
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Some(media) = call.media.as_mut() else { return };
        match tape::index(call.expect, media.agreed.codec) {
            Ok(index) => media.listener.keep_diary(index),
            Err(why) => tracing::error!(error = %why, "no diary"),
        }
    }

    pub(super) fn finish(&mut self, number: u64, end: End, now: Instant) {
        let Some(mut call) = self.calls.remove(&number) else { return };
        let _gone = self.poll.registry().deregister(&mut call.rtp);
        self.by_client.retain(|_, n| *n != number);
        self.by_server.retain(|_, n| *n != number);
        self.by_dialog.retain(|_, n| *n != number);
        let finished = call.finish(end, now);
        let mut board = self.lock();
        if call.side == Side::Caller {
            board.open = board.open.saturating_sub(1);
        }
        board.live.retain(|live| live.number != number);
        board.finished.push(finished);
    }

    fn show(&mut self, now: Instant) {
        if now - self.shown < SHOW_EVERY {
            return;
        }
        self.shown = now;
        self.lock().live = self.calls.values().filter_map(|call| call.live(now)).collect();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket for media, and how it is described; `secure`: encrypted or not, if that is decided.
    pub(super) fn open_media(
        &mut self,
        number: u64,
        secure: Option<bool>,
    ) -> Result<(UdpSocket, Ours)> {
        let mut socket = even_port(self.config.address.ip(), &mut self.rng)?;
        let token = Token(usize::try_from(number)?);
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        let (local, key) = (socket.local_addr()?, self.keys.next(Profile::AesCm128HmacSha1Tag80));
        Ok((socket, Ours { local, key, secure, holds: false, version: 0 }))
    }
}

/// RTP on an even port (RFC 3550 §11), so that the far side's RTCP does not meet another call.
fn even_port(ip: IpAddr, rng: &mut Rng) -> Result<UdpSocket> {
    for _ in 0..200 {
        let pair = u16::try_from(rng.below(PORT_PAIRS)).unwrap_or(0);
        if let Ok(socket) = UdpSocket::bind(SocketAddr::new(ip, FIRST_PORT + 2 * pair)) {
            return Ok(socket);
        }
    }
    bail!("no free UDP port for media on {ip}")
}
