//! Bad input at every port: nothing dies, every drop is counted, and SIP gets the answer it is due.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::lab::pki::{Authority, Files};
use chaos::lab::provision::Client;
use chaos::lab::{Node, SIP_PORT};
use chaos::rng::Rng;
use proto::identity::{Identity, Kind};
use tests::peers::sipp::Sipp;
use tests::scene::{FRA, IAD, SOON, Scene};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::run;

const SEED: u64 = 4_475;
/// How long silence must last to be called silence.
const SILENCE: Duration = Duration::from_millis(600);

fn noise(rng: &mut Rng, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|_| u8::try_from(rng.below(256)).unwrap_or(0)).collect()
}

fn invite(number: &str, from: SocketAddr, call: &str) -> String {
    let sdp = format!(
        "v=0\r\no=x 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n",
        ip = from.ip()
    );
    format!(
        "INVITE sip:{number}@mesh SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{call}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{FRA}@{from}>;tag=1\r\nTo: <sip:{number}@mesh>\r\n\
         Call-ID: {call}\r\nCSeq: 1 INVITE\r\nContact: <sip:{from}>\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
}

/// A connection from a carrier's address: a stranger's is closed at once.
async fn connected_tcp(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    Ok(socket.connect(to).await?)
}

/// The first final status that comes back, `None` for silence.
fn ask(socket: &UdpSocket, message: &[u8]) -> Result<Option<u16>> {
    socket.send(message)?;
    let mut buffer = [0; 65_536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let status = text.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
                let status = status.with_context(|| format!("no status line: {text}"))?;
                if status >= 200 {
                    return Ok(Some(status));
                }
            }
            Err(_) => return Ok(None),
        }
    }
}

fn connected(local: SocketAddr, remote: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    socket.connect(remote)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

async fn a_call_works(scene: &Scene) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), 5);
    let callee = callee.start(dir.path())?;
    let caller = (scene.carrier("fra1")?, 6060).into();
    let caller = Sipp::caller("uac", caller, scene.sip("fra1")?, IAD, 5).start(dir.path())?;
    let caller = caller.finish(SOON).await?;
    callee.finish(SOON).await?;
    ensure!((caller.successful, caller.failed) == (5, 0), "calls fail afterwards: {caller:?}");
    Ok(())
}

