//! Three real processes: who may do what, who did what, who gets in, and certificates that change
//! while everything runs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: a panic is its verdict"
)]

mod cluster;

use std::fs;
use std::path::Path;
use std::process::Command;

use cluster::{Cluster, eventually, metrics};
use control_plane::pki;
use enroll::files;
use enroll::token::Token;
use proto::control::admin_client::AdminClient;
use proto::control::numbers_client::NumbersClient;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind as Item;
use proto::control::{GetNumberRequest, StatusRequest, WatchRequest};
use proto::identity::Kind;
use serde_json::Value;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

fn run(program: &str, arguments: &[String]) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn meshctl_as(cluster: &Cluster, who: &str, line: &str) -> (Option<i32>, String) {
    let mut arguments = cluster.connection(who);
    arguments.extend(line.split(' ').map(str::to_owned));
    run(env!("CARGO_BIN_EXE_meshctl"), &arguments)
}

fn meshctl(cluster: &Cluster, line: &str) -> Value {
    let (code, text) = meshctl_as(cluster, "anna", &format!("--output json {line}"));
    assert_eq!(code, Some(0), "{line}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn reason(status: &Status) -> &str {
    status.metadata().get("voxmesh-reason").map_or("", |reason| reason.to_str().unwrap())
}

/// An empty message to any method, whatever it takes.
async fn call(channel: Channel, path: &'static str) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let path = PathAndQuery::from_static(path);
    let streaming = client.server_streaming(Request::new(()), path, codec);
    match streaming.await {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok("answered"),
        },
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_role() {
    let cluster = Cluster::start().await;
    cluster.issue("ca", Kind::Service, "nobody", "eu");
    let node = cluster.alive().next().unwrap();
    for path in proto::schema::methods() {
        let status = call(cluster.channel(node, "nobody"), path).await;
        let expected = match path.as_str() {
            // Open to all of the mesh, and to all: their messages are judged.
            "/voxmesh.control.v1.Enrollment/Renew" | "/voxmesh.control.v1.Enrollment/Join" => {
                Code::InvalidArgument
            }
            _ => Code::PermissionDenied,
        };
        assert_eq!(status.code(), expected, "{path}: {status:?}");
        assert!(!reason(&status).is_empty(), "{path}: {status:?}");
    }

    // A role opens what it grants, and nothing else; taken away, it closes again.
    meshctl(&cluster, "numbers import --pool berlin +493023125042");
    meshctl(&cluster, "roles put german --grant read:numbers/de/*");
    meshctl(&cluster, "roles bind service/nobody german");
    let get = async |e164: &str| {
        let request = GetNumberRequest { e164: e164.into(), ..<_>::default() };
        NumbersClient::new(cluster.channel(node, "nobody")).get(request).await
    };
    eventually("the role is known here", async || get("+493023125042").await.ok()).await;
    let refused = get("+33142685300").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "PERMISSION_DENIED"));
    let (code, text) = meshctl_as(&cluster, "nobody", "--output json numbers get +33142685300");
    let said: Value = serde_json::from_str(&text).unwrap();
    let facts = &said["error"]["metadata"];
    assert_eq!(code, Some(1));
    assert_eq!((&facts["principal"], &facts["verb"]), (&"service/nobody".into(), &"read".into()));
    assert_eq!(facts["resource"], "numbers/fr/33142685300");
    assert!(said["error"]["fix"].as_str().unwrap().contains("roles explain"), "{said}");
    let explain = "roles explain service/nobody read numbers/de/493023125042";
    assert!(meshctl(&cluster, explain)["why"].as_str().unwrap().contains("german"));
    meshctl(&cluster, "roles unbind service/nobody german");
    eventually("the role is gone here", async || get("+493023125042").await.err()).await;

    // Somebody stays able to give rights.
    let (code, text) = meshctl_as(&cluster, "anna", "roles unbind operator/* admin");
    assert!(code == Some(1) && text.contains("last binding to role admin"), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_and_cannot_be_changed() {
    let cluster = Cluster::start().await;
    let auth = "trunks put telco --pop fra1 --host 192.0.2.9 --inbound-auth user:secret";
    meshctl(&cluster, auth);
    meshctl(&cluster, "routes put world --to telco");
    let (code, _) = meshctl_as(&cluster, "anna", "trunks delete telco");
    assert_eq!(code, Some(1), "a route uses it");
    meshctl(&cluster, "trunks list");
    // Reading passwords leaves a row too, a little later.
    let rows = eventually("the read is audited", async || {
        let rows = meshctl(&cluster, "audit list");
        let read = |row: &Value| row["action"] == "read" && row["principal"] == "operator/anna";
        rows.as_array().unwrap().iter().any(read).then_some(rows)
    })
    .await;
    let said: Vec<_> =
        rows.as_array().unwrap().iter().map(|r| (&r["action"], &r["outcome"])).collect();
    let refused = (&Value::from("delete_trunk"), &Value::from("IN_USE"));
    assert!(said.contains(&refused), "{said:?}");

    let file = cluster.path().join("audit.ndjson");
    let name = file.to_str().unwrap();
    meshctl(&cluster, &format!("audit export {name}"));
    meshctl(&cluster, "routes delete world");
    let exported = meshctl(&cluster, &format!("audit export {name}"));
    assert_eq!(exported["exported"], 1, "it goes on where the file ends: {exported}");
    let verified = meshctl(&cluster, &format!("audit verify {name}"));
    assert_eq!(verified["last"], exported["last"]);
    assert_eq!(meshctl(&cluster, "audit verify")["last"], exported["last"]);
    // A node keeps them all by itself.
    let kept = cluster.audit_dir();
    eventually("node 3 has written every row", async || {
        let (code, text) = meshctl_as(&cluster, "anna", &verify_line(&kept));
        let said: Value = serde_json::from_str(&text).ok().filter(|_| code == Some(0))?;
        (said["last"] == exported["last"]).then_some(())
    })
    .await;
    assert!(fs::read_dir(&kept).unwrap().count() > 1, "in more than one file");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("secret"), "no password in the log");
    fs::write(&file, text.replacen("operator/anna", "operator/eve1", 1)).unwrap();
    let (code, text) = meshctl_as(&cluster, "anna", &format!("audit verify {name}"));
    assert!(code == Some(1) && text.contains("was changed"), "{text}");
    cluster.stop().await;
}

fn verify_line(of: &Path) -> String {
    format!("--output json audit verify {}", of.display())
}

fn join(token: &str, dir: &Path) -> (Option<i32>, String) {
    let arguments = ["join", token, "--dir", dir.to_str().unwrap()].map(str::to_owned);
    run(env!("CARGO_BIN_EXE_control-plane"), &arguments)
}

#[tokio::test]
async fn a_join_token_lets_one_machine_in_once() {
    let cluster = Cluster::start().await;
    let made = meshctl(&cluster, "token create --control 3 --region ap --ttl 10m");
    let text = made["token"].as_str().unwrap();
    let listed = meshctl(&cluster, "token list");
    assert_eq!((&listed[0]["state"], &listed[0]["name"]), (&"open".into(), &"3".into()));
    assert!(!listed.to_string().contains(text));

    // Another authority than the token's: nothing is said to it.
    let token: Token = text.parse().unwrap();
    let endpoints = token.endpoints().to_vec();
    let secret: [u8; 32] = token.secret().try_into().unwrap();
    let foreign = Token::new("demo", &[7; 32], endpoints.clone(), secret).unwrap();
    let (code, said) = join(&foreign.to_text(), &cluster.path().join("foreign-ca"));
    assert!(code == Some(1) && said.contains("UnknownIssuer"), "{said}");
    // Another secret.
    let unknown = Token::new("demo", token.ca_sha256(), endpoints, [9; 32]).unwrap();
    let (code, said) = join(&unknown.to_text(), &cluster.path().join("unknown"));
    assert!(code == Some(1) && said.contains("unknown here"), "{said}");

    let dir = cluster.path().join("machine");
    let (code, said) = join(text, &dir);
    assert!(code == Some(0) && said.contains("spiffe://demo/ap/control/3"), "{said}");
    assert!(said.contains("next: control-plane check --config"), "{said}");
    let config = control_plane::config::Config::load(&dir.join("control-plane.toml"));
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let credentials = control_plane::check::credentials(&config, std::time::SystemTime::now());
    credentials.unwrap_or_else(|problem| panic!("{problem}"));
    assert!(!dir.join("join.key").exists());

    // Used; and the machine's own directory is not overwritten.
    let (code, said) = join(text, &cluster.path().join("another"));
    assert!(code == Some(1) && said.contains("used already"), "{said}");
    let (code, said) = join(text, &dir);
    assert!(code == Some(1) && said.contains("ca.pem exists"), "{said}");
    let (code, said) = join("vxj1-nonsense!", &dir);
    assert!(code == Some(1) && said.contains("no join token"), "{said}");
    let rows = meshctl(&cluster, "audit list").to_string();
    assert!(rows.contains("create_token") && rows.contains("redeem_token"), "{rows}");
    assert!(rows.contains("tokens/control/3"), "{rows}");
    cluster.stop().await;
}

/// How often a node took new certificate files.
fn rotations(cluster: &Cluster, id: u64) -> usize {
    cluster.log(id).matches("new certificate files are in use").count()
}

async fn rotated(cluster: &Cluster, before: [usize; 3]) {
    for id in 1..=3u64 {
        let known = before[usize::try_from(id).unwrap() - 1];
        eventually(&format!("node {id} takes new files"), async || {
            (rotations(cluster, id) > known).then_some(())
        })
        .await;
    }
}

fn counted(cluster: &Cluster) -> [usize; 3] {
    [1, 2, 3].map(|id| rotations(cluster, id))
}

async fn status(cluster: &Cluster, who: &str) -> Result<(), Status> {
    for node in cluster.alive() {
        AdminClient::new(cluster.channel(node, who)).status(StatusRequest {}).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_authority_is_replaced_while_everything_runs() {
    let cluster = Cluster::start().await;
    let node = cluster.alive().next().unwrap();
    let mut watch = WatchClient::new(cluster.channel(node, "anna"))
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let ca = cluster.path().join("ca.pem");
    pki::init("demo", &cluster.path().join("ca2")).unwrap();
    let (old, new) = (fs::read(&ca).unwrap(), fs::read(cluster.path().join("ca2/ca.pem")).unwrap());

    // Both are trusted, then certificates come from the new one, then only that is trusted.
    let before = counted(&cluster);
    files::write(&ca, &[old, new.clone()].concat(), 0o644).unwrap();
    rotated(&cluster, before).await;
    let before = counted(&cluster);
    for (id, region) in [("1", "eu"), ("2", "us"), ("3", "ap")] {
        cluster.issue("ca2", Kind::Control, id, region);
    }
    cluster.issue("ca2", Kind::Operator, "bob", "eu");
    rotated(&cluster, before).await;
    status(&cluster, "anna").await.unwrap();
    status(&cluster, "bob").await.unwrap();
    let before = counted(&cluster);
    files::write(&ca, &new, 0o644).unwrap();
    rotated(&cluster, before).await;
    status(&cluster, "bob").await.unwrap();
    assert!(status(&cluster, "anna").await.is_err(), "her authority is gone");

    // What is broken is not used.
    files::write(&cluster.path().join("control-1.pem"), b"nonsense", 0o644).unwrap();
    eventually("the broken file is refused", async || {
        cluster.log(1).contains("are not used, the old stay: tls.cert").then_some(())
    })
    .await;
    status(&cluster, "bob").await.unwrap();
    let left = metrics(node);
    let line = left.lines().find(|line| line.starts_with("control_certificate_left_seconds"));
    let left: f64 = line.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    assert!(left > 300.0 * 86_400.0, "{left}");

    // The stream of the beginning goes on: it says so at the next mark.
    let mut revision = 0;
    let (code, text) = meshctl_as(&cluster, "bob", "numbers import --pool berlin +493023125042");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = meshctl_as(&cluster, "bob", "numbers allocate +493023125042 --tenant acme");
    assert_eq!(code, Some(0), "{text}");
    while revision == 0 {
        if let Some(Item::Event(event)) = watch.message().await.unwrap().unwrap().kind {
            revision = event.revision;
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn no_number_is_in_the_logs() {
    let cluster = Cluster::start().await;
    meshctl(&cluster, "numbers import --pool berlin +493023125042");
    meshctl(&cluster, "numbers allocate +493023125042 --tenant acme");
    // Wrong in many ways, each with the number in it.
    for line in [
        "numbers import --pool berlin +49302312504200000",
        "numbers get 03023125042",
        "numbers get +493023125042000000",
        "numbers allocate +493023125042 --tenant other",
        "numbers release +493023125042 --tenant other",
        "routes put +493023125042 --prefix 493023125042 --to nowhere",
    ] {
        let (code, _) = meshctl_as(&cluster, "anna", line);
        assert_eq!(code, Some(1), "{line}");
    }
    meshctl(&cluster, "numbers release +493023125042 --tenant acme");
    for id in 1..=3 {
        let log = cluster.log(id);
        assert!(log.contains("raft role"), "this is the log: {log}");
        assert!(!log.contains("23125042"), "node {id}: {log}");
    }
    for node in cluster.alive() {
        assert!(!metrics(node).contains("23125042"));
    }
    cluster.stop().await;
}
