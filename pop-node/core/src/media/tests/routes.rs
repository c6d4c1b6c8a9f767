//! Several paths to a POP: copies, repeats, and a POP between.

use bytes::Bytes;
use proto::overlay::{PathId, PopTag};

use super::mesh::rtp;
use super::*;
use crate::overlay::{Hop, Route};

fn at_pop(name: &str, seed: u64) -> Media {
    let mut media = media(seed);
    media.config.own = PopTag::of(&pop(name));
    media
}

fn direct(lower: u8, higher: u8) -> Hop {
    Hop::direct(PathId::direct(lower, higher).unwrap())
}

/// A call of leg 7 from fra1 to sin1, and iad1 that knows both.
fn three() -> [Media; 3] {
    let mut pops = [at_pop("fra1", 1), at_pop("iad1", 2), at_pop("sin1", 3)];
    for (n, peer) in [(0, "sin1"), (2, "fra1")] {
        let leg = open(&mut pops[n], 7, Codec::Pcmu);
        connect(&mut pops[n], leg, stream(peer, 7, 7, Codec::Pcmu));
    }
    for (n, peer, path) in [(0, "iad1", 1), (1, "sin1", 2), (1, "fra1", 1), (2, "iad1", 2)] {
        let primary = direct(0, path);
        let route = Route { direct: Some(primary.path), primary, ..Route::default() };
        pops[n].handle_route(&pop(peer), &route);
    }
    pops
}

fn speak(media: &mut Media, n: usize, now: Instant) {
    let mut bytes = rtp(Codec::Pcmu, n, &[7; 160]);
    assert_eq!(media.handle_rtp(LegId(7), address(7), &mut bytes, now), Verdict::Consumed);
}

fn datagrams(media: &mut Media) -> Vec<(PopId, PathId, Bytes)> {
    let all = std::iter::from_fn(|| media.poll_transmit());
    let datagrams = all.filter_map(|transmit| match transmit {
        MediaTransmit::Datagram { peer, path, bytes } => Some((peer, path, bytes)),
        MediaTransmit::Rtp { .. } | MediaTransmit::Rtcp { .. } => None,
    });
    datagrams.collect()
}

fn packets(media: &mut Media) -> usize {
    let all = std::iter::from_fn(|| media.poll_transmit());
    all.filter(|transmit| matches!(transmit, MediaTransmit::Rtp { .. })).count()
}

#[test]
fn a_copy_goes_through_another_pop_and_the_carrier_hears_it_once() {
    let [mut fra, mut iad, mut sin] = three();
    let route = Route { copy: Some(Hop::via(pop("iad1"))), ..Route::default() };
    fra.handle_route(&pop("sin1"), &route);
    speak(&mut fra, 1, at(0));
    let mut sent = datagrams(&mut fra);
    sent.sort();
    assert_eq!(sent.len(), 2);
    let [(to_iad, first_hop, copy), (to_sin, path, original)] = &sent[..] else { panic!() };
    assert_eq!((to_iad, *first_hop), (&pop("iad1"), direct(0, 1).path));
    assert_eq!((to_sin, *path), (&pop("sin1"), PathId::default()));

    iad.handle_datagram(&pop("fra1"), copy, at(20));
    let passed = datagrams(&mut iad);
    assert_eq!(passed, [(pop("sin1"), direct(0, 2).path, copy.clone())]);
    assert_eq!(iad.counters().datagrams_passed, 1);

    sin.handle_datagram(&pop("iad1"), &passed[0].2, at(40));
    sin.handle_datagram(&pop("fra1"), original, at(41));
    assert_eq!(packets(&mut sin), 1);
    assert_eq!(sin.counters().copies_received, 1);
    let counts = sin.path_counts();
    let from_fra = counts.iter().find(|counts| counts.peer == pop("fra1")).unwrap();
    let paths: Vec<PathId> = from_fra.received.iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, [PathId::default(), PathId::via(&pop("iad1"))]);
}

#[test]
fn nothing_is_passed_on_twice_or_for_others() {
    let [mut fra, mut iad, mut sin] = three();
    let route = Route { primary: Hop::via(pop("iad1")), ..Route::default() };
    fra.handle_route(&pop("sin1"), &route);
    speak(&mut fra, 1, at(0));
    let (_, _, bytes) = datagrams(&mut fra).remove(0);
    // sin1 did not make it: it says fra1 did.
    iad.handle_datagram(&pop("sin1"), &bytes, at(1));
    assert_eq!(iad.counters().dropped(DropReason::WrongPeer), 1);
    // A POP that knows no sin1, and one whose route to it is gone.
    let mut stranger = at_pop("gru1", 4);
    stranger.handle_datagram(&pop("fra1"), &bytes, at(1));
    assert_eq!(stranger.counters().dropped(DropReason::NoPath), 1);
    iad.handle_route(&pop("sin1"), &Route::default());
    iad.handle_datagram(&pop("fra1"), &bytes, at(1));
    assert_eq!(iad.counters().dropped(DropReason::NoPath), 1);
    assert_eq!((datagrams(&mut iad), datagrams(&mut stranger)), (vec![], vec![]));
    // A sender nobody knows.
    let mut unknown = at_pop("sin1", 5);
    unknown.handle_datagram(&pop("iad1"), &bytes, at(1));
    assert_eq!(unknown.counters().dropped(DropReason::WrongPeer), 1);
    sin.handle_datagram(&pop("iad1"), &bytes, at(1));
    assert_eq!(packets(&mut sin), 1);
}

#[test]
fn a_repeat_leaves_later_and_is_heard_only_if_the_first_was_lost() {
    let [mut fra, _, mut sin] = three();
    let route = Route { again: Some(Duration::from_millis(20)), ..Route::default() };
    fra.handle_route(&pop("sin1"), &route);
    speak(&mut fra, 1, at(0));
    let first = datagrams(&mut fra);
    assert_eq!((first.len(), fra.poll_timeout()), (1, Some(at(20))));
    fra.handle_timeout(at(20));
    let second = datagrams(&mut fra);
    assert_eq!(second.len(), 1);
    sin.handle_datagram(&pop("fra1"), &second[0].2, at(30));
    sin.handle_datagram(&pop("fra1"), &first[0].2, at(31));
    assert_eq!(packets(&mut sin), 1);
}
