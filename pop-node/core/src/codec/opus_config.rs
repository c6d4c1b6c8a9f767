//! How Opus is encoded for a peer, and what an Opus packet says of itself.

/// How to encode; only Opus has choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Bits per second.
    pub bitrate: u32,
    /// libopus complexity, 0 to 10: CPU against quality.
    pub complexity: u8,
    /// In-band FEC may be used. It costs quality on clean paths, so nothing is spent on it before
    /// `expected_loss` is above 0.
    pub fec: bool,
    /// Percent of the packets that the peer loses.
    pub expected_loss: u8,
    /// Pauses are not sent.
    pub dtx: bool,
    /// Constant bit rate, against listening to packet lengths.
    pub cbr: bool,
    /// The rate of what the peer can play, in Hz: a higher band is not encoded.
    pub playback_rate: u32,
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            bitrate: 32_000,
            complexity: 5,
            fec: false,
            expected_loss: 0,
            dtx: false,
            cbr: false,
            playback_rate: 48_000,
        }
    }
}

impl EncoderConfig {
    /// The default within what the peer's `a=fmtp` says it wants (RFC 7587 §6.1). What does not
    /// parse counts as not said.
    pub fn for_fmtp(fmtp: Option<&str>) -> Self {
        let mut config = Self::default();
        for (name, value) in
            fmtp.iter().flat_map(|f| f.split(';')).filter_map(|p| p.split_once('='))
        {
            let value: Option<u32> = value.trim().parse().ok();
            config.take(&name.trim().to_ascii_lowercase(), value);
        }
        config
    }

    /// What of it is not the default, as `a=fmtp` says it.
    pub fn to_fmtp(self) -> String {
        let default = Self::default();
        let mut said = Vec::new();
        let mut say = |name: &str, value: u32, is_said: bool| {
            if is_said {
                said.push(format!("{name}={value}"));
            }
        };
        say("maxaveragebitrate", self.bitrate, self.bitrate != default.bitrate);
        say("maxplaybackrate", self.playback_rate, self.playback_rate != default.playback_rate);
        say("useinbandfec", 1, self.fec);
        say("usedtx", 1, self.dtx);
        say("cbr", 1, self.cbr);
        said.join(";")
    }

    fn take(&mut self, name: &str, value: Option<u32>) {
        let Some(value) = value else { return };
        match name {
            "maxaveragebitrate" => self.bitrate = self.bitrate.min(value.max(6_000)),
            "maxplaybackrate" => self.playback_rate = value.clamp(8_000, 48_000),
            "useinbandfec" => self.fec = value == 1,
            "usedtx" => self.dtx = value == 1,
            "cbr" => self.cbr = value == 1,
            _ => {}
        }
    }
}

pub(super) fn opus_encoder(rate: u32, config: EncoderConfig) -> Result<opus::Encoder, opus::Error> {
    let mut encoder = opus::Encoder::new(rate, opus::Channels::Mono, opus::Application::Voip)?;
    encoder.set_bitrate(opus::Bitrate::Bits(i32::try_from(config.bitrate).unwrap_or(i32::MAX)))?;
    encoder.set_complexity(i32::from(config.complexity.min(10)))?;
    encoder.set_signal(opus::Signal::Voice)?;
    // Unless asked for: a pause without packets starves latching, jitter estimates and silence
    // detection.
    encoder.set_dtx(config.dtx)?;
    encoder.set_vbr(!config.cbr)?;
    encoder.set_max_bandwidth(bandwidth(config.playback_rate))?;
    encoder.set_inband_fec(config.fec)?;
    encoder.set_packet_loss_perc(i32::from(config.expected_loss.min(30)))?;
    Ok(encoder)
}

/// The widest band that a sample rate holds (RFC 7587 §3.1.1).
const fn bandwidth(rate: u32) -> opus::Bandwidth {
    match rate {
        0..12_000 => opus::Bandwidth::Narrowband,
        12_000..16_000 => opus::Bandwidth::Mediumband,
        16_000..24_000 => opus::Bandwidth::Wideband,
        24_000..48_000 => opus::Bandwidth::Superwideband,
        _ => opus::Bandwidth::Fullband,
    }
}

/// Does an Opus packet carry a copy of what came before it (LBRR, RFC 6716 §4.2.3)? Packets of
/// several frames in code 3 are not looked into.
pub fn opus_has_fec(packet: &[u8]) -> bool {
    // A voice activity bit per frame, then the LBRR bit, each of probability 1/2.
    silk_header(packet).is_some_and(|(first, frames)| first >> (7 - frames) & 1 == 1)
}

/// Does an Opus packet say that nobody speaks? Then more of the same may follow unsent (DTX,
/// RFC 7587 §3.1.3), which the decoder makes up from it. Only SILK tells; CELT has no such bit.
pub fn opus_is_pause(packet: &[u8]) -> bool {
    packet.len() <= OPUS_PAUSE_BYTES
        || silk_header(packet).is_some_and(|(first, frames)| first >> (8 - frames) == 0)
}

/// The first byte of the first SILK frame of a packet, and how many such frames an Opus frame has.
fn silk_header(packet: &[u8]) -> Option<(u8, u32)> {
    let (&toc, rest) = packet.split_first()?;
    let config = toc >> 3;
    // Above are the CELT-only ones (§3.1).
    if config >= 16 {
        return None;
    }
    let silk_frames = match config {
        0..12 => [1, 1, 2, 3].get(usize::from(config % 4)).copied().unwrap_or(1),
        _ => 1,
    };
    let frame = match toc & 3 {
        0 | 1 => rest.first(),
        // The length of the first frame is before it (§3.2.1).
        2 => rest.get(if rest.first().is_some_and(|&length| length >= 252) { 2 } else { 1 }),
        _ => None,
    };
    frame.map(|&first| (first, silk_frames))
}

