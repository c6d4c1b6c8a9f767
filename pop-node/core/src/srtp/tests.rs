//! Published vectors; round trips; what an attacker or a confused peer sends.

use proptest::prelude::*;

use super::cipher::{Aes, Cipher, Place, counter_mode};
use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn key_32(text: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let bytes = hex(text);
    key[..bytes.len()].copy_from_slice(&bytes);
    key
}

fn derived(master: &MasterKey, label: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    master.derive(label, &mut out);
    out
}

/// RFC 3711 B.2.
#[test]
fn the_key_stream_is_that_of_rfc_3711() {
    let aes = Aes::new(&key_32("2B7E151628AED2A6ABF7158809CF4F3C"), 16);
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(&hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD"));
    let mut stream = vec![0; 0xff02 * 16];
    counter_mode(&aes, iv, &mut stream);
    let first = "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB
                 41E95B3BB0A2E8DD477901E4FCA894C0";
    let last = "EC8CDF7398607CB0F2D21675EA9EA1E4 362B7C3C6773516318A077D7FC5073AE
                6A2CC3787889374FBEB4C81B17BA6C44";
    assert_eq!(stream[..48], hex(first));
    assert_eq!(stream[0xfeff * 16..][..48], hex(last));
}

/// RFC 3711 B.3 and RFC 6188 §7.4.
#[test]
fn session_keys_are_those_of_the_rfcs() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
    let master = MasterKey::new(Profile::AesCm128HmacSha1Tag80, &master).unwrap();
    assert_eq!(derived(&master, 0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
    assert_eq!(derived(&master, 2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
    let auth = "CEBE321F6FF7716B6FD4AB49AF256A15 6D38BAA4";
    assert_eq!(derived(&master, 1, 20), hex(auth));

    let master = hex("f0f04914b513f2763a1b1fa130f10e29 98f6f6e43e4309d1e622a0e332b9f1b6
                      3b04803de51ee7c96423ab5b78d2");
    let master = MasterKey::new(Profile::AesCm256HmacSha1Tag80, &master).unwrap();
    let cipher = "5ba1064e30ec51613cad926c5a28ef73 1ec7fb397f70a960653caf06554cd8c4";
    assert_eq!(derived(&master, 0, 32), hex(cipher));
    assert_eq!(derived(&master, 2, 14), hex("fa31791685ca444a9e07c6c64e93"));
    let auth = "fd9c32d39ed5fbb5a9dc96b30818454d 1313dc05";
    assert_eq!(derived(&master, 1, 20), hex(auth));
}

/// RFC 7714 §16.1.1 and §16.2.1: "Gallia est omnis divisa in partes tres".
#[test]
fn gcm_packets_are_those_of_rfc_7714() {
    let header = hex("8040f17b 8041f8d3 5501a0b2");
    let text =
        hex("47616c6c696120657374206f6d6e697320646976697361 20696e20706172746573207472 6573");
    let salt = hex("51756964 2070726f 2071756f").try_into().unwrap();
    let keys = [
        (
            16,
            "000102030405060708090a0b0c0d0e0f",
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833
          899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            32,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b
          7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (length, key, sealed) in keys {
        let cipher = Cipher::galois(&key_32(key), length, salt);
        let place = Place { ssrc: 0x5501_a0b2, index: 0xf17b };
        let mut body = text.clone();
        let tag = cipher.seal(place, (&header, &mut body), ([0; 4], false)).unwrap();
        body.extend_from_slice(&tag[..16]);
        assert_eq!(body, hex(sealed), "AES-{}", length * 8);
    }
}

/// RFC 7714 §17.1 to §17.4: a sender report of "Mars".
#[test]
fn gcm_reports_are_those_of_rfc_7714() {
    let header = hex("81c8000d 4d617273");
    let text = hex("4e545031 4e545032 52545020 0000042a 0000e930 4c756e61
                    deadbeef deadbeef deadbeef deadbeef deadbeef");
    let salt = hex("51756964 2070726f 2071756f").try_into().unwrap();
    let keys = [
        (
            16,
            "000102030405060708090a0b0c0d0e0f",
            "63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b468630
          3ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade",
        ),
        (
            32,
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61d
          e0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be",
        ),
    ];
    let (place, index) = (Place { ssrc: 0x4d61_7273, index: 0x5d4 }, [0x80, 0, 5, 0xd4]);
    for (length, key, sealed) in keys {
        let cipher = Cipher::galois(&key_32(key), length, salt);
        let mut body = text.clone();
        let tag = cipher.seal(place, (&header, &mut body), (index, true)).unwrap();
        let sealed = hex(sealed);
        let (cipher_text, wanted) = sealed.split_at(text.len());
        assert_eq!((&body[..], &tag[..16]), (cipher_text, wanted), "AES-{}", length * 8);
        cipher.open(place, (&header, &mut body, wanted), (index, true)).unwrap();
        assert_eq!(body, text);
    }
}

fn master(profile: Profile, byte: u8) -> MasterKey {
    let bytes = vec![byte; profile.key_bytes() + profile.salt_bytes()];
    MasterKey::new(profile, &bytes).unwrap()
}

fn packet(sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 7]);
    bytes.extend_from_slice(payload);
    bytes
}

fn protect(out: &mut Outbound, plain: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + TRAILER_BYTES_MAX, 0);
    let length = out.protect(&mut buffer, plain.len())?;
    buffer.truncate(length);
    Ok(buffer)
}

fn open(inbound: &mut Inbound, sealed: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut buffer = sealed.to_vec();
    let length = inbound.open(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

#[test]
fn a_call_of_each_profile_wraps_its_sequence_number_and_loses_packets() {
    for profile in Profile::ALL {
        let key = master(profile, 3);
        let (mut out, mut inbound) = (Outbound::new(&key), Inbound::new(&key));
        let twice_around = profile == Profile::AesCm128HmacSha1Tag80;
        for n in 0..if twice_around { 140_000 } else { 5_000_u32 } {
            #[allow(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
            let plain = packet((n + 62_000) as u16, &n.to_be_bytes());
            let sealed = protect(&mut out, &plain).unwrap();
            assert_ne!(sealed[12..16], plain[12..]);
            // One in three is lost, and once a whole second.
            if n % 3 == 0 || (3_500..3_550).contains(&n) {
                continue;
            }
            assert_eq!(open(&mut inbound, &sealed), Ok(plain), "{} {n}", profile.name());
            assert_eq!(open(&mut inbound, &sealed), Err(SrtpError::Replayed));
        }
    }
}

/// Whoever takes a call over does not know how often the peer's sequence numbers began anew.
#[test]
fn a_stream_that_began_long_ago_is_found() {
    for (profile, periods) in Profile::ALL.into_iter().zip([1, 7, 8, 9, 66, 90]) {
        let key = master(profile, 5);
        let mut out = Outbound::new(&key);
        for n in 0..periods * 3 {
            let sequence = u16::try_from(n % 3 * 25_000).unwrap();
            protect(&mut out, &packet(sequence, b"voice")).unwrap();
        }
        let mut inbound = Inbound::new(&key);
        let mut next = |sequence| protect(&mut out, &packet(sequence, b"voice")).unwrap();
        let lost = (0..100).take_while(|n| open(&mut inbound, &next(100 + n)).is_err()).count();
        assert!(lost < 12, "{}: {lost}", profile.name());
        assert_eq!(open(&mut inbound, &next(300)).unwrap(), packet(300, b"voice"));
        // Another key is not found by any of it.
        let mut other = Inbound::new(&master(profile, 6));
        assert!((400..450).all(|n| open(&mut other, &next(n)) == Err(SrtpError::Tag)));
    }
}

#[test]
fn reordered_packets_open_and_old_ones_do_not() {
    let key = master(Profile::AesCm128HmacSha1Tag80, 3);
    let (mut out, mut inbound) = (Outbound::new(&key), Inbound::new(&key));
    let sealed: Vec<_> = (65_400..65_536_u32)
        .chain(0..200)
        .map(|n| protect(&mut out, &packet(u16::try_from(n).unwrap(), b"voice")).unwrap())
        .collect();
    for pair in sealed[2..].chunks(2) {
        for packet in pair.iter().rev() {
            open(&mut inbound, packet).unwrap();
        }
    }
    assert_eq!(open(&mut inbound, &sealed[0]), Err(SrtpError::Replayed));
}

#[test]
fn a_changed_byte_anywhere_is_seen() {
    for profile in Profile::ALL {
        let key = master(profile, 9);
        let sealed = protect(&mut Outbound::new(&key), &packet(5, b"voice")).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&mut Inbound::new(&key), &changed).is_err(), "{} {at}", profile.name());
        }
        let other = Inbound::new(&master(profile, 10));
        assert_eq!(open(&mut { other }, &sealed), Err(SrtpError::Tag));
    }
}

/// However many sources come and go, the one that is heard is not forgotten.
#[test]
fn the_stream_that_is_heard_outlives_others() {
    let key = master(Profile::AesCm128HmacSha1Tag80, 4);
    let mut inbound = Inbound::new(&key);
    let from = |ssrc: u8, sequence: u16| {
        let mut plain = packet(sequence, b"voice");
        plain[11] = ssrc;
        protect(&mut Outbound::new(&key), &plain).unwrap()
    };
    let first = from(7, 1);
    open(&mut inbound, &first).unwrap();
    for n in 0..20 {
        open(&mut inbound, &from(100 + n, 1)).unwrap();
        open(&mut inbound, &from(7, 2 + u16::from(n))).unwrap();
    }
    assert_eq!(open(&mut inbound, &first), Err(SrtpError::Replayed));
}

/// A peer that repeats a sequence number with another payload would else get two messages under
/// one key stream.
#[test]
fn no_index_is_protected_twice() {
    let mut out = Outbound::new(&master(Profile::AeadAes128Gcm, 1));
    for n in 0..300 {
        protect(&mut out, &packet(n, b"one")).unwrap();
    }
    for n in [299, 200, 100, 0] {
        assert_eq!(protect(&mut out, &packet(n, b"two")), Err(SrtpError::Reused), "{n}");
    }
    let mut other = packet(400, b"two");
    other[11] = 8;
    assert_eq!(protect(&mut out, &other), Err(SrtpError::Reused));
    let mut tight = packet(301, b"voice");
    let length = tight.len();
    assert_eq!(out.protect(&mut tight, length), Err(SrtpError::NoRoom));
}

#[test]
fn rtcp_is_protected_numbered_and_opened_once() {
    let plain = [0x81, 201, 0, 7, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];
    for profile in Profile::ALL {
        let key = master(profile, 2);
        let (mut out, mut inbound) = (Outbound::new(&key), Inbound::new(&key));
        for n in 0..200 {
            let mut buffer = plain.to_vec();
            buffer.resize(plain.len() + 4 + 16, 0);
            let length = out.protect_rtcp(&mut buffer, plain.len()).unwrap();
            buffer.truncate(length);
            assert_ne!(buffer[8..16], plain[8..]);
            let (mut again, mut changed) = (buffer.clone(), buffer.clone());
            *changed.last_mut().unwrap() ^= 1;
            assert!(inbound.open_rtcp(&mut changed).is_err());
            assert_eq!(inbound.open_rtcp(&mut buffer), Ok(plain.len()), "{} {n}", profile.name());
            assert_eq!(buffer[..plain.len()], plain);
            assert_eq!(inbound.open_rtcp(&mut again), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn crypto_lines_of_the_field() {
    let key = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
    let ok = |line: &str| Crypto::parse(line).unwrap_or_else(|| panic!("{line}"));
    let line = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key}");
    assert_eq!(ok(&line).to_string(), line);
    assert_eq!(ok(&format!("1 aes_cm_128_hmac_sha1_32 inline:{key}|2^20 WSH=64")).tag, 1);
    let gcm = ok("7 AEAD_AES_128_GCM inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw");
    assert_eq!((gcm.tag, gcm.key.profile()), (7, Profile::AeadAes128Gcm));
    for bad in [
        "".to_owned(),
        "1".to_owned(),
        format!("x AES_CM_128_HMAC_SHA1_80 inline:{key}"),
        format!("1 F8_128_HMAC_SHA1_80 inline:{key}"),
        format!("1 AES_CM_128_HMAC_SHA1_80 {key}"),
        format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^20|1:4"),
        format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key}|1:4"),
        format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key};inline:{key}"),
        format!("1 AES_CM_128_HMAC_SHA1_80 inline:{key} UNENCRYPTED_SRTCP"),
        "1 AES_CM_128_HMAC_SHA1_80 inline:AAAA".to_owned(),
        "1 AES_CM_128_HMAC_SHA1_80 inline:!!!!".to_owned(),
    ] {
        assert_eq!(Crypto::parse(&bad), None, "{bad}");
    }
    assert!(!format!("{:?}", ok(&line)).contains("WVN"));
}

#[test]
fn made_keys_differ_and_fit() {
    let mut source = KeySource::new([7; 32]);
    let made: Vec<_> = Profile::ALL.into_iter().cycle().take(60).map(|p| source.next(p)).collect();
    for (n, key) in made.iter().enumerate() {
        assert!(made[n + 1..].iter().all(|other| other.bytes()[..16] != key.bytes()[..16]));
        assert_eq!(MasterKey::new(key.profile(), &key.bytes()).as_ref(), Some(key));
    }
    assert_ne!(KeySource::new([8; 32]).next(Profile::AeadAes128Gcm), made[1]);
}

proptest! {
    #[test]
    fn any_bytes_are_opened_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80), n in 0_usize..6) {
        let mut inbound = Inbound::new(&master(Profile::ALL[n], 1));
        let _ = inbound.open(&mut bytes.clone());
        if let Some(first) = bytes.first_mut() {
            *first = 0x80 | *first & 0x3f;
        }
        prop_assert!(inbound.open(&mut bytes).is_err());
        prop_assert!(inbound.open_rtcp(&mut bytes).is_err());
        let length = bytes.len();
        bytes.resize(length + TRAILER_BYTES_MAX, 0);
        let _ = Outbound::new(&master(Profile::ALL[n], 1)).protect(&mut bytes, length);
    }
}
