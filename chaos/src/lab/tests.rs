//! The lab with nodes that are shell scripts: what it promises whatever the nodes do.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A directory with these scripts as `control-plane` and `pop-node`.
fn nodes(script: &str) -> (TempDir, Topology) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["control-plane", "pop-node"] {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let topology = Topology::three_regions(dir.path());
    (dir, topology)
}

#[tokio::test]
async fn a_node_that_ends_is_quoted_and_nothing_is_left() {
    let (_dir, topology) = nodes("echo \"cannot work: the moon is full\"; exit 3");
    let mut mesh = Mesh::prepare(&topology).unwrap();
    let directory = mesh.dir().to_owned();
    assert!(directory.join("fra1.toml").exists() && directory.join("pki/control-1.key").exists());
    mesh.launch().unwrap();
    let why = mesh.ready(Duration::from_secs(20)).await.unwrap_err().to_string();
    assert!(why.contains("the moon is full") && why.contains("exit status: 3"), "{why}");
    drop(mesh);
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_node_that_never_gets_ready_is_named() {
    let (_dir, topology) = nodes("echo thinking; exec sleep 1000");
    let mut mesh = Mesh::prepare(&topology).unwrap();
    mesh.launch().unwrap();
    let why = mesh.ready(Duration::from_millis(200)).await.unwrap_err().to_string();
    assert!(why.contains("control-1 is not ready") && why.contains("/healthz"), "{why}");
}

#[tokio::test]
async fn nodes_are_killed_restarted_and_stopped_one_by_one() {
    let (_dir, topology) = nodes("exec sleep 1000");
    let mut mesh = Mesh::prepare(&topology).unwrap();
    mesh.launch().unwrap();
    let pid = |mesh: &Mesh, node: &Node| mesh.process(node).map(Process::pid);
    let (iad1, second) = (Node::pop("iad1"), Node::Control(2));
    let before = pid(&mesh, &iad1).unwrap();
    mesh.kill(&iad1).unwrap();
    assert!(!mesh.is_running(&iad1) && mesh.is_running(&second));
    assert!(!Path::new(&format!("/proc/{before}")).exists());
    mesh.check().unwrap();
    mesh.restart(&iad1).unwrap();
    assert_ne!(pid(&mesh, &iad1), Some(before));
    assert!(mesh.stop(&second, Duration::from_secs(5)).unwrap().is_some());
    assert!(mesh.kill(&Node::pop("nowhere")).is_err());
    let all: Vec<u32> = mesh.nodes().filter_map(|n| mesh.process(n)).map(Process::pid).collect();
    assert_eq!(all.len(), 5);
    mesh.stop_all(Duration::from_secs(5));
    assert!(all.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[tokio::test]
async fn a_kept_directory_must_be_empty_and_stays() {
    let (dir, mut topology) = nodes("exit 0");
    topology.keep_dir = Some(dir.path().to_owned());
    let why = Mesh::prepare(&topology).unwrap_err().to_string();
    assert!(why.contains("is not empty"), "{why}");
    let kept = dir.path().join("kept");
    topology.keep_dir = Some(kept.clone());
    drop(Mesh::prepare(&topology).unwrap());
    assert!(kept.join("pki/ca.pem").exists());
}

#[test]
fn missing_programs_are_named_with_the_cure() {
    let topology = Topology::three_regions(Path::new("/nonexistent"));
    let why = Mesh::prepare(&topology).unwrap_err().to_string();
    assert!(why.contains("/nonexistent/control-plane") && why.contains("cargo build"), "{why}");
}
