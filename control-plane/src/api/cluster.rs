//! Writes and consistent reads, whichever node was asked.
//!
//! A follower hands a write to the leader. A write whose outcome got lost is proposed again under
//! the same request id: it takes effect once. The next try begins when a new leader is known, not
//! when a timer ends, and a try at a leader that was replaced is given up. A linearizable read
//! waits for a round of this node's replica and looks at the local state. A node whose disk hangs
//! sends everybody away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control_core::group::{GroupId, Groups};
use control_core::replica::{MembersError, ProposeError, ReadError, Replica};
use proto::control::{ResponseHeader, WriteOptions};
use proto::id::NodeId;
use proto::identity::Identity;
use proto::raft::{Command, Outcome, command, outcome};
use tokio::time::Instant;
use tonic::Code;

use super::failure::NO_REASON;
use super::read::{Freshness, recent};
use super::{Failure, growth};
use crate::driver::{self, Driver, Led, Progress, Proposed, Unread, wall_ms};
use crate::peer::{Peers, jittered};
use crate::telemetry;
use crate::wal::Health;

/// How long a request goes on trying: an election and what follows fit in.
const PATIENCE: Duration = Duration::from_secs(5);
/// One try at the leader.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Before the next try at the same leader, ± a half.
const PAUSE: Duration = Duration::from_millis(40);

/// The replicated state, as this node reaches it.
#[derive(Clone)]
pub struct Cluster {
    driver: Driver,
    peers: Peers,
    health: Arc<Health>,
    group: GroupId,
    groups: Arc<Groups>,
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
    pub fn new(driver: Driver, peers: Peers, health: Arc<Health>, group: GroupId) -> Self {
        Self { driver, peers, health, group, groups: Arc::default() }
    }

    /// A request or stream says which group it is about.
    pub(super) fn check_group(&self, named: u32) -> Result<(), Failure> {
        if named == u32::from(self.group.0) {
            return Ok(());
        }
        let message = format!("this node keeps group {}, not group {named}", self.group);
        Err(Failure::new(Code::FailedPrecondition, WRONG_GROUP, message))
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
        self.write_as(caller.principal(), options, kind).await
    }

    /// As `write`, for those who have no certificate.
    pub(super) async fn write_as(
        &self,
        principal: String,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<(outcome::Kind, ResponseHeader), Failure> {
        let WriteOptions { request_id, validate_only } = options.unwrap_or_default();
        let request_id = match (validate_only, request_id.is_empty()) {
            (false, true) => {
                let why = "options.request_id is empty: send a new UUID per write";
                return Err(Failure::invalid(why));
            }
            (true, false) => return Err(Failure::invalid(REHEARSAL_WITH_ID)),
            (true, true) => REHEARSAL.to_owned(),
            (false, false) => request_id,
        };
        let command = Command { request_id, principal, kind: Some(kind) };
        control_core::command::validate(&command)?;
        if let Some(kind) = &command.kind {
            self.groups.admit(self.group, kind)?;
        }
        let (outcome, header) = if validate_only {
            // No client can have used this one.
            let request_id = format!("{REHEARSAL} only");
            self.rehearse(Command { request_id, ..command }).await?
        } else {
            self.agree(&command).await?
        };
        match outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => Err(rejected.into()),
            Some(kind) => Ok((kind, header)),
            None => Err(Failure::internal("an outcome says nothing")),
        }
    }

    /// What a write would come to, asked of this node's state, which holds all that was acknowledged.
    async fn rehearse(&self, command: Command) -> Result<(Outcome, ResponseHeader), Failure> {
        let node = self.driver.progress().borrow().node;
        growth::check(node, &self.health, command.kind.as_ref())?;
        let now_ms = wall_ms();
        let look = move |replica: &Replica| replica.rehearse(now_ms, &command);
        let (rehearsed, header) = self.read(Freshness::Linearizable, look).await?;
        Ok((rehearsed?, header))
    }

