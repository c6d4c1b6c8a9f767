//! `meshctl status`: every node is asked, so that one that is missing shows.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use proto::control::admin_client::AdminClient;
use proto::control::{StatusRequest, StatusResponse};
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::connect::Mesh;
use crate::refusal::describe;
use crate::table::Printer;

/// A node that takes longer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Document {
    cluster_id: String,
    leader_id: u64,
    /// Whom leadership goes to when all is calm; 0: all are alike.
    preferred_id: u64,
    members: Vec<MemberDoc>,
    nodes: Vec<NodeDoc>,
    healthy: bool,
}

#[derive(Serialize, Clone, PartialEq, Eq)]
struct MemberDoc {
    node_id: u64,
    address: String,
    region: String,
    match_index: u64,
    priority: i64,
}

#[derive(Serialize)]
struct NodeDoc {
    address: String,
    node_id: Option<u64>,
    priority: Option<i64>,
    role: Option<String>,
    leader_id: Option<u64>,
    term: Option<u64>,
    commit_index: Option<u64>,
    applied_index: Option<u64>,
    revision: Option<u64>,
    version: Option<String>,
    error: Option<String>,
}

/// Prints the nodes; success if one leads and a majority of the members answered.
pub(crate) async fn run(mesh: &Mesh, printer: &Printer) -> Result<ExitCode> {
    let mut answers = Vec::new();
    for (address, channel) in mesh.nodes() {
        // Asked all at once: several that are gone cost one wait.
        answers.push((address.to_owned(), tokio::spawn(ask(channel))));
    }
    let mut found = Vec::new();
    for (address, answer) in answers {
        let answer = answer.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())));
        found.push((address, answer));
    }
    let document = document(&found);
    let healthy = document.healthy;
    let rows: Vec<Vec<String>> = document.nodes.iter().map(row).collect();
    let head = [
        "NODE", "ADDRESS", "ROLE", "LEADER", "PRIORITY", "TERM", "COMMIT", "APPLIED", "REVISION",
        "VERSION",
    ];
    printer.list(&document, &head, &rows)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(channel: Channel) -> Result<StatusResponse, Status> {
    let mut request = Request::new(StatusRequest {});
    request.set_timeout(PATIENCE);
    let mut client = AdminClient::new(channel);
    match tokio::time::timeout(PATIENCE, client.status(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn document(found: &[(String, Result<StatusResponse, Status>)]) -> Document {
    let answers = || found.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    let leader = answers().find(|answer| answer.role == "leader");
    let best = leader.or_else(|| answers().next());
    let members: Vec<MemberDoc> = best.map(members).unwrap_or_default();
    let header = best.and_then(|answer| answer.header.clone()).unwrap_or_default();
    // One node may be given twice, under two addresses.
    let ids = answers().filter_map(|answer| Some(answer.header.as_ref()?.node_id));
    let majority = ids.collect::<BTreeSet<_>>().len() > members.len() / 2;
    Document {
        cluster_id: header.cluster_id,
        leader_id: leader.map_or(0, |answer| answer.leader_id),
        nodes: found.iter().map(|(address, answer)| node(address, answer, &members)).collect(),
        preferred_id: preferred(&members),
        members,
        healthy: leader.is_some() && majority,
    }
}

fn members(answer: &StatusResponse) -> Vec<MemberDoc> {
    let members = answer.members.iter().cloned();
    members
        .map(|member| MemberDoc {
            node_id: member.node_id,
            address: member.address,
            region: member.region,
            match_index: member.match_index,
            priority: member.priority,
        })
        .collect()
}

/// The one member of the highest priority.
fn preferred(members: &[MemberDoc]) -> u64 {
    let highest = members.iter().map(|member| member.priority).max();
    let mut best = members.iter().filter(|member| Some(member.priority) == highest);
    match (best.next(), best.next()) {
        (Some(only), None) => only.node_id,
        _ => 0,
    }
}

fn node(address: &str, answer: &Result<StatusResponse, Status>, members: &[MemberDoc]) -> NodeDoc {
    let error = answer.as_ref().err().map(describe);
    let answer = answer.as_ref().ok();
    let header = answer.and_then(|answer| answer.header.as_ref());
    NodeDoc {
        address: address.into(),
        node_id: header.map(|h| h.node_id),
        priority: header.and_then(|h| {
            Some(members.iter().find(|member| member.node_id == h.node_id)?.priority)
        }),
        role: answer.map(|a| a.role.clone()),
        leader_id: answer.map(|a| a.leader_id),
        term: header.map(|h| h.term),
        commit_index: answer.map(|a| a.commit_index),
        applied_index: answer.map(|a| a.applied_index),
        revision: header.map(|h| h.revision),
        version: answer.map(|a| a.version.clone()),
        error,
    }
}

fn row(node: &NodeDoc) -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let role = match (&node.role, &node.error) {
        (Some(role), _) => role.clone(),
        (None, error) => format!("({})", error.as_deref().unwrap_or("no answer")),
    };
    vec![
        number(node.node_id),
        node.address.clone(),
        role,
        number(node.leader_id.filter(|leader| *leader > 0)),
        node.priority.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        number(node.term),
        number(node.commit_index),
        number(node.applied_index),
        number(node.revision),
        node.version.clone().unwrap_or_else(|| "-".into()),
    ]
}

#[cfg(test)]
mod tests {
    use proto::control::{Member, ResponseHeader};

    use super::*;

    fn answer(node_id: u64, role: &str) -> Result<StatusResponse, Status> {
        let member = |node_id| Member { node_id, ..Member::default() };
        let members = vec![member(1), member(2), member(3)];
        let header = Some(ResponseHeader { node_id, ..<_>::default() });
        Ok(StatusResponse { header, role: role.into(), leader_id: 1, members, ..<_>::default() })
    }

    #[test]
    fn health_needs_a_leader_and_a_majority() {
        let gone = || Err(Status::unavailable("gone"));
        let healthy = |answers: Vec<Result<StatusResponse, Status>>| {
            let found: Vec<_> = answers.into_iter().map(|a| (String::from("x"), a)).collect();
            document(&found).healthy
        };
        assert!(healthy(vec![answer(1, "leader"), answer(2, "follower"), gone()]));
        assert!(!healthy(vec![answer(3, "follower"), answer(2, "follower"), gone()]));
        assert!(!healthy(vec![answer(1, "leader"), gone(), gone()]));
        assert!(!healthy(vec![answer(1, "leader"), answer(1, "leader"), gone()]));
        assert!(!healthy(vec![gone(), gone(), gone()]));
    }

    #[test]
    fn one_member_of_the_highest_priority_is_preferred() {
        let member = |node_id, priority| MemberDoc {
            node_id,
            address: String::new(),
            region: String::new(),
            match_index: 0,
            priority,
        };
        assert_eq!(preferred(&[member(1, 0), member(2, 5), member(3, 1)]), 2);
        assert_eq!(preferred(&[member(1, 5), member(2, 5)]), 0);
        assert_eq!(preferred(&[]), 0);
    }
}
