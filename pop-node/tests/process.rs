//! The real binary: starts from its copy of the view without a control plane, speaks SIP over
//! TCP and UDP, shows its state, ends on SIGTERM.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Authority;
use pop_core::view::{View, ViewUpdate};
use proto::control::{Resource, Trunk, resource::Kind};
use proto::id::Revision;

const PATIENCE: Duration = Duration::from_secs(20);

struct Pop {
    child: Child,
    ip: &'static str,
    mesh: Authority,
}

impl Drop for Pop {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Pop {
    /// Starts `fra1` on `ip`, with a view on disk in which callers from `ip` are a trunk.
    fn start(ip: &'static str, with_view: bool) -> Self {
        Self::start_with(ip, with_view, &[])
    }

    fn start_with(ip: &'static str, with_view: bool, environment: &[(&str, &str)]) -> Self {
        let mesh = Authority::new("demo");
        mesh.issue("fra1", "fra1", (-1, 30));
        std::fs::write(mesh.path("pop.toml"), mesh.toml("fra1", "fra1", ip)).unwrap();
        if with_view {
            let data = mesh.path("data-fra1");
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join("view"), view(ip).encode()).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_pop-node"))
            .arg("--config")
            .arg(mesh.path("pop.toml"))
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, ip, mesh }
    }

    fn sip(&self) -> SocketAddr {
        SocketAddr::new(self.ip.parse().unwrap(), 5060)
    }

    /// Status line and body of an admin page; retried until the page is there.
    fn page(&self, path: &str) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut connection) = TcpStream::connect((self.ip, 9090)) {
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                connection.write_all(request.as_bytes()).unwrap();
                let mut answer = String::new();
                connection.read_to_string(&mut answer).unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                return (head.lines().next().unwrap().to_owned(), body.to_owned());
            }
            assert!(Instant::now() < deadline, "no admin page");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, by the system's own tool: a signal is not a kill.
    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn view(ip: &str) -> View {
    let trunk = Trunk {
        trunk_id: "pbx".to_owned(),
        pop_ids: vec!["fra1".to_owned()],
        // Connections over loopback come from its first address.
        sources: vec![ip.to_owned(), "127.0.0.1".to_owned()],
        ..Trunk::default()
    };
    let mut view = View::default();
    let snapshot = ViewUpdate::Snapshot {
        cluster_id: "c".to_owned(),
        revision: Revision(7),
        resources: vec![Resource { kind: Some(Kind::Trunk(trunk)) }],
    };
    view.apply(snapshot).unwrap();
    view
}

