//! `meshctl compliance records`

use anyhow::Result;
use proto::control::compliance_client::ComplianceClient;
use proto::control::{
    ComplianceRecord, DeleteComplianceRecordRequest, GetComplianceRecordRequest,
    ListComplianceRecordsRequest, PutComplianceRecordRequest,
};
use serde_json::{Value, json};

use super::args::{PutRecord, Records};
use super::{To, any, said};
use crate::connect::options;
use crate::table::or_dash;
use crate::values::{EndUser, Kind, Pages, Read, Status, Type, moment};

pub(super) async fn run(command: Records, (mesh, printer): To<'_>) -> Result<()> {
    match command {
        Records::Put(put) => store(*put, (mesh, printer)).await,
        Records::Delete { id: record_id, write } => {
            let request = DeleteComplianceRecordRequest { options: options(&write), record_id };
            let ask = async |channel, r| ComplianceClient::new(channel).delete_record(r).await;
            said("record deleted", &mesh.call(request, ask).await?, printer)
        }
        Records::Get { id: record_id, read } => {
            let read = read.options();
            let request = GetComplianceRecordRequest { read, record_id, consistency: 0 };
            let ask = async |channel, r| ComplianceClient::new(channel).get_record(r).await;
            let record = mesh.call(request, ask).await?.record.unwrap_or_default();
            printer.list(&document(&record), &HEAD, &[row(&record)])
        }
        Records::List { tenant, pages, read } => list(&tenant, pages, read, (mesh, printer)).await,
    }
}

async fn store(put: PutRecord, (mesh, printer): To<'_>) -> Result<()> {
    let record = ComplianceRecord {
        record_id: put.id,
        tenant: put.tenant,
        kind: Kind::of(Some(put.kind)),
        status: Status::of(Some(put.status)),
        country: put.country,
        r#type: Type::of(put.number_type),
        area: put.area,
        end_user_type: EndUser::of(put.end_user),
        content_hash: put.content_hash.unwrap_or_default().0,
        valid_until_ms: put.valid_until.unwrap_or_default(),
        etag: String::new(),
    };
    let (options, expect) = (options(&put.write), put.expected.expect());
    let request = PutComplianceRecordRequest { options, record: Some(record), expect };
    let ask = async |channel, r| ComplianceClient::new(channel).put_record(r).await;
    said("record stored", &mesh.call(request, ask).await?, printer)
}

async fn list(tenant: &str, pages: Pages, read: Read, (mesh, printer): To<'_>) -> Result<()> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < pages.limit() {
        let request = ListComplianceRecordsRequest {
            read: read.options(),
            tenant: tenant.to_owned(),
            page_size: pages.next(found.len(), 1_000),
            page_token,
            consistency: 0,
        };
        let ask = async |channel, r| ComplianceClient::new(channel).list_records(r).await;
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.records);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let documents: Vec<Value> = found.iter().map(document).collect();
    printer.list(&documents, &HEAD, &rows)
}

const HEAD: [&str; 8] =
    ["RECORD", "TENANT", "KIND", "STATUS", "COUNTRY", "TYPE", "AREA", "VALID UNTIL"];

fn row(record: &ComplianceRecord) -> Vec<String> {
    vec![
        record.record_id.clone(),
        record.tenant.clone(),
        Kind::word(record.kind).into(),
        Status::word(record.status).into(),
        or_dash(&record.country),
        any(Type::word(record.r#type)),
        or_dash(&record.area),
        moment(record.valid_until_ms),
    ]
}

fn document(record: &ComplianceRecord) -> Value {
    let hash: String = record.content_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": record.record_id, "tenant": record.tenant, "kind": Kind::word(record.kind),
        "status": Status::word(record.status), "country": record.country,
        "type": any(Type::word(record.r#type)), "area": record.area,
        "end_user": any(EndUser::word(record.end_user_type)), "content_hash": hash,
        "valid_until_ms": record.valid_until_ms, "etag": record.etag,
    })
}
