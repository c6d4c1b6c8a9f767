//! A call whose other end moves: somebody else goes on with the dialog, from another address.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;

/// One who speaks SIP by hand, with a socket for media.
struct Hand {
    phone: &'static str,
    sip: UdpSocket,
    rtp: UdpSocket,
}

impl Hand {
    fn new(ip: &str, phone: &'static str) -> Self {
        let bind = |port| {
            let socket = UdpSocket::bind((ip, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        Self { phone, sip: bind(5060), rtp: bind(0) }
    }

    fn sdp(&self) -> String {
        let at = self.rtp.local_addr().unwrap();
        format!(
            "v=0\r\no=x 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio {} RTP/AVP 0\r\n",
            at.port(),
            ip = at.ip()
        )
    }

    /// Sends a request of the dialog; `to_tag` is empty before there is one.
    fn send(&self, method: &str, cseq: u32, to_tag: &str, branch: &str) {
        let (at, phone) = (self.sip.local_addr().unwrap(), self.phone);
        let body = if method == "INVITE" { self.sdp() } else { String::new() };
        let text = format!(
            "{method} sip:+15@{phone} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{branch}\r\n\
             From: <sip:+14@127.0.217.2>;tag=ours\r\nTo: <sip:+15@{phone}>{to_tag}\r\n\
             Call-ID: moving\r\nCSeq: {cseq} {method}\r\nContact: <sip:+14@{at}>\r\n\
             Max-Forwards: 70\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.sip.send_to(text.as_bytes(), phone).unwrap();
    }

    /// The next message that begins so.
    fn until(&self, begin: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let (length, _) = self.sip.recv_from(&mut buffer).expect(begin);
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(begin) {
                return text;
            }
        }
    }

    /// Sets a call up; the To tag of the phone.
    fn call(&self) -> String {
        self.send("INVITE", 1, "", "first");
        let answer = self.until("SIP/2.0 200");
        let to = answer.lines().find(|line| line.starts_with("To:")).unwrap();
        let tag = format!(";tag={}", to.split("tag=").nth(1).unwrap());
        self.send("ACK", 1, &tag, "ack");
        self.hears();
        tag
    }

    fn hears(&self) {
        self.rtp.recv_from(&mut [0; 512]).expect("media");
    }

    /// Whether nothing is heard for a while.
    fn is_deaf(&self) -> bool {
        self.rtp.set_nonblocking(true).unwrap();
        let (mut buffer, until) = ([0; 512], Instant::now() + Duration::from_millis(300));
        // What was under way is not meant.
        while self.rtp.recv_from(&mut buffer).is_ok() {}
        while Instant::now() < until {
            if self.rtp.recv_from(&mut buffer).is_ok() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

#[test]
fn a_call_that_moves_goes_on_where_it_says() {
    const PHONE: &str = "127.0.218.2:5060";
    let phone =
        Agent::start(Config { diary: true, ..Config::new(PHONE.parse().unwrap()) }).unwrap();
    let (first, second) = (Hand::new("127.0.217.2", PHONE), Hand::new("127.0.219.2", PHONE));
    let tag = first.call();
    // An old CSeq moves nothing (RFC 3261 §12.2.2).
    second.send("INVITE", 1, &tag, "old");
    second.until("SIP/2.0 500");
    assert!(!first.is_deaf());
    second.send("INVITE", 2, &tag, "move");
    let answer = second.until("SIP/2.0 200");
    assert!(answer.contains("m=audio"), "{answer}");
    second.send("ACK", 2, &tag, "ack2");
    second.hears();
    assert!(first.is_deaf());
    phone.hang_up_all();
    let bye = second.until("BYE");
    let head: Vec<&str> = bye.lines().filter(|line| !line.starts_with("Content")).collect();
    let answer = head.join("\r\n").replacen(head[0], "SIP/2.0 200 OK", 1);
    second.sip.send_to(format!("{answer}\r\n\r\n").as_bytes(), PHONE).unwrap();
    let report = one_report(&phone);
    assert_eq!((&report.end, report.bye), (&End::Completed, Some(Bye::Sent(Some(200)))));
    let answers: Vec<u16> = report.moves.iter().map(|m| m.answer).collect();
    assert_eq!(answers, [500, 200]);
    assert_eq!(report.moves[1].from, second.sip.local_addr().unwrap());
    assert_eq!(report.moves[1].media, Some(second.rtp.local_addr().unwrap()));
}

#[test]
fn a_phone_may_refuse_to_move_and_a_refused_bye_is_no_good_end() {
    const PHONE: &str = "127.0.218.3:5060";
    let reinvite = Reinvite::RefuseOnce(491);
    let config = Config { reinvite, ..Config::new(PHONE.parse().unwrap()) };
    let phone = Agent::start(config).unwrap();
    let (first, second) = (Hand::new("127.0.217.3", PHONE), Hand::new("127.0.219.3", PHONE));
    let tag = first.call();
    second.send("INVITE", 2, &tag, "move");
    second.until("SIP/2.0 491");
    assert!(!first.is_deaf(), "media moved although the move was refused");
    second.send("INVITE", 3, &tag, "again");
    second.until("SIP/2.0 200");
    second.hears();
    phone.hang_up_all();
    let bye = second.until("BYE");
    let head: Vec<&str> = bye.lines().filter(|line| !line.starts_with("Content")).collect();
    let answer = head.join("\r\n").replacen(head[0], "SIP/2.0 481 Gone", 1);
    second.sip.send_to(format!("{answer}\r\n\r\n").as_bytes(), PHONE).unwrap();
    let report = one_report(&phone);
    assert_eq!(report.bye, Some(Bye::Sent(Some(481))));
    assert!(matches!(report.end, End::Failed(_)), "{:?}", report.end);
}

fn one_report(phone: &Agent) -> Report {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(report) = phone.reports().unwrap().pop() {
            return report;
        }
        assert!(Instant::now() < deadline, "no report");
        std::thread::sleep(Duration::from_millis(10));
    }
}
