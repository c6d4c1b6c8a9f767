//! Any bytes are an RTP packet or a named error, and any payload decodes or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::codec::{Codec, ComfortNoise, Decoder, PACKET_MS_MAX, opus_has_fec, opus_is_pause};
use pop_core::rtp::red::{self, Blocks};
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
    if let Ok(blocks) = Blocks::parse(bytes) {
        let part = |range: &std::ops::Range<usize>| bytes.get(range.clone()).expect("inside");
        let newest = blocks.newest().expect("always one");
        let copies = blocks.copies().iter().map(|copy| (u32::from(copy.age), part(&copy.range)));
        let mut again = Vec::new();
        red::write(&mut again, newest.payload_type, copies, part(&newest.range));
        let again = Blocks::parse(&again).expect("what is written reads back");
        assert!(again.copies().len() <= blocks.copies().len());
    }
    let mut noise = Vec::new();
    ComfortNoise::new(bytes).make(160, &mut noise);
    assert!(noise.iter().all(|sample| sample.unsigned_abs() < 1_000));
    let _ = (opus_has_fec(bytes), opus_is_pause(bytes));
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
