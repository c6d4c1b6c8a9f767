//! Writes and consistent reads, whichever node was asked.
//!
//! A follower hands a write to the leader. A write whose outcome got lost is proposed again under
//! the same request id: it takes effect once. A linearizable read asks the leader for an index
//! (Raft thesis §6.4), waits until this node has applied it, and looks at the local state.

use std::time::Duration;

use control_core::replica::{ProposeError, ReadError, Replica};
use proto::control::{ReadConsistency, ResponseHeader, WriteOptions};
use proto::id::NodeId;
use proto::identity::Identity;
use proto::raft::{Command, Outcome, command, outcome};
use tokio::time::Instant;
use tonic::Code;

use super::Failure;
use super::failure::NO_REASON;
use crate::driver::{Driver, Progress, Proposed, ReadIndex};
use crate::peer::{Peers, jittered};

/// How long a request goes on trying: an election and what follows fit in.
const PATIENCE: Duration = Duration::from_secs(5);
/// One try at the leader.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before the next try, ± a half.
const PAUSE: Duration = Duration::from_millis(40);

/// The replicated state, as this node reaches it.
#[derive(Clone)]
pub struct Cluster {
    driver: Driver,
    peers: Peers,
}

/// Why one try did not do.
enum Again {
    /// Never; tell the caller.
    No(Failure),
    /// Soon; tell this if time is up.
    Soon(Failure),
}

impl Cluster {
    /// This node's replica and its peers.
    pub fn new(driver: Driver, peers: Peers) -> Self {
        Self { driver, peers }
    }

    /// The driver of this node.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Has a client's command agreed on and applied; exactly once for its request id.
    pub(super) async fn write(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<(outcome::Kind, ResponseHeader), Failure> {
        let request_id = options.unwrap_or_default().request_id;
        if request_id.is_empty() {
            return Err(Failure::invalid("options.request_id is empty: send a new UUID per write"));
        }
        let command = Command { request_id, principal: caller.principal(), kind: Some(kind) };
        control_core::command::validate(&command)?;
        let (outcome, header) = self.agree(&command).await?;
        match outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => Err(rejected.into()),
            Some(kind) => Ok((kind, header)),
            None => Err(Failure::internal("an outcome says nothing")),
        }
    }

