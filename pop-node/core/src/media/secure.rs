//! SRTP of a leg: its keys and both directions.

use bytes::BytesMut;

use super::DropReason;
use crate::srtp::{Inbound, Outbound, SrtpKeys, TRAILER_BYTES_MAX};

#[derive(Debug)]
pub(super) struct Secure {
    keys: SrtpKeys,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
}

impl Secure {
    fn new(keys: &SrtpKeys) -> Self {
        let (inbound, outbound) = (Inbound::new(&keys.receive), Outbound::new(&keys.send));
        Self { keys: keys.clone(), inbound, outbound }
    }

    /// What was agreed on now. A direction whose key stayed goes on: its packet indices do too.
    pub(super) fn agree(secure: &mut Option<Box<Self>>, keys: Option<&SrtpKeys>) {
        match (secure.as_deref_mut(), keys) {
            (_, None) => *secure = None,
            (None, Some(keys)) => *secure = Some(Box::new(Self::new(keys))),
            (Some(known), Some(keys)) => {
                if known.keys.receive != keys.receive {
                    known.inbound = Inbound::new(&keys.receive);
                }
                if known.keys.send != keys.send {
                    known.outbound = Outbound::new(&keys.send);
                }
                known.keys = keys.clone();
            }
        }
    }

    /// Protects the RTP packet, or RTCP packets, that `bytes` holds.
    pub(super) fn protect(&mut self, bytes: &mut BytesMut, rtcp: bool) -> Result<(), DropReason> {
        let length = bytes.len();
        bytes.resize(length + TRAILER_BYTES_MAX, 0);
        let protected = if rtcp {
            self.outbound.protect_rtcp(bytes, length)
        } else {
            self.outbound.protect(bytes, length)
        };
        bytes.truncate(*protected.as_ref().unwrap_or(&0));
        protected.map(|_| ()).map_err(DropReason::from)
    }
}
