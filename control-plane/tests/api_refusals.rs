//! Every RPC × every class of refusal, against real nodes: code, reason and field.
//!
//! The table walks the compiled schema: an RPC without a row fails the test.
#![allow(
    clippy::unwrap_used,
    clippy::field_reassign_with_default,
    clippy::too_many_lines,
    reason = "a test: a panic is its verdict; a table is as long as it is"
)]

mod cluster;

use cluster::Cluster;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use proto::control as c;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// What a request without a mistake of form comes to on an empty mesh.
type State = Result<(), (Code, &'static str)>;

/// One RPC.
struct Row {
    /// As gRPC's `:path` has it, without "/voxmesh.control.v1.".
    rpc: &'static str,
    /// Of right form, under this request id.
    good: fn(&str) -> Vec<u8>,
    /// What that comes to.
    state: State,
    /// Of wrong form, and the field that is named; empty: nothing can be wrong.
    bad: (Vec<u8>, &'static str),
    /// Changes something.
    writes: bool,
}

const NUMBER: &str = "+4930901820";
const GONE: State = Err((Code::NotFound, "NOT_FOUND"));

/// RPCs that are not asked one message and answered one; what they refuse is tested beside them.
const STREAMS: [&str; 2] = ["Pops/Heartbeat", "Watch/Watch"];

/// RPCs whose rows stand beside what they do: who may call them is asked of all of them here.
const ELSEWHERE: [&str; 7] =
    ["Access/", "Admin/", "Audit/", "Cluster/", "Enrol", "Storage/", "Tokens/"];

/// Of an id that begins so, a rehearsal.
const DRY: &str = "dry-";

fn options(id: &str) -> Option<c::WriteOptions> {
    let validate_only = id.starts_with(DRY);
    let request_id = if validate_only { String::new() } else { id.into() };
    Some(c::WriteOptions { request_id, validate_only })
}

macro_rules! write {
    ($rpc:literal, $state:expr, $field:literal, $good:expr, $bad:expr) => {
        Row {
            rpc: $rpc,
            good: |id| {
                let mut message = $good;
                message.options = options(id);
                message.encode_to_vec()
            },
            state: $state,
            bad: {
                let mut message = $bad;
                message.options = options("malformed");
                (message.encode_to_vec(), $field)
            },
            writes: true,
        }
    };
}

macro_rules! read {
    ($rpc:literal, $state:expr, $field:literal, $good:expr, $bad:expr) => {
        Row {
            rpc: $rpc,
            good: |_| $good.encode_to_vec(),
            state: $state,
            bad: ($bad.encode_to_vec(), $field),
            writes: false,
        }
    };
}

fn about_paths() -> Option<c::PopQuestion> {
    let about = Some(c::pop_question::About::Paths(c::PathsQuestion::default()));
    Some(c::PopQuestion { number: 0, about })
}

fn pick(pool: &str) -> Option<c::NumberPick> {
    let shelf = Some(c::Shelf { pool: pool.into(), ..<_>::default() });
    Some(c::NumberPick { shelf, count: 1, ..<_>::default() })
}

fn trunk(pop: &str) -> Option<c::Trunk> {
    let (trunk_id, host) = ("telco".into(), "192.0.2.1".into());
    Some(c::Trunk { trunk_id, host, pop_ids: vec![pop.into()], ..<_>::default() })
}

fn route(trunk_id: &str, prefix: &str) -> Option<c::Route> {
    let candidates = vec![c::RouteCandidate { trunk_id: trunk_id.into(), priority: 0, weight: 1 }];
    Some(c::Route { route_id: "de".into(), prefix: prefix.into(), candidates })
}

fn record(id: &str, country: &str) -> Option<c::ComplianceRecord> {
    Some(c::ComplianceRecord {
        record_id: id.into(),
        tenant: "acme".into(),
        kind: c::ComplianceKind::Bundle.into(),
        status: c::ComplianceStatus::Draft.into(),
        country: country.into(),
        ..<_>::default()
    })
}

fn requirement(country: &str) -> Option<c::Requirement> {
    let address = c::AddressRule::None.into();
    Some(c::Requirement { country: country.into(), address, ..<_>::default() })
}

fn pop(region: &str) -> Option<c::Pop> {
    Some(c::Pop {
        pop_id: "sin1".into(),
        region: region.into(),
        overlay_address: "127.0.0.1:4433".into(),
        ..<_>::default()
    })
}

fn unfresh() -> Option<c::ReadOptions> {
    let consistency = c::ReadConsistency::AtLeastRevision.into();
    Some(c::ReadOptions { consistency, ..<_>::default() })
}

fn numbers() -> Vec<Row> {
    vec![
        write!(
            "Numbers/Import",
            Ok(()),
            "e164[0]",
            c::ImportNumbersRequest {
                pool: "p".into(),
                e164: vec!["+4930901899".into()],
                ..<_>::default()
            },
            c::ImportNumbersRequest {
                pool: "p".into(),
                e164: vec!["030".into()],
                ..<_>::default()
            }
        ),
        write!(
            "Numbers/ImportBlocks",
            Ok(()),
            "blocks[0].first",
            c::ImportBlocksRequest { blocks: vec![block("+4989901800")], ..<_>::default() },
            c::ImportBlocksRequest { blocks: vec![block("089")], ..<_>::default() }
        ),
        write!(
            "Numbers/Allocate",
            GONE,
            "tenant",
            c::AllocateNumberRequest { tenant: "acme".into(), which: named(), ..<_>::default() },
            c::AllocateNumberRequest { tenant: "A C".into(), which: named(), ..<_>::default() }
        ),
        write!(
            "Numbers/BatchAllocate",
            Err((Code::ResourceExhausted, "POOL_EXHAUSTED")),
            "tenant",
            c::BatchAllocateRequest { tenant: "acme".into(), pick: pick("none"), ..<_>::default() },
            c::BatchAllocateRequest { tenant: "A C".into(), pick: pick("none"), ..<_>::default() }
        ),
        write!(
            "Numbers/Reserve",
            Err((Code::ResourceExhausted, "POOL_EXHAUSTED")),
            "duration_ms",
            c::ReserveNumbersRequest {
                tenant: "acme".into(),
                pick: pick("none"),
                ..<_>::default()
            },
            c::ReserveNumbersRequest {
                tenant: "acme".into(),
                pick: pick("none"),
                duration_ms: u64::MAX,
                ..<_>::default()
            }
        ),
        write!(
            "Numbers/ExtendReservation",
            GONE,
            "reservation_id",
            c::ExtendReservationRequest {
                reservation_id: "res-9".into(),
                tenant: "acme".into(),
                ..<_>::default()
            },
            c::ExtendReservationRequest {
                reservation_id: "res 9".into(),
                tenant: "acme".into(),
                ..<_>::default()
            }
        ),
        write!(
            "Numbers/CancelReservation",
            GONE,
            "tenant",
            c::CancelReservationRequest {
                reservation_id: "res-9".into(),
                tenant: "acme".into(),
                ..<_>::default()
            },
            c::CancelReservationRequest { reservation_id: "res-9".into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Activate",
            GONE,
            "e164",
            c::ActivateNumberRequest {
                e164: NUMBER.into(),
                tenant: "acme".into(),
                ..<_>::default()
            },
            c::ActivateNumberRequest { e164: "1".into(), tenant: "acme".into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Reject",
            GONE,
            "e164",
            c::RejectNumberRequest { e164: NUMBER.into(), ..<_>::default() },
            c::RejectNumberRequest { e164: "1".into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Release",
            GONE,
            "e164",
            c::ReleaseNumberRequest {
                e164: NUMBER.into(),
                tenant: "acme".into(),
                ..<_>::default()
            },
            c::ReleaseNumberRequest { e164: "1".into(), tenant: "acme".into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Suspend",
            GONE,
            "reason",
            c::SuspendNumberRequest {
                e164: NUMBER.into(),
                reason: "abuse".into(),
                ..<_>::default()
            },
            c::SuspendNumberRequest { e164: NUMBER.into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Resume",
            GONE,
            "e164",
            c::ResumeNumberRequest { e164: NUMBER.into(), ..<_>::default() },
            c::ResumeNumberRequest { e164: "1".into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Transfer",
            GONE,
            "to_tenant",
            c::TransferNumberRequest {
                e164: NUMBER.into(),
                from_tenant: "acme".into(),
                to_tenant: "other".into(),
                ..<_>::default()
            },
            c::TransferNumberRequest {
                e164: NUMBER.into(),
                from_tenant: "acme".into(),
                ..<_>::default()
            }
        ),
        write!(
            "Numbers/Update",
            GONE,
            "tenant",
            c::UpdateNumberRequest { e164: NUMBER.into(), tenant: "acme".into(), ..<_>::default() },
            c::UpdateNumberRequest { e164: NUMBER.into(), ..<_>::default() }
        ),
        write!(
            "Numbers/Block",
            Ok(()),
            "reason",
            c::BlockNumbersRequest {
                e164: "+4930901877".into(),
                reason: "test".into(),
                shelf: shelf("p"),
                ..<_>::default()
            },
            c::BlockNumbersRequest {
                e164: "+4930901877".into(),
                shelf: shelf("p"),
                ..<_>::default()
            }
        ),
        write!(
            "Numbers/Unblock",
            GONE,
            "count",
            c::UnblockNumbersRequest { e164: NUMBER.into(), ..<_>::default() },
            c::UnblockNumbersRequest { e164: NUMBER.into(), count: u32::MAX, ..<_>::default() }
        ),
        write!(
            "Numbers/Decommission",
            GONE,
            "count",
            c::DecommissionNumbersRequest { e164: NUMBER.into(), ..<_>::default() },
            c::DecommissionNumbersRequest {
                e164: NUMBER.into(),
                count: u32::MAX,
                ..<_>::default()
            }
        ),
        read!(
            "Numbers/Get",
            GONE,
            "e164",
            c::GetNumberRequest { e164: NUMBER.into(), ..<_>::default() },
            c::GetNumberRequest { e164: "1".into(), ..<_>::default() }
        ),
        read!(
            "Numbers/List",
            Ok(()),
            "page_size",
            c::ListNumbersRequest::default(),
            c::ListNumbersRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        read!(
            "Numbers/ListAvailable",
            Ok(()),
            "pick.prefix",
            c::ListAvailableRequest::default(),
            c::ListAvailableRequest {
                pick: Some(c::NumberPick { prefix: "x".into(), ..<_>::default() }),
                ..<_>::default()
            }
        ),
        read!(
            "Numbers/ListBlocks",
            Ok(()),
            "page_size",
            c::ListBlocksRequest::default(),
            c::ListBlocksRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        read!(
            "Numbers/ListPools",
            Ok(()),
            "read.min_revision",
            c::ListPoolsRequest::default(),
            c::ListPoolsRequest { read: unfresh(), ..<_>::default() }
        ),
        read!(
            "Numbers/GetReservation",
            GONE,
            "read.min_revision",
            c::GetReservationRequest { reservation_id: "res-9".into(), ..<_>::default() },
            c::GetReservationRequest { read: unfresh(), ..<_>::default() }
        ),
        read!(
            "Numbers/ListReservations",
            Ok(()),
            "page_size",
            c::ListReservationsRequest::default(),
            c::ListReservationsRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        read!(
            "Numbers/SelectCallerId",
            GONE,
            "destination",
            c::SelectCallerIdRequest {
                tenant: "acme".into(),
                destination: NUMBER.into(),
                ..<_>::default()
            },
            c::SelectCallerIdRequest {
                tenant: "acme".into(),
                destination: "1".into(),
                ..<_>::default()
            }
        ),
    ]
}

fn named() -> Option<c::allocate_number_request::Which> {
    Some(c::allocate_number_request::Which::E164(NUMBER.into()))
}

fn shelf(pool: &str) -> Option<c::Shelf> {
    Some(c::Shelf { pool: pool.into(), ..<_>::default() })
}

fn block(first: &str) -> c::Block {
    c::Block { first: first.into(), count: 2, shelf: shelf("p"), ..<_>::default() }
}

fn others() -> Vec<Row> {
    vec![
        write!(
            "Tenants/Put",
            Ok(()),
            "tenant",
            c::PutTenantRequest {
                tenant: Some(c::Tenant { tenant: "beta".into(), ..<_>::default() }),
                ..<_>::default()
            },
            c::PutTenantRequest::default()
        ),
        write!(
            "Tenants/Delete",
            GONE,
            "tenant",
            c::DeleteTenantRequest { tenant: "nobody".into(), ..<_>::default() },
            c::DeleteTenantRequest::default()
        ),
        read!(
            "Tenants/Get",
            GONE,
            "read.min_revision",
            c::GetTenantRequest { tenant: "nobody".into(), ..<_>::default() },
            c::GetTenantRequest { read: unfresh(), ..<_>::default() }
        ),
        read!(
            "Tenants/List",
            Ok(()),
            "page_size",
            c::ListTenantsRequest::default(),
            c::ListTenantsRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        write!(
            "Porting/Create",
            GONE,
            "e164[0]",
            c::CreatePortOrderRequest {
                direction: c::PortDirection::Out.into(),
                tenant: "acme".into(),
                e164: vec![NUMBER.into()],
                other_carrier: "oldtel".into(),
                ..<_>::default()
            },
            c::CreatePortOrderRequest {
                direction: c::PortDirection::In.into(),
                tenant: "acme".into(),
                e164: vec!["1".into()],
                other_carrier: "oldtel".into(),
                ..<_>::default()
            }
        ),
        write!(
            "Porting/RecordEvent",
            GONE,
            "event",
            c::RecordPortEventRequest {
                port_order_id: "port-9".into(),
                event: c::PortEvent::Submitted.into(),
                ..<_>::default()
            },
            c::RecordPortEventRequest { port_order_id: "port-9".into(), ..<_>::default() }
        ),
        read!(
            "Porting/Get",
            GONE,
            "read.min_revision",
            c::GetPortOrderRequest { port_order_id: "port-9".into(), ..<_>::default() },
            c::GetPortOrderRequest { read: unfresh(), ..<_>::default() }
        ),
        read!(
            "Porting/List",
            Ok(()),
            "state",
            c::ListPortOrdersRequest::default(),
            c::ListPortOrdersRequest { state: 99, ..<_>::default() }
        ),
        write!(
            "Compliance/PutRequirement",
            Ok(()),
            "requirement.country",
            c::PutRequirementRequest { requirement: requirement("IS"), ..<_>::default() },
            c::PutRequirementRequest { requirement: requirement("Iceland"), ..<_>::default() }
        ),
        write!(
            "Compliance/DeleteRequirement",
            GONE,
            "country",
            c::DeleteRequirementRequest { country: "NO".into(), ..<_>::default() },
            c::DeleteRequirementRequest::default()
        ),
        read!(
            "Compliance/ListRequirements",
            Ok(()),
            "read.min_revision",
            c::ListComplianceRequest::default(),
            c::ListComplianceRequest { read: unfresh(), ..<_>::default() }
        ),
        write!(
            "Compliance/PutPolicy",
            Ok(()),
            "policy.country",
            c::PutNumberPolicyRequest {
                policy: Some(c::NumberPolicy { country: "IS".into(), ..<_>::default() }),
                ..<_>::default()
            },
            c::PutNumberPolicyRequest {
                policy: Some(c::NumberPolicy { country: "is".into(), ..<_>::default() }),
                ..<_>::default()
            }
        ),
        write!(
            "Compliance/DeletePolicy",
            GONE,
            "country",
            c::DeleteNumberPolicyRequest { country: "NO".into(), ..<_>::default() },
            c::DeleteNumberPolicyRequest { country: "Norway".into(), ..<_>::default() }
        ),
        read!(
            "Compliance/ListPolicies",
            Ok(()),
            "read.min_revision",
            c::ListComplianceRequest::default(),
            c::ListComplianceRequest { read: unfresh(), ..<_>::default() }
        ),
        write!(
            "Compliance/PutRecord",
            Ok(()),
            "record.country",
            c::PutComplianceRecordRequest { record: record("acme-id", "IS"), ..<_>::default() },
            c::PutComplianceRecordRequest {
                record: record("acme-id", "Iceland"),
                ..<_>::default()
            }
        ),
        write!(
            "Compliance/DeleteRecord",
            GONE,
            "record_id",
            c::DeleteComplianceRecordRequest { record_id: "none".into(), ..<_>::default() },
            c::DeleteComplianceRecordRequest { record_id: "a b".into(), ..<_>::default() }
        ),
        read!(
            "Compliance/GetRecord",
            GONE,
            "read.min_revision",
            c::GetComplianceRecordRequest { record_id: "none".into(), ..<_>::default() },
            c::GetComplianceRecordRequest { read: unfresh(), ..<_>::default() }
        ),
        read!(
            "Compliance/ListRecords",
            Ok(()),
            "page_size",
            c::ListComplianceRecordsRequest::default(),
            c::ListComplianceRecordsRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        write!(
            "Pops/Register",
            Ok(()),
            "region",
            c::RegisterPopRequest { pop: pop("ap"), ..<_>::default() },
            c::RegisterPopRequest { pop: pop("A P"), ..<_>::default() }
        ),
        write!(
            "Pops/Cordon",
            GONE,
            "pop_id",
            c::SteerPopRequest { pop_id: "none".into(), ..<_>::default() },
            c::SteerPopRequest { pop_id: "A P".into(), ..<_>::default() }
        ),
        write!(
            "Pops/Drain",
            GONE,
            "pop_id",
            c::SteerPopRequest { pop_id: "none".into(), ..<_>::default() },
            c::SteerPopRequest { pop_id: "A P".into(), ..<_>::default() }
        ),
        write!(
            "Pops/Uncordon",
            GONE,
            "pop_id",
            c::SteerPopRequest { pop_id: "none".into(), ..<_>::default() },
            c::SteerPopRequest { pop_id: "A P".into(), ..<_>::default() }
        ),
        read!(
            "Pops/Ask",
            Err((Code::Unavailable, "POP_NOT_HEARD")),
            "question",
            c::AskPopRequest { pop_id: "fra1".into(), question: about_paths() },
            c::AskPopRequest { pop_id: "fra1".into(), question: None }
        ),
        read!(
            "Pops/List",
            Ok(()),
            "read.min_revision",
            c::ListPopsRequest::default(),
            c::ListPopsRequest { read: unfresh(), ..<_>::default() }
        ),
        write!(
            "Routing/PutTrunk",
            Ok(()),
            "pop_ids",
            c::PutTrunkRequest { trunk: trunk("sin1"), ..<_>::default() },
            c::PutTrunkRequest {
                trunk: Some(c::Trunk { trunk_id: "telco".into(), ..<_>::default() }),
                ..<_>::default()
            }
        ),
        write!(
            "Routing/DeleteTrunk",
            GONE,
            "trunk_id",
            c::DeleteTrunkRequest { trunk_id: "none".into(), ..<_>::default() },
            c::DeleteTrunkRequest { trunk_id: "a b".into(), ..<_>::default() }
        ),
        write!(
            "Routing/PutRoute",
            GONE,
            "prefix",
            c::PutRouteRequest { route: route("none", "49"), ..<_>::default() },
            c::PutRouteRequest { route: route("none", "+49"), ..<_>::default() }
        ),
        write!(
            "Routing/DeleteRoute",
            GONE,
            "route_id",
            c::DeleteRouteRequest { route_id: "none".into(), ..<_>::default() },
            c::DeleteRouteRequest { route_id: "a b".into(), ..<_>::default() }
        ),
        read!(
            "Routing/ListTrunks",
            Ok(()),
            "page_size",
            c::ListRequest::default(),
            c::ListRequest { page_size: u32::MAX, ..<_>::default() }
        ),
        read!(
            "Routing/ListRoutes",
            Ok(()),
            "page_size",
            c::ListRequest::default(),
            c::ListRequest { page_size: u32::MAX, ..<_>::default() }
        ),
    ]
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

async fn ask(channel: &Channel, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let path = PathAndQuery::try_from(path.to_owned()).unwrap();
    Ok(grpc.unary(Request::new(message), path, Raw).await?.into_inner())
}

fn path(rpc: &str) -> String {
    format!("/voxmesh.control.v1.{rpc}")
}

fn reason(status: &Status) -> &str {
    status.metadata().get("voxmesh-reason").map_or("", |reason| reason.to_str().unwrap())
}

/// The refusal as google.rpc says it: domain, reason, fields.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let info = details.error_info().map(|info| (info.domain.as_str(), info.reason.as_str()));
    if info != Some(("voxmesh", reason(status))) {
        return vec![format!("no ErrorInfo of this reason, but {info:?}")];
    }
    let bad = details.bad_request().map(|bad| bad.field_violations.as_slice());
    bad.unwrap_or_default().iter().map(|violation| violation.field.clone()).collect()
}

#[test]
fn every_rpc_has_a_row() {
    let rows: Vec<Row> = numbers().into_iter().chain(others()).collect();
    for method in proto::schema::methods() {
        let Some(rpc) = method.strip_prefix("/voxmesh.control.v1.") else { continue };
        let there = rows.iter().any(|row| row.rpc == rpc)
            || STREAMS.contains(&rpc)
            || ELSEWHERE.iter().any(|service| rpc.starts_with(service));
        assert!(there, "{rpc} has no row in this table");
    }
    for row in &rows {
        assert!(proto::schema::methods().contains(&path(row.rpc)), "{} is no RPC", row.rpc);
    }
}

#[tokio::test]
async fn every_rpc_refuses_what_it_must() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let node = cluster.alive().find(|node| node.id != leader).unwrap();
    let anna = cluster.channel(node, "anna");
    let stranger = cluster.channel(node, "portal");
    let mut wrong = Vec::new();

    // Without a right: whatever the message says, and whatever there is.
    let open = ["/voxmesh.control.v1.Enrol", "/voxmesh.raft.v1.Peer/Stream"];
    let streams: Vec<String> = STREAMS.iter().map(|rpc| path(rpc)).collect();
    for method in proto::schema::methods() {
        if open.iter().any(|open| method.starts_with(open)) || streams.contains(method) {
            continue;
        }
        let refused = ask(&stranger, method, Vec::new()).await.map(drop);
        let code = refused.as_ref().err().map(Status::code);
        if method.starts_with("/voxmesh.control.v1.") && code != Some(Code::PermissionDenied) {
            wrong.push(format!("{method} for a stranger: {refused:?}"));
        }
    }

    let used = c::PutTenantRequest {
        options: options("used"),
        tenant: Some(c::Tenant { tenant: "first".into(), ..<_>::default() }),
        ..<_>::default()
    };
    ask(&anna, &path("Tenants/Put"), used.encode_to_vec()).await.unwrap();
    for row in numbers().into_iter().chain(others()) {
        wrong.extend(refusals(&anna, &row).await);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    cluster.stop().await;
}

/// Grows with every change.
async fn revision(anna: &Channel) -> u64 {
    let pops = ask(anna, &path("Pops/List"), Vec::new()).await.unwrap();
    c::ListPopsResponse::decode(pops.as_slice()).unwrap().header.unwrap().revision
}

/// What a row gets wrong.
async fn refusals(anna: &Channel, row: &Row) -> Vec<String> {
    let (path, rpc) = (path(row.rpc), row.rpc);
    let mut wrong = Vec::new();
    let mut expect = |class: &str, found: Result<Vec<u8>, Status>, expected: State| {
        let found = found.map(drop).map_err(|s| (s.code(), reason(&s).to_owned(), s));
        let same = match (&found, &expected) {
            (Ok(()), Ok(())) => true,
            (Err((code, reason, _)), Err((expected_code, expected))) => {
                code == expected_code && reason == expected
            }
            _ => false,
        };
        if !same {
            wrong.push(format!("{rpc}, {class}: {found:?} instead of {expected:?}"));
        }
    };
    let malformed = ask(anna, &path, row.bad.0.clone()).await;
    let named = malformed.as_ref().err().map(fields).unwrap_or_default();
    expect("malformed", malformed, Err((Code::InvalidArgument, "INVALID")));
    let field = (!named.iter().any(|field| field == row.bad.1))
        .then(|| format!("{rpc}, malformed: names {named:?} instead of {:?}", row.bad.1));
    // A field of another number than any of the schema, three megabytes of it.
    let mut large = (row.good)("large");
    prost::encoding::bytes::encode(1_000, &vec![0_u8; 3 << 20], &mut large);
    let large = ask(anna, &path, large).await;
    let too_large = large.as_ref().is_err_and(|status| status.code() == Code::OutOfRange);
    let oversized = (!too_large).then(|| format!("{rpc}, oversized: {:?}", large.map(drop)));
    if row.writes {
        let invalid = Err((Code::InvalidArgument, "INVALID"));
        expect("no request_id", ask(anna, &path, (row.good)("")).await, invalid);
        let reused = Err((Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED"));
        expect("used request_id", ask(anna, &path, (row.good)("used")).await, reused);
    }
    let id = format!("once-{}", rpc.replace('/', "-"));
    let begin = revision(anna).await;
    if row.writes {
        // To a node that does not know `validate_only` the first is a write without id.
        let (mut both, invalid) = ((row.good)("both"), Err((Code::InvalidArgument, "INVALID")));
        // options.validate_only, which is merged into the options before it.
        both.extend([0x0a, 2, 0x10, 1]);
        expect("rehearsed with an id", ask(anna, &path, both).await, invalid);
        expect("rehearsed", ask(anna, &path, (row.good)(&format!("{DRY}{id}"))).await, row.state);
    }
    let rehearsed = revision(anna).await;
    expect("state", ask(anna, &path, (row.good)(&id)).await, row.state);
    let done = revision(anna).await;
    expect("state, again", ask(anna, &path, (row.good)(&id)).await, row.state);
    let again = revision(anna).await;
    let expected = (true, row.writes && row.state.is_ok(), false);
    let changed = (begin == rehearsed, rehearsed != done, done != again);
    wrong.extend((changed != expected).then(|| format!("{rpc}: what changed was {changed:?}")));
    wrong.extend(field);
    wrong.extend(oversized);
    wrong
}
