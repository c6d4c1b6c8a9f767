//! What may be asked for: checks of form, at the edge, before a command is proposed.
//!
//! Never inside `apply`: these rules (numbering plans above all) change with versions, and
//! replicas of two versions must still agree. Deliberately not here: who may ask (the API knows
//! certificates), and whether it can be done (the state knows).

mod access;
mod members;
mod numbers;
mod routing;
mod rules;

use std::collections::BTreeSet;
use std::net::IpAddr;

use prost::Message as _;
use proto::control::Pop;
use proto::e164::{E164, redact};
use proto::id::PopId;
use proto::raft::command::Kind;
use proto::raft::{Command, Reason, Rejected};

/// Largest encoded command.
pub const COMMAND_BYTES_MAX: usize = 1024 * 1024;

/// Most numbers in one import.
pub const IMPORT_MAX: usize = 10_000;

/// Most candidates of a route or number, POPs, sources and codecs of a trunk.
pub const LIST_MAX: usize = 64;

type Check = Result<(), String>;

/// Checks a command of a client. `Rejected` says what is wrong and what would be right.
pub fn validate(command: &Command) -> Result<(), Rejected> {
    check(command).map_err(|message| Rejected { reason: Reason::Invalid.into(), message })
}

fn check(command: &Command) -> Check {
    let id = &command.request_id;
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("request_id needs 1 to 64 printable ASCII characters; use a UUID".into());
    }
    if command.principal.is_empty() || command.principal.len() > 128 {
        return Err("principal needs 1 to 128 characters".into());
    }
    let bytes = command.encoded_len();
    if bytes > COMMAND_BYTES_MAX {
        return Err(format!("the request has {bytes} bytes: at most {COMMAND_BYTES_MAX}"));
    }
    match &command.kind {
        Some(Kind::RegisterPop(pop)) => check_pop(pop, &command.principal),
        Some(Kind::SteerPop(steer)) => check_pop_id(&steer.pop_id),
        Some(Kind::PutTrunk(trunk)) => routing::check_trunk(trunk),
        Some(Kind::DeleteTrunk(id)) => routing::check_trunk_id(id),
        Some(Kind::PutRoute(route)) => routing::check_route(route),
        Some(Kind::DeleteRoute(id)) => routing::check_route_id(id),
        Some(Kind::PutRole(role)) => access::check_role(role),
        Some(Kind::DeleteRole(id)) => access::check_role_id(id),
        Some(Kind::Bind(binding) | Kind::Unbind(binding)) => access::check_binding(binding),
        Some(Kind::ChangeMembers(change)) => members::check(change),
        Some(Kind::SetFeatureLevel(level)) => members::check_level(*level),
        Some(Kind::FoundMembers(_)) => Err("this command is internal".into()),
        Some(Kind::CreateToken(create)) => access::check_token(create),
        Some(Kind::RedeemToken(redeem)) => access::check_redeem(redeem, &command.principal),
        Some(Kind::RevokeToken(id)) => text("token_id", id, 64),
        Some(Kind::RecordReads(reads)) => access::check_reads(reads, &command.principal),
        Some(
            Kind::AdvanceClock(_) | Kind::HashCheck(_) | Kind::InitCluster(_) | Kind::RecordPops(_),
        ) => Err("this command is internal".into()),
        Some(kind) => numbers::check(kind),
        None => Err("the request names nothing to do".into()),
    }
}

fn check_pop_id(id: &str) -> Check {
    PopId::new(id).map(|_| ()).map_err(|e| format!("pop_id {id:?} {e}"))
}

