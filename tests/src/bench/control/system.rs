//! What the benchmark asks of either system.

use std::future::Future;

use anyhow::Result;
use tonic::Status;

use super::bed::Bed;

/// What one try to get a number came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Got {
    /// Which number of the pool.
    pub(super) number: u64,
    /// Conditional writes it took.
    pub(super) attempts: u32,
}

/// A cluster of three, with mutual TLS and real fsync.
pub(super) trait System: Send + Sync + Sized + 'static {
    type Session: Session;
    const NAME: &'static str;

    fn bed(&self) -> &Bed;
    fn bed_mut(&mut self) -> &mut Bed;
    /// A new connection to one node.
    fn session(&self, node: usize) -> Result<Self::Session>;
    /// Which node leads; all must agree, and answer.
    fn leader(&self) -> impl Future<Output = Result<usize>> + Send;
}

/// One connection; its clones share it.
pub(super) trait Session: Clone + Send + Sync + 'static {
    /// Writes about 128 bytes under one of many keys. `unique` is used once.
    fn write(&self, key: u64, unique: u64) -> impl Future<Output = Result<(), Status>> + Send;
    /// Reads what was written, linearizably.
    fn read(&self, key: u64) -> impl Future<Output = Result<(), Status>> + Send;
    /// Puts this many numbers into an empty pool.
    fn fill(&self, pool: u64, numbers: u64) -> impl Future<Output = Result<()>> + Send;
    /// Takes any number of a pool.
    fn any(&self, pool: u64, unique: u64) -> impl Future<Output = Result<Got, Status>> + Send;
    /// Takes this number of a pool; whether it was free.
    fn given(
        &self,
        pool: u64,
        number: u64,
        unique: u64,
    ) -> impl Future<Output = Result<bool, Status>> + Send;
    /// Makes these numbers taken, many at once.
    fn hold(&self, from: u64, to: u64) -> impl Future<Output = Result<()>> + Send;
    /// Tells `seen` the key of each write from now on, until it fails.
    fn watch(
        &self,
        seen: impl Fn(u64) + Send + Sync,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}
