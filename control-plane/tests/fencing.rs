//! Who is no member has no say, whatever certificate it has.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use cluster::{Cluster, Node, eventually, metrics};
use proto::control::StatusRequest;
use proto::control::admin_client::AdminClient;
use proto::identity::Kind;
use proto::raft::peer_client::PeerClient;
use proto::raft::{Command, Ping, ProposeRequest, RaftFrame, VouchRequest, command};
use tonic::transport::Channel;
use tonic::{Code, Status};

fn reason(status: &Status) -> &str {
    status.metadata().get("voxmesh-reason").map_or("", |reason| reason.to_str().unwrap())
}

/// How a stream of this one frame ends.
async fn frame(channel: Channel, frame: RaftFrame) -> Status {
    let frames = tokio_stream::iter([frame]);
    let mut acks = PeerClient::new(channel).stream(frames).await.unwrap().into_inner();
    match acks.message().await {
        Err(status) => status,
        Ok(answer) => panic!("{answer:?}"),
    }
}

/// What a client might have asked.
fn write(id: &str) -> Command {
    let kind = Some(command::Kind::DeleteRoute("none".into()));
    Command { request_id: id.into(), principal: "operator/anna".into(), kind }
}

async fn propose(channel: Channel, incarnation: &str) -> Status {
    let (command, incarnation) = (Some(write("w")), incarnation.to_owned());
    let request = ProposeRequest { command, incarnation, ..ProposeRequest::default() };
    PeerClient::new(channel).propose(request).await.unwrap_err()
}

async fn revision(cluster: &Cluster, node: &Node) -> u64 {
    let mut admin = AdminClient::new(cluster.channel(node, "anna"));
    admin.status(StatusRequest {}).await.unwrap().into_inner().header.unwrap().revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_no_member_cannot_speak_raft_nor_propose() {
    let cluster = Cluster::start().await;
    cluster.issue("ca", Kind::Control, "9", "eu");
    for node in cluster.alive() {
        let stranger = RaftFrame {
            from: 9,
            to: node.id,
            incarnation: "made up".into(),
            ping: Some(Ping::default()),
            ..RaftFrame::default()
        };
        let refused = frame(cluster.channel(node, "control-9"), stranger).await;
        assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "NOT_A_MEMBER"));
        let refused = propose(cluster.channel(node, "control-9"), "made up").await;
        assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "NOT_A_MEMBER"));
        let vouched = PeerClient::new(cluster.channel(node, "control-9"))
            .vouch(VouchRequest { node_id: 9, incarnation: "made up".into() })
            .await
            .unwrap();
        assert!(!vouched.into_inner().member);
        assert!(metrics(node).contains("control_peer_dropped_frames_total{reason=\"stranger\"} 2"));
    }

    // A member that does not say with which data directory it comes may be any of the two.
    for node in cluster.alive().filter(|node| node.id != 2) {
        let before = revision(&cluster, node).await;
        let refused = propose(cluster.channel(node, "control-2"), "").await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("incarnation is empty"), "{refused:?}");
        assert_eq!(revision(&cluster, node).await, before, "nothing was proposed");
        assert!(metrics(node).contains("reason=\"incarnation\"} 1"));
    }

    // A member's name with another data directory: stolen, or wiped.
    let node = cluster.alive().find(|node| node.id != 2).unwrap();
    let stolen = RaftFrame {
        from: 2,
        to: node.id,
        incarnation: "another".into(),
        ping: Some(Ping::default()),
        ..RaftFrame::default()
    };
    // Members greet each other within moments of their start.
    eventually("node 2 is known with its own data directory", async || {
        let refused = propose(cluster.channel(node, "control-2"), "another").await;
        (reason(&refused) == "INCARNATION").then_some(())
    })
    .await;
    let refused = frame(cluster.channel(node, "control-2"), stolen).await;
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "INCARNATION"));
    cluster.stop().await;
}
