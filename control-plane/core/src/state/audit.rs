//! The audit log: one row per command of a client that was carried out or refused by the state, per
//! round of expiries, and per finding of a leader that POPs are gone or back; each row's hash covers the one before (SHA-256), so that a row that
//! is changed, missing or moved breaks the chain.
//!
//! Rows live in a ring of [`KEPT`] places: memory and disk stay bounded, older rows are what was
//! exported. They are not part of the table hash, which would cost three more SHA-256 a command;
//! the chain's head is, and says the same. A repeated request makes no second row.
//!
//! What a row is made of (names of actions, resources, the encoding) never changes for a command
//! that is in a log: replicas of two versions must make the same chain.

mod describe;

use prost::Message;
use proto::control::AuditRow;
use proto::raft::command::Kind;
use proto::raft::{Command, Outcome, Reason, RecordReads, outcome};
use sha2::{Digest, Sha256};

use super::tables::{AUDIT_TABLE, Digests};
use super::{State, Store};

/// Rows kept in the state. A test fills a smaller ring.
pub const KEPT: u64 = if cfg!(test) { 1_024 } else { 65_536 };
/// Who makes time pass.
const CLOCK: &str = "system/clock";

/// Where the chain is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Of the last row; 0: none yet.
    sequence: u64,
    /// Of the last row.
    hash: Vec<u8>,
}

/// A row's place in the ring.
pub(super) fn key(sequence: u64) -> Vec<u8> {
    let mut key = vec![AUDIT_TABLE];
    key.extend_from_slice(&(sequence % KEPT).to_be_bytes());
    key
}

/// The hash of a row: of the hash before and of all its other fields, encoded.
fn seal(previous: &[u8], mut encoded: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let hash = Sha256::new().chain_update(previous).chain_update(&encoded).finalize().to_vec();
    // Field 11, length-delimited (protobuf encoding): the hash comes last.
    encoded.extend_from_slice(&[11 << 3 | 2, 32]);
    encoded.extend_from_slice(&hash);
    (hash, encoded)
}

/// Checks that `row` follows a row with the hash `previous`.
pub fn follows(previous: &[u8], row: &AuditRow) -> bool {
    let bare = AuditRow { hash: Vec::new(), ..row.clone() };
    let (hash, _) = seal(previous, bare.encode_to_vec());
    hash == row.hash
}

/// How a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A row was changed, or the one before it was.
    #[error("row {sequence} does not follow from the row before: one of the two was changed")]
    Changed {
        /// Which.
        sequence: u64,
    },
    /// Rows are missing or not in order.
    #[error("row {found} comes where row {wanted} is due: rows are missing or moved")]
    Order {
        /// Due.
        wanted: u64,
        /// There.
        found: u64,
    },
}

/// Follows a chain row by row; the first row is taken as it is, unless it is row 1.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    last: Option<(u64, Vec<u8>)>,
}

impl Verifier {
    /// Takes the next row.
    pub fn row(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let sequence = row.sequence;
        let follows = match &self.last {
            None if sequence == 1 => follows(&[], row),
            None => true,
            Some((last, _)) if sequence != last + 1 => {
                return Err(Broken::Order { wanted: last + 1, found: sequence });
            }
            Some((_, hash)) => follows(hash, row),
        };
        if !follows {
            return Err(Broken::Changed { sequence });
        }
        self.last = Some((sequence, row.hash.clone()));
        Ok(())
    }

    /// Sequence and hash of the last row.
    pub fn last(&self) -> Option<(u64, &[u8])> {
        self.last.as_ref().map(|(sequence, hash)| (*sequence, hash.as_slice()))
    }
}

impl<S: Store> State<S> {
    /// Sequence and hash of the last audit row; 0 and nothing before the first.
    pub fn audit_head(&self) -> (u64, &[u8]) {
        (self.index.chain.sequence, &self.index.chain.hash)
    }

