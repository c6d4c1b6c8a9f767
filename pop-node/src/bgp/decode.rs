//! The BGP messages in BMP frames, by `bgpkit-parser`, as the core wants them.
//!
//! What ADD-PATH (RFC 7911) and the width of AS numbers mean in an UPDATE was agreed on in the OPEN
//! messages that Peer-Up carries, so a decoder belongs to one session.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgpkit_parser::bgp::parse_bgp_message;
use bgpkit_parser::models::capabilities::{AddPathSendReceive, BgpCapabilityType};
use bgpkit_parser::models::{
    Afi, AsPathSegment, AsnLength, AttributeValue, Attributes as Parsed, BgpMessage,
    BgpOpenMessage, CapabilityValue, Community as ParsedCommunity, MetaCommunity, ParamValue, Safi,
};
use bytes::{Buf, Bytes};
use pop_core::bgp::{
    Attributes, Community, Frame, Kind, Message, Nlri, PeerHeader, PeerKey, Prefix, Update,
};

use super::nlri::{HEADER_BYTES, OPEN, Sections, message};

/// Neighbors of a router whose ADD-PATH is remembered.
const NEIGHBORS_MAX: usize = 1_024;
/// ASes of a path, and marks of a route.
const ASES_MAX: usize = 256;
const COMMUNITIES_MAX: usize = 256;
/// RFC 7854 §4.10: a local address and two ports.
const PEER_UP_BYTES: usize = 20;
/// RFC 7854 §4.4.
const SYS_NAME: u16 = 2;
/// Characters of a router's name.
const NAME_MAX: usize = 64;

/// ADD-PATH by family: the neighbor sends several routes to a prefix, with ids.
#[derive(Debug, Clone, Copy, Default)]
struct AddPath {
    ipv4: bool,
    ipv6: bool,
}

/// Decodes the frames of one session.
#[derive(Debug, Default)]
pub struct Decoder {
    add_path: BTreeMap<PeerKey, AddPath>,
}

/// The message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

impl Decoder {
    /// What a frame says. Routes that nobody `wants` are counted only, and what is said of them
    /// is not read.
    pub fn decode(&mut self, frame: Frame, wants: impl Fn(&Prefix) -> bool) -> Message {
        let peer = frame.peer;
        self.read(frame, wants).unwrap_or(Message::Malformed { peer })
    }

    fn read(
        &mut self,
        frame: Frame,
        wants: impl Fn(&Prefix) -> bool,
    ) -> Result<Message, Malformed> {
        let Frame { kind, peer, body } = frame;
        match (kind, peer) {
            (Kind::Initiation, _) => Ok(Message::Initiation { name: name(&body) }),
            (Kind::Termination, _) => Ok(Message::Termination),
            (Kind::PeerUp, Some(peer)) => self.peer_up(peer, body),
            // Whatever the reason is.
            (Kind::PeerDown, Some(peer)) => Ok(Message::PeerDown { peer }),
            (Kind::RouteMonitoring, Some(peer)) => self.routes(peer, &body, wants),
            _ => Ok(Message::Other),
        }
    }

    fn peer_up(&mut self, peer: PeerHeader, mut body: Bytes) -> Result<Message, Malformed> {
        // Local address and ports (RFC 7854 §4.10), then the OPENs.
        if body.len() < PEER_UP_BYTES {
            return Err(Malformed);
        }
        body.advance(PEER_UP_BYTES);
        let (sent, received) = (open(&mut body)?, open(&mut body)?);
        if self.add_path.len() >= NEIGHBORS_MAX {
            self.add_path.clear();
        }
        self.add_path.insert(peer.key, add_path(&sent, &received));
        Ok(Message::PeerUp { peer, own_asn: asn(&sent) })
    }

    fn routes(
        &self,
        peer: PeerHeader,
        body: &Bytes,
        wants: impl Fn(&Prefix) -> bool,
    ) -> Result<Message, Malformed> {
        let add_path = self.add_path.get(&peer.key).copied().unwrap_or_default();
        let sections = Sections::of(body)?;
        let mut update = Update::default();
        for section in &sections.all {
            let (routes, total) = match section.announced {
                true => (&mut update.announced, &mut update.announced_total),
                false => (&mut update.withdrawn, &mut update.withdrawn_total),
            };
            let ids = if section.ipv6 { add_path.ipv6 } else { add_path.ipv4 };
            let keep = |nlri: Nlri| {
                if wants(&nlri.prefix) {
                    routes.push(nlri);
                }
            };
            *total = total.saturating_add(section.each(ids, keep)?);
        }
        if !update.announced.is_empty() {
            let parsed = parse(&sections.minimal(), &width(&peer))?;
            let next_hop = sections.next_hop.or_else(|| parsed.next_hop());
            update.attributes = attributes(&parsed, next_hop);
        }
        Ok(Message::Routes { peer, update })
    }
}

