//! DNS steers new calls: `dig` asks a control node for the POPs that live.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Cluster, Node, eventually, metrics};
use proto::control::pops_client::PopsClient;
use proto::control::{
    HeartbeatRequest, ListPopsRequest, Pop, RegisterPopRequest, SteerPopRequest, WriteOptions,
};
use proto::identity::Kind;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// As POPs do.
const BEAT: Duration = Duration::from_millis(500);

fn options(id: &str) -> Option<WriteOptions> {
    Some(WriteOptions { request_id: id.to_owned(), ..<_>::default() })
}

async fn register(cluster: &Cluster, pop_id: &str, region: &str, host: &str) -> u64 {
    let pop = Pop {
        pop_id: pop_id.into(),
        region: region.into(),
        overlay_address: format!("{host}:4433"),
        sip_addresses: vec![format!("udp:{host}:5060"), format!("tcp:{host}:5060")],
        ..Pop::default()
    };
    let request = RegisterPopRequest { options: options(pop_id), pop: Some(pop) };
    let ask = async |channel, request| PopsClient::new(channel).register(request).await;
    cluster.write(request, ask).await.pop.unwrap().epoch
}

/// Beats to all nodes until dropped.
fn beats(cluster: &Cluster, pop_id: &'static str, epoch: u64) -> JoinSet<()> {
    let channels = cluster.alive().map(|node| cluster.channel(node, pop_id));
    let beat = HeartbeatRequest { pop_id: pop_id.into(), epoch, ..<_>::default() };
    let beat_at = |channel| {
        let beat = beat.clone();
        async move {
            // The stream ends with its sender, which is dropped with this.
            let (beats, stream) = mpsc::channel(1);
            let beating = async {
                while beats.send(beat.clone()).await.is_ok() {
                    tokio::time::sleep(BEAT).await;
                }
            };
            let mut pops = PopsClient::new(channel);
            let answers = pops.heartbeat(ReceiverStream::new(stream));
            let answering = async {
                let mut answers = answers.await.unwrap().into_inner();
                while matches!(answers.message().await, Ok(Some(_))) {}
            };
            tokio::join!(beating, answering);
        }
    };
    channels.map(beat_at).collect()
}

/// A port that is free for both.
fn free(node: &Node) -> u16 {
    loop {
        let tcp = TcpListener::bind((node.api.ip(), 0)).unwrap().local_addr().unwrap();
        if UdpSocket::bind(tcp).is_ok() {
            return tcp.port();
        }
    }
}

