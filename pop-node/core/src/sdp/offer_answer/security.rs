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
    /// Lines of our last offer: any answer to it is held against these, whatever an earlier one
    /// (of another fork) came to.
    sent: Vec<Crypto>,
    /// That offer was of the profile SAVP.
    sent_secure: bool,
    /// Some offer was answered: later ones repeat what came of it.
    settled: bool,
    /// The tag of the line agreed on, and the keys.
    agreed: Option<(u32, SrtpKeys)>,
    /// Media was encrypted at the POP where the session began, with keys that stayed there: it
    /// must be here, too.
    owed: Option<Profile>,
}

impl Security {
    /// Of a leg that nothing was said about; `source` is its own.
    pub const fn new(policy: Policy, source: KeySource) -> Self {
        Self {
            policy,
            source,
            sent: Vec::new(),
            sent_secure: false,
            settled: false,
            agreed: None,
            owed: None,
        }
    }

    /// The session began elsewhere.
    pub(super) const fn resume(&mut self, encrypted: Option<Profile>) {
        self.owed = encrypted;
        self.settled = encrypted.is_none();
    }

    /// What was agreed on; `None`: media is plain.
    pub fn keys(&self) -> Option<&SrtpKeys> {
        self.agreed.as_ref().map(|(_, keys)| keys)
    }

    /// Must every description of the peer have keys?
    pub const fn insists(&self) -> bool {
        matches!(self.policy, Policy::Require)
    }

    /// The next offer goes to somebody who has seen none: with keys nobody has.
    pub(super) fn restart(&mut self) {
        self.sent.clear();
        self.settled = false;
        self.agreed = None;
    }

    /// The profile of our first offer.
    pub(super) const fn protocol(&self) -> &'static str {
        if self.insists() { "RTP/SAVP" } else { "RTP/AVP" }
    }

    /// The lines of an offer of the profile `protocol`, which is made plain if there are none: the
    /// line agreed on with the same key, or all we offer, the same until somebody answered.
    pub(super) fn offer(&mut self, protocol: &mut String) -> Vec<Crypto> {
        let plain = self.owed.is_none()
            && (self.policy == Policy::Accept || self.settled && self.policy == Policy::Offer);
        if let Some((tag, keys)) = &self.agreed {
            self.sent = vec![Crypto { tag: *tag, key: keys.send.clone() }];
        } else if plain {
            self.sent.clear();
        } else if self.sent.is_empty() || self.settled {
            let source = &mut self.source;
            let line = |(tag, profile)| Crypto { tag, key: source.next(profile) };
            // What the peer took before it takes again.
            let offered = self.owed.map_or(&Profile::OFFERED[..], |_| &[]);
            let profiles = self.owed.iter().chain(offered).copied();
            self.sent = (1..).zip(profiles).map(line).collect();
        }
        if self.sent.is_empty() {
            *protocol = protocol.replace("SAVP", "AVP");
        }
        self.sent_secure = protocol.contains("SAVP");
        self.sent.clone()
    }

    /// The line that answers an offer: the first of its lines, as the peer prefers it (RFC 4568
    /// §5.1.2). None if it is plain. A peer that says its key again hears ours again; one with a
    /// new key may be another device, which knows nothing of our packet index.
    pub(super) fn answer(&mut self, remote: &RemoteMedia) -> Option<Crypto> {
        self.settled = true;
        self.owed = None;
        self.sent.clear();
        let before = self.agreed.take().map(|(_, keys)| keys);
        let theirs = remote.crypto.first()?;
        let kept = before.filter(|keys| keys.receive == theirs.key).map(|keys| keys.send);
        let send = kept.unwrap_or_else(|| self.source.next(theirs.key.profile()));
        let keys = SrtpKeys { send: send.clone(), receive: theirs.key.clone() };
        self.agreed = Some((theirs.tag, keys));
        Some(Crypto { tag: theirs.tag, key: send })
    }

    /// The peer's answer to our lines (RFC 4568 §5.1.3): one of them with its own key, or, if our
    /// offer did not insist, none. An answer that is of no use changes nothing.
    pub(super) fn accept(&mut self, remote: &RemoteMedia) -> Result<(), NegotiationError> {
        let agreed = match remote.crypto.first() {
            None if self.insists() || self.owed.is_some() || self.sent_secure || remote.secure => {
                return Err(NegotiationError::Plain);
            }
            None => None,
            Some(_) if self.sent.is_empty() && !remote.secure => None,
            Some(theirs) => {
                let wanted = (theirs.tag, theirs.key.profile());
                let ours = self.sent.iter().find(|ours| (ours.tag, ours.key.profile()) == wanted);
                let send = ours.ok_or(NegotiationError::Encrypted)?.key.clone();
                Some((theirs.tag, SrtpKeys { send, receive: theirs.key.clone() }))
            }
        };
        self.settled = true;
        self.owed = None;
        self.agreed = agreed;
        Ok(())
    }
}
