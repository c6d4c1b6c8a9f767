//! What a node refused, with what its details say (google.rpc): for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tonic::Status;
use tonic_types::StatusExt as _;

/// A refusal of a node.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    /// gRPC's code, such as `NotFound`.
    code: String,
    /// Stable, for programs.
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
    /// Fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u128>,
    /// The rest of what the details say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl Refusal {
    pub(crate) fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let mut metadata: BTreeMap<String, String> = info
            .map(|info| info.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
            .unwrap_or_default();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
        let fields = violations.unwrap_or_default().iter().map(|v| v.field.clone());
        let retry = details.retry_info().and_then(|info| info.retry_delay);
        Self {
            code: format!("{:?}", status.code()),
            reason: reason(status).unwrap_or_default().to_owned(),
            message: reason(status).map_or_else(|| describe(status), |_| status.message().into()),
            fix: metadata.remove("fix"),
            fields: fields.filter(|field| !field.is_empty()).collect(),
            retry_after_ms: retry.map(|delay| delay.as_millis()),
            metadata,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.reason.is_empty() {
            write!(f, "{}: ", self.reason)?;
        }
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

pub(crate) fn reason(status: &Status) -> Option<&str> {
    status.metadata().get("voxmesh-reason").and_then(|reason| reason.to_str().ok())
}

/// Reason and sentence of a status, or what kept the connection from being made.
pub(crate) fn describe(status: &Status) -> String {
    if let Some(reason) = reason(status) {
        return format!("{reason}: {}", status.message());
    }
    // The innermost cause says it: "Connection refused", "invalid peer certificate".
    let mut cause = std::error::Error::source(status);
    let mut said = status.message().to_owned();
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::metadata::{MetadataMap, MetadataValue};
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn reason_and_fix_are_shown_and_programs_get_all() {
        let facts = [("fix".to_owned(), "create it".to_owned()), ("pool".into(), "de".into())];
        let mut details = ErrorDetails::with_error_info("NOT_FOUND", "voxmesh", facts);
        details.add_bad_request_violation("e164", "no such number");
        let mut metadata = MetadataMap::new();
        metadata.insert("voxmesh-reason", MetadataValue::from_static("NOT_FOUND"));
        let status = Status::with_error_details_and_metadata(
            Code::NotFound,
            "no such number",
            details,
            metadata,
        );
        let refusal = Refusal::of(&status);
        assert_eq!(refusal.to_string(), "NOT_FOUND: no such number\n  fix: create it");
        let json = serde_json::to_value(&refusal).unwrap();
        assert_eq!(json["fields"][0], "e164");
        assert_eq!(json["metadata"]["pool"], "de");
        assert_eq!(json["fix"], "create it");
    }
}
