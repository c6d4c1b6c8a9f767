//! What tables say about themselves, read from their rows without loading them: for snapshots and
//! backups, which pass them on.

use std::collections::BTreeSet;

use proto::control::ClusterMember;
use proto::id::Revision;

use super::Conf;
use super::tables::{Meta, Record as _};

/// A few single values of the tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headline {
    /// Name of the cluster; empty before it has one.
    pub cluster_id: String,
    /// Of the tables.
    pub revision: Revision,
    /// Unix ms, as leaders stamped it.
    pub log_time_ms: u64,
    /// Newest commands the log may hold.
    pub feature_level: u32,
    /// Who takes part.
    pub conf: Conf,
    /// All that are or were members.
    members: BTreeSet<u64>,
}

impl Headline {
    /// Takes note of a row; most say nothing.
    pub fn note(&mut self, key: &[u8], value: &[u8]) {
        let number = || value.try_into().map_or(0, u64::from_le_bytes);
        if key == Meta::Cluster.key() {
            self.cluster_id = String::from_utf8_lossy(value).into_owned();
        } else if key == Meta::Revision.key() {
            self.revision = Revision(number());
        } else if key == Meta::LogTime.key() {
            self.log_time_ms = number();
        } else if key == Meta::FeatureLevel.key() {
            self.feature_level = u32::try_from(number()).unwrap_or(u32::MAX);
        } else if key == Meta::Conf.key() {
            self.conf = prost::Message::decode(value).unwrap_or_default();
        } else if key.first() == Some(&ClusterMember::TABLE) {
            let member: ClusterMember = prost::Message::decode(value).unwrap_or_default();
            self.members.insert(member.node_id);
        }
    }

    /// As [`super::State::is_removed`].
    pub fn is_removed(&self, id: u64) -> bool {
        !self.conf.voters.is_empty() && !self.conf.contains(id) && self.members.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn rows_say_what_the_state_says() {
        let mut state = State::bootstrap(&[1, 2, 3]);
        state.found_anew(&[4, 5, 6], "a-cluster", 77);
        let mut headline = Headline::default();
        state.entries().for_each(|(key, value)| headline.note(key, value));
        assert_eq!(headline.cluster_id, state.cluster_id());
        assert_eq!((headline.revision, &headline.conf), (state.revision(), &state.conf()));
        assert_eq!(headline.log_time_ms, state.log_time_ms());
        assert!(headline.conf.is_sound() && !headline.is_removed(4));
    }
}
