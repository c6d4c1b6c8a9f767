//! RTR PDUs (RFC 8210 §5), by `bgpkit-parser`, as the core wants them.

use std::net::IpAddr;

use bgpkit_parser::models::rpki::{
    RtrPdu, RtrProtocolVersion, RtrResetQuery, RtrSerialNotify, RtrSerialQuery,
};
use bgpkit_parser::parser::rpki::{RtrEncode, parse_rtr_pdu};
use bytes::{Buf, BytesMut};
use pop_core::bgp::{Leave, Pdu, Prefix, Query, State, Timing, Vrp};

const HEADER_BYTES: usize = 8;
/// Types of PDUs.
const NOTIFY: u8 = 0;
const ERROR: u8 = 10;
/// An error report carries the PDU it is about, and a text.
const PDU_BYTES_MAX: usize = 64 << 10;

/// As it goes over the wire.
pub(super) fn encode(query: Query, version: u8) -> Vec<u8> {
    let version = RtrProtocolVersion::from_u8(version).unwrap_or_default();
    match query {
        Query::All => RtrResetQuery::new(version).encode(),
        Query::Since(State { session, serial }) => {
            RtrSerialQuery::new(version, session, serial).encode()
        }
    }
}

/// Takes the next PDU, and the version it is of; `None`: more bytes are needed.
pub fn next_pdu(buffer: &mut BytesMut) -> Result<Option<(u8, Pdu)>, Leave> {
    let Some([.., a, b, c, d]) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    let length = usize::try_from(length).map_err(|_| Leave::Malformed)?;
    if !(HEADER_BYTES..=PDU_BYTES_MAX).contains(&length) {
        return Err(Leave::Malformed);
    }
    let Some(bytes) = buffer.get(..length) else { return Ok(None) };
    let (version, pdu) = match told_anyway(bytes) {
        Some(found) => found,
        None => {
            let (pdu, _) = parse_rtr_pdu(bytes).map_err(|_| Leave::Malformed)?;
            (pdu.version().to_u8(), understood(pdu)?)
        }
    };
    buffer.advance(length);
    Ok(Some((version, pdu)))
}

/// What the library refuses and must be understood: that there is news in a newer version than ours,
/// before it is agreed on (RFC 8210 §7); and any error report, whatever its code and its text.
fn told_anyway(bytes: &[u8]) -> Option<(u8, Pdu)> {
    let [version, kind, high, low, ..] = bytes else { return None };
    let number = u16::from_be_bytes([*high, *low]);
    match (*kind, bytes.get(HEADER_BYTES..).unwrap_or_default()) {
        (NOTIFY, [a, b, c, d]) if *version > 1 => {
            let serial = u32::from_be_bytes([*a, *b, *c, *d]);
            Some((*version, Pdu::Notify(State { session: number, serial })))
        }
        (ERROR, [_, _, _, _, _, _, _, _, ..]) => Some((*version, Pdu::Error(number))),
        _ => None,
    }
}

fn understood(pdu: RtrPdu) -> Result<Pdu, Leave> {
    let vrp = |prefix: IpAddr, length: u8, max_length: u8, asn: u32| {
        let prefix = Prefix::new(prefix, length).ok_or(Leave::Malformed)?;
        Ok::<_, Leave>(Vrp { prefix, max_length, asn })
    };
    Ok(match pdu {
        RtrPdu::SerialNotify(RtrSerialNotify { session_id, serial_number, .. }) => {
            Pdu::Notify(State { session: session_id, serial: serial_number })
        }
        RtrPdu::CacheResponse(response) => Pdu::Response { session: response.session_id },
        RtrPdu::IPv4Prefix(p) => Pdu::Record {
            vrp: vrp(p.prefix.into(), p.prefix_length, p.max_length, p.asn.to_u32())?,
            announced: p.is_announcement(),
        },
        RtrPdu::IPv6Prefix(p) => Pdu::Record {
            vrp: vrp(p.prefix.into(), p.prefix_length, p.max_length, p.asn.to_u32())?,
            announced: p.is_announcement(),
        },
        RtrPdu::EndOfData(end) => Pdu::End {
            state: State { session: end.session_id, serial: end.serial_number },
            timing: Timing::new(end.refresh_interval, end.expire_interval),
        },
        RtrPdu::CacheReset(_) => Pdu::Reset,
        RtrPdu::ErrorReport(error) => Pdu::Error(error.error_code.to_u16()),
        RtrPdu::RouterKey(_) => Pdu::Other,
        // Caches do not ask.
        RtrPdu::SerialQuery(_) | RtrPdu::ResetQuery(_) => return Err(Leave::Unexpected),
    })
}
