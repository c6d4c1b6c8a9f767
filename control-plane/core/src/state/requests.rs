//! Exactly once: what each request came to, kept for seven days of log time.

use prost::Message;
use proto::control::Number;
use proto::raft::{Command, NumberList, Outcome, Reason, Rejected, outcome};
use sha2::{Digest, Sha256};

use super::numbers::key::parse;
use super::numbers::record::NumberRecord;
use super::numbers::store::Found;
use super::tables::Row;
use super::{Expiry, State, Store, rejected};

/// How long a request id is remembered.
pub(crate) const REQUEST_KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// Most requests remembered per principal. A full table refuses new requests of that principal:
/// forgetting early would break the promise, and other principals are not touched.
pub(crate) const REQUESTS_MAX: u64 = 2_000_000;

/// Likewise of a POP, which only registers: one certificate must not fill every voter's memory.
pub(crate) const POP_REQUESTS_MAX: u64 = 10_000;

fn requests_max(principal: &str) -> u64 {
    let few = principal.starts_with("pop/") || principal.starts_with("token/");
    if few { POP_REQUESTS_MAX } else { REQUESTS_MAX }
}

/// What a request came to. Its name is a digest of principal and request id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestRecord {
    #[prost(string, tag = "1")]
    pub principal: String,
    /// Of the command, to tell a retry from a reused id.
    #[prost(bytes = "vec", tag = "3")]
    pub fingerprint: Vec<u8>,
    /// Unless it came to numbers.
    #[prost(message, optional, tag = "4")]
    pub outcome: Option<Outcome>,
    #[prost(uint64, tag = "5")]
    pub kept_until_ms: u64,
    /// Of an outcome that is numbers.
    #[prost(uint64, tag = "6")]
    pub revision: u64,
    #[prost(message, repeated, tag = "7")]
    pub numbers: Vec<NumberThen>,
    /// It is one number, not a list.
    #[prost(bool, tag = "8")]
    pub single: bool,
}

impl Row for RequestRecord {
    const BYTE: u8 = b'q';
}

/// A number as it was when a request changed it: as small as its record.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NumberThen {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint32, tag = "2")]
    pub shelf: u32,
    #[prost(message, optional, tag = "3")]
    pub record: Option<NumberRecord>,
    /// When it ended by itself, if that stood elsewhere.
    #[prost(uint64, tag = "4")]
    pub until_ms: u64,
}

/// Name of a request in its table.
pub(crate) type RequestName = [u8; 16];

/// The length keeps ("a", "bc") and ("ab", "c") apart.
pub(crate) fn name(principal: &str, request_id: &str) -> RequestName {
    let digest = Sha256::new()
        .chain_update((principal.len() as u64).to_le_bytes())
        .chain_update(principal)
        .chain_update(request_id)
        .finalize();
    digest.first_chunk().copied().unwrap_or_default()
}

/// What is known of a request.
pub(crate) enum Seen {
    New,
    /// Answered before, with this.
    Same(Box<Outcome>),
    /// The id was used for something else.
    Other,
}

pub(crate) fn fingerprint(command: &Command) -> Vec<u8> {
    let digest = Sha256::digest(command.encode_to_vec());
    digest.get(..16).unwrap_or_default().to_vec()
}

impl<S: Store> State<S> {
    pub(super) fn seen(&self, command: &Command, now_ms: u64) -> Seen {
        let name = name(&command.principal, &command.request_id);
        match self.tables.get::<RequestRecord>(&name) {
            Some(record) if record.kept_until_ms > now_ms => {
                if record.fingerprint == fingerprint(command) {
                    Seen::Same(Box::new(self.outcome_of(record)))
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
        let mut record = RequestRecord {
            principal: command.principal.clone(),
            fingerprint: fingerprint(command),
            kept_until_ms: now_ms.saturating_add(REQUEST_KEPT_MS),
            ..RequestRecord::default()
        };
        match &outcome.kind {
            Some(outcome::Kind::Number(number)) => {
                record.single = true;
                record.numbers.extend(self.then(number));
            }
            Some(outcome::Kind::Numbers(list)) => {
                record.numbers = list.numbers.iter().filter_map(|n| self.then(n)).collect();
            }
            _ => record.outcome = Some(outcome.clone()),
        }
        if record.outcome.is_none() {
            record.revision = outcome.revision;
        }
        // A record that ended but was not swept yet goes first, with its place in the indices.
        let name = name(&command.principal, &command.request_id);
        self.forget(&name);
        self.index.add_request(name, &record);
        self.tables.put_at(name, &record);
    }

    /// A number that this command has just changed.
    fn then(&self, number: &Number) -> Option<NumberThen> {
        let found = self.look_up(parse(&number.e164)?)?;
        let until_ms = if number.until_ms == found.record.until_ms { 0 } else { number.until_ms };
        let Found { number, shelf, record, .. } = found;
        Some(NumberThen { number, shelf, record: Some(record), until_ms })
    }

    fn outcome_of(&self, record: RequestRecord) -> Outcome {
        if let Some(outcome) = record.outcome {
            return outcome;
        }
        let view = |then: NumberThen| {
            let mut number = self.view(then.number, then.shelf, &then.record.unwrap_or_default());
            if then.until_ms != 0 {
                number.until_ms = then.until_ms;
            }
            number
        };
        let mut numbers: Vec<Number> = record.numbers.into_iter().map(view).collect();
        let kind = match numbers.pop() {
            Some(number) if record.single => outcome::Kind::Number(number),
            last => {
                numbers.extend(last);
                outcome::Kind::Numbers(NumberList { numbers })
            }
        };
        Outcome { revision: record.revision, kind: Some(kind) }
    }

    pub(super) fn forget(&mut self, name: &RequestName) {
        if let Some(record) = self.tables.get::<RequestRecord>(name) {
            self.index.remove_request(*name, &record);
            self.tables.delete::<RequestRecord>(name);
        }
    }
}

impl super::Index {
    pub(super) fn add_request(&mut self, name: RequestName, record: &RequestRecord) {
        self.expiries.insert((record.kept_until_ms, Expiry::Request(name)));
        self.count_request(&record.principal);
    }

    pub(super) fn count_request(&mut self, principal: &str) {
        match self.requests.get_mut(principal) {
            Some(count) => *count += 1,
            None => {
                self.requests.insert(principal.to_owned(), 1);
            }
        }
    }

    fn remove_request(&mut self, name: RequestName, record: &RequestRecord) {
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
        let mut state: State = State::default();
        for principal in ["pop/fra1", "operator/anna"] {
            state.index.requests.insert(principal.into(), POP_REQUESTS_MAX);
        }
        assert!(state.check_requests_limit("pop/fra1").is_err());
        assert!(state.check_requests_limit("pop/ams1").is_ok());
        assert!(state.check_requests_limit("operator/anna").is_ok());
    }
}
