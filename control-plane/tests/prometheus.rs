//! What a node shows on /metrics, as Prometheus reads it.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::io::Write as _;
use std::process::{Command, Stdio};

use cluster::tools::put_trunk;
use cluster::{Cluster, metrics};

/// The value of a sample without labels.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_takes_what_a_node_shows() {
    let cluster = Cluster::start().await;
    put_trunk(&cluster).await;
    let leader = cluster.leader().await;
    for node in cluster.alive() {
        let answer = metrics(node);
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut promtool = promtool.unwrap_or_else(|error| {
            panic!("promtool does not run ({error}): install the Debian package prometheus")
        });
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = promtool.wait_with_output().unwrap();
        let words = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
        assert!(said.status.success() && words.is_empty(), "node {}: {words}\n{text}", node.id);
        // Committing takes a round trip and a sync, applying neither: two metrics.
        assert!(value(text, "control_apply_seconds_count") > 0.0);
        if node.id == leader {
            assert!(value(text, "control_commit_seconds_count") > 0.0);
        }
    }
    cluster.stop().await;
}