/// One row a wrong request: what it is, what is changed in a good INVITE, the answer due.
#[test]
fn sip_gets_the_answer_it_is_due() {
    run(async {
        let scene = Scene::start().await?;
        let from = (scene.carrier("fra1")?, 6061).into();
        let socket = connected(from, scene.sip("fra1")?)?;
        let rows: &[(&str, &[(&str, &str)], u16)] = &[
            ("a number nobody has", &[(IAD, "+81312345678")], 404),
            ("a user that is no number", &[(IAD, "anna")], 404),
            ("no Call-ID", &[("Call-ID:", "X-Call-ID:")], 400),
            ("CSeq of another method", &[("CSeq: 1 INVITE", "CSeq: 1 OPTIONS")], 400),
            ("a scheme we do not route", &[("INVITE sip:", "INVITE mailto:")], 416),
            ("an extension we do not have", &[("Contact:", "Require: warp\r\nContact:")], 420),
            ("a body that is no SDP", &[("application/sdp", "text/plain")], 415),
            ("SDP that is none", &[("v=0\r\n", "v=7\r\n")], 400),
            (
                "no codec in common",
                &[("RTP/AVP 0", "RTP/AVP 18"), ("a=rtpmap:0 PCMU", "a=rtpmap:18 G729")],
                488,
            ),
            ("no hops left", &[("Max-Forwards: 70", "Max-Forwards: 0")], 483),
            ("another version", &[("mesh SIP/2.0\r\nVia", "mesh SIP/7.0\r\nVia")], 505),
            ("a method we do not know", &[("INVITE sip", "FEED sip"), ("1 INVITE", "1 FEED")], 501),
            ("CANCEL of nothing", &[("INVITE sip", "CANCEL sip"), ("1 INVITE", "1 CANCEL")], 481),
            ("BYE of nothing", &[("INVITE sip", "BYE sip"), ("1 INVITE", "1 BYE")], 481),
        ];
        let mut wrong = Vec::new();
        for (index, (what, changes, due)) in rows.iter().enumerate() {
            let mut message = invite(IAD, from, &format!("bad{index}"));
            for (good, bad) in *changes {
                ensure!(message.contains(good), "{what}: no '{good}' to change");
                message = message.replace(good, bad);
            }
            match ask(&socket, message.as_bytes())? {
                Some(status) if status == *due => {}
                other => wrong.push(format!("{what}: {other:?} instead of {due}")),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        scene.idle(SOON).await
    });
}

/// Over TCP a message may be larger than we take, or have no end (RFC 3261 §18.3, §21.4.11).
#[test]
fn messages_without_measure_over_tcp() {
    run(async {
        let scene = Scene::start().await?;
        let from: SocketAddr = (scene.carrier("fra1")?, 6062).into();
        let good = invite(IAD, from, "tcp").replace("SIP/2.0/UDP", "SIP/2.0/TCP");
        let length = good.lines().find(|line| line.starts_with("Content-Length")).unwrap_or("");
        for (what, bad, due) in [
            ("a body of 10 MB", "Content-Length: 10000000", 413),
            ("no length", "X-Length: 0", 400),
            ("a length that is none", "Content-Length: many", 400),
        ] {
            let mut connection = connected_tcp(from.ip(), scene.sip("fra1")?).await?;
            connection.write_all(good.replace(length, bad).as_bytes()).await?;
            let mut answer = Vec::new();
            let reading = connection.read_to_end(&mut answer);
            tokio::time::timeout(SOON, reading)
                .await
                .with_context(|| format!("{what}: open"))??;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with(&format!("SIP/2.0 {due} ")), "{what}: {answer}");
        }
        scene.idle(SOON).await
    });
}

#[test]
fn strangers_get_silence() {
    run(async {
        let scene = Scene::start().await?;
        let node = Node::pop("fra1");
        let before = scene.metric(&node, REFUSED).await?;
        let from: SocketAddr = "127.0.249.1:5060".parse()?;
        let socket = connected(from, scene.sip("fra1")?)?;
        assert_eq!(ask(&socket, invite(IAD, from, "stranger").as_bytes())?, None);
        let options = invite(IAD, from, "options").replace("INVITE", "OPTIONS");
        assert_eq!(ask(&socket, options.as_bytes())?, None);
        assert!(scene.metric(&node, REFUSED).await? >= before + 2.0, "the scanner was not counted");
        Ok(())
    });
}

/// What never became a call, by reason.
const REFUSED: &str = "pop_calls_refused_total";
/// SIP that was dropped without an answer, by reason.
const DROPPED: &str = "pop_sip_dropped_messages_total";

#[test]
fn noise_on_the_sip_ports() {
    run(async {
        let mut scene = Scene::start().await?;
        let (node, sip) = (Node::pop("fra1"), scene.sip("fra1")?);
        let before = scene.metric(&node, DROPPED).await?;
        let mut rng = Rng::new(SEED);
        let from = (scene.carrier("fra1")?, 6061).into();
        let socket = connected(from, sip)?;
        let good = invite(IAD, from, "truncated");
        for length in (0..good.len()).step_by(7) {
            socket.send(&good.as_bytes()[..length])?;
        }
        for _ in 0..500 {
            let bytes = 1 + rng.below(1_400);
            socket.send(&noise(&mut rng, bytes))?;
            let mut broken = good.clone().into_bytes();
            let at = usize::try_from(rng.below(broken.len() as u64))?;
            broken[at] = u8::try_from(rng.below(256))?;
            socket.send(&broken)?;
        }
        socket.send(&noise(&mut rng, 65_000))?;
        socket.send(format!("{good}{}", "x".repeat(60_000)).as_bytes())?;
        for stream in
            [noise(&mut rng, 100_000), b"\r\n\r\n".repeat(1_000), b"INVITE ".repeat(50_000)]
        {
            let mut connection = connected_tcp(from.ip(), sip).await?;
            let _closed = connection.write_all(&stream).await;
        }
        let endless = format!("INVITE sip:x@y SIP/2.0\r\nContent-Length: {}\r\n\r\n", u64::MAX);
        let mut connection = connected_tcp(from.ip(), sip).await?;
        let _closed = connection.write_all(endless.as_bytes()).await;
        drop(socket);
        scene.mesh.check()?;
        assert!(scene.metric(&node, DROPPED).await? > before, "nothing was counted");
        a_call_works(&scene).await?;
        // Whatever of the noise was a call has ended: its callee answers nothing.
        scene.idle(Duration::from_secs(60)).await
    });
}

/// RFC 4475's own collection, each message as one datagram.
#[test]
fn torture_messages() {
    run(async {
        let mut scene = Scene::start().await?;
        let dir = tests::root().join("../shared/rfc4475");
        let from = (scene.carrier("fra1")?, 6061).into();
        let socket = connected(from, scene.sip("fra1")?)?;
        let mut sent = 0;
        for entry in std::fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "dat") {
                socket.send(&std::fs::read(path)?)?;
                sent += 1;
            }
        }
        assert!(sent >= 40, "only {sent} messages");
        drop(socket);
        scene.mesh.check()?;
        a_call_works(&scene).await
    });
}

