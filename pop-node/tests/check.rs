//! What `pop-node check` says: one sentence that names the thing and the fix.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::Authority;
use pop_node::check::check;
use pop_node::config::Config;
use proto::identity::{Identity, Kind};

const IP: &str = "127.0.40.1";

/// Everything `check` found, one finding a line.
fn problems(toml: &str) -> String {
    let config = Config::parse(toml, Path::new("pop.toml")).unwrap();
    let found = check(&config, SystemTime::now()).problems;
    found.iter().map(|problem| format!("{problem}\n")).collect()
}

fn assert_one(found: &str, parts: &[&str]) {
    assert_eq!(found.lines().count(), 1, "{found}");
    for part in parts {
        assert!(found.contains(part), "no {part:?} in: {found}");
    }
    assert!(found.contains("; "), "no fix in: {found}");
}

#[test]
fn a_good_configuration_has_no_problem_and_a_note_without_control_nodes() {
    let mesh = Authority::new("demo");
    mesh.issue("fra1", "fra1", (-1, 30));
    let config = mesh.config("fra1", "fra1", "127.0.40.2");
    let findings = check(&config, SystemTime::now());
    assert!(findings.problems.is_empty(), "{:?}", findings.problems);
    assert_eq!(findings.notes.len(), 1);
    assert!(findings.notes[0].contains("no control node answers"));
}

#[test]
fn certificates_are_explained() {
    let mesh = Authority::new("demo");
    let other = Authority::new("other");
    mesh.issue("fra1", "fra1", (-1, 30));
    mesh.issue("early", "fra1", (1, 30));
    mesh.issue("late", "fra1", (-30, -1));
    mesh.issue_identity(
        "operator",
        &Identity::new("demo", "eu", Kind::Operator, "anna").unwrap(),
        (-1, 30),
    );
    other.issue("fra1", "fra1", (-1, 30));
    let foreign = other.path("fra1.pem");
    std::fs::copy(&foreign, mesh.path("foreign.pem")).unwrap();
    std::fs::copy(other.path("fra1.key"), mesh.path("foreign.key")).unwrap();
    // The right name, signed by somebody else.
    let impostor = Authority::new("demo");
    impostor.issue("fra1", "fra1", (-1, 30));
    std::fs::copy(impostor.path("fra1.pem"), mesh.path("impostor.pem")).unwrap();
    std::fs::copy(impostor.path("fra1.key"), mesh.path("impostor.key")).unwrap();
    std::fs::write(mesh.path("empty.pem"), "").unwrap();
    std::fs::copy(mesh.path("fra1.key"), mesh.path("empty.key")).unwrap();
    std::fs::copy(mesh.path("fra1.pem"), mesh.path("unpaired.pem")).unwrap();
    std::fs::copy(mesh.path("early.key"), mesh.path("unpaired.key")).unwrap();

    let said = |file: &str, pop: &str| problems(&mesh.toml(file, pop, IP));
    assert_one(&said("nobody", "fra1"), &["[tls] cert", "nobody.pem", "cannot be read"]);
    assert_one(&said("empty", "fra1"), &["[tls] cert", "empty.pem", "no certificate"]);
    assert_one(&said("unpaired", "fra1"), &["[tls] key", "unpaired.key", "does not belong"]);
    assert_one(&said("early", "fra1"), &["[tls] cert", "early.pem", "clock says", "(NTP)"]);
    assert_one(&said("late", "fra1"), &["[tls] cert", "late.pem", "expired at"]);
    assert_one(&said("foreign", "fra1"), &["[pop] mesh is \"demo\"", "mesh \"other\""]);
    assert_one(&said("impostor", "fra1"), &["[tls] cert", "not issued by ca"]);
    assert_one(&said("fra1", "fra2"), &["[pop] id is \"fra2\"", "pop/fra1"]);
    assert_one(&said("operator", "fra1"), &["[pop] id is \"fra1\"", "operator/anna"]);
}

#[test]
fn a_clock_behind_the_authority_is_named() {
    let mesh = Authority::new("demo");
    mesh.issue("fra1", "fra1", (-1, 30));
    let config = mesh.config("fra1", "fra1", IP);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let found = check(&config, long_ago).problems;
    assert_one(
        &format!("{}\n", found[0]),
        &["clock says 1970-01-01T00:00:01.000Z", "set the clock"],
    );
}

#[test]
fn taken_ports_and_foreign_addresses_are_named() {
    let mesh = Authority::new("demo");
    mesh.issue("fra1", "fra1", (-1, 30));
    let ip = "127.0.40.3";
    let toml = mesh.toml("fra1", "fra1", ip);
    let udp = UdpSocket::bind((ip, 5060)).unwrap();
    assert_one(&problems(&toml), &["[sip] listen udp:127.0.40.3:5060 is taken"]);
    drop(udp);
    let tcp = TcpListener::bind((ip, 9090)).unwrap();
    assert_one(&problems(&toml), &["[admin] listen tcp:127.0.40.3:9090 is taken"]);
    drop(tcp);
    let elsewhere = toml.replace("address = \"127.0.40.3\"", "address = \"192.0.2.77\"");
    assert_one(
        &problems(&elsewhere),
        &["[media] address 192.0.2.77 is no address of this machine"],
    );
}

#[test]
fn a_data_dir_that_cannot_be_written_is_named() {
    let mesh = Authority::new("demo");
    mesh.issue("fra1", "fra1", (-1, 30));
    let toml = mesh.toml("fra1", "fra1", "127.0.40.4");
    let file = mesh.path("fra1.pem").display().to_string();
    let data = mesh.path("data-fra1").display().to_string();
    let found = problems(&toml.replace(&data, &format!("{file}/data")));
    assert_one(&found, &["[pop] data_dir", "is not writable"]);
}
