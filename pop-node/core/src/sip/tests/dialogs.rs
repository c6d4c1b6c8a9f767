//! Dialogs (RFC 3261 §12): who is addressed, by which way, with which numbers.

use super::{request, response};
use crate::sip::{Dialog, DialogError, DialogId, DialogState, HeaderName, Method, NameAddr, Text};

const INVITE: &str = "INVITE sip:bob@192.0.2.9 SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1
From: Alice <sip:alice@example.com>;tag=a
To: <sip:bob@example.com>
Call-ID: d1
CSeq: 7 INVITE
Contact: <sip:alice@192.0.2.1:5062>
Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>

";

const OK: &str = "SIP/2.0 200 OK
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1
From: Alice <sip:alice@example.com>;tag=a
To: <sip:bob@example.com>;tag=b
Call-ID: d1
CSeq: 7 INVITE
Contact: <sip:bob@192.0.2.2>
Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>

";

fn us() -> NameAddr {
    NameAddr::new("sip:192.0.2.9:5060".parse().expect("uri"))
}

fn routes(request: &crate::sip::Request) -> Vec<String> {
    request.headers.routes().iter().map(|route| route.uri.to_string()).collect()
}

#[test]
fn uas_sends_back_the_way_the_invite_came() {
    let invite = request(INVITE);
    let mut dialog = Dialog::uas(&invite, &Text::from("b"), us()).expect("dialog");
    assert_eq!(dialog.state, DialogState::Early);
    let ok = dialog.respond(&invite, 200);
    assert_eq!(ok.headers.to_tag().as_deref(), Some("b"));
    assert_eq!(ok.headers.record_routes().len(), 2);
    assert_eq!(ok.headers.contact(), Some(us()));
    assert!(!dialog.respond(&invite, 486).headers.has(&HeaderName::Contact));
    assert_eq!(dialog.respond(&invite, 100).headers.to_tag(), None);
    dialog.confirm();

    let bye = dialog.request(Method::Bye);
    assert_eq!(bye.uri.to_string(), "sip:alice@192.0.2.1:5062");
    assert_eq!(routes(&bye), ["sip:p1.example.com;lr", "sip:p2.example.com;lr"]);
    assert_eq!(dialog.next_hop().host, "p1.example.com");
    assert_eq!(bye.headers.from_tag().as_deref(), Some("b"));
    assert_eq!(bye.headers.to_tag().as_deref(), Some("a"));
    assert_eq!(bye.headers.cseq().map(|cseq| cseq.number), Some(1));
    assert!(!bye.headers.has(&HeaderName::Contact));
    assert_eq!(dialog.request(Method::Invite).headers.cseq().map(|c| c.number), Some(2));
}

#[test]
fn uac_turns_the_record_route_round() {
    let mut dialog = Dialog::uac(&request(INVITE), &response(OK)).expect("dialog");
    assert_eq!(dialog.state, DialogState::Confirmed);
    let ack = dialog.ack(7);
    assert_eq!(ack.headers.cseq().map(|cseq| cseq.to_string()).as_deref(), Some("7 ACK"));
    assert_eq!(routes(&ack), ["sip:p2.example.com;lr", "sip:p1.example.com;lr"]);
    let again = dialog.request(Method::Invite);
    assert_eq!(again.headers.cseq().map(|cseq| cseq.number), Some(8));
    assert_eq!(again.uri.to_string(), "sip:bob@192.0.2.2");
    assert!(again.headers.has(&HeaderName::Contact));
    assert_eq!(Some(dialog.id()), DialogId::of_response(&response(OK)));
}

#[test]
fn early_dialog_takes_its_routes_from_the_2xx() {
    let ringing = OK
        .replace("200 OK", "180 Ringing")
        .replace("Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>\n", "");
    let mut dialog = Dialog::uac(&request(INVITE), &response(&ringing)).expect("dialog");
    assert_eq!((dialog.state, dialog.route_set.len()), (DialogState::Early, 0));
    dialog.update_from_response(&response(OK));
    assert_eq!((dialog.state, dialog.route_set.len()), (DialogState::Confirmed, 2));
}

#[test]
fn strict_router_gets_its_own_uri() {
    let ok = OK.replace("<sip:p2.example.com;lr>", "<sip:p2.example.com>");
    let dialog = Dialog::uac(&request(INVITE), &response(&ok)).expect("dialog");
    let ack = dialog.ack(7);
    assert_eq!(ack.uri.to_string(), "sip:p2.example.com");
    assert_eq!(routes(&ack), ["sip:p1.example.com;lr", "sip:bob@192.0.2.2"]);
}

#[test]
fn peer_requests_must_come_in_order() {
    let invite = request(INVITE);
    let mut dialog = Dialog::uas(&invite, &Text::from("b"), us()).expect("dialog");
    assert_eq!(dialog.accept_request(&invite), Err(DialogError::CSeqOrder));
    let moved = INVITE
        .replace("CSeq: 7", "CSeq: 9")
        .replace("<sip:bob@example.com>", "<sip:bob@example.com>;tag=b")
        .replace("192.0.2.1:5062", "192.0.2.77");
    assert_eq!(dialog.accept_request(&request(&moved)), Ok(()));
    assert_eq!(dialog.remote_target.host, "192.0.2.77");
    assert_eq!(DialogId::of_request(&request(&moved)), Some(dialog.id()));
    let older = moved.replace("CSeq: 9", "CSeq: 8");
    assert_eq!(dialog.accept_request(&request(&older)), Err(DialogError::CSeqOrder));
    let copy = dialog.clone();
    assert_eq!(copy, dialog);
}

#[test]
fn an_invite_without_contact_makes_no_dialog() {
    let invite = INVITE.replace("Contact: <sip:alice@192.0.2.1:5062>\n", "");
    assert_eq!(
        Dialog::uas(&request(&invite), &Text::from("b"), us()),
        Err(DialogError::Missing("Contact"))
    );
    let no_contact = OK.replace("Contact: <sip:bob@192.0.2.2>\n", "");
    let dialog = Dialog::uac(&request(INVITE), &response(&no_contact)).expect("dialog");
    assert_eq!(dialog.remote_target.to_string(), "sip:bob@192.0.2.9");
}
