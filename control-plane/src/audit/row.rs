//! A row as a line of JSON.

use proto::control::AuditRow;
use proto::raft::Reason;
use serde::{Deserialize, Serialize};

const ACCEPTED: &str = "accepted";

/// A row in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Number in the chain, from 1.
    pub sequence: u64,
    /// Of the state after it.
    pub revision: u64,
    /// Unix time, ms, by the log.
    pub log_time_ms: u64,
    /// Who.
    pub principal: String,
    /// What.
    pub action: String,
    /// On what.
    pub resource: String,
    /// Names the request.
    pub request_id: String,
    /// "accepted", or the reason of the refusal.
    pub outcome: String,
    /// Hash of what was changed, before.
    pub before: String,
    /// And after.
    pub after: String,
    /// Of this row and the one before.
    pub hash: String,
}

impl Row {
    /// Reads a line.
    pub fn read(line: &str) -> Result<AuditRow, String> {
        let row: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        row.try_into()
    }

    /// Its line, with the end of it.
    pub fn line(row: AuditRow) -> String {
        // Strings and numbers always become JSON.
        let mut line = serde_json::to_string(&Self::from(row)).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl From<AuditRow> for Row {
    fn from(row: AuditRow) -> Self {
        let outcome = match Reason::try_from(row.reason) {
            Ok(Reason::Unspecified) => ACCEPTED.to_owned(),
            Ok(reason) => reason.as_str_name().trim_start_matches("REASON_").to_owned(),
            // Of a newer version.
            Err(_) => row.reason.to_string(),
        };
        Self {
            sequence: row.sequence,
            revision: row.revision,
            log_time_ms: row.log_time_ms,
            principal: row.principal,
            action: row.action,
            resource: row.resource,
            request_id: row.request_id,
            outcome,
            before: hex(&row.before),
            after: hex(&row.after),
            hash: hex(&row.hash),
        }
    }
}

impl TryFrom<Row> for AuditRow {
    type Error = String;

    fn try_from(row: Row) -> Result<Self, String> {
        let reason = match row.outcome.as_str() {
            ACCEPTED => 0,
            name => match Reason::from_str_name(&format!("REASON_{name}")) {
                Some(reason) => reason.into(),
                None => name.parse().map_err(|_| format!("outcome {name:?} is unknown"))?,
            },
        };
        Ok(Self {
            sequence: row.sequence,
            revision: row.revision,
            log_time_ms: row.log_time_ms,
            principal: row.principal,
            action: row.action,
            resource: row.resource,
            request_id: row.request_id,
            reason,
            before: unhex(&row.before)?,
            after: unhex(&row.after)?,
            hash: unhex(&row.hash)?,
        })
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{text:?} is no hexadecimal text");
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(wrong());
    }
    let pairs = (0..text.len()).step_by(2).filter_map(|at| text.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair, 16).map_err(|_| wrong())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_hexadecimal() {
        assert_eq!(unhex(&hex(&[0, 1, 255])).unwrap(), [0, 1, 255]);
        assert!(unhex("0").is_err() && unhex("xx").is_err() && unhex("ää").is_err());
    }
}
