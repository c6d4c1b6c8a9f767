//! `Peer`: what the other members send. Each must be whom its certificate names, and come with
//! the data directory it always had: a voter that forgot its votes may not vote again.

use std::pin::Pin;
use std::sync::PoisonError;

use bytes::Bytes;
use control_core::replica::ProposeError;
use proto::control::{ClusterMember, MemberChange, MemberRole, WriteOptions, member_change};
use proto::id::NodeId;
use proto::identity::{Identity, Kind};
use proto::raft::peer_server::Peer;
use proto::raft::{
    ChangeMembers, Command, JoinRequest, JoinResponse, LogEnd, Pong, ProposeRequest,
    ProposeResponse, RaftAck, RaftFrame, SnapshotPart, VouchRequest, VouchResponse, command,
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Extensions, Request, Status, Streaming};

use super::cluster::NOT_LEADER;
use super::transfer::{HAVES, Haves};
use super::{Answer, Api, Failure, answer, caller};
use crate::driver::{Proposed, wall_ms};
use crate::telemetry::{self, PeerDrop};

/// Answers that wait for a member.
const ACKS: usize = 256;

type Acks = Pin<Box<dyn Stream<Item = Result<RaftAck, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for Api {
    type StreamStream = Acks;

    async fn stream(&self, request: Request<Streaming<RaftFrame>>) -> Answer<Acks> {
        answer("Peer.Stream", async {
            let from = self.member(request.extensions())?;
            let (acks, receiver) = mpsc::channel(ACKS);
            let api = self.clone();
            tokio::spawn(async move { api.frames(from, request.into_inner(), acks).await });
            let acks: Acks = Box::pin(ReceiverStream::new(receiver));
            Ok(acks)
        })
        .await
    }

    type SnapshotStream = Haves;

    async fn snapshot(&self, request: Request<Streaming<SnapshotPart>>) -> Answer<Haves> {
        answer("Peer.Snapshot", async {
            let from = self.member(request.extensions())?;
            let (haves, receiver) = mpsc::channel(HAVES);
            let api = self.clone();
            tokio::spawn(async move { api.take_tables(from, request.into_inner(), haves).await });
            let haves: Haves = Box::pin(ReceiverStream::new(receiver));
            Ok(haves)
        })
        .await
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Answer<ProposeResponse> {
        answer("Peer.Propose", async {
            let from = self.member(request.extensions())?;
            let ProposeRequest { command, group, incarnation } = request.into_inner();
            self.0.cluster.check_group(group)?;
            self.fence(from, &incarnation).await?;
            let command = command.unwrap_or_default();
            from_a_client(&command)?;
            match self.0.cluster.propose(command).await? {
                Proposed::Applied(applied) => {
                    let (outcome, header) = *applied;
                    Ok(ProposeResponse { outcome: Some(outcome), header: Some(header) })
                }
                Proposed::Lost => {
                    Err(Failure::unavailable("OUTCOME_UNKNOWN", "leadership was lost meanwhile"))
                }
                Proposed::Refused(ProposeError::NotLeader { .. }) => Err(not_leader()),
                Proposed::Refused(ProposeError::Members(error)) => Err(error.into()),
                Proposed::Refused(ProposeError::Overloaded) => Err(Failure::overloaded()),
                Proposed::Refused(error @ ProposeError::TooLarge) => {
                    Err(Failure::invalid(error.to_string()))
                }
            }
        })
        .await
    }

    async fn vouch(&self, request: Request<VouchRequest>) -> Answer<VouchResponse> {
        answer("Peer.Vouch", async {
            self.member(request.extensions())?;
            let VouchRequest { node_id, incarnation } = request.into_inner();
            let known = self.known(NodeId(node_id));
            let member = known.is_some_and(|member| self.is_current(&member, &incarnation));
            Ok(VouchResponse { member })
        })
        .await
    }

    async fn join(&self, request: Request<JoinRequest>) -> Answer<JoinResponse> {
        answer("Peer.Join", async {
            self.member(request.extensions())?;
            let caller = caller(request.extensions())?;
            let JoinRequest { member, group } = request.into_inner();
            self.0.cluster.check_group(group)?;
            self.let_in(&caller, member.unwrap_or_default()).await?;
            let members = self.0.cluster.driver().members().borrow().to_vec();
            Ok(JoinResponse { members })
        })
        .await
    }
}

fn not_leader() -> Failure {
    Failure::unavailable(NOT_LEADER, "this node does not lead")
}

/// What a follower may pass on: commands of clients, valid ones, nothing of raft's own.
fn from_a_client(command: &Command) -> Result<(), Failure> {
    let internal = matches!(
        command.kind,
        None | Some(
            command::Kind::AdvanceClock(_)
                | command::Kind::FoundMembers(_)
                | command::Kind::HashCheck(_)
                | command::Kind::InitCluster(_)
                | command::Kind::RecordPops(_)
        )
    );
    if internal || command.request_id.is_empty() || command.principal.is_empty() {
        return Err(Failure::invalid("this is no command of a client"));
    }
    Ok(control_core::command::validate(command)?)
}

impl Api {
    fn known(&self, id: NodeId) -> Option<ClusterMember> {
        let members = self.0.cluster.driver().members();
        members.borrow().iter().find(|m| m.node_id == id.0).cloned()
    }

    /// Whether it is a member now, and this its data directory.
    fn is_current(&self, member: &ClusterMember, incarnation: &str) -> bool {
        let known = self.0.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match member.incarnation.as_str() {
            "" => known.get(&NodeId(member.node_id)).map(String::as_str),
            joined => Some(joined),
        };
        member.role() != MemberRole::Removed && known.is_none_or(|known| known == incarnation)
    }

    /// Only a member, with the data directory it always had, hands commands on.
    async fn fence(&self, from: NodeId, incarnation: &str) -> Result<(), Failure> {
        if self.known(from).is_none() {
            telemetry::frame_dropped(PeerDrop::Stranger);
            let message = format!("node {from} is no member as far as this node knows");
            return Err(Failure::unavailable("NOT_A_MEMBER", message));
        }
        if self.is_new_incarnation(from, incarnation)? {
            let driver = self.0.cluster.driver();
            driver.remember_incarnation(from, incarnation.to_owned()).await?;
        }
        Ok(())
    }

    /// The first frame of a stream: one that is not known here must be known to others, or
    /// whoever has a certificate of a control node could ask for votes.
    pub(super) async fn admit(&self, from: NodeId, incarnation: &str) -> Result<(), Failure> {
        let cluster = &self.0.cluster;
        if self.known(from).is_some() || cluster.vouch(from, incarnation).await {
            return Ok(());
        }
        telemetry::frame_dropped(PeerDrop::Stranger);
        let message = format!("no member says that node {from} is one: let it join first");
        Err(Failure::unavailable("NOT_A_MEMBER", message))
    }

    /// Which member called.
    fn member(&self, extensions: &Extensions) -> Result<NodeId, Failure> {
        let caller = caller(extensions)?;
        let id = caller.name.parse().ok().map(NodeId).filter(|_| caller.kind == Kind::Control);
        let id = id.ok_or_else(|| Failure::denied(&caller))?;
        self.standing(id)?;
        Ok(id)
    }

    /// Refuses one that was removed. One that is not known yet may be known to a majority: this
    /// node lags.
    fn standing(&self, id: NodeId) -> Result<(), Failure> {
        if self.known(id).is_some_and(|member| member.role() == MemberRole::Removed) {
            let message = format!(
                "node {id} was removed from this cluster: join with a new node.id and an empty data_dir"
            );
            return Err(Failure::new(Code::FailedPrecondition, "REMOVED", message));
        }
        Ok(())
    }

    /// Lets a new node in as a learner, or recognises one that was let in before.
    async fn let_in(&self, caller: &Identity, member: ClusterMember) -> Result<(), Failure> {
        let id = member.node_id;
        if caller.name != id.to_string() || member.incarnation.is_empty() {
            return Err(Failure::invalid("member.node_id or incarnation is not the caller's"));
        }
        let members = self.0.cluster.driver().members();
        let known = members.borrow().iter().find(|m| m.node_id == id).cloned();
        let kind = match known {
            Some(known) if known.incarnation == member.incarnation => return Ok(()),
            Some(known) if !known.incarnation.is_empty() => {
                let message = format!("node {id} is a member with another data_dir");
                return Err(Failure::new(Code::FailedPrecondition, "INCARNATION", message));
            }
            // An operator announced it.
            Some(_) => member_change::Kind::Update(member.clone()),
            None => member_change::Kind::AddLearner(member.clone()),
        };
        let changes = vec![MemberChange { kind: Some(kind) }];
        let request_id = format!("join-{id}-{}", member.incarnation);
        let options = Some(WriteOptions { request_id, ..<_>::default() });
        let kind = command::Kind::ChangeMembers(ChangeMembers { changes });
        self.0.cluster.write(caller, options, kind).await?;
        Ok(())
    }

    async fn frames(
        &self,
        from: NodeId,
        mut frames: Streaming<RaftFrame>,
        acks: mpsc::Sender<Result<RaftAck, Status>>,
    ) {
        let mut stop = self.0.stop.clone();
        let mut admitted = false;
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame,
                _ = stop.wait_for(|stop| *stop) => return,
                () = acks.closed() => return,
            };
            let Ok(Some(frame)) = frame else { return };
            let taken = match admitted {
                true => self.frame(from, frame).await,
                false => match self.admit(from, &frame.incarnation).await {
                    Ok(()) => self.frame(from, frame).await,
                    Err(failure) => Err(failure),
                },
            };
            admitted = true;
            let ended = match taken {
                Ok(None) => false,
                // Fails when the peer is gone, or takes no answers.
                Ok(Some(ack)) => acks.try_send(Ok(ack)).is_err(),
                Err(failure) => {
                    let _ = acks.send(Err(failure.into())).await;
                    true
                }
            };
            if ended {
                return;
            }
        }
    }

    async fn frame(&self, from: NodeId, frame: RaftFrame) -> Result<Option<RaftAck>, Failure> {
        let driver = self.0.cluster.driver();
        self.0.cluster.check_group(frame.group).inspect_err(|_| {
            telemetry::frame_dropped(PeerDrop::Group);
        })?;
        self.check_frame(from, frame.from, frame.to, &frame.incarnation).await?;
        if let Some(ping) = frame.ping {
            let (level_min, level_max) = driver.levels();
            let pops = self.0.liveness.answer(&ping.pops);
            let pong = Pong { number: ping.number, wall_ms: wall_ms(), level_min, level_max, pops };
            return Ok(Some(RaftAck { pong: Some(pong), log_end: None }));
        }
        if frame.ask != 0 {
            let end = driver.log_end();
            let end = LogEnd { round: frame.ask, index: end.index, term: end.term };
            return Ok(Some(RaftAck { pong: None, log_end: Some(end) }));
        }
        telemetry::frame_received();
        driver.peer_message(from, Bytes::from(frame.message)).await?;
        Ok(None)
    }

    /// Whether it is from the node the certificate names, for this one, and from the data
    /// directory that node always had.
    pub(super) async fn check_frame(
        &self,
        caller: NodeId,
        from: u64,
        to: u64,
        incarnation: &str,
    ) -> Result<(), Failure> {
        let driver = self.0.cluster.driver();
        let own = driver.progress().borrow().node;
        if (from, to) != (caller.0, own.0) {
            telemetry::frame_dropped(PeerDrop::Sender);
            let message = format!("a frame from {from} to {to} came here");
            return Err(Failure::new(Code::FailedPrecondition, "WRONG_NODE", message));
        }
        // It may have been removed since its stream began.
        self.standing(caller)?;
        if self.is_new_incarnation(caller, incarnation)? {
            driver.remember_incarnation(caller, incarnation.to_owned()).await?;
        }
        Ok(())
    }

    /// Whether this is the first time it comes; refused if it came with another one before.
    fn is_new_incarnation(&self, from: NodeId, incarnation: &str) -> Result<bool, Failure> {
        let members = self.0.cluster.driver().members();
        let joined = members.borrow().iter().find(|m| m.node_id == from.0).cloned();
        let joined = joined.filter(|member| !member.incarnation.is_empty());
        if incarnation.is_empty() {
            telemetry::frame_dropped(PeerDrop::Incarnation);
            let message = format!(
                "incarnation is empty: node {from} must name its data_dir, as the version the \
                 other nodes run does"
            );
            return Err(Failure::invalid(message));
        }
        let mut known = self.0.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
        if joined.as_ref().is_some_and(|member| member.incarnation == incarnation) {
            return Ok(false);
        }
        let known_here = joined.as_ref().map(|member| &member.incarnation);
        match known_here.or(known.get(&from)) {
            Some(known) if known == incarnation => Ok(false),
            Some(_) => {
                telemetry::frame_dropped(PeerDrop::Incarnation);
                let message = format!(
                    "node {from} came with another data_dir than before, its votes and log are \
                     not in it: start it with its old data_dir"
                );
                Err(Failure::new(Code::FailedPrecondition, "INCARNATION", message))
            }
            None => {
                known.insert(from, incarnation.to_owned());
                Ok(true)
            }
        }
    }
}