/// The attributes of an UPDATE that has only those we use: the library knows many others, and
/// asserts what it thinks of them. It keeps what it cannot read as raw bytes.
fn parse(update: &[u8], width: &AsnLength) -> Result<Parsed, Malformed> {
    match parse_bgp_message(&mut Bytes::copy_from_slice(update), false, width) {
        Ok(BgpMessage::Update(update)) => {
            let raw = |value: &AttributeValue| matches!(value, AttributeValue::Raw(_));
            let raw = update.attributes.iter().any(raw);
            if raw { Err(Malformed) } else { Ok(update.attributes) }
        }
        Ok(_) | Err(_) => Err(Malformed),
    }
}

/// The next message, which must be an OPEN.
fn open(body: &mut Bytes) -> Result<BgpOpenMessage, Malformed> {
    let length = HEADER_BYTES + message(body, OPEN)?.len();
    match parse_bgp_message(&mut body.split_to(length), false, &AsnLength::Bits16) {
        Ok(BgpMessage::Open(open)) => Ok(open),
        Ok(_) | Err(_) => Err(Malformed),
    }
}

const fn width(peer: &PeerHeader) -> AsnLength {
    if peer.short_asns { AsnLength::Bits16 } else { AsnLength::Bits32 }
}

/// RFC 7854 §4.4: sysName among the information TLVs.
fn name(mut tlvs: &[u8]) -> Option<String> {
    loop {
        let (&[a, b, c, d], rest) = tlvs.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        if u16::from_be_bytes([a, b]) == SYS_NAME {
            let text = String::from_utf8_lossy(value);
            return Some(text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect());
        }
        tlvs = rest;
    }
}

fn capabilities(open: &BgpOpenMessage) -> impl Iterator<Item = &CapabilityValue> {
    open.opt_params
        .iter()
        .flat_map(|param| match &param.param_value {
            ParamValue::Capacities(capabilities) => capabilities.as_slice(),
            ParamValue::Raw(_) => &[],
        })
        .filter(|capability| capability.ty != BgpCapabilityType::ROUTE_REFRESH_CAPABILITY_FOR_BGP_4)
        .map(|capability| &capability.value)
}

/// RFC 6793 §3: a large one stands in a capability.
fn asn(open: &BgpOpenMessage) -> u32 {
    let large = capabilities(open).find_map(|value| match value {
        CapabilityValue::FourOctetAs(large) => Some(large.asn),
        _ => None,
    });
    large.unwrap_or_else(|| open.asn.to_u32())
}

/// RFC 7911 §4: by family, if the neighbor sends and the router takes it.
fn add_path(sent: &BgpOpenMessage, received: &BgpOpenMessage) -> AddPath {
    let says = |open: &BgpOpenMessage, afi: Afi, not: AddPathSendReceive| {
        capabilities(open).any(|value| match value {
            CapabilityValue::AddPath(families) => families.address_families.iter().any(|family| {
                family.afi == afi && family.safi == Safi::Unicast && family.send_receive != not
            }),
            _ => false,
        })
    };
    let agreed = |afi| {
        says(sent, afi, AddPathSendReceive::Send)
            && says(received, afi, AddPathSendReceive::Receive)
    };
    AddPath { ipv4: agreed(Afi::Ipv4), ipv6: agreed(Afi::Ipv6) }
}

fn attributes(parsed: &Parsed, next_hop: Option<IpAddr>) -> Attributes {
    let path = parsed.effective_as_path();
    let segments = || path.iter().flat_map(|path| path.iter_segments());
    // ASes of a confederation are nobody's upstream.
    let outside = || segments().filter(|segment| !AsPathSegment::is_confed(segment));
    let origin = match outside().next_back() {
        Some(AsPathSegment::AsSequence(ases)) => ases.last().map(|asn| asn.to_u32()),
        Some(_) | None => None,
    };
    let as_path = outside().flat_map(|segment| segment.iter().map(|asn| asn.to_u32()));
    let communities = parsed.iter_communities().filter_map(|community| match community {
        MetaCommunity::Plain(plain) => Some(standard(plain)),
        MetaCommunity::Large(large) => {
            let [a, b] = large.local_data;
            Some(Community::Large(large.global_admin, a, b))
        }
        MetaCommunity::Extended(_) | MetaCommunity::Ipv6Extended(_) => None,
    });
    Attributes {
        as_path: as_path.take(ASES_MAX).collect(),
        origin,
        next_hop,
        communities: communities.take(COMMUNITIES_MAX).collect(),
    }
}

/// RFC 1997.
fn standard(community: ParsedCommunity) -> Community {
    Community::Standard(match community {
        ParsedCommunity::NoExport => 0xffff_ff01,
        ParsedCommunity::NoAdvertise => 0xffff_ff02,
        ParsedCommunity::NoExportSubConfed => 0xffff_ff03,
        ParsedCommunity::Custom(asn, value) => asn.to_u32() << 16 | u32::from(value),
    })
}