/// Opus says "nothing to say" with at most two bytes: such a packet need not be sent.
pub(crate) const OPUS_PAUSE_BYTES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{snr, speech};
    use crate::codec::{Codec, Decoder, Encoder};

    #[test]
    fn the_peer_says_what_it_wants() {
        let default = EncoderConfig::default();
        let of = |fmtp: &str| EncoderConfig::for_fmtp(Some(fmtp));
        assert_eq!(EncoderConfig::for_fmtp(None), default);
        assert_eq!(of("maxaveragebitrate=x;;=;usedtx;cbr=yes"), default);
        let all =
            of("MaxAverageBitrate=20000; maxplaybackrate=16000;useinbandfec=1;usedtx=1;cbr=1");
        assert_eq!(EncoderConfig::for_fmtp(Some(&all.to_fmtp())), all);
        assert_eq!(default.to_fmtp(), "");
        let wanted = EncoderConfig {
            bitrate: 20_000,
            fec: true,
            dtx: true,
            cbr: true,
            playback_rate: 16_000,
            ..default
        };
        assert_eq!(all, wanted);
        assert_eq!(
            (of("maxaveragebitrate=1").bitrate, of("maxplaybackrate=1").playback_rate),
            (6_000, 8_000)
        );
    }

    fn packets(rate: u32, config: EncoderConfig, loss: u8) -> Vec<Vec<u8>> {
        let pcm = speech(if rate == 8_000 { "hum_en_8k.wav" } else { "hum_en_48k.wav" });
        let mut encoder = Encoder::new(Codec::Opus, rate, config).unwrap();
        encoder.expect_loss(loss);
        let frames = pcm.chunks_exact(rate as usize / 50).take(250);
        frames
            .map(|frame| {
                let mut packet = Vec::new();
                encoder.encode(frame, &mut packet).unwrap();
                packet
            })
            .collect()
    }

    #[test]
    fn copies_are_sent_when_the_peer_loses_and_are_seen() {
        let config = EncoderConfig { bitrate: 24_000, fec: true, ..EncoderConfig::default() };
        for rate in [8_000, 48_000] {
            let with = |loss, fec| {
                let packets = packets(rate, EncoderConfig { fec, ..config }, loss);
                packets.iter().filter(|packet| opus_has_fec(packet)).count()
            };
            assert_eq!(with(0, true), 0, "{rate}: nothing is lost");
            assert_eq!(with(10, false), 0, "{rate}: the peer could not read them");
            assert!(with(10, true) > 100, "{rate}: {}", with(10, true));
        }
        assert!(!opus_has_fec(&[]) && !opus_has_fec(&[0x08]) && !opus_has_fec(&[0xff, 0xff]));
    }

    #[test]
    fn a_copy_sounds_more_like_the_lost_packet_than_what_is_made_up() {
        let config = EncoderConfig { bitrate: 24_000, fec: true, ..EncoderConfig::default() };
        let packets = packets(8_000, config, 20);
        let decoded = |copies: bool, lossy: bool| {
            let mut decoder = Decoder::new(Codec::Opus, 8_000).unwrap();
            let mut pcm = Vec::new();
            for (n, packet) in packets.iter().enumerate() {
                if lossy && n % 10 == 7 {
                    let next = packets.get(n + 1).map(Vec::as_slice).filter(|_| copies);
                    decoder.conceal(160, next, &mut pcm);
                } else {
                    decoder.decode(packet, &mut pcm).unwrap();
                }
            }
            pcm
        };
        let clean = decoded(false, false);
        let (with, without) = (decoded(true, true), decoded(false, true));
        let (with, without) = (snr(&clean, &with, 1).0, snr(&clean, &without, 1).0);
        assert!(with > without + 1.0, "with copies {with} dB, without {without} dB");
    }

    #[test]
    fn bit_rate_band_and_pauses_follow_the_peer() {
        let bytes = |fmtp| {
            packets(48_000, EncoderConfig::for_fmtp(Some(fmtp)), 0)
                .iter()
                .map(Vec::len)
                .sum::<usize>()
        };
        assert!(bytes("maxaveragebitrate=10000") * 2 < bytes(""));
        let narrow = packets(48_000, EncoderConfig::for_fmtp(Some("maxplaybackrate=8000")), 0);
        assert!(
            narrow
                .iter()
                .all(|p| matches!(opus::packet::get_bandwidth(p), Ok(opus::Bandwidth::Narrowband)))
        );
        let constant = packets(8_000, EncoderConfig::for_fmtp(Some("cbr=1")), 0);
        assert!(constant.iter().all(|packet| packet.len() == constant[0].len()));
        let mut encoder =
            Encoder::new(Codec::Opus, 8_000, EncoderConfig::for_fmtp(Some("usedtx=1"))).unwrap();
        let mut least = usize::MAX;
        for _ in 0..50 {
            let mut packet = Vec::new();
            least = least.min(encoder.encode(&[0; 160], &mut packet).unwrap());
        }
        assert!(least <= OPUS_PAUSE_BYTES, "{least}");
    }
}
