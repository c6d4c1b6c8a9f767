//! What a command is called in the audit log, and what it is about.
//!
//! Both are in the chain: for a command that is in a log they never change. One line per command;
//! a new command does not compile without.

use proto::control::NumberPick;
use proto::raft::command::Kind;
use proto::raft::{Outcome, RecordPops, allocate_number, outcome};

use super::super::tokens::token_id;

/// Action and resource of a command; the outcome tells which number it came to.
pub(super) fn described(kind: &Kind, outcome: &Outcome) -> (&'static str, String) {
    match kind {
        Kind::RegisterPop(_)
        | Kind::RecordPops(_)
        | Kind::SteerPop(_)
        | Kind::PutTrunk(_)
        | Kind::DeleteTrunk(_)
        | Kind::PutRoute(_)
        | Kind::DeleteRoute(_) => topology(kind),
        Kind::PutRole(role) => ("put_role", format!("roles/{}", role.role_id)),
        Kind::DeleteRole(id) => ("delete_role", format!("roles/{id}")),
        Kind::Bind(b) => ("bind", bound(&b.principal, &b.role_id, &b.tenant)),
        Kind::Unbind(b) => ("unbind", bound(&b.principal, &b.role_id, &b.tenant)),
        Kind::CreateToken(create) => {
            let (kind, name) = create
                .token
                .as_ref()
                .map_or(("", ""), |token| (token.kind.as_str(), token.name.as_str()));
            ("create_token", format!("tokens/{kind}/{name}"))
        }
        Kind::RedeemToken(redeem) => {
            ("redeem_token", format!("tokens/{}", token_id(&redeem.secret_sha256)))
        }
        Kind::RevokeToken(id) => ("revoke_token", format!("tokens/{id}")),
        Kind::RecordReads(reads) => ("record_reads", format!("{} reads", reads.reads.len())),
        Kind::ChangeMembers(change) => {
            ("change_members", format!("cluster/members x{}", change.changes.len()))
        }
        Kind::FoundMembers(_) => ("found_members", "cluster/members".into()),
        Kind::SetFeatureLevel(level) => {
            ("set_feature_level", format!("cluster/feature-level/{level}"))
        }
        Kind::AdvanceClock(_) => ("advance_clock", String::new()),
        Kind::HashCheck(_) => ("hash_check", String::new()),
        Kind::InitCluster(_) => ("init_cluster", String::new()),
        Kind::PutTenant(_)
        | Kind::DeleteTenant(_)
        | Kind::PutRequirement(_)
        | Kind::DeleteRequirement(_)
        | Kind::PutNumberPolicy(_)
        | Kind::DeleteNumberPolicy(_)
        | Kind::PutComplianceRecord(_)
        | Kind::DeleteComplianceRecord(_) => rules(kind),
        _ => numbers(kind, outcome),
    }
}

fn topology(kind: &Kind) -> (&'static str, String) {
    match kind {
        Kind::RegisterPop(pop) => ("register_pop", format!("pops/{}", pop.pop_id)),
        Kind::RecordPops(record) => ("record_pops", found(record)),
        Kind::SteerPop(steer) => {
            let action = match (steer.draining, steer.cordoned) {
                (true, _) => "drain_pop",
                (false, true) => "cordon_pop",
                (false, false) => "uncordon_pop",
            };
            (action, format!("pops/{}", steer.pop_id))
        }
        Kind::PutTrunk(trunk) => ("put_trunk", format!("trunks/{}", trunk.trunk_id)),
        Kind::DeleteTrunk(id) => ("delete_trunk", format!("trunks/{id}")),
        Kind::PutRoute(route) => ("put_route", format!("routes/{}", route.route_id)),
        Kind::DeleteRoute(id) => ("delete_route", format!("routes/{id}")),
        _ => UNNAMED,
    }
}

