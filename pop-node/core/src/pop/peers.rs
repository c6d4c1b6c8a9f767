//! Addresses of live calls: their peers may speak to us although no trunk lists them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::time::{Duration, Instant};

/// Longer than any transaction of a call that ended (64·T1, RFC 3261 §17.1.1.2).
const LINGER: Duration = Duration::from_secs(40);

/// Counted by calls; an address lingers after its last one.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    seen: BTreeMap<IpAddr, (u32, Instant)>,
}

impl Peers {
    pub(crate) fn meet(&mut self, address: IpAddr) {
        self.seen.entry(address.to_canonical()).or_default().0 += 1;
    }

    pub(crate) fn part(&mut self, address: IpAddr, now: Instant) {
        self.seen.retain(|_, (calls, until)| *calls > 0 || *until > now);
        if let Some((calls, until)) = self.seen.get_mut(&address.to_canonical()) {
            *calls = calls.saturating_sub(1);
            *until = now + LINGER;
        }
    }

    /// No live call counts an address.
    pub(crate) fn is_idle(&self) -> bool {
        self.seen.values().all(|(calls, _)| *calls == 0)
    }

    pub(crate) fn knows(&self, address: IpAddr, now: Instant) -> bool {
        let seen = self.seen.get(&address.to_canonical());
        seen.is_some_and(|(calls, until)| *calls > 0 || *until > now)
    }
}