fn dig(node: &Node, port: u16, arguments: &str) -> String {
    let mut dig = Command::new("dig");
    dig.arg(format!("@{}", node.api.ip())).args(["-p", &port.to_string()]);
    let output = dig.args(["+norecurse", "+tries=1"]).args(arguments.split(' ')).output();
    let output = output.expect("dig: apt-get install bind9-dnsutils");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains("WARNING") && !text.contains("malformed"), "{arguments}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_finds_the_pops_that_live_also_without_a_quorum() {
    let mut cluster = Cluster::start().await;
    // A node that serves it from its next start on.
    let leader = cluster.leader().await;
    let id = cluster.alive().map(|node| node.id).find(|id| *id != leader).unwrap();
    let port = free(cluster.alive().find(|node| node.id == id).unwrap());
    let ip = cluster.alive().find(|node| node.id == id).unwrap().api.ip();
    let config = std::fs::read_to_string(cluster.config(id)).unwrap();
    let dns = format!(
        "\n[dns]\nlisten = [\"{ip}:{port}\"]\nzone = \"sip.acme.example\"\n\
         servers = [\"ns1.acme.example\", \"ns2.sip.acme.example={ip}\"]\n\
         [dns.regions]\neu = [\"192.0.2.0/24\"]\nap = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n"
    );
    std::fs::write(cluster.config(id), config + &dns).unwrap();
    cluster.kill(id);
    cluster.spawn(id);
    cluster.ready().await;
    for pop_id in ["iad1", "sin1"] {
        cluster.issue("ca", Kind::Pop, pop_id, if pop_id == "sin1" { "ap" } else { "us" });
    }
    let mut living = Vec::new();
    for (pop_id, region, host) in [
        ("fra1", "eu", "203.0.113.1"),
        ("iad1", "us", "203.0.113.2"),
        ("sin1", "ap", "203.0.113.3"),
    ] {
        let epoch = register(&cluster, pop_id, region, host).await;
        living.push(beats(&cluster, pop_id, epoch));
    }
    let node = cluster.alive().find(|node| node.id == id).unwrap();
    let ask = |arguments: &str| dig(node, port, arguments);
    let srv = "_sip._udp.sip.acme.example SRV +short";
    let names = async |count: usize| {
        eventually("DNS names so many POPs", async || {
            let text = ask(srv);
            (text.lines().count() == count).then_some(text)
        })
        .await
    };
    names(3).await;
    let text = ask(&format!("{srv} +subnet=198.51.100.0/24"));
    assert!(text.contains("10 100 5060 sin1.sip.acme.example."), "{text}");
    assert!(text.contains("20 100 5060 fra1.sip.acme.example."), "{text}");
    let text = ask("_sip._tcp.sip.acme.example SRV +subnet=192.0.2.0/28");
    assert!(text.contains("status: NOERROR") && text.contains("flags: qr aa"), "{text}");
    assert!(text.contains("CLIENT-SUBNET: 192.0.2.0/28/24"), "{text}");
    assert!(text.contains("ADDITIONAL SECTION") && text.contains("203.0.113.1"), "{text}");
    let text = ask("sip.acme.example NAPTR +short +tcp");
    assert!(text.contains("\"s\" \"SIP+D2U\" \"\" _sip._udp.sip.acme.example."), "{text}");
    assert_eq!(ask("sip.acme.example A +short +subnet=192.0.2.1/32"), "203.0.113.1\n");
    let text = ask("sip.acme.example NS +short");
    assert!(text.contains("ns1.acme.example.") && text.contains("ns2.sip.acme.example."), "{text}");
    let text = ask("none.sip.acme.example A");
    assert!(text.contains("status: NXDOMAIN") && text.contains("SOA"), "{text}");
    assert!(ask("acme.example A").contains("status: REFUSED"));
    assert!(ask("sip.acme.example A +edns=1 +noednsneg").contains("status: BADVERS"));
    assert!(ask("sip.acme.example AXFR").contains("Transfer failed"));

    // An operator takes one out, a host falls silent: gone within the verdict, and the TTL of caches.
    let request = SteerPopRequest { options: options("cordon"), pop_id: "fra1".into() };
    let cordon = async |channel, request| PopsClient::new(channel).cordon(request).await;
    cluster.write(request, cordon).await;
    assert!(!names(2).await.contains("fra1"));
    for node in cluster.alive() {
        eventually("every node hears the POPs", async || {
            let mut pops = PopsClient::new(cluster.channel(node, "anna"));
            let list = pops.list(ListPopsRequest::default()).await.ok()?.into_inner();
            list.pops.iter().all(|pop| pop.silent_ms.is_some()).then_some(())
        })
        .await;
    }
    let silent = Instant::now();
    drop(living.pop());
    assert!(!names(1).await.contains("sin1"));
    println!("a silent POP is out of DNS after {:?}", silent.elapsed());

    // Without a quorum what is known stands.
    let others: Vec<u64> = cluster.alive().map(|node| node.id).filter(|n| *n != id).collect();
    others.into_iter().for_each(|id| cluster.kill(id));
    let node = cluster.alive().next().unwrap();
    assert!(dig(node, port, srv).contains("iad1"));
    let seen = metrics(node);
    assert!(seen.contains("control_dns_queries_total{outcome=\"answered\"}"), "{seen}");
    assert!(seen.contains("control_dns_targets 2"), "UDP and TCP of one POP: {seen}");
    cluster.kill_all();
}
