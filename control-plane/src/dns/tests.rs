use std::collections::BTreeMap;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use proto::control::Pop;

use super::answer::{Outcome, Way, answer};
use super::regions::Regions;
use super::zone::{Settings, Zone};

const CLIENT: &str = "192.0.2.77";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn settings() -> Settings {
    let mut regions = Regions::default();
    assert!(regions.add("eu", "192.0.2.0/24") && regions.add("ap", "198.51.100.0/24"));
    Settings {
        zone: name("sip.acme.example."),
        servers: vec![
            (name("ns1.acme.example."), Vec::new()),
            (name("ns2.sip.acme.example."), vec!["203.0.113.53".parse().unwrap()]),
        ],
        ttl: 5,
        regions,
        weights: BTreeMap::from([("sin1".to_owned(), 7)]),
    }
}

fn pop(id: &str, region: &str, host: &str) -> Pop {
    Pop {
        pop_id: id.into(),
        region: region.into(),
        sip_addresses: vec![format!("udp:{host}:5060"), format!("tcp:{host}:5070")],
        ..Pop::default()
    }
}

fn pops() -> Vec<Pop> {
    vec![
        pop("fra1", "eu", "203.0.113.1"),
        pop("iad1", "us", "203.0.113.2"),
        Pop {
            sip_addresses: vec![
                "udp:203.0.113.3:5060".into(),
                "udp:[2001:db8::3]:5061".into(),
                "udp:0.0.0.0:5060".into(),
                "udp:sin1.example:5060".into(),
                "nonsense".into(),
            ],
            ..pop("sin1", "ap", "")
        },
    ]
}

fn zone(pops: &[Pop]) -> Zone {
    Zone::new(settings(), 77, pops)
}

fn query(text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(12, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(text), kind));
    message
}

fn located(mut message: Message, subnet: &str) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(4_096);
    edns.options_mut().insert(EdnsOption::Subnet(subnet.parse::<ClientSubnet>().unwrap()));
    message.set_edns(edns);
    message
}

fn ask(zone: &Zone, message: &Message) -> (Outcome, Message) {
    let bytes = message.to_vec().unwrap();
    let (outcome, reply) = answer(zone, &bytes, CLIENT.parse().unwrap(), Way::Udp);
    (outcome, Message::from_vec(&reply.unwrap()).unwrap())
}

/// What was answered, as text.
fn answers(reply: &Message) -> Vec<String> {
    let text = |data: &RData| match data {
        RData::SRV(srv) => {
            format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target)
        }
        data => data.to_string(),
    };
    reply.answers.iter().map(|record| text(&record.data)).collect()
}

fn texts(zone: &Zone, at: &str, kind: RecordType) -> Vec<String> {
    answers(&ask(zone, &query(at, kind)).1)
}

const UDP: &str = "_sip._udp.sip.acme.example.";

#[test]
fn callers_find_the_pops_of_their_region_first() {
    let zone = zone(&pops());
    let naptr = texts(&zone, "sip.acme.example.", RecordType::NAPTR);
    assert!(naptr[0].contains("SIP+D2U") && naptr[0].ends_with(UDP), "{naptr:?}");
    assert!(naptr[1].contains("SIP+D2T"), "{naptr:?}");
    // By who asks: eu. The two of another region take turns.
    let srv = texts(&zone, UDP, RecordType::SRV);
    assert_eq!(srv[0], "10 100 5060 fra1.sip.acme.example.");
    assert_eq!(srv.len(), 4);
    assert!(srv[1..].iter().all(|srv| srv.starts_with("20 ")), "{srv:?}");
    assert!(srv.contains(&"20 7 5061 2.sin1.sip.acme.example.".to_owned()), "{srv:?}");
    // By the subnet a resolver tells.
    let (_, reply) = ask(&zone, &located(query(UDP, RecordType::SRV), "198.51.100.0/24"));
    let near = answers(&reply).into_iter().filter(|srv| srv.starts_with("10 "));
    assert_eq!(near.count(), 2, "both addresses of sin1");
    let targets: Vec<String> =
        reply.additionals.iter().map(|record| record.name.to_string()).collect();
    assert!(targets.contains(&"2.sin1.sip.acme.example.".to_owned()), "{targets:?}");
    // A client that is nowhere: all are alike.
    let (_, reply) = ask(&zone, &located(query(UDP, RecordType::SRV), "10.0.0.0/8"));
    assert!(answers(&reply).iter().all(|srv| srv.starts_with("10 ")));
    assert_eq!(texts(&zone, "fra1.sip.acme.example.", RecordType::A), ["203.0.113.1"]);
    assert_eq!(texts(&zone, "2.SIN1.sip.acme.example.", RecordType::AAAA), ["2001:db8::3"]);
    assert_eq!(texts(&zone, "sip.acme.example.", RecordType::A), ["203.0.113.1"]);
    assert_eq!(texts(&zone, "sip.acme.example.", RecordType::NS).len(), 2);
    assert_eq!(texts(&zone, "ns2.sip.acme.example.", RecordType::A), ["203.0.113.53"]);
    assert!(texts(&zone, "sip.acme.example.", RecordType::SOA)[0].contains(" 77 "));
}

