//! `Admin`: how this node stands.

use control_core::replica::Replica;
use proto::control::admin_server::Admin;
use proto::control::{Member, MemberRole, StatusRequest, StatusResponse};
use tonic::Request;

use super::{Answer, Api, answer, authorise};
use crate::driver::Progress;

#[tonic::async_trait]
impl Admin for Api {
    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answer("Admin.Status", async {
            authorise(request)?;
            let driver = self.0.cluster.driver();
            let look = |replica: &Replica| (replica.status(), Progress::of(replica).header());
            let (status, header) = driver.query(look).await?;
            let all = driver.members().borrow().clone();
            let members = all.iter().filter(|member| member.role() != MemberRole::Removed);
            let members = members.map(|member| {
                let known = status.match_index.iter().find(|(id, _)| id.0 == member.node_id);
                Member {
                    node_id: member.node_id,
                    address: member.address.clone(),
                    region: member.region.clone(),
                    match_index: known.map_or(0, |(_, index)| *index),
                    priority: member.priority,
                }
            });
            Ok(StatusResponse {
                header: Some(header),
                leader_id: status.leader.map_or(0, |leader| leader.0),
                role: status.role.as_str().into(),
                commit_index: status.commit,
                applied_index: status.applied,
                first_index: status.first_index,
                last_index: status.last_index,
                members: members.collect(),
                version: env!("CARGO_PKG_VERSION").into(),
            })
        })
        .await
    }
}
