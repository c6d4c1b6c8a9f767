//! The table: each RPC and what it takes. A new RPC gets a line here, or nobody can call it.

use std::any::Any;
use std::collections::BTreeSet;

use proto::control as c;
use proto::control::allocate_number_request::Which;
use proto::e164::E164;

use super::Needs::{self, ControlNode, Fixed, Named, Nothing, Own};

/// One RPC.
pub struct Row {
    /// As gRPC's `:path` has it, without the leading "/voxmesh.".
    pub rpc: &'static str,
    /// What it takes.
    pub needs: Needs,
}

/// The resources a message of this type names.
macro_rules! of {
    ($message:ty, |$m:ident| $resources:expr) => {
        |message: &dyn Any| message.downcast_ref::<$message>().map(|$m| $resources)
    };
}

/// The row of a path; sorted, because each request asks.
pub fn row(path: &str) -> Option<&'static Row> {
    let rpc = path.strip_prefix("/voxmesh.")?;
    let at = TABLE.binary_search_by(|row| row.rpc.cmp(rpc)).ok()?;
    TABLE.get(at)
}

const fn line(rpc: &'static str, needs: Needs) -> Row {
    Row { rpc, needs }
}

static TABLE: &[Row] = &[
    line("control.v1.Access/Bind", Named("grant", of!(c::BindRequest, |m| binding(m)))),
    line(
        "control.v1.Access/DeleteRole",
        Named("grant", of!(c::DeleteRoleRequest, |m| { vec![format!("roles/{}", m.role_id)] })),
    ),
    line("control.v1.Access/Explain", Fixed("read", "access/explain")),
    line("control.v1.Access/List", Fixed("read", "access/list")),
    line(
        "control.v1.Access/PutRole",
        Named(
            "grant",
            of!(c::PutRoleRequest, |m| {
                vec![format!("roles/{}", m.role.as_ref().map_or("", |role| &role.role_id))]
            }),
        ),
    ),
    line("control.v1.Access/Unbind", Named("grant", of!(c::BindRequest, |m| binding(m)))),
    line("control.v1.Admin/Status", Fixed("read", "cluster/status")),
    line("control.v1.Audit/List", Fixed("read", "audit/rows")),
    line("control.v1.Cluster/Backup", Fixed("operate", "cluster/tables")),
    line("control.v1.Cluster/ChangeMembers", Fixed("operate", "cluster/members")),
    line("control.v1.Cluster/ListMembers", Fixed("read", "cluster/members")),
    line("control.v1.Cluster/RaiseFeatureLevel", Fixed("operate", "cluster/feature-level")),
    line("control.v1.Cluster/TransferLeader", Fixed("operate", "cluster/leader")),
    line(
        "control.v1.Compliance/DeletePolicy",
        Named("delete", of!(c::DeleteNumberPolicyRequest, |m| rules(&m.country))),
    ),
    line(
        "control.v1.Compliance/DeleteRecord",
        Named("delete", of!(c::DeleteComplianceRecordRequest, |m| vec![record(&m.record_id)])),
    ),
    line(
        "control.v1.Compliance/DeleteRequirement",
        Named("delete", of!(c::DeleteRequirementRequest, |m| rules(&m.country))),
    ),
    line(
        "control.v1.Compliance/GetRecord",
        Named("read", of!(c::GetComplianceRecordRequest, |m| vec![record(&m.record_id)])),
    ),
    line(
        "control.v1.Compliance/ListPolicies",
        Named("read", of!(c::ListComplianceRequest, |m| rules(&m.country))),
    ),
    line(
        "control.v1.Compliance/ListRecords",
        Named(
            "read",
            of!(c::ListComplianceRecordsRequest, |m| vec![of_tenant(
                &m.tenant,
                "compliance/records"
            )]),
        ),
    ),
    line(
        "control.v1.Compliance/ListRequirements",
        Named("read", of!(c::ListComplianceRequest, |m| rules(&m.country))),
    ),
    line(
        "control.v1.Compliance/PutPolicy",
        Named(
            "write",
            of!(c::PutNumberPolicyRequest, |m| {
                rules(m.policy.as_ref().map_or("", |policy| &policy.country))
            }),
        ),
    ),
    line(
        "control.v1.Compliance/PutRecord",
        Named(
            "write",
            of!(c::PutComplianceRecordRequest, |m| {
                let (id, of) = m
                    .record
                    .as_ref()
                    .map_or(("", ""), |record| (&record.record_id, &record.tenant));
                vec![tenant(of), record(id)]
            }),
        ),
    ),
    line(
        "control.v1.Compliance/PutRequirement",
        Named(
            "write",
            of!(c::PutRequirementRequest, |m| {
                rules(m.requirement.as_ref().map_or("", |requirement| &requirement.country))
            }),
        ),
    ),
    line("control.v1.Enrollment/Join", Nothing),
    line("control.v1.Enrollment/Renew", Needs::Identity),
    line(
        "control.v1.Numbers/Activate",
        Named(
            "allocate",
            of!(c::ActivateNumberRequest, |m| { vec![tenant(&m.tenant), number(&m.e164)] }),
        ),
    ),
    line(
        "control.v1.Numbers/Allocate",
        Named(
            "allocate",
            of!(c::AllocateNumberRequest, |m| {
                let what = match &m.which {
                    Some(Which::E164(e164)) => vec![number(e164)],
                    Some(Which::AnyOfPool(name)) => vec![pool(name)],
                    Some(Which::Any(any)) => pick(Some(any)),
                    None => pick(None),
                };
                with_tenant(&m.tenant, what)
            }),
        ),
    ),
    line(
        "control.v1.Numbers/BatchAllocate",
        Named(
            "allocate",
            of!(c::BatchAllocateRequest, |m| {
                let what = match (&m.pick, m.reservation_id.as_str()) {
                    (given, "") => pick(given.as_ref()),
                    (_, id) => vec![reservation(id)],
                };
                with_tenant(&m.tenant, what)
            }),
        ),
    ),
    line(
        "control.v1.Numbers/Block",
        Named("transfer", of!(c::BlockNumbersRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/CancelReservation",
        Named(
            "release",
            of!(c::CancelReservationRequest, |m| vec![
                tenant(&m.tenant),
                reservation(&m.reservation_id)
            ]),
        ),
    ),
    line(
        "control.v1.Numbers/Decommission",
        Named("delete", of!(c::DecommissionNumbersRequest, |m| vec![number(&m.e164)])),
    ),
    line(
        "control.v1.Numbers/ExtendReservation",
        Named(
            "allocate",
            of!(c::ExtendReservationRequest, |m| vec![
                tenant(&m.tenant),
                reservation(&m.reservation_id)
            ]),
        ),
    ),
    line(
        "control.v1.Numbers/Get",
        Named("read", of!(c::GetNumberRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/GetReservation",
        Named("read", of!(c::GetReservationRequest, |m| { vec![reservation(&m.reservation_id)] })),
    ),
    line(
        "control.v1.Numbers/Import",
        Named(
            "import",
            of!(c::ImportNumbersRequest, |m| {
                let mut resources = countries(m.e164.iter());
                resources.push(pool(&m.pool));
                resources
            }),
        ),
    ),
    line(
        "control.v1.Numbers/ImportBlocks",
        Named(
            "import",
            of!(c::ImportBlocksRequest, |m| {
                let mut resources = countries(m.blocks.iter().map(|block| &block.first));
                let shelves = m.blocks.iter().filter_map(|block| block.shelf.as_ref());
                resources.extend(shelves.map(|shelf| pool(&shelf.pool)));
                resources.sort_unstable();
                resources.dedup();
                resources
            }),
        ),
    ),
    line(
        "control.v1.Numbers/List",
        Named(
            "read",
            of!(c::ListNumbersRequest, |m| {
                vec![match (m.tenant.as_str(), m.pool.as_str(), m.country.as_str()) {
                    ("", "", country) => in_country(country),
                    ("", name, _) => pool(name),
                    (owner, ..) => of_tenant(owner, "numbers"),
                }]
            }),
        ),
    ),
    line(
        "control.v1.Numbers/ListAvailable",
        Named("read", of!(c::ListAvailableRequest, |m| { pick(m.pick.as_ref()) })),
    ),
    line(
        "control.v1.Numbers/ListBlocks",
        Named("read", of!(c::ListBlocksRequest, |m| { vec![shelf(m.filter.as_ref())] })),
    ),
    line("control.v1.Numbers/ListPools", Fixed("read", "pools")),
    line(
        "control.v1.Numbers/ListReservations",
        Named("read", of!(c::ListReservationsRequest, |m| vec![of_tenant(&m.tenant, "numbers")])),
    ),
    line(
        "control.v1.Numbers/Reject",
        Named("release", of!(c::RejectNumberRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/Release",
        Named(
            "release",
            of!(c::ReleaseNumberRequest, |m| { vec![tenant(&m.tenant), number(&m.e164)] }),
        ),
    ),
    line(
        "control.v1.Numbers/Reserve",
        Named(
            "allocate",
            of!(c::ReserveNumbersRequest, |m| { with_tenant(&m.tenant, pick(m.pick.as_ref())) }),
        ),
    ),
    line(
        "control.v1.Numbers/Resume",
        Named("transfer", of!(c::ResumeNumberRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/SelectCallerId",
        Named("read", of!(c::SelectCallerIdRequest, |m| { vec![of_tenant(&m.tenant, "numbers")] })),
    ),
    line(
        "control.v1.Numbers/Suspend",
        Named("transfer", of!(c::SuspendNumberRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/Transfer",
        Named(
            "transfer",
            of!(c::TransferNumberRequest, |m| {
                vec![tenant(&m.from_tenant), tenant(&m.to_tenant), number(&m.e164)]
            }),
        ),
    ),
    line(
        "control.v1.Numbers/Unblock",
        Named("transfer", of!(c::UnblockNumbersRequest, |m| { vec![number(&m.e164)] })),
    ),
    line(
        "control.v1.Numbers/Update",
        Named(
            "allocate",
            of!(c::UpdateNumberRequest, |m| { vec![tenant(&m.tenant), number(&m.e164)] }),
        ),
    ),
    line(
        "control.v1.Pops/Ask",
        Named("read", of!(c::AskPopRequest, |m| { vec![format!("pops/{}", m.pop_id)] })),
    ),
    line(
        "control.v1.Pops/Cordon",
        Named("operate", of!(c::SteerPopRequest, |m| { vec![format!("pops/{}", m.pop_id)] })),
    ),
    line(
        "control.v1.Pops/Drain",
        Named("operate", of!(c::SteerPopRequest, |m| { vec![format!("pops/{}", m.pop_id)] })),
    ),
    line("control.v1.Pops/Heartbeat", Own("register", "pops")),
    line("control.v1.Pops/List", Fixed("read", "pops")),
    line(
        "control.v1.Pops/Register",
        Named(
            "register",
            of!(c::RegisterPopRequest, |m| {
                vec![format!("pops/{}", m.pop.as_ref().map_or("", |pop| &pop.pop_id))]
            }),
        ),
    ),
    line(
        "control.v1.Pops/Uncordon",
        Named("operate", of!(c::SteerPopRequest, |m| { vec![format!("pops/{}", m.pop_id)] })),
    ),
    line(
        "control.v1.Porting/Create",
        Named(
            "transfer",
            of!(c::CreatePortOrderRequest, |m| {
                let mut resources = countries(m.e164.iter());
                resources.extend([tenant(&m.tenant), "porting".into()]);
                resources
            }),
        ),
    ),
    line(
        "control.v1.Porting/Get",
        Named(
            "read",
            of!(c::GetPortOrderRequest, |m| { vec![format!("porting/{}", m.port_order_id)] }),
        ),
    ),
    line(
        "control.v1.Porting/List",
        Named("read", of!(c::ListPortOrdersRequest, |m| { vec![of_tenant(&m.tenant, "porting")] })),
    ),
    line(
        "control.v1.Porting/RecordEvent",
        Named(
            "transfer",
            of!(c::RecordPortEventRequest, |m| vec![format!("porting/{}", m.port_order_id)]),
        ),
    ),
    line(
        "control.v1.Routing/DeleteRoute",
        Named("delete", of!(c::DeleteRouteRequest, |m| { vec![format!("routes/{}", m.route_id)] })),
    ),
    line(
        "control.v1.Routing/DeleteTrunk",
        Named("delete", of!(c::DeleteTrunkRequest, |m| { vec![format!("trunks/{}", m.trunk_id)] })),
    ),
    line("control.v1.Routing/ListRoutes", Fixed("read", "routes")),
    line("control.v1.Routing/ListTrunks", Fixed("read", "trunks")),
    line(
        "control.v1.Routing/PutRoute",
        Named(
            "write",
            of!(c::PutRouteRequest, |m| {
                vec![format!("routes/{}", m.route.as_ref().map_or("", |route| &route.route_id))]
            }),
        ),
    ),
    line(
        "control.v1.Routing/PutTrunk",
        Named(
            "write",
            of!(c::PutTrunkRequest, |m| {
                vec![format!("trunks/{}", m.trunk.as_ref().map_or("", |trunk| &trunk.trunk_id))]
            }),
        ),
    ),
    line(
        "control.v1.Tenants/Delete",
        Named("delete", of!(c::DeleteTenantRequest, |m| { vec![tenant(&m.tenant)] })),
    ),
    line(
        "control.v1.Tenants/Get",
        Named("read", of!(c::GetTenantRequest, |m| { vec![tenant(&m.tenant)] })),
    ),
    line("control.v1.Tenants/List", Fixed("read", "tenants")),
    line(
        "control.v1.Tenants/Put",
        Named(
            "write",
            of!(c::PutTenantRequest, |m| {
                vec![tenant(m.tenant.as_ref().map_or("", |tenant| &tenant.tenant))]
            }),
        ),
    ),
    line(
        "control.v1.Tokens/Create",
        Named(
            "grant",
            of!(c::CreateTokenRequest, |m| { vec![format!("tokens/{}/{}", m.kind, m.name)] }),
        ),
    ),
    line("control.v1.Tokens/List", Fixed("read", "tokens")),
    line(
        "control.v1.Tokens/Revoke",
        Named("grant", of!(c::RevokeTokenRequest, |m| { vec![format!("tokens/{}", m.token_id)] })),
    ),
    line("control.v1.Watch/Watch", Fixed("watch", "changes")),
    line("raft.v1.Peer/Join", ControlNode),
    line("raft.v1.Peer/Propose", ControlNode),
    line("raft.v1.Peer/Snapshot", ControlNode),
    line("raft.v1.Peer/Stream", ControlNode),
    line("raft.v1.Peer/Vouch", ControlNode),
];

fn binding(request: &c::BindRequest) -> Vec<String> {
    let binding = request.binding.as_ref();
    vec![
        format!("bindings/{}", binding.map_or("", |b| &b.principal)),
        format!("roles/{}", binding.map_or("", |b| &b.role_id)),
    ]
}

fn tenant(id: &str) -> String {
    format!("tenants/{id}")
}

fn with_tenant(id: &str, mut resources: Vec<String>) -> Vec<String> {
    resources.insert(0, tenant(id));
    resources
}

/// Something of one tenant; without one, of all of them.
fn of_tenant(id: &str, what: &str) -> String {
    if id.is_empty() { what.into() } else { format!("tenants/{id}/{what}") }
}

fn pool(name: &str) -> String {
    format!("pools/{name}")
}

fn reservation(id: &str) -> String {
    format!("numbers/reservations/{id}")
}

fn record(id: &str) -> String {
    format!("compliance/records/{id}")
}

/// What a country asks for.
fn rules(country: &str) -> Vec<String> {
    let country = country.to_ascii_lowercase();
    vec![if country.is_empty() {
        "compliance/rules".into()
    } else {
        format!("compliance/rules/{country}")
    }]
}

/// The numbers that are named; else where they would come from.
fn pick(pick: Option<&c::NumberPick>) -> Vec<String> {
    match pick {
        Some(pick) if !pick.e164.is_empty() => pick.e164.iter().map(|e| number(e)).collect(),
        Some(pick) => vec![shelf(pick.shelf.as_ref())],
        None => vec![shelf(None)],
    }
}

/// The narrowest of pool and country; without either, all numbers.
fn shelf(shelf: Option<&c::Shelf>) -> String {
    match shelf {
        Some(shelf) if !shelf.pool.is_empty() => pool(&shelf.pool),
        Some(shelf) => in_country(&shelf.country),
        None => in_country(""),
    }
}

/// Of the schema, where services of no country are "001".
fn in_country(country: &str) -> String {
    match country {
        "" => "numbers".into(),
        "001" => "numbers/world".into(),
        country => format!("numbers/{}", country.to_ascii_lowercase()),
    }
}

fn countries<'a>(numbers: impl Iterator<Item = &'a String>) -> Vec<String> {
    let found: BTreeSet<String> = numbers.map(|e164| country(e164)).collect();
    found.into_iter().map(|country| format!("numbers/{country}")).collect()
}

fn number(e164: &str) -> String {
    format!("numbers/{}/{}", country(e164), e164.trim_start_matches('+'))
}

/// What is no number is refused by the handler; nobody has rights on "unknown" but on all.
fn country(e164: &str) -> String {
    E164::parse(e164).map_or_else(|_| "unknown".into(), |e164| e164.country())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use control_core::access::{Policy, VERBS};
    use proto::identity::{Identity, Kind};

    use super::super::Gate;
    use super::*;

    #[test]
    fn every_rpc_has_one_line_and_every_line_an_rpc() {
        let lines: Vec<String> = TABLE.iter().map(|row| format!("/voxmesh.{}", row.rpc)).collect();
        assert!(lines.is_sorted(), "sort the table: it is searched by halves");
        let mut methods = proto::schema::methods().to_vec();
        methods.sort_unstable();
        let missing: Vec<_> = methods.iter().filter(|m| !lines.contains(m)).collect();
        assert!(missing.is_empty(), "no line in this table, so nobody can call them: {missing:?}");
        let stale: Vec<_> = lines.iter().filter(|line| !methods.contains(line)).collect();
        assert!(stale.is_empty(), "lines of no RPC: {stale:?}");
    }

    #[test]
    fn lines_name_known_verbs() {
        for row in TABLE {
            if let Named(verb, _) | Fixed(verb, _) | Own(verb, _) = row.needs {
                assert!(VERBS.iter().any(|(known, _)| *known == verb), "{}", row.rpc);
            }
        }
    }

    #[test]
    fn messages_name_their_resources() {
        let portal = Identity::new("demo", "eu", Kind::Service, "portal").unwrap();
        let gate = |rpc: &str| Gate::new(row(rpc).unwrap(), Arc::new(Policy::default()));
        let gate = gate("/voxmesh.control.v1.Numbers/Allocate");
        let message = c::AllocateNumberRequest {
            tenant: "acme".into(),
            which: Some(Which::E164("+4930901820".into())),
            ..<_>::default()
        };
        let said = gate.admit_message(&portal, &message).unwrap_err().to_string();
        assert_eq!(said, "service/portal may not allocate tenants/acme");
        let anna = Identity::new("demo", "eu", Kind::Operator, "anna").unwrap();
        assert_eq!(gate.admit_message(&anna, &message), Ok(()));
        assert!(gate.admit_message(&portal, &c::ListRequest::default()).is_err(), "another type");
        assert_eq!(number("+4930901820"), "numbers/de/4930901820");
        assert_eq!(number("+15062345678"), "numbers/ca/15062345678");
        assert_eq!(number("nonsense"), "numbers/unknown/nonsense");
    }
}
