//! The state of a cluster that begins anew from what another left: restored or recovered.

use proto::control::ClusterMember;

use super::tables::{Meta, Record as _};
use super::{Conf, State, Store};

impl<S: Store> State<S> {
    /// Other voters, another name, and revisions that no watcher of the old cluster has seen.
    /// Who was a member of the old one, where and with which data directory, is forgotten: the
    /// first leader founds the members its configuration names.
    /// Never part of the log: a cluster that runs changes by commands only.
    pub fn found_anew(&mut self, voters: &[u64], cluster_id: &str, revisions: u64) {
        self.set_conf(&Conf { voters: voters.to_vec(), ..Conf::default() });
        let members: Vec<_> = self.members().map(|member| member.name()).collect();
        members.iter().for_each(|name| self.tables.delete::<ClusterMember>(name));
        self.tables.put_meta(Meta::Cluster, cluster_id.as_bytes().to_vec());
        let revision = self.revision().0.saturating_add(revisions);
        self.tables.put_meta_u64(Meta::Revision, revision);
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::command::Kind;
    use proto::raft::{Command, FoundMembers};

    use super::*;

    #[test]
    fn who_was_a_member_is_forgotten() {
        let member = |id| ClusterMember { node_id: id, ..ClusterMember::default() };
        let found = |ids: &[u64]| {
            let members = ids.iter().copied().map(member).collect();
            Command {
                kind: Some(Kind::FoundMembers(FoundMembers { members })),
                ..Command::default()
            }
        };
        let mut state = State::bootstrap(&[1, 2, 3]);
        state.apply(1, &found(&[1, 2, 3]));
        state.found_anew(&[1, 4], "new", 9);
        assert_eq!((state.members().count(), state.is_removed(2)), (0, false));
        state.apply(2, &found(&[1, 4]));
        assert_eq!(state.members().map(|m| m.node_id).collect::<Vec<_>>(), [1, 4]);
    }
}
