//! The state of a cluster that begins anew from what another left: restored or recovered.

use super::tables::Meta;
use super::{Conf, State, Store};

impl<S: Store> State<S> {
    /// Other voters, another name, and revisions that no watcher of the old cluster has seen.
    /// Never part of the log: a cluster that runs changes by commands only.
    pub fn found_anew(&mut self, voters: &[u64], cluster_id: &str, revisions: u64) {
        self.set_conf(&Conf { voters: voters.to_vec(), ..Conf::default() });
        self.tables.put_meta(Meta::Cluster, cluster_id.as_bytes().to_vec());
        let revision = self.revision().0.saturating_add(revisions);
        self.tables.put_meta_u64(Meta::Revision, revision);
    }
}
