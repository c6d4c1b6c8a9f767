//! What several tests ask of a cluster.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use proto::control::routing_client::RoutingClient;
use proto::control::{PutTrunkRequest, Trunk, WriteOptions};
use serde_json::Value;

use super::Cluster;

/// Stores one trunk, through whichever node does it.
pub(crate) async fn put_trunk(cluster: &Cluster) {
    let (pop_ids, host) = (vec!["fra1".into()], "192.0.2.1".into());
    let trunk = Trunk { trunk_id: "t".into(), pop_ids, host, ..Trunk::default() };
    let options = Some(WriteOptions { request_id: "put".into(), ..<_>::default() });
    let request = PutTrunkRequest { options, trunk: Some(trunk) };
    let ask = async |channel, request| RoutingClient::new(channel).put_trunk(request).await;
    cluster.write(request, ask).await;
}

/// `meshctl control …`: its JSON, or what it said when it refused.
#[expect(clippy::unwrap_in_result, reason = "only refusals are an answer")]
pub(crate) fn control(cluster: &Cluster, arguments: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(cluster.connection("anna")).args(["--output", "json", "control"]);
    let output = command.args(arguments).envs(cluster.environment.clone()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    if output.status.success() { Ok(serde_json::from_str(&text).unwrap()) } else { Err(text) }
}

/// `meshctl control restore` of the data directory of a node.
pub(crate) fn restore(
    cluster: &Cluster,
    from: impl AsRef<OsStr>,
    node: u64,
    to: &Path,
    more: &[&str],
) -> Result<Value, String> {
    let from = from.as_ref().to_str().unwrap();
    let (to, node) = (to.to_str().unwrap(), node.to_string());
    let flags = ["restore", "--from", from, "--data-dir", to, "--mesh", "demo", "--node", &node];
    control(cluster, &[&flags, more].concat())
}