    /// Rows with a sequence above `after`, oldest first; those that left the ring are gone.
    pub fn audit_rows(&self, after: u64) -> impl Iterator<Item = AuditRow> + '_ {
        let head = self.index.chain.sequence;
        let oldest = head.saturating_sub(KEPT).saturating_add(1);
        let from = after.saturating_add(1).max(oldest);
        (from..=head).filter_map(|sequence| self.tables.plain(&key(sequence)))
    }

    /// The row of a command.
    pub(super) fn audit(&mut self, command: &Command, outcome: &Outcome, digests: &Digests) {
        let Some(kind) = &command.kind else { return };
        let reason = match &outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => rejected.reason(),
            _ => Reason::Unspecified,
        };
        if let Kind::RecordReads(reads) = kind {
            return self.audit_reads(reads, &command.request_id);
        }
        let (action, resource) = describe::described(kind, outcome);
        self.append(AuditRow {
            revision: outcome.revision,
            principal: command.principal.clone(),
            action: action.into(),
            resource,
            request_id: command.request_id.clone(),
            reason: reason.into(),
            ..digested(digests)
        });
    }

    /// One row for each reader and what it read; the node that gathered them is in none of them.
    fn audit_reads(&mut self, reads: &RecordReads, request_id: &str) {
        for read in &reads.reads {
            self.append(AuditRow {
                revision: self.revision().0,
                principal: read.principal.clone(),
                action: "read".into(),
                resource: format!("{} x{}", read.resource, read.count),
                request_id: request_id.into(),
                ..AuditRow::default()
            });
        }
    }

    /// The row of what ended by itself.
    pub(super) fn audit_expiry(&mut self, digests: &Digests) {
        self.append(AuditRow {
            revision: self.revision().0,
            principal: CLOCK.into(),
            action: "expire".into(),
            ..digested(digests)
        });
    }

    fn append(&mut self, row: AuditRow) {
        let sequence = self.index.chain.sequence.saturating_add(1);
        let row = AuditRow { sequence, log_time_ms: self.log_time_ms(), ..row };
        let (hash, encoded) = seal(&self.index.chain.hash, row.encode_to_vec());
        self.tables.put_plain(key(sequence), encoded);
        self.index.chain = Chain { sequence, hash };
    }
}

impl super::Index {
    /// Rows come in the ring's order: the highest one is the head.
    pub(super) fn load_audit(&mut self, row: AuditRow) {
        if row.sequence > self.chain.sequence {
            self.chain = Chain { sequence: row.sequence, hash: row.hash };
        }
    }
}

fn digested(digests: &Digests) -> AuditRow {
    AuditRow { before: digests.before(), after: digests.after(), ..AuditRow::default() }
}

#[cfg(test)]
mod tests {
    use proto::control::{Pop, Trunk};
    use proto::raft::record_reads::Read;

    use super::*;

    fn put(id: &str, n: u64) -> Command {
        let trunk = Trunk { trunk_id: id.into(), port: 5060, ..Trunk::default() };
        Command {
            request_id: format!("r{n}"),
            principal: "operator/anna".into(),
            kind: Some(Kind::PutTrunk(trunk)),
        }
    }

    fn delete(id: &str, n: u64) -> Command {
        Command { kind: Some(Kind::DeleteTrunk(id.into())), ..put(id, n) }
    }

    fn verify(rows: &[AuditRow]) -> Result<(), Broken> {
        let mut verifier = Verifier::default();
        rows.iter().try_for_each(|row| verifier.row(row))
    }

    fn reason(row: &AuditRow) -> Reason {
        Reason::try_from(row.reason).unwrap()
    }

    fn written() -> State {
        let mut s = State::bootstrap(&[1]);
        s.apply(10, &put("a", 1));
        s.apply(20, &put("a", 1)); // Repeated: no row of its own.
        s.apply(30, &delete("b", 2)); // Refused.
        s.apply(40, &delete("a", 3));
        s.apply(50, &Command { kind: Some(Kind::AdvanceClock(<_>::default())), ..<_>::default() });
        s
    }

