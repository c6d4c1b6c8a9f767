//! Which commands make the state grow: refused while the disk is low. Everything that frees, ends
//! or keeps the mesh running goes on.

use proto::raft::command::Kind;
use tonic::Code;

use super::Failure;
use crate::wal::Health;

/// What is refused while the disk of this node is low.
pub(super) fn check(
    node: proto::id::NodeId,
    health: &Health,
    kind: Option<&Kind>,
) -> Result<(), Failure> {
    if !health.is_low() || !kind.is_some_and(grows) {
        return Ok(());
    }
    let (free, path) = (health.free_bytes() / (1024 * 1024), health.dir().display());
    let low = health.marks().low_bytes / (1024 * 1024);
    let message = format!(
        "the disk of node {node} has {free} MiB free below {path}, the low-water mark is {low} MiB"
    );
    Err(Failure::new(Code::ResourceExhausted, "STORAGE_LOW", message)
        .with("node", node)
        .with("path", path))
}

fn grows(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::RegisterPop(_)
            | Kind::DeleteTrunk(_)
            | Kind::DeleteRoute(_)
            | Kind::ReleaseNumber(_)
            | Kind::AdvanceClock(_)
            | Kind::InitCluster(_)
            | Kind::HashCheck(_)
            | Kind::RecordPops(_)
            | Kind::SteerPop(_)
            | Kind::DeleteRole(_)
            | Kind::Unbind(_)
            | Kind::CancelReservation(_)
            | Kind::RejectNumber(_)
            | Kind::SuspendNumber(_)
            | Kind::ResumeNumber(_)
            | Kind::DecommissionNumbers(_)
            | Kind::DeleteTenant(_)
            | Kind::DeleteRequirement(_)
            | Kind::DeleteNumberPolicy(_)
            | Kind::DeleteComplianceRecord(_)
    )
}

#[cfg(test)]
mod tests {
    use proto::id::NodeId;

    use super::*;

    #[test]
    fn a_low_disk_refuses_growth_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let health = Health::new(dir.path(), Some(u64::MAX / 16));
        let (put, release) = (Kind::PutTrunk(<_>::default()), Kind::ReleaseNumber(<_>::default()));
        assert_eq!(check(NodeId(2), &health, Some(&put)), Ok(()));
        health.look();
        let refused = check(NodeId(2), &health, Some(&put)).unwrap_err();
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::ResourceExhausted, "STORAGE_LOW")
        );
        let path = dir.path().display().to_string();
        assert!(refused.message.contains("node 2") && refused.message.contains(&path));
        assert_eq!(check(NodeId(2), &health, Some(&release)), Ok(()));
    }
}
