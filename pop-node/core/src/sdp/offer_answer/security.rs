//! Whether media of a leg is SRTP, and with which keys (RFC 4568; RFC 8643 for offers that do not
//! insist).

use super::{NegotiationError, RemoteMedia};
use crate::srtp::{Crypto, KeySource, Profile, SrtpKeys};

/// What a trunk wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Our offers are plain; what the peer offers encrypted is answered so.
    #[default]
    Accept,
    /// Our offers can be answered encrypted or plain (RFC 8643).
    Offer,
    /// Nothing but encrypted media.
    Require,
}

/// The keys of one leg over its whole life.
#[derive(Debug, Clone)]
pub struct Security {
    policy: Policy,
    source: KeySource,
    /// Lines of our first offer.
    offered: Vec<Crypto>,
    /// Some offer was answered: later ones repeat what came of it.
    settled: bool,
    /// The tag of the line agreed on, and the keys.
    agreed: Option<(u32, SrtpKeys)>,
}

impl Security {
    /// Of a leg that nothing was said about; `source` is its own.
    pub const fn new(policy: Policy, source: KeySource) -> Self {
        Self { policy, source, offered: Vec::new(), settled: false, agreed: None }
    }

    /// What was agreed on; `None`: media is plain.
    pub fn keys(&self) -> Option<&SrtpKeys> {
        self.agreed.as_ref().map(|(_, keys)| keys)
    }

    /// The profile of our first offer.
    pub(super) const fn protocol(&self) -> &'static str {
        match self.policy {
            Policy::Require => "RTP/SAVP",
            Policy::Accept | Policy::Offer => "RTP/AVP",
        }
    }

    /// The lines of an offer: the one agreed on with the same key, or all we can.
    pub(super) fn offer(&mut self) -> Vec<Crypto> {
        if let Some((tag, keys)) = &self.agreed {
            return vec![Crypto { tag: *tag, key: keys.send.clone() }];
        }
        if self.policy == Policy::Accept || self.settled && self.policy == Policy::Offer {
            return Vec::new();
        }
        if self.offered.is_empty() {
            let source = &mut self.source;
            let line = |(tag, profile)| Crypto { tag, key: source.next(profile) };
            self.offered = (1..).zip(Profile::ALL).map(line).collect();
        }
        self.offered.clone()
    }

    /// The line that answers an offer: the first of its lines, as the peer prefers it (RFC 4568
    /// §5.1.2). None if it is plain.
    pub(super) fn answer(&mut self, remote: &RemoteMedia) -> Option<Crypto> {
        self.settled = true;
        let Some(theirs) = remote.crypto.first() else {
            self.agreed = None;
            return None;
        };
        let profile = theirs.key.profile();
        let before = self.agreed.take().map(|(_, keys)| keys.send);
        let send = before.filter(|key| key.profile() == profile);
        let send = send.unwrap_or_else(|| self.source.next(profile));
        self.agreed =
            Some((theirs.tag, SrtpKeys { send: send.clone(), receive: theirs.key.clone() }));
        Some(Crypto { tag: theirs.tag, key: send })
    }

    /// The peer's answer to our lines (RFC 4568 §5.1.3): one of them with its own key, or, if we
    /// did not insist, none.
    pub(super) fn accept(&mut self, remote: &RemoteMedia) -> Result<(), NegotiationError> {
        let offered = self.offer();
        self.settled = true;
        let Some(theirs) = remote.crypto.first().filter(|_| !offered.is_empty()) else {
            self.agreed = None;
            let insisted = self.policy == Policy::Require || remote.secure;
            return if insisted { Err(NegotiationError::Plain) } else { Ok(()) };
        };
        let ours = offered
            .into_iter()
            .find(|ours| (ours.tag, ours.key.profile()) == (theirs.tag, theirs.key.profile()));
        let ours = ours.ok_or(NegotiationError::Encrypted)?;
        let keys = SrtpKeys { send: ours.key, receive: theirs.key.clone() };
        self.agreed = Some((ours.tag, keys));
        Ok(())
    }

    /// Must every description of the peer have keys?
    pub const fn insists(&self) -> bool {
        matches!(self.policy, Policy::Require)
    }
}
