//! Whatever an RPKI cache sends, the client leaves it with a reason or goes on: it never panics, and
//! nothing it said counts before an End of Data.
#![no_main]
#![allow(dead_code, reason = "what the client sends is not fuzzed")]

#[path = "../../src/bgp/rtr.rs"]
mod rtr;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pop_core::bgp::{Pdu, Rtr};
use proto::time::{Duration, Instant};

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::from_millis(1_000_000);
    let mut client = Rtr::new();
    client.set_interest(&Arc::new(BTreeSet::from([ADDRESS])), now);
    client.connect(0, now);
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some((version, pdu))) = rtr::next_pdu(&mut buffer) {
        now += Duration::from_secs(buffer.len() as u64 % 64);
        let before = client.vrps().clone();
        let Ok(changed) = client.handle(version, pdu, now) else { break };
        assert!(!changed || matches!(pdu, Pdu::End { .. }));
        assert_eq!(changed, before != *client.vrps());
        client.expire(now);
        if client.handle_timeout(now).is_err() {
            break;
        }
        client.poll_query();
    }
    assert!(client.report().records <= 65_536);
});
