//! Numbers, blocks, pools and reservations as tables and JSON show them.

use anyhow::Result;
use proto::control::list_pools_response::Pool;
use proto::control::{Block, Number, Reservation, Tag};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

use crate::docs::{self, CandidateDoc};
use crate::table::{Printer, or_dash};
use crate::values::{State, Type, moment, tags};

/// A number.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
struct NumberDoc {
    e164: String,
    state: &'static str,
    tenant: String,
    pool: String,
    country: String,
    area: String,
    #[serde(rename = "type")]
    kind: &'static str,
    carrier: String,
    generation: u64,
    candidates: Vec<CandidateDoc>,
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine_until_ms: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reservation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    port_order_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    bundle_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    address_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    emergency_address_id: String,
    etag: String,
}

/// Tags as an object.
pub(crate) fn tag_map(tags: Vec<Tag>) -> BTreeMap<String, String> {
    tags.into_iter().map(|tag| (tag.key, tag.value)).collect()
}

impl From<Number> for NumberDoc {
    fn from(number: Number) -> Self {
        let some = |ms: u64| (ms > 0).then_some(ms);
        let shown = number.compliance.unwrap_or_default();
        Self {
            e164: number.e164,
            state: State::word(number.state),
            tenant: number.tenant,
            pool: number.pool,
            country: number.country,
            area: number.area,
            kind: Type::word(number.r#type),
            carrier: number.carrier,
            generation: number.generation,
            candidates: number.candidates.into_iter().map(Into::into).collect(),
            tags: tag_map(number.tags),
            until_ms: some(number.until_ms),
            quarantine_until_ms: some(number.quarantine_until_ms),
            reason: number.reason,
            reservation_id: number.reservation_id,
            port_order_id: number.port_order_id,
            bundle_id: shown.bundle_id,
            address_id: shown.address_id,
            emergency_address_id: shown.emergency_address_id,
            etag: number.etag,
        }
    }
}

const HEAD: [&str; 9] =
    ["NUMBER", "STATE", "TENANT", "POOL", "COUNTRY", "TYPE", "UNTIL", "TRUNKS", "TAGS"];

fn row(number: &Number) -> Vec<String> {
    let candidates: Vec<CandidateDoc> = number.candidates.iter().cloned().map(Into::into).collect();
    let country = [number.country.as_str(), number.area.as_str()];
    let country: Vec<&str> = country.into_iter().filter(|part| !part.is_empty()).collect();
    vec![
        number.e164.clone(),
        State::word(number.state).into(),
        or_dash(&number.tenant),
        or_dash(&number.pool),
        or_dash(country.join(" ")),
        Type::word(number.r#type).into(),
        moment(number.until_ms.max(number.quarantine_until_ms)),
        or_dash(docs::describe(&candidates)),
        or_dash(tags(&number.tags)),
    ]
}

/// One number: an object, or a table of one row.
pub(super) fn one(number: Option<Number>, printer: &Printer) -> Result<()> {
    let number = number.unwrap_or_default();
    let rows = [row(&number)];
    printer.list(&NumberDoc::from(number), &HEAD, &rows)
}

/// Several.
pub(super) fn many(numbers: Vec<Number>, printer: &Printer) -> Result<()> {
    let rows: Vec<Vec<String>> = numbers.iter().map(row).collect();
    let documents: Vec<NumberDoc> = numbers.into_iter().map(Into::into).collect();
    printer.list(&documents, &HEAD, &rows)
}

/// One reservation.
pub(super) fn reservation(found: Option<Reservation>, printer: &Printer) -> Result<()> {
    let found = found.unwrap_or_default();
    let rows = [reservation_row(&found)];
    printer.list(&reservation_doc(&found), &RESERVATION, &rows)
}

/// Several.
pub(super) fn reservations(found: Vec<Reservation>, printer: &Printer) -> Result<()> {
    let rows: Vec<Vec<String>> = found.iter().map(reservation_row).collect();
    let documents: Vec<_> = found.iter().map(reservation_doc).collect();
    printer.list(&documents, &RESERVATION, &rows)
}

const RESERVATION: [&str; 5] = ["RESERVATION", "TENANT", "UNTIL", "EXTENDED", "NUMBERS"];

fn reservation_row(one: &Reservation) -> Vec<String> {
    vec![
        one.reservation_id.clone(),
        one.tenant.clone(),
        moment(one.until_ms),
        one.extensions.to_string(),
        or_dash(one.e164.join(" ")),
    ]
}

fn reservation_doc(one: &Reservation) -> serde_json::Value {
    json!({
        "id": one.reservation_id, "tenant": one.tenant, "numbers": one.e164,
        "until_ms": one.until_ms, "extensions": one.extensions,
    })
}

/// Blocks.
pub(super) fn blocks(found: Vec<Block>, printer: &Printer) -> Result<()> {
    let head = ["FIRST", "COUNT", "POOL", "COUNTRY", "AREA", "TYPE", "CARRIER", "IMPORTED", "TAGS"];
    let rows = found.iter().map(|block| {
        let shelf = block.shelf.clone().unwrap_or_default();
        vec![
            block.first.clone(),
            block.count.to_string(),
            or_dash(shelf.pool),
            or_dash(shelf.country),
            or_dash(shelf.area),
            Type::word(shelf.r#type).into(),
            or_dash(shelf.carrier),
            moment(block.imported_ms),
            or_dash(tags(&block.tags)),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let documents = found.into_iter().map(|block| {
        let shelf = block.shelf.unwrap_or_default();
        json!({
            "first": block.first, "count": block.count, "pool": shelf.pool,
            "country": shelf.country, "area": shelf.area, "type": Type::word(shelf.r#type),
            "carrier": shelf.carrier, "imported_ms": block.imported_ms,
            "tags": tag_map(block.tags),
        })
    });
    printer.list(&documents.collect::<Vec<_>>(), &head, &rows)
}

/// Pools with their counts: a column for each state there is.
pub(super) fn pools(found: Vec<Pool>, printer: &Printer) -> Result<()> {
    let states: BTreeMap<i32, &str> = found
        .iter()
        .flat_map(|pool| &pool.states)
        .map(|count| (count.state, State::word(count.state)))
        .collect();
    let upper: Vec<String> = states.values().map(|word| word.to_uppercase()).collect();
    let mut head = vec!["POOL", "NUMBERS"];
    head.extend(upper.iter().map(String::as_str));
    let rows = found.iter().map(|pool| {
        let of =
            |state: &i32| pool.states.iter().find(|c| c.state == *state).map_or(0, |c| c.numbers);
        let counts = states.keys().map(|state| of(state).to_string());
        [or_dash(&pool.pool), pool.numbers.to_string()].into_iter().chain(counts).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let documents = found.iter().map(|pool| {
        let states = pool.states.iter().map(|count| (State::word(count.state), count.numbers));
        let states: BTreeMap<&str, u64> = states.collect();
        json!({ "pool": pool.pool, "numbers": pool.numbers, "states": states })
    });
    printer.list(&documents.collect::<Vec<_>>(), &head, &rows)
}
