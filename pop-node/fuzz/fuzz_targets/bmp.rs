//! Whatever a router sends by BMP, the station ends the session with a reason or goes on: it never
//! panics, never drains both upstreams for being withdrawn, and what was told last is what is so.
//! The parser is compiled in here, so that the rest of the shell need not be built.
#![no_main]

#[path = "../../src/bgp/decode.rs"]
mod decode;
#[path = "../../src/bgp/nlri.rs"]
mod nlri;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use decode::Decoder;
use libfuzzer_sys::fuzz_target;
use pop_core::bgp::{Bgp, BgpConfig, Drain, Event, Hint, Neighbor, Prefix, Reassembly};
use proto::time::{Duration, Instant};

const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 1));
/// In the recordings.
const NEIGHBOR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 2));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 3));
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

fuzz_target!(|bytes: &[u8]| {
    let upstream = |address| vec![Neighbor { router: None, address }];
    let upstreams = vec![upstream(NEIGHBOR), upstream(OTHER), upstream(ROUTER)];
    let config = BgpConfig { routers: vec![ROUTER], upstreams, ..BgpConfig::default() };
    let mut now = Instant::from_millis(1_000_000);
    let mut bgp = Bgp::new(config, now);
    bgp.set_interest(&BTreeSet::from([ADDRESS]), now);
    let Ok(session) = bgp.connect(ROUTER, now) else { return };
    let (mut stream, mut decoder) = (Reassembly::default(), Decoder::default());
    let mut told = BTreeMap::<u8, Hint>::new();
    stream.buffer().extend_from_slice(bytes);
    while let Ok(Some(frame)) = stream.next_frame() {
        let length = frame.body.len() as u64;
        let wants = |prefix: &Prefix| prefix.range().contains(&ADDRESS);
        let message = decoder.decode(frame, wants);
        let ended = bgp.handle_message(session, message, now).is_err();
        // Time goes on by what was said, so that what was found is found again.
        now += Duration::from_millis(length % 64 * 100);
        bgp.handle_timeout(now);
        while let Some(event) = bgp.poll_event() {
            if let Event::Hint { upstream, hint, .. } = event {
                told.insert(upstream, hint);
            }
        }
        if ended {
            break;
        }
    }
    let withdrawn = told.values().filter(|hint| hint.drain == Drain::Withdrawn).count();
    assert!(withdrawn < 3, "{told:?}");
    for way in bgp.report(now).ways {
        let last = told.get(&way.upstream).cloned().unwrap_or_default();
        assert_eq!((way.hint.drain, way.hint.shaky), (last.drain, last.shaky));
    }
});
