//! Exactly once: what each request came to, kept for seven days of log time.

use prost::Message;
use proto::raft::{Command, Outcome, Reason, Rejected};
use sha2::{Digest, Sha256};

use super::{Expiry, State, rejected};

/// How long a request id is remembered.
pub(crate) const REQUEST_KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// Most requests remembered per principal. A full table refuses new requests of that principal:
/// forgetting early would break the promise, and other principals are not touched.
pub(crate) const REQUESTS_MAX: u64 = 2_000_000;

/// Likewise of a POP, which only registers: one certificate must not fill every voter's memory.
pub(crate) const POP_REQUESTS_MAX: u64 = 10_000;

fn requests_max(principal: &str) -> u64 {
    if principal.starts_with("pop/") { POP_REQUESTS_MAX } else { REQUESTS_MAX }
}

/// What a request came to.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestRecord {
    #[prost(string, tag = "1")]
    pub principal: String,
    #[prost(string, tag = "2")]
    pub request_id: String,
    /// Of the command, to tell a retry from a reused id.
    #[prost(bytes = "bytes", tag = "3")]
    pub fingerprint: bytes::Bytes,
    #[prost(message, optional, tag = "4")]
    pub outcome: Option<Outcome>,
    #[prost(uint64, tag = "5")]
    pub kept_until_ms: u64,
}

/// Name in the table. NUL is in no principal and no request id that passed the edge; even if it
/// were, the lengths in front of it keep two names apart.
pub(crate) fn name(principal: &str, request_id: &str) -> String {
    format!("{}\0{principal}\0{request_id}", principal.len())
}

/// What is known of a request.
pub(crate) enum Seen {
    New,
    /// Answered before, with this.
    Same(Box<Outcome>),
    /// The id was used for something else.
    Other,
}

pub(crate) fn fingerprint(command: &Command) -> bytes::Bytes {
    let digest = Sha256::digest(command.encode_to_vec());
    bytes::Bytes::copy_from_slice(digest.get(..16).unwrap_or_default())
}

impl State {
    pub(super) fn seen(&self, command: &Command, now_ms: u64) -> Seen {
        let name = name(&command.principal, &command.request_id);
        match self.tables.get::<RequestRecord>(&name) {
            Some(record) if record.kept_until_ms > now_ms => {
                if record.fingerprint == fingerprint(command) {
                    Seen::Same(Box::new(record.outcome.unwrap_or_default()))
                } else {
                    Seen::Other
                }
            }
            Some(_) | None => Seen::New,
        }
    }

    pub(super) fn check_requests_limit(&self, principal: &str) -> Result<(), Rejected> {
        let max = requests_max(principal);
        if self.index.requests.get(principal).is_some_and(|count| *count >= max) {
            return Err(rejected(
                Reason::Limit,
                "too many different request ids within 7 days: slow down or retry with old ids",
            ));
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, command: &Command, outcome: &Outcome, now_ms: u64) {
        let record = RequestRecord {
            principal: command.principal.clone(),
            request_id: command.request_id.clone(),
            fingerprint: fingerprint(command),
            outcome: Some(outcome.clone()),
            kept_until_ms: now_ms.saturating_add(REQUEST_KEPT_MS),
        };
        // A record that ended but was not swept yet goes first, with its place in the indices.
        let name = name(&record.principal, &record.request_id);
        self.forget(&name);
        self.index.add_request(&record);
        self.tables.put(&record);
    }

    pub(super) fn forget(&mut self, name: &str) {
        if let Some(record) = self.tables.get::<RequestRecord>(name) {
            self.index.remove_request(&record);
            self.tables.delete::<RequestRecord>(name);
        }
    }
}

impl super::Index {
    pub(super) fn add_request(&mut self, record: &RequestRecord) {
        let name = name(&record.principal, &record.request_id);
        self.expiries.insert((record.kept_until_ms, Expiry::Request(name)));
        *self.requests.entry(record.principal.clone()).or_default() += 1;
    }

    fn remove_request(&mut self, record: &RequestRecord) {
        let name = name(&record.principal, &record.request_id);
        self.expiries.remove(&(record.kept_until_ms, Expiry::Request(name)));
        if let Some(count) = self.requests.get_mut(&record.principal) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.requests.remove(&record.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pop_fills_its_own_small_table_only() {
        let mut state = State::default();
        for principal in ["pop/fra1", "operator/anna"] {
            state.index.requests.insert(principal.into(), POP_REQUESTS_MAX);
        }
        assert!(state.check_requests_limit("pop/fra1").is_err());
        assert!(state.check_requests_limit("pop/ams1").is_ok());
        assert!(state.check_requests_limit("operator/anna").is_ok());
    }
}