#[test]
fn noise_on_media_and_overlay_ports() {
    run(async {
        let mut scene = Scene::start().await?;
        let dir = tempfile::tempdir()?;
        let callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), 20);
        let callee = callee.start(dir.path())?;
        let caller = (scene.carrier("fra1")?, 6060).into();
        let mut caller = Sipp::caller("uac", caller, scene.sip("fra1")?, IAD, 20);
        caller.hold = Duration::from_secs(3);
        let mut caller = caller.start(dir.path())?;
        let mut rng = Rng::new(SEED);
        let stranger = UdpSocket::bind("127.0.249.1:0")?;
        let pop = scene.sip("fra1")?.ip();
        let overlay = scene.mesh.site("fra1")?.overlay;
        let before = scene.metric(&Node::pop("fra1"), RTP_DROPPED).await?;
        while caller.runs() && caller.current_calls() < 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for port in 20_000..20_400 {
            for _ in 0..5 {
                let bytes = rng.below(400);
                let mut packet = noise(&mut rng, bytes);
                let _closed_port = stranger.send_to(&packet, (pop, port));
                // The same, made to look like RTP version 2.
                if let Some(first) = packet.first_mut() {
                    *first = 0x80 | (*first & 0x3f);
                }
                let _closed_port = stranger.send_to(&packet, (pop, port));
            }
        }
        for _ in 0..2_000 {
            let bytes = 1 + rng.below(1_400);
            stranger.send_to(&noise(&mut rng, bytes), overlay)?;
        }
        let caller = caller.finish(SOON).await?;
        let callee = callee.finish(SOON).await?;
        assert_eq!((caller.successful, caller.failed), (20, 0), "calls under noise");
        assert_eq!((callee.successful, callee.failed), (20, 0), "calls under noise");
        scene.mesh.check()?;
        let dropped = scene.metric(&Node::pop("fra1"), RTP_DROPPED).await? - before;
        assert!(dropped > 0.0, "no dropped packet was counted");
        a_call_works(&scene).await
    });
}

const RTP_DROPPED: &str = "pop_rtp_dropped_packets_total";

#[test]
fn noise_on_the_api() {
    run(async {
        let mut scene = Scene::start().await?;
        let mut rng = Rng::new(SEED);
        let hello = [0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xfc, 3, 3];
        for api in scene.mesh.api().to_vec() {
            let noises = [
                noise(&mut rng, 50_000),
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                [hello.to_vec(), noise(&mut rng, 20_000)].concat(),
            ];
            for bytes in noises {
                let mut connection = TcpStream::connect(api).await?;
                let _closed = connection.write_all(&bytes).await;
                let mut answer = Vec::new();
                let reading = connection.read_to_end(&mut answer);
                let _given_up = tokio::time::timeout(Duration::from_millis(300), reading).await;
            }
        }
        scene.mesh.check()?;
        // Who shows no certificate, or one of another authority, gets no answer of the API.
        let stranger = tempfile::tempdir()?;
        let authority = Authority::new("demo", stranger.path())?;
        let identity = Identity {
            mesh: "demo".into(),
            kind: Kind::Operator,
            name: "eve".into(),
            region: "eu".into(),
        };
        let files = authority.issue(&identity, "eve", None)?;
        let ca = scene.mesh.operator().ca.clone();
        let eve = Client::new(scene.mesh.api(), &Files { ca, ..files })?;
        let eve = eve.with_patience(Duration::from_millis(500));
        assert!(eve.pops().await.is_err(), "a stranger's certificate was good enough");
        // It still serves those it knows.
        scene.mesh.client().pops().await?;
        Ok(())
    });
}