#[test]
fn only_pops_that_take_calls_are_named() {
    let none = Pop::default();
    let states = [
        Pop { expired: true, ..none.clone() },
        Pop { expired: true, fenced: true, ..none.clone() },
        Pop { cordoned: true, ..none.clone() },
        Pop { cordoned: true, draining: true, ..none },
    ];
    for Pop { expired, fenced, cordoned, draining, .. } in states {
        let mut pops = pops();
        pops[0] = Pop { expired, fenced, cordoned, draining, ..pops[0].clone() };
        let gone = zone(&pops);
        let srv = texts(&gone, UDP, RecordType::SRV);
        assert!(srv.len() == 3 && srv.iter().all(|srv| !srv.contains("fra1")), "{srv:?}");
        // Its name is there, its address is not: it is no other POP's.
        let (outcome, reply) = ask(&gone, &query("fra1.sip.acme.example.", RecordType::A));
        assert_eq!(outcome, Outcome::Nothing);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        // With nobody else one that merely expired is better than none.
        let alone = zone(&pops[..1]);
        let found = texts(&alone, UDP, RecordType::SRV).len();
        assert_eq!(found, usize::from(expired && !fenced), "{expired} {fenced} {cordoned}");
        assert_eq!(texts(&alone, "sip.acme.example.", RecordType::NAPTR).is_empty(), found == 0);
    }
}

