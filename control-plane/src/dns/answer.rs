//! One message in, one out: RFC 1035, EDNS (RFC 6891) with the client's subnet (RFC 7871).
//!
//! Total: whatever bytes come, there is an answer or a reason for none, and neither takes long.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};

use super::regions::{Located, width};
use super::zone::Zone;

/// What a datagram may hold on any path (DNS flag day 2020), and without EDNS.
const DATAGRAM_MAX: u16 = 1_232;
const DATAGRAM_MIN: u16 = 512;
/// A DNS header.
const HEADER: usize = 12;

/// What became of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// There was what it asked for.
    Answered,
    /// The name exists without that type, or does not exist.
    Nothing,
    /// It is not of the zone, or of a kind that is not answered.
    Refused,
    /// It is no query one can read.
    Malformed,
    /// The answer did not fit: the client comes back by TCP.
    Truncated,
    /// No answer at all: it was no query.
    Dropped,
}

impl Outcome {
    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Nothing => "nothing",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Dropped => "dropped",
        }
    }
}

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a datagram: the answer must fit into one.
    Udp,
    /// In a stream.
    Tcp,
}

/// Answers a query that came from `source`.
pub fn answer(zone: &Zone, query: &[u8], source: IpAddr, way: Way) -> (Outcome, Option<Vec<u8>>) {
    let (outcome, reply, limit) = match Message::from_vec(query) {
        Ok(query) if query.metadata.message_type != MessageType::Query => {
            return (Outcome::Dropped, None);
        }
        Ok(query) => {
            let limit = query.edns.as_ref().map_or(DATAGRAM_MIN, Edns::max_payload);
            let (outcome, reply) = reply(zone, &query, source);
            (outcome, reply, limit.clamp(DATAGRAM_MIN, DATAGRAM_MAX))
        }
        Err(_) => match unreadable(query) {
            Some(reply) => (Outcome::Malformed, reply, DATAGRAM_MIN),
            None => return (Outcome::Dropped, None),
        },
    };
    let limit = if way == Way::Udp { usize::from(limit) } else { usize::from(u16::MAX) };
    match fit(reply, limit) {
        Some((bytes, true)) => (Outcome::Truncated, Some(bytes)),
        Some((bytes, false)) => (outcome, Some(bytes)),
        None => (Outcome::Dropped, None),
    }
}

/// FORMERR to what has a header of a query, at least.
fn unreadable(query: &[u8]) -> Option<Message> {
    let &[high, low, flags, ..] = query.get(..HEADER)? else { return None };
    let is_query = flags & 0x80 == 0;
    let id = u16::from_be_bytes([high, low]);
    is_query.then(|| Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
}

fn reply(zone: &Zone, query: &Message, source: IpAddr) -> (Outcome, Message) {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.add_queries(query.queries.iter().take(1).cloned());
    if let Some(edns) = &query.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(DATAGRAM_MAX);
        reply.set_edns(ours);
        if edns.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            return (Outcome::Refused, reply);
        }
    }
    let refuse = |mut reply: Message, code, outcome| {
        reply.metadata.response_code = code;
        (outcome, reply)
    };
    if query.metadata.op_code != OpCode::Query {
        return refuse(reply, ResponseCode::NotImp, Outcome::Refused);
    }
    let [asked] = query.queries.as_slice() else {
        return refuse(reply, ResponseCode::FormErr, Outcome::Malformed);
    };
    let Ok(subnet) = subnet(query) else {
        return refuse(reply, ResponseCode::FormErr, Outcome::Malformed);
    };
    let transfers = matches!(asked.query_type(), RecordType::AXFR | RecordType::IXFR);
    let is_ours = zone.settings().zone.zone_of(&asked.name().to_lowercase());
    if !is_ours || asked.query_class() != DNSClass::IN || transfers {
        return refuse(reply, ResponseCode::Refused, Outcome::Refused);
    }
    let located = locate(zone, subnet, source);
    if let (Some(edns), Some(subnet)) = (&mut reply.edns, subnet) {
        let mut told = subnet;
        told.set_scope_prefix(if subnet.source_prefix() == 0 { 0 } else { located.scope });
        edns.options_mut().insert(EdnsOption::Subnet(told));
    }
    let outcome = fill(zone, asked, located.region, &mut reply);
    (outcome, reply)
}

fn fill(zone: &Zone, asked: &Query, region: Option<&str>, reply: &mut Message) -> Outcome {
    reply.metadata.authoritative = true;
    let turn = reply.metadata.id;
    let found = zone.find(asked.name(), asked.query_type(), region, turn);
    if found.answers.is_empty() {
        if !found.exists {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        reply.add_authority(zone.soa());
        return Outcome::Nothing;
    }
    reply.add_answers(found.answers);
    reply.add_additionals(found.additionals);
    Outcome::Answered
}

/// The client's subnet as a resolver told it; `Err`: not as RFC 7871 §6 wants it.
fn subnet(query: &Message) -> Result<Option<ClientSubnet>, ()> {
    let option = query.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
    let Some(EdnsOption::Subnet(subnet)) = option else { return Ok(None) };
    let address = subnet.addr();
    let length = subnet.source_prefix();
    let too_long = length > width(address.is_ipv6());
    let more = match address {
        IpAddr::V4(v4) => v4.to_bits().checked_shl(u32::from(length)).is_some_and(|rest| rest != 0),
        IpAddr::V6(v6) => v6.to_bits().checked_shl(u32::from(length)).is_some_and(|rest| rest != 0),
    };
    if too_long || more || subnet.scope_prefix() != 0 { Err(()) } else { Ok(Some(*subnet)) }
}

/// By the client's subnet, else by who asks. A client that wants not to be located is not.
fn locate(zone: &Zone, subnet: Option<ClientSubnet>, source: IpAddr) -> Located<'_> {
    let regions = &zone.settings().regions;
    match subnet {
        Some(subnet) if subnet.source_prefix() == 0 => Located { region: None, scope: 0 },
        Some(subnet) => regions.locate(subnet.addr(), subnet.source_prefix()),
        None => regions.locate(source, u8::MAX),
    }
}

/// As bytes, and whether something had to be left out that was asked for.
fn fit(mut reply: Message, limit: usize) -> Option<(Vec<u8>, bool)> {
    let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = fits(&reply) {
        return Some((bytes, false));
    }
    reply.additionals.clear();
    if let Some(bytes) = fits(&reply) {
        return Some((bytes, false));
    }
    fits(&reply.truncate()).map(|bytes| (bytes, true))
}