fn check_pop(pop: &Pop, principal: &str) -> Check {
    check_pop_id(&pop.pop_id)?;
    if principal.strip_prefix("pop/").is_some_and(|own| own != pop.pop_id) {
        return Err(format!("{principal} may not register as pop/{}", pop.pop_id));
    }
    label("region", &pop.region)?;
    overlay_addresses(&pop.overlay_address)?;
    bounded("sip_addresses", pop.sip_addresses.len())?;
    for text in &pop.sip_addresses {
        let rest = text.strip_prefix("udp:").or_else(|| text.strip_prefix("tcp:"));
        let rest = rest.ok_or_else(|| {
            format!("sip address {text:?} begins with neither \"udp:\" nor \"tcp:\"")
        })?;
        address("sip address", rest)?;
    }
    text("version", &pop.version, 64)
}

fn number(e164: &str) -> Check {
    E164::parse(e164).map(|_| ()).map_err(|e| format!("{} {e}", redact(e164, 4)))
}

fn label(name: &str, value: &str) -> Check {
    // The alphabet of ids: regions, pools and tenants appear in keys, file names and DNS.
    PopId::new(value).map(|_| ()).map_err(|e| format!("{name} {value:?} {e}"))
}

fn text(name: &str, value: &str, most: usize) -> Check {
    if value.len() > most || value.chars().any(char::is_control) {
        return Err(format!("{name} is longer than {most} bytes or has control characters"));
    }
    Ok(())
}

fn bounded(name: &str, count: usize) -> Check {
    if count > LIST_MAX {
        Err(format!("{name} has {count} entries: at most {LIST_MAX}"))
    } else {
        Ok(())
    }
}

fn unique<'a>(name: &str, mut values: impl Iterator<Item = &'a String>) -> Check {
    let mut seen = BTreeSet::new();
    values
        .find(|value| !seen.insert(value.as_str()))
        .map_or(Ok(()), |twice| Err(format!("{name} has {twice:?} twice")))
}

/// `host:port`, IPv6 in brackets.
/// Upstreams a POP may have.
const OVERLAY_ADDRESSES_MAX: usize = 16;

fn address(name: &str, value: &str) -> Check {
    let parts = value.rsplit_once(':').map(|(h, p)| (h, p.parse::<u16>()));
    let Some((host_part, Ok(1..))) = parts else {
        return Err(format!("{name} {value:?} is not host:port"));
    };
    let bare = host_part.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bare {
        Some(v6) => v6
            .parse::<std::net::Ipv6Addr>()
            .map(|_| ())
            .map_err(|_| format!("{name} {value:?} has no IPv6 address in its brackets")),
        None => host(name, host_part),
    }
}

/// One for each upstream of the POP, with commas between.
fn overlay_addresses(value: &str) -> Check {
    if value.split(',').count() > OVERLAY_ADDRESSES_MAX {
        return Err(format!("overlay_address {value:?} has more than {OVERLAY_ADDRESSES_MAX}"));
    }
    value.split(',').try_for_each(|one| address("overlay_address", one))
}

/// An IP address or a DNS name (RFC 1123 §2.1).
fn host(name: &str, value: &str) -> Check {
    if value.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if value.len() <= 253 && value.split('.').all(label_ok) {
        Ok(())
    } else {
        Err(format!("{name} {value:?} is neither an IP address nor a DNS name"))
    }
}

#[cfg(test)]
mod tests {
    use proto::control::{DigestCredentials, Route, RouteCandidate, Trunk};
    use proto::raft::{AllocateNumber, ImportNumbers, allocate_number};

    use super::*;

    fn command(kind: Kind) -> Command {
        Command { request_id: "r1".into(), principal: "operator/anna".into(), kind: Some(kind) }
    }

    fn wrong(kind: Kind) -> String {
        validate(&command(kind)).expect_err("must be refused").message
    }

    fn pop() -> Pop {
        Pop {
            pop_id: "fra1".into(),
            region: "eu".into(),
            overlay_address: "127.0.1.1:4433".into(),
            sip_addresses: vec!["udp:127.0.1.1:5060".into(), "tcp:[::1]:5060".into()],
            ..Pop::default()
        }
    }

