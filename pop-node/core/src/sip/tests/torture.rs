//! RFC 4475, message by message. The archive's files lie beside the project, byte-exact.

use std::path::Path;

use bytes::Bytes;
use proto::time::Instant;

use super::address;
use crate::sip::{
    Config, Endpoint, Event, Flow, HeaderName, Malformed, Message, Method, NameAddr, Request,
    Transport, parse,
};

/// What the endpoint makes of a message that comes from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Given to the transaction user.
    Accepted,
    /// Answered with this status.
    Answered(u16),
    /// No event, nothing sent.
    Silence,
}

use Fate::{Accepted, Answered, Silence};

/// Every file with its treatment. What the RFC leaves open is marked.
const FATES: &[(&str, Fate)] = &[
    // §3.1.1, valid.
    ("wsinv", Accepted),
    ("intmeth", Accepted),
    ("esc01", Accepted),
    ("escnull", Accepted),
    ("esc02", Accepted),
    ("lwsdisp", Accepted),
    ("longreq", Accepted),
    ("dblreq", Accepted),
    ("semiuri", Accepted),
    ("transports", Accepted),
    ("mpart01", Accepted),
    // Responses without a request of ours are dropped, well formed or not.
    ("unreason", Silence),
    ("noreason", Silence),
    // §3.1.2, invalid.
    ("badinv01", Answered(400)),
    ("clerr", Answered(400)),
    ("ncl", Answered(400)),
    ("scalar02", Answered(400)),
    ("scalarlg", Silence),
    ("quotbal", Answered(400)),
    ("ltgtruri", Answered(400)),
    ("lwsruri", Answered(400)),
    ("lwsstart", Answered(400)),
    ("trws", Answered(400)),
    ("escruri", Answered(400)),
    // §3.1.2.12: the Date may be ignored, and is.
    ("baddate", Accepted),
    ("regbadct", Answered(400)),
    // §3.1.2.14: white space inside the brackets may be tolerated, and is.
    ("badaspec", Accepted),
    ("baddn", Answered(400)),
    ("badvers", Answered(505)),
    ("mismatch01", Answered(400)),
    ("mismatch02", Answered(400)),
    ("bigcode", Silence),
    // §3.2, transaction layer. A bare cookie is no branch of RFC 3261: the old matching is used.
    ("badbranch", Accepted),
    // §3.3, application layer.
    ("insuf", Answered(400)),
    ("unkscm", Answered(416)),
    ("novelsc", Answered(416)),
    // §3.3.4: schemes of From and To are nobody's business here.
    ("unksm2", Accepted),
    ("bext01", Answered(420)),
    // 415 and 488 are the transaction user's.
    ("invut", Accepted),
    ("regaut01", Accepted),
    ("multi01", Answered(400)),
    ("mcl01", Answered(400)),
    ("bcast", Silence),
    // §3.3.11 allows an OPTIONS with Max-Forwards 0 to be answered in one's own name.
    ("zeromf", Accepted),
    ("cparam01", Accepted),
    ("cparam02", Accepted),
    ("regescrt", Accepted),
    ("sdp01", Accepted),
    // §3.4, older clients.
    ("inv2543", Accepted),
];

fn load(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/rfc4475");
    let path = path.join(format!("{name}.dat"));
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("RFC 4475 message {}: {error}", path.display()));
    Bytes::from(bytes)
}

/// The transport its topmost Via names.
fn transport(bytes: &[u8]) -> Transport {
    let text = String::from_utf8_lossy(bytes);
    let tcp = text.find("SIP/2.0/TCP").unwrap_or(usize::MAX);
    let udp = text.find("/UDP").unwrap_or(usize::MAX);
    if tcp < udp { Transport::Tcp } else { Transport::Udp }
}

fn valid(name: &str) -> Request {
    let bytes = load(name);
    match parse(&bytes, transport(&bytes)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    }
}

fn fate_of(name: &str) -> Fate {
    let bytes = load(name);
    let (local, remote) = (address("192.0.2.9:5060"), address("192.0.2.201:5099"));
    let flow = Flow { transport: transport(&bytes), local, remote, connection: 0 };
    let mut endpoint = Endpoint::new(Config::default(), Instant::ZERO);
    endpoint.handle_message(flow, &bytes, Instant::ZERO);
    if let Some(event) = endpoint.poll_event() {
        assert!(matches!(event, Event::Request { .. }), "{name}: {event:?}");
        return Accepted;
    }
    let Some(transmit) = endpoint.poll_transmit() else { return Silence };
    let text = String::from_utf8_lossy(&transmit.bytes).into_owned();
    let status = text.get(8..11).and_then(|status| status.parse().ok());
    Answered(status.unwrap_or_else(|| panic!("{name}: no response: {text}")))
}

#[test]
fn each_message_meets_its_fate() {
    let wrong: Vec<String> = FATES
        .iter()
        .map(|(name, fate)| (name, fate, fate_of(name)))
        .filter(|(_, due, met)| *due != met)
        .map(|(name, due, met)| format!("{name}: due {due:?}, met {met:?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_message_is_forgotten() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/rfc4475");
    let entries = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".dat").map(str::to_owned))
        .collect();
    names.sort();
    let mut known: Vec<&str> = FATES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(names, known);
}

#[test]
fn what_is_accepted_survives_a_round_trip() {
    for (name, fate) in FATES {
        if *fate != Accepted {
            continue;
        }
        let request = valid(name);
        let again = parse(&request.serialize(), Transport::Udp);
        assert_eq!(again, Ok(Message::Request(request)), "{name}");
    }
}

