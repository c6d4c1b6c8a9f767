//! Tests of SIP as a whole: torture messages, scripts, properties, dialogs.

mod dialogs;
mod properties;
mod scripts;
mod torture;

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Flow, Message, Request, Response, Transport, parse};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

/// The peer of most tests talks to us by this flow.
fn udp() -> Flow {
    Flow::udp(address("192.0.2.9:5060"), address("192.0.2.1:5060"))
}

/// Lines as they are written in a test, with the line ends SIP wants.
fn wire(text: &str) -> Bytes {
    Bytes::from(text.replace('\n', "\r\n"))
}

fn request(text: &str) -> Request {
    match parse(&wire(text), Transport::Udp).expect("parses") {
        Message::Request(request) => request,
        Message::Response(response) => panic!("a response: {response:?}"),
    }
}

fn response(text: &str) -> Response {
    match parse(&wire(text), Transport::Udp).expect("parses") {
        Message::Response(response) => response,
        Message::Request(request) => panic!("a request: {request:?}"),
    }
}
