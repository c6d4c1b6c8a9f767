//! Reads of secrets and personal data, for the audit log.
//!
//! Gathered for a while and written in one command: reading must not cost a write each. Bounded:
//! beyond that many readers and resources at once, the rest is counted as one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::control::WriteOptions;
use proto::identity::Identity;
use proto::raft::record_reads::Read;
use proto::raft::{RecordReads, command};

use super::Api;

/// Between two writes of what was read.
const EVERY: Duration = Duration::from_secs(5);
/// Readers and resources at once; the last place is everybody else's.
const PLACES: usize = 128;
/// Who has no place of its own.
const OTHERS: &str = "others";

/// What was read since the last write.
#[derive(Default, Clone)]
pub(super) struct Reads(Arc<Mutex<BTreeMap<(String, String), u64>>>);

impl Reads {
    /// Somebody read this.
    pub(super) fn note(&self, reader: &Identity, resource: &str) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = (reader.principal(), resource.to_owned());
        if !reads.contains_key(&place) && reads.len() >= PLACES - 1 {
            place = (OTHERS.into(), OTHERS.into());
        }
        let count = reads.entry(place).or_default();
        *count = count.saturating_add(1);
    }

    fn take(&self) -> Vec<Read> {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *reads).into_iter();
        taken.map(|((principal, resource), count)| Read { principal, resource, count }).collect()
    }

    /// Nothing is lost when there is no leader for a while.
    fn put_back(&self, taken: Vec<Read>) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for read in taken {
            let count = reads.entry((read.principal, read.resource)).or_default();
            *count = count.saturating_add(read.count);
        }
    }
}

impl Api {
    /// Writes what was read, from time to time, until told to stop.
    pub async fn audit_reads(self) {
        let mut stop = self.0.stop.clone();
        let mut number = 0u64;
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(EVERY) => false,
                _ = stop.wait_for(|stop| *stop) => true,
            };
            let taken = self.0.reads.take();
            if !taken.is_empty() {
                number += 1;
                self.write_reads(taken, number).await;
            }
            if stopping {
                return;
            }
        }
    }

    async fn write_reads(&self, taken: Vec<Read>, number: u64) {
        let progress = self.0.cluster.driver().progress().borrow().clone();
        // Log time makes it unlike one of before a restart.
        let request_id = format!("reads-{}-{}-{number}", progress.node, progress.log_time_ms);
        let options = Some(WriteOptions { request_id, ..<_>::default() });
        let kind = command::Kind::RecordReads(RecordReads { reads: taken.clone() });
        let principal = format!("control/{}", progress.node);
        if let Err(failure) = self.0.cluster.write_as(principal, options, kind).await {
            tracing::warn!(why = failure.message, "reads of secrets are not in the audit log yet");
            self.0.reads.put_back(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::identity::Kind;

    use super::*;

    #[test]
    fn readers_are_counted_and_bounded() {
        let reads = Reads::default();
        let reader =
            |n: usize| Identity::new("demo", "eu", Kind::Operator, &format!("o{n}")).unwrap();
        reads.note(&reader(1), "trunks");
        reads.note(&reader(1), "trunks");
        (0..1_000).for_each(|n| reads.note(&reader(n), "trunks"));
        let taken = reads.take();
        assert_eq!(taken.len(), PLACES);
        assert_eq!(taken.iter().map(|read| read.count).sum::<u64>(), 1_002);
        assert!(taken.iter().any(|read| read.principal == OTHERS));
        assert!(reads.take().is_empty());
        reads.put_back(taken);
        assert_eq!(reads.take().len(), PLACES);
    }
}