    fn trunk() -> Trunk {
        Trunk {
            trunk_id: "carrier-a".into(),
            pop_ids: vec!["fra1".into(), "sin1".into()],
            host: "sip.carrier.example".into(),
            sources: vec!["192.0.2.0/24".into(), "2001:db8::1".into()],
            codecs: vec!["opus".into(), "PCMA".into()],
            default_region: "DE".into(),
            ..Trunk::default()
        }
    }

    fn candidate(trunk_id: &str) -> RouteCandidate {
        RouteCandidate { trunk_id: trunk_id.into(), priority: 1, weight: 1 }
    }

    #[test]
    fn good_commands_pass() {
        let route = Route {
            route_id: "de".into(),
            prefix: "49".into(),
            candidates: vec![candidate("carrier-a")],
        };
        let import = ImportNumbers { pool: "berlin".into(), e164: vec!["+4930901820".into()] };
        let which = Some(allocate_number::Which::AnyOfPool("berlin".into()));
        let allocate =
            AllocateNumber { tenant: "acme".into(), which, candidates: vec![candidate("pbx")] };
        for kind in [
            Kind::RegisterPop(pop()),
            Kind::PutTrunk(trunk()),
            Kind::PutRoute(route),
            Kind::ImportNumbers(import),
            Kind::AllocateNumber(allocate),
        ] {
            assert_eq!(validate(&command(kind.clone())), Ok(()), "{kind:?}");
        }
    }

    #[test]
    fn envelopes_are_checked() {
        let mut no_id = command(Kind::DeleteTrunk("a".into()));
        no_id.request_id.clear();
        assert!(validate(&no_id).unwrap_err().message.contains("request_id"));
        no_id.request_id = "a b".into();
        assert!(validate(&no_id).is_err());
        assert!(wrong(Kind::InitCluster("x".into())).contains("internal"));
        let mut foreign = command(Kind::RegisterPop(pop()));
        foreign.principal = "pop/sin1".into();
        assert!(validate(&foreign).unwrap_err().message.contains("pop/fra1"));
        foreign.principal = "pop/fra1".into();
        assert_eq!(validate(&foreign), Ok(()));
    }

    #[test]
    fn trunks_say_what_is_wrong() {
        let with = |change: fn(&mut Trunk)| {
            let mut t = trunk();
            change(&mut t);
            wrong(Kind::PutTrunk(t))
        };
        assert!(with(|t| t.trunk_id = "Carrier A".into()).contains("trunk_id"));
        assert!(with(|t| t.pop_ids.clear()).contains("pop_ids"));
        assert!(with(|t| t.pop_ids = vec!["a".into(), "a".into()]).contains("twice"));
        assert!(with(|t| t.host = "not a host".into()).contains("host"));
        assert!(with(|t| t.port = 70_000).contains("65535"));
        assert!(with(|t| t.transport = 9).contains("transport"));
        assert!(with(|t| t.sources = vec!["192.0.2.0/33".into()]).contains("source"));
        assert!(with(|t| t.sources = vec!["everybody".into()]).contains("source"));
        assert!(with(|t| t.codecs = vec!["G729".into()]).contains("PCMU"));
        assert!(
            with(|t| {
                t.codecs = vec!["PCMA".into()];
                t.low_bandwidth = true;
            })
            .contains("opus")
        );
        assert!(with(|t| t.default_region = "Germany".into()).contains("ISO"));
        assert!(
            with(|t| t.outbound_auth = Some(DigestCredentials::default())).contains("username")
        );
        assert!(
            with(|t| {
                t.host.clear();
                t.sources.clear();
            })
            .contains("neither")
        );
    }

    #[test]
    fn numbers_are_checked_and_redacted() {
        let import = |e164: &str| {
            let e164 = vec!["+4930901820".to_owned(), e164.to_owned()];
            wrong(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }))
        };
        let message = import("+4930");
        assert!(message.starts_with("number 2 "), "{message}");
        assert!(!import("+49309018201234567").contains("309018201234567"));
        assert!(import("030901820").contains("number 2"));
    }
}
