//! Any bytes are a compound RTCP packet or a named error; reports read are written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::rtp::rtcp::{self, Rtcp};

fuzz_target!(|bytes: &[u8]| {
    let Ok(packets) = rtcp::parse(bytes) else { return };
    assert!(packets.len() * 4 <= bytes.len());
    for packet in packets {
        if let Rtcp::Report { ssrc, sender, blocks } = packet
            && blocks.len() <= 1
        {
            let mut written = Vec::new();
            rtcp::write_report(&mut written, ssrc, sender, blocks.first().copied());
            let again = Rtcp::Report { ssrc, sender, blocks };
            assert_eq!(rtcp::parse(&written), Ok(vec![again]));
        }
    }
});
