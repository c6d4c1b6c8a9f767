//! `Cluster`: who the control nodes are, who leads, which commands the log may hold.

use control_core::replica::{MembersError, Replica, TransferError};
use proto::control::cluster_server::Cluster;
use proto::control::{
    BackupRequest, ChangeMembersRequest, ChangeMembersResponse, ClusterMember, ListMembersRequest,
    ListMembersResponse, RaiseFeatureLevelRequest, RaiseFeatureLevelResponse,
    TransferLeaderRequest, TransferLeaderResponse,
};
use proto::id::NodeId;
use proto::raft::{ChangeMembers, command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::read::Reads;
use super::transfer::{BackupParts, PIECES, send_backup};
use super::{Answer, Api, Failure, answer, authorise};
use crate::access::Gate;
use crate::driver::Driver;

#[tonic::async_trait]
impl Cluster for Api {
    type BackupStream = BackupParts;

    async fn backup(&self, request: Request<BackupRequest>) -> Answer<BackupParts> {
        answer("Cluster.Backup", async {
            let gate = request.extensions().get::<Gate>().cloned();
            let (caller, _) = authorise(request)?;
            // It holds the passwords of trunks.
            let gate = gate.ok_or_else(|| Failure::denied(&caller))?;
            gate.check(&caller, "reveal", "trunks")?;
            let permit = self.0.backups.clone().try_acquire_owned();
            let permit = permit.map_err(|_| Failure::overloaded())?;
            self.0.reads.note(&caller, "trunks/passwords");
            let (spool, head) = self.fresh_spool().await?;
            let (parts, receiver) = mpsc::channel(PIECES);
            tokio::spawn(async move {
                send_backup(spool, head, parts).await;
                drop(permit);
            });
            let parts: BackupParts = Box::pin(ReceiverStream::new(receiver));
            Ok(parts)
        })
        .await
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Answer<ListMembersResponse> {
        answer("Cluster.ListMembers", async {
            let (_, request) = authorise(request)?;
            let look = |replica: &Replica| {
                let state = replica.state();
                let members: Vec<ClusterMember> = state.members().collect();
                (members, state.conf().is_joint(), replica.feature_level())
            };
            let (found, header) = self.0.cluster.read(request.freshness()?, look).await?;
            let (members, joint, feature_level) = found;
            Ok(ListMembersResponse { header: Some(header), members, joint, feature_level })
        })
        .await
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Answer<ChangeMembersResponse> {
        answer("Cluster.ChangeMembers", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::ChangeMembers(ChangeMembers { changes: request.changes });
            let (_, header) = self.0.cluster.write(&caller, request.options, kind).await?;
            Ok(ChangeMembersResponse { header: Some(header) })
        })
        .await
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Answer<TransferLeaderResponse> {
        answer("Cluster.TransferLeader", async {
            let (_, request) = authorise(request)?;
            let to = Some(NodeId(request.node_id)).filter(|id| id.0 > 0);
            let leader = transfer(self.0.cluster.driver(), to).await?;
            Ok(TransferLeaderResponse { leader_id: leader.0 })
        })
        .await
    }

    async fn raise_feature_level(
        &self,
        request: Request<RaiseFeatureLevelRequest>,
    ) -> Answer<RaiseFeatureLevelResponse> {
        answer("Cluster.RaiseFeatureLevel", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::SetFeatureLevel(request.feature_level);
            let (_, header) = self.0.cluster.write(&caller, request.options, kind).await?;
            Ok(RaiseFeatureLevelResponse { header: Some(header) })
        })
        .await
    }
}

/// Hands over and waits until another node leads.
async fn transfer(driver: &Driver, to: Option<NodeId>) -> Result<NodeId, Failure> {
    let chosen = driver.transfer_leader(to).await?.map_err(refused)?;
    let mut progress = driver.progress();
    let taken = progress.wait_for(|progress| !progress.leads && progress.leader.is_some());
    match tokio::time::timeout(super::TRANSFER, taken).await {
        Ok(Ok(progress)) => Ok(progress.leader.unwrap_or(chosen)),
        Ok(Err(_)) => Err(crate::driver::Stopped.into()),
        Err(_) => {
            let message = format!("node {chosen} did not take over in time: this node leads on");
            Err(Failure::unavailable("NOT_TAKEN", message))
        }
    }
}

fn refused(error: TransferError) -> Failure {
    match error {
        TransferError::NoCandidate => {
            Failure::new(Code::FailedPrecondition, "NO_CANDIDATE", error.to_string())
        }
        TransferError::NotLeader { leader } => {
            let leader = leader.map_or_else(|| "nobody".to_owned(), |l| format!("node {l}"));
            let message = format!("this node does not lead, {leader} does: ask there");
            Failure::new(Code::Unavailable, super::cluster::NOT_LEADER, message)
        }
    }
}

impl From<MembersError> for Failure {
    fn from(error: MembersError) -> Self {
        let reason = match error {
            MembersError::InProgress => {
                return Self::unavailable("CHANGE_IN_PROGRESS", error.to_string());
            }
            MembersError::Behind { .. } => "NOT_CAUGHT_UP",
            MembersError::FeatureLevel { .. } | MembersError::Unsupported { .. } => "FEATURE_LEVEL",
            MembersError::NoQuorum { .. } => "WOULD_LOSE_QUORUM",
            MembersError::NoSuccessor => "NO_CANDIDATE",
            MembersError::NotHeard { .. } => "NOT_HEARD",
        };
        Self::new(Code::FailedPrecondition, reason, error.to_string())
    }
}
