//! Opening any bytes ends; what was protected opens once and is the same; a key in a description
//! that parses is written so that it parses again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop_core::rtp::Header;
use pop_core::srtp::{Crypto, Inbound, KeySource, Outbound, Profile, TRAILER_BYTES_MAX};

fuzz_target!(|input: (u8, &str, Vec<&[u8]>)| {
    let (which, line, packets) = input;
    if let Some(crypto) = Crypto::parse(line) {
        assert_eq!(Crypto::parse(&crypto.to_string()), Some(crypto));
    }
    let profile = Profile::ALL[usize::from(which) % Profile::ALL.len()];
    let key = KeySource::new([which; 32]).next(profile);
    let (mut outbound, mut inbound) = (Outbound::new(&key), Inbound::new(&key));
    for packet in packets {
        assert!(inbound.open(&mut packet.to_vec()).is_err());
        assert!(inbound.open_rtcp(&mut packet.to_vec()).is_err());
        let mut buffer = packet.to_vec();
        buffer.resize(packet.len() + TRAILER_BYTES_MAX, 0);
        let Ok(length) = outbound.protect(&mut buffer, packet.len()) else { continue };
        assert!(Header::read(packet).is_ok());
        let sealed = buffer.get_mut(..length).expect("no longer than its buffer");
        // Far behind others it may be too old for the receiver, never changed.
        if let Ok(opened) = inbound.open(sealed) {
            assert_eq!(sealed.get(..opened), Some(packet));
        }
    }
});