#[test]
fn what_is_not_there_is_denied_for_a_moment() {
    let zone = zone(&pops());
    for (at, kind, code) in [
        ("nowhere.sip.acme.example.", RecordType::A, ResponseCode::NXDomain),
        ("_sips._tcp.sip.acme.example.", RecordType::SRV, ResponseCode::NXDomain),
        ("_udp.sip.acme.example.", RecordType::SRV, ResponseCode::NoError),
        ("sip.acme.example.", RecordType::MX, ResponseCode::NoError),
        ("fra1.sip.acme.example.", RecordType::AAAA, ResponseCode::NoError),
        (UDP, RecordType::A, ResponseCode::NoError),
    ] {
        let (outcome, reply) = ask(&zone, &query(at, kind));
        assert_eq!((outcome, reply.metadata.response_code), (Outcome::Nothing, code), "{at}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        let soa = reply.authorities.first().unwrap();
        assert_eq!((soa.record_type(), soa.ttl), (RecordType::SOA, 5));
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let zone = zone(&pops());
    let refused = |message: &Message| ask(&zone, message).1.metadata.response_code;
    assert_eq!(refused(&query("acme.example.", RecordType::A)), ResponseCode::Refused);
    assert_eq!(refused(&query("sip.acme.example.", RecordType::AXFR)), ResponseCode::Refused);
    let mut chaos = query("sip.acme.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(refused(&chaos), ResponseCode::Refused);
    let mut notify = query("sip.acme.example.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(refused(&notify), ResponseCode::NotImp);
    let mut two = query("sip.acme.example.", RecordType::A);
    two.add_query(Query::query(name("sip.acme.example."), RecordType::AAAA));
    assert_eq!(refused(&two), ResponseCode::FormErr);
    let mut later = query("sip.acme.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    later.set_edns(edns);
    // 16 has two names.
    assert_eq!(u16::from(refused(&later)), u16::from(ResponseCode::BADVERS));
    // An answer is not answered: two servers would go on for ever.
    let mut reply = query("sip.acme.example.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    let source = CLIENT.parse().unwrap();
    let bytes = reply.to_vec().unwrap();
    assert_eq!(answer(&zone, &bytes, source, Way::Udp), (Outcome::Dropped, None));
    assert_eq!(answer(&zone, &bytes[..5], source, Way::Udp), (Outcome::Dropped, None));
    let (outcome, reply) = answer(&zone, &[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], source, Way::Udp);
    let reply = Message::from_vec(&reply.unwrap()).unwrap();
    assert_eq!((outcome, reply.metadata.id), (Outcome::Malformed, 9));
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn a_subnet_is_told_for_whom_the_answer_holds() {
    let zone = zone(&pops());
    let told = |subnet: &str| {
        let (_, reply) = ask(&zone, &located(query(UDP, RecordType::SRV), subnet));
        match reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet)) {
            Some(EdnsOption::Subnet(subnet)) => {
                Ok((subnet.addr().to_string(), subnet.source_prefix(), subnet.scope_prefix()))
            }
            _ => Err(reply.metadata.response_code),
        }
    };
    assert_eq!(told("192.0.2.128/25"), Ok(("192.0.2.128".into(), 25, 24)));
    assert_eq!(told("0.0.0.0/0"), Ok(("0.0.0.0".into(), 0, 0)));
    assert_eq!(told("192.0.2.255/25"), Err(ResponseCode::FormErr), "bits beyond the prefix");
    let plain = ask(&zone, &query(UDP, RecordType::SRV)).1;
    assert!(plain.edns.is_none());
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let many: Vec<Pop> = (0..200)
        .map(|n| pop(&format!("pop-with-a-rather-long-name-{n}"), "eu", &format!("203.0.113.{n}")))
        .collect();
    let zone = zone(&many);
    let small = query(UDP, RecordType::SRV);
    let bytes = small.to_vec().unwrap();
    let (outcome, reply) = answer(&zone, &bytes, CLIENT.parse().unwrap(), Way::Udp);
    let reply = reply.unwrap();
    assert!(reply.len() <= 512, "{}", reply.len());
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((outcome, reply.metadata.truncation), (Outcome::Truncated, true));
    let (outcome, reply) = answer(&zone, &bytes, CLIENT.parse().unwrap(), Way::Tcp);
    let reply = Message::from_vec(&reply.unwrap()).unwrap();
    assert_eq!((outcome, reply.answers.len()), (Outcome::Answered, 12));
    // With EDNS, without what was not asked for.
    let (outcome, reply) = ask(&zone, &located(small, "192.0.2.0/24"));
    assert_eq!((outcome, reply.answers.len()), (Outcome::Answered, 12));
    // All have their turn.
    let turn = |id: u16| {
        let mut message = query(UDP, RecordType::SRV);
        message.metadata.id = id;
        let bytes = message.to_vec().unwrap();
        let (_, reply) = answer(&zone, &bytes, CLIENT.parse().unwrap(), Way::Tcp);
        answers(&Message::from_vec(&reply.unwrap()).unwrap())
    };
    let named: std::collections::BTreeSet<String> = (0..200).flat_map(turn).collect();
    assert_eq!(named.len(), 200);
}

/// A query, bent somewhere.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let labels = proptest::collection::vec("[a-z_0-9]{1,12}", 0..5);
    let kinds = any::<u16>().prop_map(RecordType::from);
    let bends = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (labels, kinds, bends, any::<bool>(), any::<(u32, u8)>()).prop_map(
        |(labels, kind, bends, subnet, (address, length))| {
            let at = format!("{}.sip.acme.example.", labels.join("."));
            let at = at.trim_start_matches('.').to_owned();
            let mut message = query(&at, kind);
            if subnet {
                let mut edns = Edns::new();
                let address = std::net::Ipv4Addr::from_bits(address).into();
                let subnet = ClientSubnet::new(address, length % 33, 0);
                edns.options_mut().insert(EdnsOption::Subnet(subnet));
                message.set_edns(edns);
            }
            let mut bytes = message.to_vec().unwrap();
            for (at, byte) in bends {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

proptest! {
    /// Whatever comes, what goes out is bounded, is an answer, and can be read.
    #[test]
    fn any_bytes_have_an_answer_or_none(
        bytes in prop_oneof![bent(), proptest::collection::vec(any::<u8>(), 0..200)],
        tcp: bool,
    ) {
        let way = if tcp { Way::Tcp } else { Way::Udp };
        let (outcome, reply) = answer(&zone(&pops()), &bytes, CLIENT.parse().unwrap(), way);
        prop_assert_eq!(reply.is_none(), outcome == Outcome::Dropped);
        if let Some(reply) = reply {
            let most = if tcp { 65_535 } else { 1_232 };
            prop_assert!(reply.len() <= most);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            let reply = Message::from_vec(&reply).unwrap();
            prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
    }
}
