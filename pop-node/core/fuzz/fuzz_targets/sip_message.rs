//! Any bytes are a SIP message or a named error; what is read can be written and read again; the
//! endpoint answers without panic and ends every transaction.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pop_core::sip::{
    Config, Endpoint, Event, Flow, MAX_MESSAGE_BYTES, Message, Response, Transport, parse,
};
use proto::time::Instant;

fuzz_target!(|bytes: &[u8]| {
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Ok(message) = parse(&Bytes::copy_from_slice(bytes), transport) {
            read_again(&message, transport);
        }
    }
    let flow = Flow::udp(([192, 0, 2, 9], 5060).into(), ([192, 0, 2, 1], 5060).into());
    let mut endpoint = Endpoint::new(Config::default(), Instant::ZERO);
    endpoint.handle_message(flow, bytes, Instant::ZERO);
    if let Some(Event::Request { tx, request, .. }) = endpoint.poll_event() {
        endpoint.handle_message(flow, bytes, Instant::ZERO);
        endpoint.respond(tx, Response::to_request(&request, 200), Instant::ZERO);
    }
    while let Some(at) = endpoint.poll_timeout() {
        endpoint.handle_timeout(at);
    }
    assert_eq!(endpoint.transactions(), 0);
});

fn read_again(message: &Message, transport: Transport) {
    let headers = message.headers();
    let _ = (headers.contact(), headers.contacts(), headers.routes(), headers.record_routes());
    let _ = (headers.expires(), headers.content_type(), headers.to_tag(), headers.max_forwards());
    let written = message.serialize();
    // Compact names grow when written in full.
    if written.len() <= MAX_MESSAGE_BYTES {
        assert_eq!(parse(&written, transport).as_ref(), Ok(message));
    }
}