/// §3.1.1.1: folding, odd case, spaces, quotes.
#[test]
fn wsinv_reads_as_meant() {
    let headers = valid("wsinv").headers;
    let to = headers.to().expect("To");
    assert_eq!(to.uri.to_string(), "sip:vivekg@chair-dnrc.example.com");
    assert_eq!(to.tag().as_deref(), Some("1918181833n"));
    let from = headers.from().expect("From");
    assert_eq!(from.display_name().as_deref(), Some("J Rosenberg \\\""));
    assert_eq!(from.tag().as_deref(), Some("98asjd8"));
    assert_eq!(headers.max_forwards(), Some(68));
    let cseq = headers.cseq().expect("CSeq");
    assert_eq!((cseq.number, cseq.method), (9, Method::Invite));
    assert_eq!(headers.get_all(&HeaderName::Via).count(), 3);
    let last = headers.get_all(&HeaderName::Via).last().cloned().expect("Via");
    let last = crate::sip::Via::parse(&last).expect("Via");
    assert_eq!(
        (last.host.as_str(), last.branch().as_deref()),
        ("192.168.255.111", Some("z9hG4bK30239"))
    );
    assert_eq!(
        headers.get_str(&HeaderName::new("newfangledheader")),
        Some("newfangled value continued newfangled value")
    );
    let contact = headers.contact().expect("Contact");
    assert_eq!(contact.display_name().as_deref(), Some("Quoted string \"\""));
    assert_eq!(contact.params.get("q"), Some("0.33"));
    assert_eq!(contact.params.get("newparam"), Some("newvalue"));
    assert_eq!(contact.params.get("secondparam"), Some(""));
    assert!(headers.routes().first().expect("Route").uri.is_loose_router());
}

/// §3.1.1.2: every odd character that is legal somewhere.
#[test]
fn intmeth_reads_as_meant() {
    let request = valid("intmeth");
    assert_eq!(request.method.as_str(), "!interesting-Method0123456789_*+`.%indeed'~");
    assert_eq!(request.uri.host, "example.com");
    assert_eq!(request.uri.user(), Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    let from = request.headers.from().expect("From");
    assert_eq!(from.display_name().as_deref(), Some("token1~` token2'+_ token3*%!.-"));
    assert_eq!(from.tag().as_deref(), Some("_token~1'+`*%!-."));
}

/// §3.1.1.3 and §3.1.1.5: escapes are kept and mean something only where they stand.
#[test]
fn escapes_stay_where_they_are() {
    let request = valid("esc01");
    assert_eq!(request.uri.user(), Some("sips%3Auser%40example.com"));
    assert_eq!(request.uri.user_unescaped().as_deref(), Some("sips:user@example.com"));
    let request = valid("esc02");
    assert_eq!(request.method.as_str(), "RE%47IST%45R");
    assert_eq!(request.headers.contacts().len(), 2);
    assert!(request.headers.has(&HeaderName::new("C%6Fntact")));
}

/// §3.1.1.8: what follows Content-Length in a datagram is not part of it.
#[test]
fn dblreq_is_one_request() {
    let request = valid("dblreq");
    assert_eq!(request.method, Method::Register);
    assert!(request.body.is_empty());
}

/// §3.1.1.13: parameters belong to the header without brackets, to the URI with them.
#[test]
fn brackets_decide_whose_parameter_it_is() {
    let bare = valid("cparam01").headers.contact().expect("Contact");
    assert!(bare.params.has("unknownparam") && bare.uri.params.is_empty());
    let bracketed = valid("cparam02").headers.contact().expect("Contact");
    assert!(bracketed.params.is_empty() && bracketed.uri.params.has("unknownparam"));
    let semicolon = valid("semiuri").uri;
    assert_eq!(semicolon.user(), Some("user;par=u%40example.net"));
    assert!(semicolon.params.is_empty());
}

#[test]
fn refusals_name_the_fault() {
    let faults = [
        ("badinv01", Malformed::Via),
        ("clerr", Malformed::BodyTooShort),
        ("ncl", Malformed::ContentLength),
        ("mcl01", Malformed::ContentLength),
        ("scalar02", Malformed::CSeq),
        ("quotbal", Malformed::To),
        ("insuf", Malformed::Missing("Call-ID")),
        ("multi01", Malformed::Repeated),
        ("mismatch01", Malformed::CSeqMethod),
        ("badvers", Malformed::Version),
        ("lwsstart", Malformed::StartLine),
        ("regbadct", Malformed::Contact),
    ];
    for (name, fault) in faults {
        let bytes = load(name);
        let error = parse(&bytes, transport(&bytes)).expect_err(name);
        assert_eq!(error.malformed, fault, "{name}");
        let answer = error.answer.expect(name);
        assert!(answer.headers.has(&HeaderName::Via), "{name}");
    }
}

#[test]
fn reason_phrases_may_be_any_bytes_or_none() {
    let Ok(Message::Response(unreason)) = parse(&load("unreason"), Transport::Udp) else {
        panic!("unreason")
    };
    assert!(String::from_utf8_lossy(&unreason.reason).starts_with("= 2**3 * 5**2 но сто"));
    let Ok(Message::Response(noreason)) = parse(&load("noreason"), Transport::Udp) else {
        panic!("noreason")
    };
    assert_eq!((noreason.status, noreason.reason.len()), (100, 0));
}

#[test]
fn addresses_without_brackets_parse() {
    let value = Bytes::from_static(b"sip:+13035551111@ift.client.example.net;user=phone");
    let address = NameAddr::parse(&value).expect("parses");
    assert_eq!(address.params.get("user"), Some("phone"));
    assert!(address.uri.params.is_empty());
}
