//! Backups and archives in a bucket, beside a server that speaks S3. `cargo e2e`; `tests/run s3`
//! installs the server and says where its Python is (VOXMESH_S3).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cluster::tools::{control, restore};
use cluster::{Cluster, eventually};
use proto::control::numbers_client::NumbersClient;
use proto::control::{ImportNumbersRequest, ListNumbersRequest, ReadConsistency, WriteOptions};

/// A server with the bucket `saves`.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let python = std::env::var_os("VOXMESH_S3").map(PathBuf::from);
        let python = python.expect("VOXMESH_S3 names the Python of moto: run `tests/run s3`");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = address.port().to_string();
        let child = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `tests/run s3`", python.display()));
        let server = Self { child, address };
        eventually("the server listens", async || TcpStream::connect(address).ok()).await;
        let make = "import boto3; boto3.client('s3').create_bucket(Bucket='saves')";
        let made = Command::new(python).args(["-c", make]).envs(server.environment()).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server
    }

    /// What tools for S3 know it by.
    fn environment(&self) -> Vec<(String, String)> {
        let url = format!("http://{}", self.address);
        let all = [
            ("AWS_ENDPOINT_URL", url.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "anna"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn import(cluster: &Cluster, last: u32) -> u64 {
    let options = Some(WriteOptions { request_id: format!("import-{last}"), ..<_>::default() });
    let e164 = vec![format!("+49302312{last:04}")];
    let request = ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(request, ask).await.header.unwrap().revision
}

async fn count(cluster: &Cluster) -> usize {
    let consistency = ReadConsistency::Linearizable.into();
    let request = ListNumbersRequest { consistency, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).list(request).await;
    cluster.write(request, ask).await.numbers.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_saved_in_a_bucket_and_comes_back() {
    let server = Server::start().await;
    let mut cluster = Cluster::start_with(|_| {
        "[backup]\ntarget = \"s3://saves/archive\"\nevery = \"100ms\"\n".into()
    })
    .await;
    let path = |cluster: &Cluster, name: &str| cluster.path().join(name);
    let refused = |cluster: &Cluster, to: &str, what: &str| {
        let said = control(cluster, &["backup", "--to", to]).unwrap_err();
        assert!(said.contains(what), "{said}");
    };
    refused(&cluster, "s3://saves/x", "no credentials: set AWS_ACCESS_KEY_ID");
    eventually("a node says that it cannot ship", async || {
        cluster.log(1).contains("no credentials: set AWS_ACCESS_KEY_ID").then_some(())
    })
    .await;
    cluster.environment = server.environment();
    cluster.environment.retain(|(name, _)| name != "AWS_ALLOW_HTTP");
    refused(&cluster, "s3://saves/x", "AWS_ENDPOINT_URL is without TLS");
    cluster.environment = server.environment();
    refused(&cluster, "s3://others/x", "s3://others/x cannot be listed: check the bucket");
    refused(&cluster, "gs://saves/x", "--to gs://saves/x is of gs");

    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;
    let first = import(&cluster, 0).await;
    let manifest = control(&cluster, &["backup", "--to", "s3://saves/one"]).unwrap();
    assert!(manifest["revision"].as_u64().unwrap() >= first);
    refused(&cluster, "s3://saves/one", "s3://saves/one holds something already");
    let copy = path(&cluster, "copy");
    restore(&cluster, "s3://saves/one", 1, &copy, &[]).unwrap();
    let verified = control(&cluster, &["verify", "--data-dir", copy.to_str().unwrap()]).unwrap();
    let made = manifest["revision"].as_u64().unwrap();
    assert_eq!(verified["revision"].as_u64(), Some(made + 1_000_000_000));
    assert!(!path(&cluster, "copy.fetched").exists(), "nothing is left of the way");

    let between = import(&cluster, 1).await;
    for last in 2..6 {
        import(&cluster, last).await;
    }
    let node_1 = format!("s3://saves/archive/{}/node-1", manifest["cluster_id"].as_str().unwrap());
    let wanted = between.to_string();
    let to_revision = ["--to-revision", wanted.as_str()];
    let trial = path(&cluster, "trial");
    let restored = eventually("the log is shipped", async || {
        restore(&cluster, &node_1, 1, &trial, &to_revision).ok()
    })
    .await;
    assert_eq!(restored["revision"].as_u64(), Some(between));
    let several = eventually("another node ships, too", async || {
        let said = restore(&cluster, "s3://saves/archive", 1, &path(&cluster, "x"), &[]).err()?;
        said.contains("several archives: name one of").then_some(said)
    })
    .await;
    assert!(several.contains(&node_1), "{several}");

    cluster.kill_all();
    for id in 1..=3 {
        cluster.wipe(id);
        restore(&cluster, &node_1, id, &cluster.data_dir(id), &to_revision).unwrap();
    }
    cluster.start_all();
    cluster.ready().await;
    assert_eq!(count(&cluster).await, 2, "as it was at revision {between}");

    // Without the server nodes go on, and who asks for a backup hears why there is none.
    drop(server);
    import(&cluster, 9).await;
    refused(&cluster, "s3://saves/two", "check the bucket, its rights, AWS_ENDPOINT_URL");
    cluster.stop().await;
}
