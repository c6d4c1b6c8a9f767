//! `meshctl control`: the control nodes themselves.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use proto::control::cluster_client::ClusterClient;
use proto::control::{
    ChangeMembersRequest, ClusterMember, ListMembersRequest, MemberChange, MemberRole,
    RaiseFeatureLevelRequest, TransferLeaderRequest, member_change,
};
use serde::Serialize;
use serde_json::json;

use crate::backup;
use crate::cli::{Read, Write};
use crate::connect::{Mesh, options};
use crate::data::{self, Data};
use crate::table::Printer;

/// Between two looks at a learner that catches up.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(crate) enum Control {
    /// Show how each control node stands; exits 0 if there is a leader and a majority answers
    Status,
    /// Who the control nodes are, and who of them votes
    #[command(subcommand)]
    Members(Members),
    /// Hand leadership to another voter
    TransferLeader {
        /// Node id [default: the best voter]
        id: Option<u64>,
    },
    #[command(flatten)]
    Data(Data),
    /// Allow commands of a newer version, once all members know them (happens by itself)
    RaiseFeatureLevel {
        /// The new level
        level: u32,
        #[command(flatten)]
        write: Write,
    },
}

#[derive(Subcommand)]
pub(crate) enum Members {
    /// List them, removed ones too
    List(Read),
    /// Announce a new node: it gets the log and no vote
    Add(New),
    /// Give a learner that has caught up a vote
    Promote(Known),
    /// Take a voter's vote; it goes on to get the log
    Demote(Known),
    /// Remove one; its id is never used again
    Remove(Known),
    /// Give a learner the vote of another member and remove that one, in one change
    Replace {
        /// Who goes
        old: u64,
        /// The learner that takes its place
        new: u64,
        /// Seconds to wait until the learner has caught up
        #[arg(long, default_value_t = 60)]
        wait: u64,
        #[command(flatten)]
        write: Write,
    },
    /// Change where a member is
    Update(New),
}

#[derive(Args)]
pub(crate) struct New {
    /// Node id, never used before
    id: u64,
    /// host:port of its API
    #[arg(long)]
    address: String,
    /// Where it stands
    #[arg(long)]
    region: String,
    /// The highest leads among equals
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i64,
    #[command(flatten)]
    write: Write,
}

#[derive(Args)]
pub(crate) struct Known {
    /// Node id
    id: u64,
    #[command(flatten)]
    write: Write,
}

#[derive(Serialize)]
struct MemberDoc {
    node_id: u64,
    role: &'static str,
    address: String,
    region: String,
    priority: i64,
}

pub(crate) async fn run(command: Control, mesh: &Mesh, printer: &Printer) -> Result<ExitCode> {
    match command {
        Control::Status => return crate::status::run(mesh, printer).await,
        Control::Members(command) => members(command, mesh, printer).await?,
        Control::Data(Data::Backup { to, data_dir: None }) => {
            backup::run(&to, mesh, printer).await?
        }
        Control::Data(command) => data::run(&command, printer)?,
        Control::TransferLeader { id } => {
            let leader = transfer(id.unwrap_or(0), mesh).await?;
            let said = format!("node {leader} leads");
            printer.done(&json!({ "leader_id": leader }), &said)?;
        }
        Control::RaiseFeatureLevel { level, write } => {
            let request =
                RaiseFeatureLevelRequest { options: options(&write), feature_level: level };
            let ask = async |channel, request| {
                ClusterClient::new(channel).raise_feature_level(request).await
            };
            mesh.call(request, ask).await?;
            let said = format!("the feature level is {level}");
            printer.done(&json!({ "feature_level": level }), &said)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Only the leader hands over: each node is asked.
async fn transfer(node_id: u64, mesh: &Mesh) -> Result<u64> {
    let request = TransferLeaderRequest { node_id };
    let ask = async |channel, request| ClusterClient::new(channel).transfer_leader(request).await;
    Ok(mesh.call(request, ask).await?.leader_id)
}

async fn members(command: Members, mesh: &Mesh, printer: &Printer) -> Result<()> {
    use member_change::Kind::{AddLearner, Demote, Promote, Remove, Update};
    let (said, kinds, write) = match command {
        Members::List(read) => return list(read, mesh, printer).await,
        Members::Replace { old, new, wait, write } => {
            return replace((old, new), Duration::from_secs(wait), &write, mesh, printer).await;
        }
        Members::Add(new) => {
            (format!("node {} learns", new.id), AddLearner(member(&new)), new.write)
        }
        Members::Update(new) => {
            (format!("node {} is at {}", new.id, new.address), Update(member(&new)), new.write)
        }
        Members::Promote(one) => (format!("node {} votes", one.id), Promote(one.id), one.write),
        Members::Demote(one) => (format!("node {} learns", one.id), Demote(one.id), one.write),
        Members::Remove(one) => (format!("node {} is removed", one.id), Remove(one.id), one.write),
    };
    change(&said, vec![kinds], &write, mesh, printer).await
}

fn member(new: &New) -> ClusterMember {
    ClusterMember {
        node_id: new.id,
        address: new.address.clone(),
        region: new.region.clone(),
        priority: new.priority,
        ..ClusterMember::default()
    }
}

/// The new one votes before the old one is gone.
async fn replace(
    (old, new): (u64, u64),
    wait: Duration,
    write: &Write,
    mesh: &Mesh,
    printer: &Printer,
) -> Result<()> {
    let deadline = Instant::now() + wait;
    let said = format!("node {new} votes in place of node {old}");
    loop {
        let kinds = vec![member_change::Kind::Promote(new), member_change::Kind::Remove(old)];
        match change(&said, kinds, write, mesh, printer).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                let text = format!("{error:#}");
                let waits = text.contains("NOT_CAUGHT_UP") || text.contains("NOT_HEARD");
                if !waits || Instant::now() >= deadline {
                    bail!("{text}");
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn change(
    said: &str,
    kinds: Vec<member_change::Kind>,
    write: &Write,
    mesh: &Mesh,
    printer: &Printer,
) -> Result<()> {
    let changes = kinds.into_iter().map(|kind| MemberChange { kind: Some(kind) }).collect();
    let request = ChangeMembersRequest { options: options(write), changes };
    let ask = async |channel, request| ClusterClient::new(channel).change_members(request).await;
    mesh.call(request, ask).await?;
    printer.done(&json!({ "done": said }), said)
}

async fn list(read: Read, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let request = ListMembersRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| ClusterClient::new(channel).list_members(request).await;
    let answer = mesh.call(request, ask).await?;
    let members: Vec<MemberDoc> = answer.members.iter().map(document).collect();
    let rows: Vec<Vec<String>> = members.iter().map(row).collect();
    let document = json!({
        "feature_level": answer.feature_level,
        "joint": answer.joint,
        "members": members,
    });
    printer.list(&document, &["NODE", "ROLE", "ADDRESS", "REGION", "PRIORITY"], &rows)
}

fn document(member: &ClusterMember) -> MemberDoc {
    let role = match member.role() {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Removed => "removed",
        MemberRole::Unspecified => "unknown",
    };
    MemberDoc {
        node_id: member.node_id,
        role,
        address: member.address.clone(),
        region: member.region.clone(),
        priority: member.priority,
    }
}

fn row(member: &MemberDoc) -> Vec<String> {
    let MemberDoc { node_id, role, address, region, priority } = member;
    vec![node_id.to_string(), (*role).into(), address.clone(), region.clone(), priority.to_string()]
}