    async fn agree(&self, command: &Command) -> Result<(Outcome, ResponseHeader), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut unknown = None;
        loop {
            let failure = match self.try_write(command, deadline).await {
                Ok(answer) => return Ok(answer),
                // A later refusal says nothing of the try whose answer got lost.
                Err(Again::No(failure)) => return Err(unknown.unwrap_or(failure)),
                Err(Again::Soon(failure)) => failure,
            };
            if failure.reason == OUTCOME_UNKNOWN {
                unknown = Some(failure.clone());
            }
            if !pause(deadline).await {
                // Once unknown, a later "no leader" does not make it known.
                return Err(unknown.unwrap_or(failure));
            }
        }
    }

    async fn try_write(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<(Outcome, ResponseHeader), Again> {
        let proposed = tokio::time::timeout_at(deadline, self.propose(command.clone())).await;
        match proposed {
            Err(_) => Err(Again::Soon(outcome_unknown())),
            Ok(Err(failure)) => Err(Again::No(failure)),
            Ok(Ok(Proposed::Applied(applied))) => {
                let (outcome, progress) = *applied;
                Ok((outcome, progress.header()))
            }
            Ok(Ok(Proposed::Lost)) => Err(Again::Soon(outcome_unknown())),
            Ok(Ok(Proposed::Refused(ProposeError::Overloaded))) => {
                Err(Again::No(Failure::overloaded()))
            }
            Ok(Ok(Proposed::Refused(error @ ProposeError::TooLarge))) => {
                Err(Again::No(Failure::invalid(error.to_string())))
            }
            Ok(Ok(Proposed::Refused(ProposeError::NotLeader { leader }))) => {
                self.forward(self.other(leader)?, command, deadline).await
            }
        }
    }

    async fn forward(
        &self,
        leader: NodeId,
        command: &Command,
        deadline: Instant,
    ) -> Result<(Outcome, ResponseHeader), Again> {
        let patience = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        match self.peers.propose(leader, command.clone(), patience).await {
            Ok(answer) => match answer.outcome {
                Some(outcome) => Ok((outcome, answer.header.unwrap_or_default())),
                None => Err(Again::No(Failure::internal("the leader answered without outcome"))),
            },
            Err(status) => Err(after(&status)),
        }
    }

    /// Proposes on this node only.
    pub(super) async fn propose(&self, command: Command) -> Result<Proposed, Failure> {
        Ok(self.driver.propose(command).await?)
    }

    /// Looks at the state, as consistent as asked for.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        consistency: ReadConsistency,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<(T, ResponseHeader), Failure> {
        if consistency == ReadConsistency::Linearizable {
            self.barrier().await?;
        }
        // The header on the driver's thread too: it must not be newer than what was seen.
        let look = move |replica: &Replica| (look(replica), Progress::of(replica).header());
        let found = tokio::time::timeout(PATIENCE, self.driver.query(look)).await;
        Ok(found.map_err(|_| busy())??)
    }

    /// Returns when this node has applied everything acknowledged before the call.
    async fn barrier(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match self.try_read_index(deadline).await {
                Ok(index) => return self.applied(index, deadline).await,
                Err(Again::No(failure)) => return Err(failure),
                Err(Again::Soon(failure)) => failure,
            };
            if !pause(deadline).await {
                return Err(failure);
            }
        }
    }

    async fn try_read_index(&self, deadline: Instant) -> Result<u64, Again> {
        match tokio::time::timeout_at(deadline, self.read_index()).await {
            Err(_) | Ok(Ok(ReadIndex::Lost)) => Err(Again::Soon(no_quorum())),
            Ok(Err(failure)) => Err(Again::No(failure)),
            Ok(Ok(ReadIndex::At(index))) => Ok(index),
            Ok(Ok(ReadIndex::Refused(ReadError::Overloaded))) => {
                Err(Again::No(Failure::overloaded()))
            }
            Ok(Ok(ReadIndex::Refused(ReadError::NotLeader { leader }))) => {
                let leader = self.other(leader)?;
                let patience = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
                let index = self.peers.read_index(leader, patience).await;
                index.map_err(|status| match status.code() {
                    Code::ResourceExhausted => Again::No(Failure::from_peer(&status)),
                    _ => Again::Soon(no_quorum()),
                })
            }
        }
    }

    /// The index a read must wait for, if this node leads.
    pub(super) async fn read_index(&self) -> Result<ReadIndex, Failure> {
        Ok(self.driver.read_index().await?)
    }

    async fn applied(&self, index: u64, deadline: Instant) -> Result<(), Failure> {
        let mut progress = self.driver.progress();
        let applied = progress.wait_for(|progress: &Progress| progress.applied >= index);
        match tokio::time::timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(crate::driver::Stopped.into()),
            Err(_) => Err(Failure::unavailable("BEHIND", "this node lags behind: ask another one")),
        }
    }

    /// The leader, unless nobody or this node is believed to be it.
    fn other(&self, leader: Option<NodeId>) -> Result<NodeId, Again> {
        let own = self.driver.progress().borrow().node;
        leader.filter(|leader| *leader != own).ok_or_else(|| Again::Soon(no_leader()))
    }
}

const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// What a node answers that was taken for the leader.
pub(super) const NOT_LEADER: &str = "NOT_LEADER";

/// What to do after the leader, or the connection to it, answered a write with `status`.
fn after(status: &tonic::Status) -> Again {
    let failure = Failure::from_peer(status);
    match status.code() {
        Code::Unavailable if failure.reason == NOT_LEADER => Again::Soon(no_leader()),
        // The connection broke, or it took too long: the leader may have it.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            Again::Soon(outcome_unknown())
        }
        // A node always says why: this comes from the transport, with a reset stream maybe.
        _ if failure.reason == NO_REASON => Again::Soon(outcome_unknown()),
        _ => Again::No(failure),
    }
}

fn outcome_unknown() -> Failure {
    let message = "the leader was lost before it answered: retry with the same request_id";
    Failure::unavailable(OUTCOME_UNKNOWN, message)
}

fn no_leader() -> Failure {
    Failure::unavailable("NO_QUORUM", "no leader is known: retry with the same request_id")
}

fn busy() -> Failure {
    Failure::unavailable("BUSY", "this node had no time for the read: ask another one")
}

fn no_quorum() -> Failure {
    Failure::unavailable("NO_QUORUM", "no leader confirmed the read in time: retry")
}

/// Whether there is time for another try.
async fn pause(deadline: Instant) -> bool {
    let next = Instant::now() + jittered(PAUSE);
    if next >= deadline {
        return false;
    }
    tokio::time::sleep_until(next).await;
    true
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn a_status_of_the_transport_leaves_the_outcome_unknown() {
        for code in [Code::Internal, Code::ResourceExhausted, Code::Unavailable, Code::Cancelled] {
            let Again::Soon(failure) = after(&Status::new(code, "h2 broke")) else {
                panic!("{code:?} was taken for a refusal");
            };
            assert_eq!(failure.reason, OUTCOME_UNKNOWN);
        }
        assert!(matches!(after(&Failure::overloaded().into()), Again::No(_)));
        let not_leader = Failure::unavailable(NOT_LEADER, "ask another one").into();
        assert!(matches!(after(&not_leader), Again::Soon(f) if f.reason == "NO_QUORUM"));
    }
}
