//! No input panics; what is written reads back the same.

use bytes::Bytes;
use proptest::prelude::*;
use proto::time::{Duration, Instant};

use super::{request, udp};
use crate::sip::{
    Config, Endpoint, HeaderName, Message, Method, NameAddr, Request, Response, Text, Transport,
    Uri, Via, parse,
};

const INVITE: &str = "INVITE sip:+4930123@192.0.2.9 SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKprop;rport, SIP/2.0/TCP [2001:db8::1];branch=z9hG4bKx
Max-Forwards: 70
From: \"Anna \\\"A\\\"\" <sip:anna@example.com;x=1>;tag=a1
t: sip:+4930123@192.0.2.9
i: prop@example.com
CSeq: 1 INVITE
m: <sip:anna@192.0.2.1:5060;transport=tcp>;q=0.5, <sip:anna@192.0.2.2>
Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>
Subject: folded
 value
Content-Type: application/sdp
Content-Length: 5

v=0
";

fn arb_method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::Invite),
        Just(Method::Bye),
        Just(Method::Options),
        "[A-Z][A-Z0-9.!%*_+`'~-]{0,8}X9".prop_map(|name| Method::Other(Text::from(name))),
    ]
}

fn arb_uri() -> impl Strategy<Value = Uri> {
    let sip = (
        prop_oneof![Just("sip"), Just("sips")],
        prop::option::of("[a-z0-9+%_.;?/&=$,-]{1,12}"),
        prop_oneof![
            "[a-z][a-z0-9-]{0,8}\\.example",
            Just("192.0.2.7".to_owned()),
            Just("[2001:db8::7]".to_owned())
        ],
        prop::option::of(1_u16..),
        prop::collection::vec(("[a-z]{1,6}", prop::option::of("[a-z0-9./:&+$-]{1,6}")), 0..3),
    );
    sip.prop_map(|(scheme, user, host, port, params)| {
        let mut text = format!("{scheme}:");
        if let Some(user) = user {
            text += &format!("{user}@");
        }
        text += &host;
        if let Some(port) = port {
            text += &format!(":{port}");
        }
        for (name, value) in params {
            text += &format!(";{name}");
            if let Some(value) = value {
                text += &format!("={value}");
            }
        }
        text.parse().expect("a URI by construction")
    })
}

fn arb_name_addr() -> impl Strategy<Value = NameAddr> {
    let display = prop_oneof![
        Just(None),
        "[A-Za-z. ]{0,5}[a-z]".prop_map(|name| Some(name.trim().to_owned())),
        "[ -!#-\\[\\]-~äöé]{0,8}".prop_map(|name| Some(format!("\"{name}\""))),
    ];
    (display, arb_uri(), prop::option::of("[a-zA-Z0-9.!%*_+`'~-]{1,10}")).prop_map(
        |(display, uri, tag)| {
            let mut address = NameAddr::new(uri);
            address.display = display.map(Bytes::from);
            match tag {
                Some(tag) => address.with_tag(Text::from(tag)),
                None => address,
            }
        },
    )
}

fn arb_request() -> impl Strategy<Value = Request> {
    let addresses = prop::collection::vec(arb_name_addr(), 0..4);
    (
        arb_method(),
        arb_uri(),
        (arb_name_addr(), arb_name_addr()),
        addresses,
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..80),
        "[a-zA-Z0-9@.<>:/\\[\\]?{}-]{1,20}",
        "[ -~]{0,30}",
    )
        .prop_map(|(method, uri, (from, to), list, number, body, call_id, other)| {
            let mut request = Request::new(method.clone(), uri);
            let headers = &mut request.headers;
            headers.push(HeaderName::Via, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKround");
            headers.push(HeaderName::From, &from);
            headers.push(HeaderName::To, &to);
            headers.push(HeaderName::CallId, call_id);
            headers.push(HeaderName::CSeq, &crate::sip::CSeq { number, method });
            for address in &list {
                headers.push(HeaderName::Contact, address);
                headers.push(HeaderName::RecordRoute, address);
            }
            headers.push(HeaderName::new("X-Other"), other.trim());
            request.body = Bytes::from(body);
            request
        })
}

