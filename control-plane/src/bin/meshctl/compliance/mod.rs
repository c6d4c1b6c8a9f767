//! `meshctl compliance`: what countries ask for, and what tenants have shown.

mod args;
mod defaults;
mod records;

use anyhow::Result;
use proto::control::compliance_client::ComplianceClient;
use proto::control::{
    DeleteNumberPolicyRequest, DeleteRequirementRequest, ListComplianceRequest, NumberPolicy,
    PutNumberPolicyRequest, PutRequirementRequest, Requirement, WriteResponse,
};
use serde_json::json;

pub(crate) use args::Compliance;
use args::{Policies, PutPolicy, PutRequirement, Requirements};

use crate::connect::{Mesh, options};
use crate::table::{Printer, or_dash};
use crate::values::{Address, EndUser, Read, Type};

/// Where to ask, and where to print.
type To<'a> = (&'a Mesh, &'a Printer);

pub(crate) async fn run(command: Compliance, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let to = (mesh, printer);
    match command {
        Compliance::Requirements(Requirements::Put(put)) => put_requirement(*put, to).await,
        Compliance::Requirements(Requirements::Delete { country, kind, end_user, write }) => {
            let request = DeleteRequirementRequest {
                options: options(&write),
                country,
                r#type: Type::of(kind),
                end_user_type: EndUser::of(end_user),
            };
            let ask = async |channel, r| ComplianceClient::new(channel).delete_requirement(r).await;
            said("requirement deleted", &mesh.call(request, ask).await?, printer)
        }
        Compliance::Requirements(Requirements::List { country, read }) => {
            requirements(country, read, to).await
        }
        Compliance::Policies(Policies::Put(put)) => put_policy(put, to).await,
        Compliance::Policies(Policies::Delete { country, kind, write }) => {
            let (options, kind) = (options(&write), Type::of(kind));
            let request = DeleteNumberPolicyRequest { options, country, r#type: kind };
            let ask = async |channel, r| ComplianceClient::new(channel).delete_policy(r).await;
            said("policy deleted", &mesh.call(request, ask).await?, printer)
        }
        Compliance::Policies(Policies::List { country, read }) => policies(country, read, to).await,
        Compliance::Records(command) => records::run(command, to).await,
        Compliance::Defaults(asked) => defaults::run(&asked, to).await,
    }
}

fn said(what: &str, answer: &WriteResponse, printer: &Printer) -> Result<()> {
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    printer.done(&json!({ "revision": revision }), &format!("{what} at revision {revision}"))
}

async fn put_requirement(put: PutRequirement, (mesh, printer): To<'_>) -> Result<()> {
    let requirement = Requirement {
        country: put.country,
        r#type: Type::of(put.kind),
        end_user_type: EndUser::of(put.end_user),
        address: Address::of(Some(put.address)),
        bundle: put.bundle,
        emergency_address: put.emergency_address,
        deadline_ms: put.deadline.unwrap_or_default(),
        note: put.note,
        etag: String::new(),
    };
    let (options, expect) = (options(&put.write), put.expected.expect());
    let request = PutRequirementRequest { options, requirement: Some(requirement), expect };
    let ask = async |channel, r| ComplianceClient::new(channel).put_requirement(r).await;
    said("requirement stored", &mesh.call(request, ask).await?, printer)
}

async fn requirements(country: String, read: Read, (mesh, printer): To<'_>) -> Result<()> {
    let request = ListComplianceRequest { read: read.options(), country, consistency: 0 };
    let ask = async |channel, r| ComplianceClient::new(channel).list_requirements(r).await;
    show_requirements(&mesh.call(request, ask).await?.requirements, printer)
}

fn show_requirements(found: &[Requirement], printer: &Printer) -> Result<()> {
    let head = ["COUNTRY", "TYPE", "END USER", "ADDRESS", "BUNDLE", "EMERGENCY", "NOTE"];
    let word = |yes: bool| String::from(if yes { "yes" } else { "-" });
    let rows = found.iter().map(|rule| {
        vec![
            rule.country.clone(),
            any(Type::word(rule.r#type)),
            any(EndUser::word(rule.end_user_type)),
            Address::word(rule.address).into(),
            word(rule.bundle),
            word(rule.emergency_address),
            or_dash(&rule.note),
        ]
    });
    let documents = found.iter().map(|rule| {
        json!({
            "country": rule.country, "type": any(Type::word(rule.r#type)),
            "end_user": any(EndUser::word(rule.end_user_type)),
            "address": Address::word(rule.address), "bundle": rule.bundle,
            "emergency_address": rule.emergency_address, "deadline_ms": rule.deadline_ms,
            "note": rule.note, "etag": rule.etag,
        })
    });
    printer.list(&documents.collect::<Vec<_>>(), &head, &rows.collect::<Vec<_>>())
}

/// A rule without a type is about all.
fn any(word: &str) -> String {
    if word == "-" { "any".into() } else { word.into() }
}

async fn put_policy(put: PutPolicy, (mesh, printer): To<'_>) -> Result<()> {
    let policy = NumberPolicy {
        country: put.country,
        r#type: Type::of(put.kind),
        quarantine_ms: put.quarantine,
        reservation_ms: put.reservation.unwrap_or_default(),
        etag: String::new(),
    };
    let (options, expect) = (options(&put.write), put.expected.expect());
    let request = PutNumberPolicyRequest { options, policy: Some(policy), expect };
    let ask = async |channel, r| ComplianceClient::new(channel).put_policy(r).await;
    said("policy stored", &mesh.call(request, ask).await?, printer)
}

async fn policies(country: String, read: Read, (mesh, printer): To<'_>) -> Result<()> {
    let request = ListComplianceRequest { read: read.options(), country, consistency: 0 };
    let ask = async |channel, r| ComplianceClient::new(channel).list_policies(r).await;
    let found = mesh.call(request, ask).await?.policies;
    let head = ["COUNTRY", "TYPE", "QUARANTINE", "RESERVATION"];
    let rows = found.iter().map(|rule| {
        vec![
            if rule.country.is_empty() { "any".into() } else { rule.country.clone() },
            any(Type::word(rule.r#type)),
            rule.quarantine_ms.map_or_else(|| "45d".into(), span),
            if rule.reservation_ms == 0 { "30m".into() } else { span(rule.reservation_ms) },
        ]
    });
    let documents = found.iter().map(|rule| {
        json!({
            "country": rule.country, "type": any(Type::word(rule.r#type)),
            "quarantine_ms": rule.quarantine_ms, "reservation_ms": rule.reservation_ms,
            "etag": rule.etag,
        })
    });
    printer.list(&documents.collect::<Vec<_>>(), &head, &rows.collect::<Vec<_>>())
}

/// As it was given: "45d", "90m".
fn span(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_are_shown_as_they_are_given() {
        for text in ["45d", "36h", "90m", "5s", "1500ms"] {
            assert_eq!(super::span(crate::values::duration_ms(text).unwrap()), text);
        }
        assert_eq!(super::span(0), "0ms");
    }
}
