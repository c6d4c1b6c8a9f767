//! epoll, level-triggered: which sockets hold packets, and the wake-up from other threads.
//!
//! Level-triggered on purpose: one packet is read per report and a socket that holds more is
//! reported again, behind the others. That saves the read that finds nothing, one of three system
//! calls a packet, and a flooded socket gets one turn among the others.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// Reports taken at once.
const EVENTS_MAX: usize = 1_024;
/// The data of the wake-up.
const WAKE: u64 = u64::MAX;

/// The epoll instance.
pub(super) struct Poll {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
}

/// Room for the reports of one [`Poll::wait`]; stays in its thread.
pub(super) struct Events(Vec<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS_MAX))
    }
}

/// Wakes [`Poll::wait`] from another thread.
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn wake(&self) -> io::Result<()> {
        // EAGAIN: the counter is full, so the other side is awake.
        match rustix::io::write(&*self.0, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Poll {
    pub(super) fn new() -> io::Result<(Self, Waker)> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok((Self { epoll, wake: wake.clone() }, Waker(wake)))
    }

    /// Reports `socket` as `token` from now on, until it is closed.
    pub(super) fn add(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits at most `timeout` (for ever without one), and puts the tokens of sockets with
    /// something to read into `tokens`.
    pub(super) fn wait(
        &self,
        timeout: Option<Duration>,
        events: &mut Events,
        tokens: &mut Vec<u64>,
    ) -> io::Result<()> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        events.0.clear();
        epoll::wait(&self.epoll, spare_capacity(&mut events.0), timeout.as_ref())?;
        for event in &events.0 {
            match event.data.u64() {
                WAKE => self.woken()?,
                token => tokens.push(token),
            }
        }
        Ok(())
    }

    fn woken(&self) -> io::Result<()> {
        let mut counter = [0; 8];
        match rustix::io::read(&*self.wake, &mut counter) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_socket_is_reported_until_it_is_empty_and_a_wake_up_once() {
        let (poll, waker) = Poll::new().unwrap();
        let mut events = Events::new();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        poll.add(&socket, 7).unwrap();
        for word in [b"a", b"b"] {
            socket.send_to(word, socket.local_addr().unwrap()).unwrap();
        }
        let mut tokens = Vec::new();
        for _ in 0..2 {
            poll.wait(None, &mut events, &mut tokens).unwrap();
            assert_eq!(std::mem::take(&mut tokens), [7]);
            socket.recv(&mut [0; 4]).unwrap();
        }
        waker.wake().unwrap();
        waker.wake().unwrap();
        poll.wait(None, &mut events, &mut tokens).unwrap();
        poll.wait(Some(Duration::from_micros(10)), &mut events, &mut tokens).unwrap();
        assert!(tokens.is_empty());
    }
}