/// Changes a few bytes of `text` at the places given.
fn mutated(text: &str, edits: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.replace('\n', "\r\n").into_bytes();
    for (place, kind, byte) in edits {
        let at = place % bytes.len().max(1);
        match kind % 4 {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            2 => drop(bytes.drain(at..(at + usize::from(*byte % 16)).min(bytes.len()))),
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
    bytes
}

fn poke(message: Message) {
    let headers = message.headers();
    let _ = (headers.contact(), headers.contacts(), headers.routes(), headers.record_routes());
    let _ = (headers.expires(), headers.retry_after(), headers.content_type());
    let _ = (headers.to_tag(), headers.from_tag(), headers.call_id(), headers.max_forwards());
    let _ = headers.tokens(&HeaderName::Require);
    let _ = format!("{message:?}");
    let _ = message.serialize();
}

proptest! {
    #[test]
    fn any_bytes_parse_or_not(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Ok(message) = parse(&Bytes::from(bytes.clone()), transport) {
                poke(message);
            }
        }
    }

    #[test]
    fn damaged_messages_do_no_harm(edits in prop::collection::vec(any::<(usize, u8, u8)>(), 1..6)) {
        let bytes = mutated(INVITE, &edits);
        if let Ok(message) = parse(&Bytes::from(bytes.clone()), Transport::Udp) {
            poke(message);
        }
        let mut endpoint = Endpoint::new(Config::default(), Instant::ZERO);
        endpoint.handle_message(udp(), &bytes, Instant::ZERO);
        endpoint.handle_message(udp(), &bytes, Instant::ZERO);
        while endpoint.poll_event().is_some() {}
        while let Some(transmit) = endpoint.poll_transmit() {
            let again = parse(&transmit.bytes, Transport::Udp);
            prop_assert!(matches!(again, Ok(Message::Response(_)) | Err(_)));
        }
    }

    #[test]
    fn values_parse_or_not(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        let _ = (Uri::parse(&bytes), Via::parse(&bytes), NameAddr::parse(&bytes));
        let _ = crate::sip::CSeq::parse(&bytes);
    }

    #[test]
    fn uris_round_trip(uri in arb_uri()) {
        prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
    }

    #[test]
    fn addresses_round_trip(address in arb_name_addr()) {
        prop_assert_eq!(NameAddr::parse(&address.to_bytes()), Ok(address));
    }

    #[test]
    fn requests_round_trip(request in arb_request()) {
        for transport in [Transport::Udp, Transport::Tcp] {
            let again = parse(&request.serialize(), transport);
            prop_assert_eq!(&again, &Ok(Message::Request(request.clone())));
        }
    }

    #[test]
    fn responses_round_trip(request in arb_request(), status in 100_u16..700) {
        let mut response = Response::to_request(&request, status);
        response.set_body("application/sdp", request.body);
        let again = parse(&response.serialize(), Transport::Udp);
        prop_assert_eq!(again, Ok(Message::Response(response)));
    }

    /// Whatever comes in whatever order, all transactions end when time passes.
    #[test]
    fn every_transaction_ends(
        inputs in prop::collection::vec((0_u8..7, 0_u32..3, 100_u16..700, 0_u64..40_000), 0..40)
    ) {
        let mut now = Instant::ZERO;
        let mut endpoint = Endpoint::new(Config::default(), now);
        let invite = request(INVITE);
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for (kind, number, status, wait_ms) in inputs {
            let mut message = invite.clone();
            message.method = [Method::Invite, Method::Ack, Method::Cancel, Method::Bye][usize::from(kind % 4)].clone();
            message.headers.set(HeaderName::CSeq, format!("{number} {}", message.method));
            match kind {
                0..=3 => endpoint.handle_message(udp(), &message.serialize(), now),
                4 if matches!(message.method, Method::Invite | Method::Bye) => {
                    clients.extend(endpoint.request(message, udp(), now));
                }
                4 | 5 => {
                    if let Some(tx) = clients.get(number as usize) {
                        endpoint.cancel(*tx, now);
                    }
                }
                _ => {
                    if let Some(tx) = servers.last().copied() {
                        endpoint.respond(tx, Response::to_request(&invite, status), now);
                    }
                    if status >= 200 {
                        servers.pop();
                    }
                }
            }
            while let Some(event) = endpoint.poll_event() {
                if let crate::sip::Event::Request { tx, .. } = event {
                    servers.push(tx);
                }
            }
            now += Duration::from_millis(wait_ms);
            endpoint.handle_timeout(now);
        }
        for tx in servers {
            endpoint.respond(tx, Response::to_request(&invite, 486), now);
        }
        while let Some(at) = endpoint.poll_timeout() {
            prop_assert!(at >= now, "time runs backwards");
            now = at;
            endpoint.handle_timeout(now);
        }
        while endpoint.poll_event().is_some() {}
        while endpoint.poll_transmit().is_some() {}
        prop_assert!(endpoint.is_idle(), "{} left", endpoint.transactions());
    }
}

#[test]
fn one_line_lists_become_entries() {
    let request = request(INVITE);
    let headers = &request.headers;
    assert_eq!(headers.get_all(&HeaderName::Via).count(), 2);
    assert_eq!(headers.contacts().len(), 2);
    let routes: Vec<_> = headers.record_routes().iter().map(|r| r.uri.host.to_string()).collect();
    assert_eq!(routes, ["p1.example.com", "p2.example.com"]);
    assert_eq!(headers.get_str(&HeaderName::Subject), Some("folded value"));
    assert_eq!(headers.from().and_then(|from| from.display_name()).as_deref(), Some("Anna \"A\""));
    assert_eq!(request.body, "v=0\r\n");
    let star = Bytes::from_static(b" * ");
    assert_eq!(crate::sip::header::parse_contact(&star), Ok(None));
}

#[test]
fn debug_shows_no_number() {
    let shown = format!("{:?} {:?}", request(INVITE), request(INVITE).uri);
    assert!(!shown.contains("4930123") && !shown.contains("anna"), "{shown}");
}

#[test]
fn values_cannot_smuggle_headers() {
    let mut request = request(INVITE);
    request.headers.set(HeaderName::Subject, "x\r\nEvil: 1\r\n\r\n");
    let Ok(Message::Request(again)) = parse(&request.serialize(), Transport::Udp) else {
        panic!("parses")
    };
    assert!(!again.headers.has(&HeaderName::new("Evil")));
}

#[test]
fn bounds_hold() {
    let many = "X: 1\r\n".repeat(300);
    let text = INVITE.replace('\n', "\r\n").replace("Subject: folded\r\n value\r\n", &many);
    let error = parse(&Bytes::from(text), Transport::Udp).expect_err("too many headers");
    assert_eq!(error.malformed, crate::sip::Malformed::TooManyHeaders);
    let vias = format!("Via: {}\r\n", "SIP/2.0/UDP h,".repeat(3000));
    let text = INVITE.replace('\n', "\r\n").replace("Subject: folded\r\n value\r\n", &vias);
    let error = parse(&Bytes::from(text), Transport::Udp).expect_err("too many values");
    assert_eq!(error.malformed, crate::sip::Malformed::TooManyHeaders);
    let large = INVITE.replace("Content-Length: 5", "Content-Length: 70000");
    let error = parse(&super::wire(&large), Transport::Tcp).expect_err("too large");
    assert_eq!(error.answer.expect("answer").status, 413);
    let value = format!("Subject: {}\r\n", "x".repeat(70_000));
    let text = INVITE.replace('\n', "\r\n").replace("Subject: folded\r\n value\r\n", &value);
    let error = parse(&Bytes::from(text), Transport::Udp).expect_err("too large");
    assert_eq!(error.answer.expect("answer").status, 513, "no body of it is too large");
}

/// Nothing new has room any more; what belongs to a call has.
#[test]
fn a_bye_has_room_when_nothing_new_has() {
    let config = Config { max_transactions: 8, ..Config::default() };
    let mut endpoint = Endpoint::new(config, Instant::ZERO);
    let mut taken = |method: Method, n: u32| {
        let mut message = request(INVITE);
        let via = format!("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK-{n}");
        message.headers.set(HeaderName::Via, via);
        message.headers.set(HeaderName::CallId, format!("call-{n}"));
        message.headers.set(HeaderName::CSeq, format!("1 {method}"));
        if method == Method::Bye {
            message.headers.set(HeaderName::To, "<sip:+4930901820@192.0.2.1>;tag=ours");
        }
        message.method = method;
        endpoint.handle_message(udp(), &message.serialize(), Instant::ZERO);
        endpoint.poll_event().is_some()
    };
    let invites: Vec<bool> = (0..9).map(|n| taken(Method::Invite, n)).collect();
    assert_eq!(invites.iter().filter(|taken| **taken).count(), 7);
    assert!(taken(Method::Bye, 100));
    assert!(!taken(Method::Bye, 101), "there is an end to everything");
}