    async fn agree(&self, command: &Command) -> Result<(Outcome, ResponseHeader), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut unknown = None;
        loop {
            let led = self.led();
            let failure = match self.try_write(command, led, deadline).await {
                Ok(answer) => return Ok(answer),
                // A later refusal says nothing of the try whose answer got lost.
                Err(Again::No(failure)) => return Err(unknown.unwrap_or(failure)),
                Err(Again::Soon(failure)) => failure,
            };
            if failure.reason == OUTCOME_UNKNOWN {
                unknown = Some(failure.clone());
            }
            if !self.pause(led, deadline).await {
                // Once unknown, a later "no leader" does not make it known.
                return Err(unknown.unwrap_or(failure));
            }
        }
    }

    async fn try_write(
        &self,
        command: &Command,
        led: Led,
        deadline: Instant,
    ) -> Result<(Outcome, ResponseHeader), Again> {
        let proposed = tokio::select! {
            proposed = self.propose(command.clone()) => proposed,
            () = self.replaced(led) => return Err(Again::Soon(outcome_unknown())),
            () = self.stalled() => return Err(Again::No(outcome_unknown())),
            () = tokio::time::sleep_until(deadline) => {
                return Err(Again::Soon(outcome_unknown()));
            }
        };
        match proposed.map_err(Again::No)? {
            Proposed::Applied(applied) => Ok(*applied),
            Proposed::Lost => Err(Again::Soon(outcome_unknown())),
            Proposed::Refused(ProposeError::Overloaded) => Err(Again::No(Failure::overloaded())),
            Proposed::Refused(ProposeError::Members(MembersError::InProgress)) => {
                Err(Again::Soon(MembersError::InProgress.into()))
            }
            Proposed::Refused(ProposeError::Members(error)) => Err(Again::No(error.into())),
            Proposed::Refused(error @ ProposeError::TooLarge) => {
                Err(Again::No(Failure::invalid(error.to_string())))
            }
            Proposed::Refused(ProposeError::NotLeader { leader }) => {
                let leader = self.other(leader)?;
                tokio::select! {
                    answer = self.forward(leader, command, deadline) => answer,
                    () = self.replaced(led) => Err(Again::Soon(outcome_unknown())),
                }
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

    /// Whether a known member vouches for one that is not known here.
    pub(super) async fn vouch(&self, node: NodeId, incarnation: &str) -> bool {
        self.peers.vouch(node, incarnation).await
    }

    /// Proposes on this node only.
    pub(super) async fn propose(&self, command: Command) -> Result<Proposed, Failure> {
        let node = self.driver.progress().borrow().node;
        growth::check(node, &self.health, command.kind.as_ref())?;
        Ok(self.driver.propose(command).await?)
    }

    /// Looks at the state, as consistent as asked for.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        freshness: Freshness,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<(T, ResponseHeader), Failure> {
        let deadline = Instant::now() + PATIENCE;
        // The header on the driver's thread too: it must not be newer than what was seen.
        let look = move |replica: &Replica| (look(replica), driver::header(replica));
        if !self.fresh(freshness, deadline).await? {
            return self.agreed(look, deadline).await;
        }
        tokio::select! {
            found = self.driver.query(look) => Ok(found?),
            () = self.stalled() => Err(disk_stalled()),
            () = tokio::time::sleep_until(deadline) => Err(busy()),
        }
    }

    /// Returns when this node's state is fresh enough; false when only the majority can say.
    async fn fresh(&self, freshness: Freshness, deadline: Instant) -> Result<bool, Failure> {
        match freshness {
            Freshness::Local => Ok(true),
            Freshness::Linearizable => Ok(false),
            Freshness::AtLeast(revision) => {
                let reached = |progress: &Progress| progress.revision >= revision;
                self.until(reached, deadline).await?;
                Ok(true)
            }
            Freshness::Within(bound) => {
                let log_time_ms = self.driver.progress().borrow().log_time_ms;
                // Log time moves with writes only: without one lately, ask the quorum.
                Ok(recent(log_time_ms, bound, SystemTime::now()))
            }
        }
    }

    /// Looks when this node has applied everything acknowledged before the call.
    async fn agreed<T: Send + 'static>(
        &self,
        mut look: impl FnOnce(&Replica) -> T + Send + 'static,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        loop {
            let read = tokio::select! {
                read = self.driver.read(look) => read?,
                () = self.stalled() => return Err(disk_stalled()),
                () = tokio::time::sleep_until(deadline) => return Err(no_quorum()),
            };
            match read {
                Ok(found) => {
                    telemetry::read(began.elapsed());
                    return Ok(found);
                }
                Err((Unread::Lost, again)) if Instant::now() < deadline => look = again,
                Err((Unread::Lost, _)) => return Err(no_quorum()),
                Err((Unread::Refused(ReadError::Overloaded), _)) => {
                    return Err(Failure::overloaded());
                }
                Err((Unread::Refused(ReadError::Halted), _)) => return Err(driver::Stopped.into()),
            }
        }
    }

    /// The leader and its term, as known here.
    fn led(&self) -> Led {
        *self.driver.led().borrow()
    }

    /// Returns when another leader is known.
    async fn replaced(&self, led: Led) {
        let other = |now: &Led| now.0.is_some() && *now != led;
        if self.driver.led().wait_for(other).await.is_err() {
            std::future::pending::<()>().await; // This node is stopping; the driver says so.
        }
    }

    /// Returns when the disk has not answered for as long as an election takes.
    async fn stalled(&self) {
        if self.driver.stalled().wait_for(|stalled| *stalled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is time for another try: at a new leader at once, at the same one a little
    /// later.
    async fn pause(&self, led: Led, deadline: Instant) -> bool {
        let soon = async {
            match self.led().0 {
                Some(_) => tokio::time::sleep(jittered(PAUSE)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.replaced(led) => Instant::now() < deadline,
            () = soon => Instant::now() < deadline,
            () = tokio::time::sleep_until(deadline) => false,
        }
    }

    /// Returns when this node has got there.
    async fn until(
        &self,
        reached: impl Fn(&Progress) -> bool,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut progress = self.driver.progress();
        let reached = progress.wait_for(|progress| reached(progress));
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(driver::Stopped.into()),
            Err(_) => Err(Failure::unavailable("BEHIND", "this node lags behind: ask another one")),
        }
    }

    /// The leader, unless nobody or this node is believed to be it.
    fn other(&self, leader: Option<NodeId>) -> Result<NodeId, Again> {
        let own = self.driver.progress().borrow().node;
        leader.filter(|leader| *leader != own).ok_or_else(|| Again::Soon(no_leader()))
    }
}

/// What a node of another group answers.
const WRONG_GROUP: &str = "WRONG_GROUP";
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// Names a rehearsal where a write has its id.
const REHEARSAL: &str = "rehearsal";
const REHEARSAL_WITH_ID: &str = "options.request_id must be empty with options.validate_only: a \
    node that knows no rehearsals refuses that, and would carry out a write with an id";
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
    Failure::unavailable("NO_QUORUM", "no majority answered the read in time: retry")
}

fn disk_stalled() -> Failure {
    Failure::unavailable("DISK_STALLED", "this node waits for its disk: ask another one")
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
