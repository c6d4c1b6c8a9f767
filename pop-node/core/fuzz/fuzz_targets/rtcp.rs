//! Any bytes are a compound RTCP packet or a named error; reports read are written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::rtp::rtcp::{self, Rtcp};
use pop_core::rtp::xr;

fuzz_target!(|bytes: &[u8]| {
    let Ok(packets) = rtcp::parse(bytes) else { return };
    assert!(packets.len() * 4 <= bytes.len());
    for packet in packets {
        if let Rtcp::Extended { ssrc, voip: Some(voip) } = &packet {
            let mut written = Vec::new();
            xr::write_voip_metrics(&mut written, *ssrc, voip);
            assert_eq!(rtcp::parse(&written), Ok(vec![packet.clone()]));
        }
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
