//! What RPKI caches send, right and wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod mutate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use mutate::Random;
use pop_core::bgp::{Leave, Pdu, Query, Rtr, State, Validity};
use pop_node::bgp::next_pdu;
use proto::time::{Duration, Instant};

/// As in RFC 8210 §5: version, type, a number, what follows.
fn pdu(version: u8, kind: u8, number: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + body.len()).unwrap();
    [&[version, kind][..], &number.to_be_bytes(), &length.to_be_bytes(), body].concat()
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn ipv4(flags: u8, [a, b, c, d]: [u8; 4], (bits, most): (u8, u8), asn: u32) -> Vec<u8> {
    pdu(1, 4, 0, &[&[flags, bits, most, 0, a, b, c, d][..], &asn.to_be_bytes()].concat())
}

fn ipv6(flags: u8, first: u16, (bits, most): (u8, u8), asn: u32) -> Vec<u8> {
    let prefix = (u128::from(first) << 112).to_be_bytes();
    pdu(1, 6, 0, &[&[flags, bits, most, 0][..], &prefix, &asn.to_be_bytes()].concat())
}

/// All that a cache may say.
fn conversation() -> Vec<Vec<u8>> {
    let report = [&words(&[8])[..], &pdu(1, 2, 0, &[]), &words(&[5]), b"sorry"].concat();
    vec![
        pdu(1, 0, 7, &words(&[41])),
        pdu(1, 3, 7, &[]),
        ipv4(1, [192, 0, 2, 0], (24, 24), 64_500),
        ipv4(1, [198, 51, 100, 0], (24, 24), 64_501),
        ipv6(1, 0x2001, (16, 48), 64_502),
        pdu(1, 9, 0x100, &[0; 60]),
        ipv4(0, [192, 0, 2, 0], (24, 24), 64_500),
        ipv4(1, [192, 0, 0, 0], (16, 24), 64_503),
        pdu(1, 7, 7, &words(&[42, 900, 60, 7_200])),
        pdu(1, 8, 0, &[]),
        pdu(0, 7, 7, &words(&[42])),
        pdu(1, 10, 2, &report),
    ]
}

fn all(mut bytes: BytesMut) -> Result<Vec<(u8, Pdu)>, Leave> {
    let mut found = Vec::new();
    while let Some(pdu) = next_pdu(&mut bytes)? {
        found.push(pdu);
    }
    assert!(bytes.is_empty());
    Ok(found)
}

#[test]
fn a_cache_is_understood_however_its_bytes_are_cut() {
    let bytes = conversation()[..9].concat();
    let address = "192.0.2.7".parse().unwrap();
    let now = Instant::from_millis(1_000_000);
    let mut rtr = Rtr::new();
    rtr.set_interest(&Arc::new(BTreeSet::from([address])), now);
    rtr.connect(0, now);
    assert_eq!(rtr.poll_query(), Some(Query::All));
    let mut buffer = BytesMut::new();
    let mut changes = 0;
    for byte in bytes {
        buffer.extend_from_slice(&[byte]);
        while let Some((version, pdu)) = next_pdu(&mut buffer).unwrap() {
            changes += usize::from(rtr.handle(version, pdu, now).unwrap());
        }
    }
    assert_eq!((changes, rtr.report().records), (1, 1));
    assert_eq!(rtr.report().told, Some((State { session: 7, serial: 42 }, now)));
    assert_eq!(rtr.report().expires, Some(now + Duration::from_secs(7_200)));
    let route = "192.0.2.0/24".parse().unwrap();
    assert_eq!(rtr.vrps().validity(address, route, Some(64_503)), Validity::Valid);
    assert_eq!(rtr.vrps().validity(address, route, Some(64_500)), Validity::Invalid, "taken back");
}

/// StayRTR speaks version 2 until it is asked in another one.
#[test]
fn a_newer_cache_may_speak_before_a_version_is_agreed_on() {
    let bytes = [pdu(2, 0, 7, &words(&[41])), pdu(2, 10, 4, &words(&[0, 0]))].concat();
    let heard = all(BytesMut::from(&bytes[..])).unwrap();
    let state = State { session: 7, serial: 41 };
    assert_eq!(heard, [(2, Pdu::Notify(state)), (2, Pdu::Error(4))]);
    let mut rtr = Rtr::new();
    let now = Instant::from_millis(1_000_000);
    rtr.connect(0, now);
    assert_eq!(rtr.handle(2, Pdu::Notify(state), now), Ok(false));
    let other = all(BytesMut::from(&pdu(2, 3, 7, &[])[..]));
    assert_eq!(other, Err(Leave::Malformed), "nothing else of it");
}

#[test]
fn what_is_no_rtr_is_refused() {
    for bytes in [
        // Shorter than its header, longer than anything.
        [1, 2, 0, 0, 0, 0, 0, 7].to_vec(),
        [1, 10, 0, 0, 0, 1, 0, 1].to_vec(),
        pdu(1, 5, 0, &[]),
        pdu(1, 4, 0, &[0; 11]),
        // Longer than an address, shorter than itself.
        ipv4(1, [192, 0, 2, 0], (33, 33), 1),
        ipv4(1, [192, 0, 2, 0], (24, 23), 1),
        ipv6(1, 0x2001, (129, 129), 1),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        assert_eq!(all(BytesMut::from(&bytes[..])), Err(Leave::Malformed), "{bytes:?}");
    }
    // A question is no answer.
    let asked = all(BytesMut::from(&pdu(1, 2, 0, &[])[..]));
    assert_eq!(asked, Err(Leave::Unexpected));
}

/// Mostly with a length that fits, or little would be read behind it.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    let times = random.below(4);
    random.mutate(bytes, times, 1);
    if random.below(8) > 0 && bytes.len() >= 8 {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[4..8].copy_from_slice(&length);
    }
}

/// Each ends in a PDU that belongs there, or in a reason to leave.
#[test]
fn mutated_pdus_never_end_the_process() {
    let pdus = conversation();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut now = Instant::from_millis(1_000_000);
    let mut rtr = Rtr::new();
    rtr.set_interest(&Arc::new(BTreeSet::from(["192.0.2.7".parse().unwrap()])), now);
    rtr.connect(0, now);
    let (mut understood, mut loads, mut left) = (0, 0, BTreeMap::<&str, u64>::new());
    let mut next = 0;
    for _ in 0..300_000 {
        // Mostly in their order, or nothing but the first would ever be read.
        next = if random.below(4) == 0 { random.below(pdus.len()) } else { (next + 1) % 9 };
        let mut bytes = pdus[next].clone();
        if random.below(2) == 0 {
            mutate(&mut random, &mut bytes);
        }
        now += Duration::from_millis(100);
        let mut buffer = BytesMut::from(&bytes[..]);
        let heard = std::iter::from_fn(|| next_pdu(&mut buffer).transpose()).try_for_each(|pdu| {
            let (version, pdu) = pdu?;
            loads += u64::from(rtr.handle(version, pdu, now)?);
            understood += 1;
            Ok(())
        });
        rtr.expire(now);
        if let Err(why) = heard.and_then(|()| rtr.handle_timeout(now)) {
            *left.entry(why.name()).or_default() += 1;
            rtr.disconnect(why);
            rtr.connect(random.below(2), now);
            next = 0;
        }
        rtr.poll_query();
        assert!(rtr.report().records <= 65_536);
    }
    println!("{understood} understood, {loads} changes, left: {left:?}");
    assert!(understood > 50_000 && loads > 100, "{understood}, {loads}");
    assert!(left["malformed"] > 1_000 && left["unexpected"] > 1_000, "{left:?}");
}
