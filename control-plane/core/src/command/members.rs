//! Changes of the control nodes.

use proto::control::{ClusterMember, member_change};
use proto::raft::ChangeMembers;

use super::{Check, address, label};
use crate::replica::LEVELS;

/// More than a replacement of all voters at once.
const CHANGES_MAX: usize = 16;

pub(super) fn check(change: &ChangeMembers) -> Check {
    let count = change.changes.len();
    if count == 0 || count > CHANGES_MAX {
        return Err(format!("{count} changes of members: 1 to {CHANGES_MAX}"));
    }
    let mut seen = Vec::new();
    for change in &change.changes {
        let id = match &change.kind {
            Some(member_change::Kind::AddLearner(member) | member_change::Kind::Update(member)) => {
                check_member(member)?
            }
            Some(
                member_change::Kind::Promote(id)
                | member_change::Kind::Demote(id)
                | member_change::Kind::Remove(id),
            ) => *id,
            None => return Err("a change names nothing to do".into()),
        };
        if id == 0 || seen.contains(&id) {
            return Err(format!("node_id {id} is 0 or named twice"));
        }
        seen.push(id);
    }
    Ok(())
}

fn check_member(member: &ClusterMember) -> Result<u64, String> {
    address("address", &member.address)?;
    label("region", &member.region)?;
    if member.incarnation.len() > 64 {
        return Err("incarnation is longer than 64 bytes".into());
    }
    Ok(member.node_id)
}

pub(super) fn check_level(level: u32) -> Check {
    let (_, newest) = LEVELS;
    if level == 0 || level > newest {
        return Err(format!("feature_level {level} is not one this node knows: 1 to {newest}"));
    }
    Ok(())
}