    #[test]
    fn each_command_makes_one_row_that_follows() {
        let s = written();
        let rows: Vec<AuditRow> = s.audit_rows(0).collect();
        let said: Vec<_> =
            rows.iter().map(|r| (r.action.as_str(), r.resource.as_str(), reason(r))).collect();
        let refused = Reason::NotFound;
        assert_eq!(
            said,
            [
                ("put_trunk", "trunks/a", Reason::Unspecified),
                ("delete_trunk", "trunks/b", refused),
                ("delete_trunk", "trunks/a", Reason::Unspecified),
            ]
        );
        assert_eq!(rows[0].log_time_ms, 10);
        assert!(rows[0].before.is_empty() && rows[0].after.len() == 16, "put: new");
        assert!(rows[1].before.is_empty() && rows[1].after.is_empty(), "refused: nothing");
        assert_eq!(rows[2].before, rows[0].after, "what was put is what was deleted");
        assert_eq!(verify(&rows), Ok(()));
        assert_eq!(s.audit_head(), (3, rows[2].hash.as_slice()));
        assert_eq!(s.audit_rows(2).count(), 1);
    }

    #[test]
    fn a_changed_missing_or_moved_row_breaks_the_chain() {
        let rows: Vec<AuditRow> = written().audit_rows(0).collect();
        for at in 0..rows.len() {
            let mut changed = rows.clone();
            changed[at].principal = "operator/bob".into();
            assert_eq!(verify(&changed), Err(Broken::Changed { sequence: at as u64 + 1 }));
        }
        let mut hash = rows.clone();
        hash[1].hash[0] ^= 1;
        assert!(verify(&hash).is_err());
        let missing = [rows[0].clone(), rows[2].clone()];
        assert_eq!(verify(&missing), Err(Broken::Order { wanted: 2, found: 3 }));
        let moved = [rows[1].clone(), rows[0].clone(), rows[2].clone()];
        assert!(verify(&moved).is_err());
        assert_eq!(verify(&rows[1..]), Ok(()), "the oldest one kept is where trust begins");
    }

    #[test]
    fn reads_of_secrets_have_rows_of_their_readers() {
        let mut s = State::bootstrap(&[1]);
        let read = |who: &str| Read { principal: who.into(), resource: "trunks".into(), count: 3 };
        let reads = RecordReads { reads: vec![read("operator/anna"), read("service/portal")] };
        let kind = Some(Kind::RecordReads(reads));
        s.apply(1, &Command { request_id: "r".into(), principal: "control/1".into(), kind });
        let rows: Vec<AuditRow> = s.audit_rows(0).collect();
        let said: Vec<_> =
            rows.iter().map(|r| (r.principal.as_str(), r.resource.as_str())).collect();
        assert_eq!(said, [("operator/anna", "trunks x3"), ("service/portal", "trunks x3")]);
        assert_eq!(verify(&rows), Ok(()));
    }

    #[test]
    fn the_ring_is_bounded_and_survives_a_reload() {
        let mut s = State::bootstrap(&[1]);
        let pop = Pop { pop_id: "fra1".into(), ..Pop::default() };
        let register = |n: u64| Command {
            // Few ids: requests must not be what grows here.
            request_id: format!("r{n}"),
            principal: format!("operator/o{}", n % 7),
            kind: Some(Kind::RegisterPop(pop.clone())),
        };
        let extra = 100;
        for n in 1..=KEPT + extra {
            s.apply(n, &register(n));
        }
        let rows: Vec<AuditRow> = s.audit_rows(0).collect();
        assert_eq!(rows.len() as u64, KEPT);
        assert_eq!(rows[0].sequence, extra + 1);
        assert_eq!(verify(&rows), Ok(()));
        let stored = s.tables.entries().filter(|(key, _)| key[0] == AUDIT_TABLE).count();
        assert_eq!(stored as u64, KEPT);
        let copy =
            State::from_tables(s.tables.entries().map(|(k, v)| (k.to_vec(), v.to_vec().into())));
        let copy = copy.unwrap();
        assert_eq!(copy.audit_head(), s.audit_head());
        assert_eq!(copy.hash(), s.hash());
    }
}