/// The first of the POPs, how it was found, and how many more. What is fenced comes first.
fn found(record: &RecordPops) -> String {
    let fenced = record.fenced.iter().map(|pop| (&pop.pop_id, "fenced"));
    let is_other = |id: &String| !record.fenced.iter().any(|pop| pop.pop_id == *id);
    let found = record.found.iter().filter(|pop| is_other(&pop.pop_id));
    let how = |expired| if expired { "expired" } else { "returned" };
    let mut all = fenced.chain(found.map(|pop| (&pop.pop_id, how(pop.expired))));
    let Some((first, how)) = all.next() else { return String::new() };
    match all.count() {
        0 => format!("pops/{first} {how}"),
        more => format!("pops/{first} {how} and {more} more"),
    }
}

fn rules(kind: &Kind) -> (&'static str, String) {
    match kind {
        Kind::PutTenant(put) => {
            ("put_tenant", tenant(put.tenant.as_ref().map_or("", |tenant| &tenant.tenant)))
        }
        Kind::DeleteTenant(delete) => ("delete_tenant", tenant(&delete.tenant)),
        Kind::PutRequirement(put) => {
            ("put_requirement", rule(put.requirement.as_ref().map_or("", |r| &r.country)))
        }
        Kind::DeleteRequirement(key) => ("delete_requirement", rule(&key.country)),
        Kind::PutNumberPolicy(put) => {
            ("put_number_policy", rule(put.policy.as_ref().map_or("", |p| &p.country)))
        }
        Kind::DeleteNumberPolicy(key) => ("delete_number_policy", rule(&key.country)),
        Kind::PutComplianceRecord(put) => {
            let (id, owner) =
                put.record.as_ref().map_or(("", ""), |r| (r.record_id.as_str(), r.tenant.as_str()));
            ("put_compliance_record", format!("{} compliance/records/{id}", tenant(owner)))
        }
        Kind::DeleteComplianceRecord(id) => {
            ("delete_compliance_record", format!("compliance/records/{id}"))
        }
        _ => UNNAMED,
    }
}

fn numbers(kind: &Kind, outcome: &Outcome) -> (&'static str, String) {
    match kind {
        Kind::ImportNumbers(import) => {
            let numbers = many(import.e164.first(), import.e164.len());
            ("import_numbers", format!("pools/{} {numbers}", import.pool))
        }
        Kind::ImportBlocks(import) => {
            let blocks = &import.blocks;
            ("import_blocks", many(blocks.first().map(|block| &block.first), blocks.len()))
        }
        Kind::AllocateNumber(allocate) => {
            let asked = match &allocate.which {
                Some(allocate_number::Which::E164(e164)) => number(e164),
                Some(allocate_number::Which::AnyOfPool(pool)) => format!("pools/{pool}"),
                None => String::new(),
            };
            let got = given(outcome).unwrap_or(asked);
            ("allocate_number", format!("{} {got}", tenant(&allocate.tenant)))
        }
        Kind::AllocateNumbers(allocate) => {
            let got = given(outcome).unwrap_or_else(|| picked(allocate.pick.as_ref()));
            ("allocate_numbers", format!("{} {got}", tenant(&allocate.tenant)))
        }
        Kind::ReserveNumbers(reserve) => {
            let got = given(outcome).unwrap_or_else(|| picked(reserve.pick.as_ref()));
            ("reserve_numbers", format!("{} {got}", tenant(&reserve.tenant)))
        }
        Kind::ExtendReservation(c) => ("extend_reservation", held(&c.tenant, &c.reservation_id)),
        Kind::CancelReservation(c) => ("cancel_reservation", held(&c.tenant, &c.reservation_id)),
        Kind::CreatePortOrder(create) => {
            let numbers = many(create.e164.first(), create.e164.len());
            ("create_port_order", format!("{} {numbers}", tenant(&create.tenant)))
        }
        Kind::RecordPortEvent(event) => {
            ("record_port_event", format!("porting/{}", event.port_order_id))
        }
        _ => one_number(kind),
    }
}