fn options(transport: &str, from: SocketAddr, to: SocketAddr, branch: &str) -> String {
    format!(
        "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/{transport} {from};branch=z9hG4bK{branch}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:a@{from}>;tag=1\r\nTo: <sip:{to}>\r\n\
         Call-ID: {branch}@test\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Reads until the text ends with `end`.
fn read_until(connection: &mut TcpStream, end: &str) -> String {
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) {
        assert_eq!(connection.read(&mut byte).expect("an answer"), 1, "closed after {text}");
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn serves_from_the_copy_without_a_control_plane_and_ends_on_sigterm() {
    let mut pop = Pop::start("127.0.43.1", true);
    let (status, body) = pop.page("/healthz");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok\n"));
    let socket = UdpSocket::bind((pop.ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let text = options("UDP", socket.local_addr().unwrap(), pop.sip(), "u1");
    socket.send_to(text.as_bytes(), pop.sip()).unwrap();
    let mut buffer = [0; 4096];
    let (length, source) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(source, pop.sip());
    assert!(buffer[..length].starts_with(b"SIP/2.0 200 "));

    let (_, status) = pop.page("/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["view"]["revision"], 7);
    assert_eq!(status["view"]["live"], false);
    assert_eq!(status["view"]["trunks"], 1);
    let (_, metrics) = pop.page("/metrics");
    assert!(metrics.contains("\npop_view_revision 7\n"), "{metrics}");
    assert!(metrics.contains("\npop_calls_active 0\n"), "{metrics}");
    assert_eq!(pop.page("/nothing").0, "HTTP/1.1 404 Not Found");

    assert_eq!(pop.terminate().code(), Some(0));
    assert!(pop.mesh.path("data-fra1").join("view").exists());
}

/// Nobody reads its standard error, which holds 64 KiB: the log has no room any more, calls have.
#[test]
fn a_log_that_nobody_takes_keeps_no_call_waiting() {
    let mut pop = Pop::start_with("127.0.43.5", true, &[("POP_LOG", "trace")]);
    pop.page("/healthz");
    let deadline = Instant::now() + PATIENCE;
    let stranger = UdpSocket::bind((pop.ip, 0)).unwrap();
    loop {
        // QUIC of a version nobody knows, too short for an answer: one line each.
        for _ in 0..500 {
            stranger.send_to(&[0xc0, 0xba, 0xad, 0xba, 0xad, 0, 0], (pop.ip, 4433)).unwrap();
        }
        let (status, metrics) = pop.page("/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        let lost = metrics.lines().find_map(|line| line.strip_prefix("pop_log_lines_lost_total "));
        if lost.unwrap().parse::<u64>().unwrap() > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "no line was lost");
    }
    let socket = UdpSocket::bind((pop.ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let text = options("UDP", socket.local_addr().unwrap(), pop.sip(), "u2");
    socket.send_to(text.as_bytes(), pop.sip()).unwrap();
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
    assert!(buffer[..length].starts_with(b"SIP/2.0 200 "));
    assert_eq!(pop.terminate().code(), Some(0), "nor its end");
}

#[test]
fn without_any_view_it_runs_but_is_not_healthy() {
    let mut pop = Pop::start("127.0.43.2", false);
    let (status, body) = pop.page("/healthz");
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.starts_with("no view yet"), "{body}");
    assert_eq!(pop.terminate().code(), Some(0));
}

#[test]
fn tcp_is_framed_whatever_the_cut_and_garbage_ends_only_its_connection() {
    let pop = Pop::start("127.0.43.3", true);
    pop.page("/healthz");
    let mut connection = TcpStream::connect(pop.sip()).unwrap();
    connection.set_nodelay(true).unwrap();
    let from = connection.local_addr().unwrap();
    // Two requests, cut at odd places.
    let both = options("TCP", from, pop.sip(), "t1") + &options("TCP", from, pop.sip(), "t2");
    for chunk in both.as_bytes().chunks(97) {
        connection.write_all(chunk).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    for branch in ["t1", "t2"] {
        let answer = read_until(&mut connection, "\r\n\r\n");
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        assert!(answer.contains(&format!("Call-ID: {branch}@test")), "{answer}");
    }
    // RFC 5626 §4.4.1.
    connection.write_all(b"\r\n\r\n").unwrap();
    assert_eq!(read_until(&mut connection, "\r\n"), "\r\n");

    let mut stranger = TcpStream::connect(pop.sip()).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(&[b'x'; 100_000]).unwrap();
    let mut rest = Vec::new();
    // Closed, perhaps with a reset because not all of it was read.
    let _closed = stranger.read_to_end(&mut rest);

    let again = options("TCP", from, pop.sip(), "t3");
    connection.write_all(again.as_bytes()).unwrap();
    assert!(read_until(&mut connection, "\r\n\r\n").starts_with("SIP/2.0 200 "));
}

#[test]
fn a_mistake_is_one_sentence_and_no_success() {
    let mesh = Authority::new("demo");
    let path = mesh.path("pop.toml");
    std::fs::write(&path, mesh.toml("nobody", "fra1", "127.0.43.4")).unwrap();
    for arguments in [vec!["check", "--config"], vec!["--config"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_pop-node"))
            .args(arguments)
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("pop-node: [tls] cert ") && last.contains("nobody.pem"), "{said}");
    }
}
