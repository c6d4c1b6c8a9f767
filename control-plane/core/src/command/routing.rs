//! Form of trunks and routes.

use std::net::IpAddr;

use proto::control::{DigestCredentials, MediaEncryption, Route, RouteCandidate, Transport, Trunk};
use proto::id::{PopId, RouteId, TrunkId};

use super::{Check, bounded, host, unique};

/// Codecs a trunk may name (SDP encoding names).
const CODECS: [&str; 4] = ["opus", "G722", "PCMU", "PCMA"];

pub(super) fn check_trunk_id(id: &str) -> Check {
    TrunkId::new(id).map(|_| ()).map_err(|e| format!("trunk_id {id:?} {e}"))
}

pub(super) fn check_route_id(id: &str) -> Check {
    RouteId::new(id).map(|_| ()).map_err(|e| format!("route_id {id:?} {e}"))
}

pub(super) fn check_trunk(trunk: &Trunk) -> Check {
    check_trunk_id(&trunk.trunk_id)?;
    if trunk.pop_ids.is_empty() {
        return Err("pop_ids is empty: name at least one POP that may reach this trunk".into());
    }
    bounded("pop_ids", trunk.pop_ids.len())?;
    unique("pop_ids", trunk.pop_ids.iter())?;
    for id in &trunk.pop_ids {
        PopId::new(id).map_err(|e| format!("pop_id {id:?} {e}"))?;
    }
    if trunk.host.is_empty() && trunk.sources.is_empty() {
        return Err("neither host (to call out) nor sources (to be called) is set".into());
    }
    if !trunk.host.is_empty() {
        host("host", &trunk.host)?;
    }
    if trunk.port > u32::from(u16::MAX) {
        return Err(format!("port {} is above 65535", trunk.port));
    }
    Transport::try_from(trunk.transport)
        .map_err(|_| format!("transport {} is neither UDP (1) nor TCP (2)", trunk.transport))?;
    MediaEncryption::try_from(trunk.media_encryption).map_err(|_| {
        let given = trunk.media_encryption;
        format!("media_encryption {given} is none of UNSPECIFIED (0), OFFERED (1), REQUIRED (2)")
    })?;
    bounded("sources", trunk.sources.len())?;
    trunk.sources.iter().try_for_each(|source| cidr(source))?;
    unique("codecs", trunk.codecs.iter())?;
    if let Some(codec) = trunk.codecs.iter().find(|c| !CODECS.contains(&c.as_str())) {
        return Err(format!("codec {codec:?} is unknown: one of {}", CODECS.join(", ")));
    }
    let has_opus = trunk.codecs.is_empty() || trunk.codecs.iter().any(|codec| codec == "opus");
    if trunk.low_bandwidth && !has_opus {
        return Err("low_bandwidth needs \"opus\" among the codecs".into());
    }
    credentials("outbound_auth", trunk.outbound_auth.as_ref())?;
    credentials("inbound_auth", trunk.inbound_auth.as_ref())?;
    let region = &trunk.default_region;
    if !region.is_empty() && (region.len() != 2 || !region.bytes().all(|b| b.is_ascii_uppercase()))
    {
        return Err(format!("default_region {region:?} is no ISO 3166-1 code like \"DE\""));
    }
    Ok(())
}

fn credentials(name: &str, credentials: Option<&DigestCredentials>) -> Check {
    let Some(given) = credentials else { return Ok(()) };
    if given.username.is_empty() {
        return Err(format!("{name} has no username"));
    }
    // Quotes and controls would have to be escaped in every header they appear in.
    for value in [&given.username, &given.password, &given.realm] {
        if value.len() > 256 || value.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
            return Err(format!("{name} has a field that is too long, or quotes, or controls"));
        }
    }
    if let Some(other) = given.algorithms.iter().find(|a| !["SHA-256", "MD5"].contains(&a.as_str()))
    {
        return Err(format!("{name} names the algorithm {other:?}: SHA-256 and MD5 are known"));
    }
    Ok(())
}

pub(super) fn check_route(route: &Route) -> Check {
    check_route_id(&route.route_id)?;
    if route.prefix.len() > 15 || !route.prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Err("prefix needs 0 to 15 digits, without \"+\"".into());
    }
    if route.candidates.is_empty() {
        return Err("candidates is empty: name at least one trunk".into());
    }
    check_candidates(&route.candidates)
}

pub(super) fn check_candidates(candidates: &[RouteCandidate]) -> Check {
    bounded("candidates", candidates.len())?;
    unique("candidates", candidates.iter().map(|c| &c.trunk_id))?;
    candidates.iter().try_for_each(|c| check_trunk_id(&c.trunk_id))
}

/// An address or a block of addresses.
fn cidr(value: &str) -> Check {
    let wrong =
        || format!("source {value:?} is neither an IP address nor a block like 192.0.2.0/24");
    let (address, length) = match value.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| wrong())?)),
        None => (value, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if length.is_some_and(|length| length > most) { Err(wrong()) } else { Ok(()) }
}