fn one_number(kind: &Kind) -> (&'static str, String) {
    match kind {
        Kind::ReleaseNumber(c) => ("release_number", owned(&c.tenant, &c.e164)),
        Kind::ActivateNumber(c) => ("activate_number", owned(&c.tenant, &c.e164)),
        Kind::UpdateNumber(c) => ("update_number", owned(&c.tenant, &c.e164)),
        Kind::RejectNumber(c) => ("reject_number", number(&c.e164)),
        Kind::SuspendNumber(c) => ("suspend_number", number(&c.e164)),
        Kind::ResumeNumber(c) => ("resume_number", number(&c.e164)),
        Kind::TransferNumber(c) => {
            let (from, to) = (tenant(&c.from_tenant), tenant(&c.to_tenant));
            ("transfer_number", format!("{from} {to} {}", number(&c.e164)))
        }
        Kind::BlockNumbers(c) => ("block_numbers", range(&c.e164, c.count)),
        Kind::UnblockNumbers(c) => ("unblock_numbers", range(&c.e164, c.count)),
        Kind::DecommissionNumbers(c) => ("decommission_numbers", range(&c.e164, c.count)),
        _ => UNNAMED,
    }
}

/// A command of a kind that no line above names: `every_command_has_a_name` fails.
pub(super) const UNNAMED: (&str, String) = ("unnamed", String::new());

/// What the outcome gave.
fn given(outcome: &Outcome) -> Option<String> {
    match &outcome.kind {
        Some(outcome::Kind::Number(found)) => Some(number(&found.e164)),
        Some(outcome::Kind::Numbers(list)) => {
            let first = list.numbers.first().map(|found| &found.e164);
            Some(many(first, list.numbers.len()))
        }
        Some(outcome::Kind::Reservation(reservation)) => {
            let numbers = many(reservation.e164.first(), reservation.e164.len());
            Some(format!("numbers/reservations/{} {numbers}", reservation.reservation_id))
        }
        _ => None,
    }
}

fn picked(pick: Option<&NumberPick>) -> String {
    pick.map_or_else(String::new, |pick| many(pick.e164.first(), pick.e164.len()))
}

fn tenant(id: &str) -> String {
    format!("tenants/{id}")
}

fn rule(country: &str) -> String {
    format!("compliance/rules/{country}")
}

fn number(e164: &str) -> String {
    format!("numbers/{e164}")
}

fn owned(owner: &str, e164: &str) -> String {
    format!("{} {}", tenant(owner), number(e164))
}

fn held(owner: &str, reservation: &str) -> String {
    format!("{} numbers/reservations/{reservation}", tenant(owner))
}

fn bound(principal: &str, role: &str, of: &str) -> String {
    let of = if of.is_empty() { String::new() } else { format!(" {}", tenant(of)) };
    format!("bindings/{principal} roles/{role}{of}")
}

fn range(first: &str, count: u32) -> String {
    format!("{} x{}", number(first), count.max(1))
}

fn many(first: Option<&String>, count: usize) -> String {
    match (first, count) {
        (None, _) => String::new(),
        (Some(first), 1) => number(first),
        (Some(first), count) => format!("{} and {} more", number(first), count - 1),
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::Command;

    use super::*;

    /// Every tag of the oneof, found by decoding an empty message under it.
    #[test]
    fn every_command_has_a_name() {
        use prost::Message as _;
        let mut found = std::collections::BTreeSet::new();
        for tag in 3u32..1_000 {
            let mut bytes = Vec::new();
            prost::encoding::encode_varint(u64::from(tag << 3 | 2), &mut bytes);
            bytes.push(0);
            let kind = Command::decode(bytes.as_slice()).ok().and_then(|command| command.kind);
            let Some(kind) = kind else { continue };
            let (action, _) = described(&kind, &Outcome::default());
            assert_ne!(action, UNNAMED.0, "no line for the command with tag {tag}: {kind:?}");
            assert!(found.insert(action), "{action} names two commands");
        }
        assert!(found.len() > 30, "{found:?}");
    }

    #[test]
    fn many_numbers_stay_short() {
        let first = "+4930901820".to_owned();
        assert_eq!(many(Some(&first), 1), "numbers/+4930901820");
        assert_eq!(many(Some(&first), 1_000), "numbers/+4930901820 and 999 more");
        assert_eq!(many(None, 0), "");
    }
}
