//! SRTP (RFC 3711) of one call of an agent.

use pop_core::srtp::{Inbound, MasterKey, Outbound, TRAILER_BYTES_MAX};

/// Both directions.
#[derive(Debug)]
pub(super) struct Secure {
    outbound: Outbound,
    inbound: Inbound,
    theirs: MasterKey,
}

impl Secure {
    pub(super) fn new(ours: &MasterKey, theirs: &MasterKey) -> Self {
        let (outbound, inbound) = (Outbound::new(ours), Inbound::new(theirs));
        Self { outbound, inbound, theirs: theirs.clone() }
    }

    /// A new key of the far side begins anew; ours stays, and so does our packet index: many phones
    /// do it so.
    pub(super) fn follow(&mut self, theirs: &MasterKey) {
        if self.theirs != *theirs {
            self.inbound = Inbound::new(theirs);
            self.theirs = theirs.clone();
        }
    }

    /// Protects a packet; `None`: it must not be sent.
    pub(super) fn protect(&mut self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let length = packet.len();
        packet.resize(length + TRAILER_BYTES_MAX, 0);
        let length = self.outbound.protect(&mut packet, length).ok()?;
        packet.truncate(length);
        Some(packet)
    }

    /// Opens a packet; `None`: it is of no key of the far side.
    pub(super) fn open(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut packet = packet.to_vec();
        let length = self.inbound.open(&mut packet).ok()?;
        packet.truncate(length);
        Some(packet)
    }
}
