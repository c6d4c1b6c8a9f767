//! Any bytes are an RTP packet or a named error, and any payload decodes or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::codec::{Codec, Decoder, PACKET_MS_MAX};
use pop_core::rtp::telephone_event::{Event, convert_clock};
use pop_core::rtp::{Header, Packet};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::parse(bytes) {
        let mut copy = bytes.to_vec();
        let header = Header { sequence: 1, timestamp: 2, ssrc: 3, ..packet.header };
        header.rewrite(&mut copy);
        let again = Packet::parse(&copy).expect("rewriting keeps it a packet");
        assert_eq!((again.header, again.payload), (header, packet.payload));
        assert_eq!(copy.get(again.payload_range(&copy)), Some(packet.payload));
        convert_clock(&mut copy, 8_000, 48_000);
        let _ = Event::decode(packet.payload);
    }
    for (codec, rate) in [(Codec::Pcma, 8_000), (Codec::G722, 16_000), (Codec::Opus, 8_000)] {
        let mut decoder = Decoder::new(codec, rate).expect("a rate it has");
        let mut pcm = Vec::new();
        // The same stream damaged, lost, and damaged again.
        for payload in bytes.chunks(97) {
            let before = pcm.len();
            let done = decoder.decode(payload, &mut pcm).unwrap_or(0);
            assert_eq!(pcm.len(), before + done);
            assert!(done <= rate as usize * PACKET_MS_MAX / 1_000);
            decoder.conceal(rate as usize / 50, Some(payload), &mut pcm);
        }
    }
});
