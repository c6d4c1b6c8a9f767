//! A certificate that grows old is renewed by a node that runs, and nobody who is connected notices.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::tools::put_trunk;
use cluster::{Cluster, Node, eventually, metrics};
use enroll::files;
use proto::control::WatchRequest;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind as Item;
use proto::identity::{Identity, Kind};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType, date_time_ymd};

const MINUTE: Duration = Duration::from_secs(60);

/// Key and certificate of node 2, an hour old and good for two minutes more.
fn aged(ca: &Path) -> String {
    let read = |name: &str| fs::read_to_string(ca.join(name)).unwrap();
    let issuer = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), issuer).unwrap();
    let identity = Identity::new("demo", "us", Kind::Control, "2").unwrap();
    let mut params = CertificateParams::new(identity.dns_names()).unwrap();
    params.subject_alt_names.push(SanType::URI(identity.to_uri().try_into().unwrap()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    (params.not_before, params.not_after) = (now - 60 * MINUTE, now + 2 * MINUTE);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &issuer).unwrap().pem() + &key.serialize_pem()
}

/// Seconds for which its certificate is good.
fn left(node: &Node) -> f64 {
    let text = metrics(node);
    let line = text.lines().find(|line| line.starts_with("control_certificate_left_seconds "));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_while_a_stream_goes_on() {
    let mut cluster = Cluster::start().await;
    // Key and certificate in one file, as on a machine that joined by token.
    let (cert, key) = (cluster.path().join("control-2.pem"), cluster.path().join("control-2.key"));
    let both = fs::read_to_string(&cert).unwrap() + &fs::read_to_string(&key).unwrap();
    files::write(&cert, both.as_bytes(), 0o600).unwrap();
    let config = fs::read_to_string(cluster.config(2)).unwrap();
    fs::write(cluster.config(2), config.replace("control-2.key", "control-2.pem")).unwrap();
    cluster.kill(2);
    cluster.spawn(2);
    cluster.ready().await;
    let node = cluster.alive().find(|node| node.id == 2).unwrap();
    let pid = node.pid();
    let mut watch = WatchClient::new(cluster.channel(node, "anna"))
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();

    let old = aged(&cluster.path().join("ca"));
    files::write(&cert, old.as_bytes(), 0o600).unwrap();
    eventually("node 2 has another certificate, of months", async || {
        let renewed = fs::read_to_string(&cert).unwrap() != old;
        (renewed && left(node) > 24.0 * 3_600.0).then_some(())
    })
    .await;
    let log = cluster.log(2);
    assert!(log.matches("new certificate files are in use").count() >= 2, "the aged, the renewed");
    assert_eq!(node.pid(), pid, "it was not started again");

    // Who watched before still does, and new connections are made with the new one.
    put_trunk(&cluster).await;
    let event = loop {
        let update = watch.message().await.unwrap().expect("the stream goes on");
        if let Some(Item::Event(event)) = update.kind {
            break event;
        }
    };
    assert_eq!(event.changes.len(), 1);
    cluster.ready().await;
    cluster.stop().await;
}
