//! Between session descriptions and what POPs tell each other about media.

use proto::call::{self, Media, OpusWish};
use proto::control::{MediaEncryption, Trunk};
use proto::id::StreamId;

use crate::codec::{Codec, EncoderConfig};
use crate::media::Direction;
use crate::sdp::offer_answer::{Policy, RemoteMedia};

/// Milliseconds per packet when nobody says otherwise (RFC 3551 §4.2).
pub(crate) const PTIME_MS: u32 = 20;

/// The codecs of a trunk, in its order; all when it names none.
pub(crate) fn trunk_codecs(trunk: &Trunk) -> Vec<Codec> {
    let mut codecs: Vec<Codec> = Vec::new();
    for codec in trunk.codecs.iter().filter_map(|name| Codec::from_name(name)) {
        if !codecs.contains(&codec) {
            codecs.push(codec);
        }
    }
    if codecs.is_empty() { Codec::ALL.to_vec() } else { codecs }
}

/// Whether media of a trunk is to be encrypted. A wish of a version after ours is taken for the
/// strictest.
pub(crate) fn security(trunk: &Trunk) -> Policy {
    match MediaEncryption::try_from(trunk.media_encryption) {
        Ok(MediaEncryption::Unspecified) => Policy::Accept,
        Ok(MediaEncryption::Offered) => Policy::Offer,
        Ok(MediaEncryption::Required) | Err(_) => Policy::Require,
    }
}

/// `first`, then the rest of `allowed`; nothing else.
pub(crate) fn preferred(first: &[Codec], allowed: &[Codec]) -> Vec<Codec> {
    let mut codecs: Vec<Codec> = first.iter().filter(|c| allowed.contains(c)).copied().collect();
    let rest: Vec<Codec> = allowed.iter().filter(|c| !codecs.contains(c)).copied().collect();
    codecs.extend(rest);
    codecs
}

/// What a peer's description means for the other half.
pub(crate) fn to_far(remote: &RemoteMedia, allowed: &[Codec], receive: StreamId) -> Media {
    let codecs = remote.codecs.iter().map(|n| n.codec).filter(|c| allowed.contains(c));
    Media {
        codecs: codecs.map(to_proto).collect(),
        direction: i32::from(direction_to_proto(remote.direction)),
        telephone_event: !remote.telephone_events.is_empty(),
        ptime_ms: remote.ptime_ms.unwrap_or(PTIME_MS),
        stream: receive.0,
        ssrc: 0,
        opus: None,
        comfort_noise: remote.comfort_noise.is_some(),
    }
}

/// What a peer wants of Opus, for the other half; `None` if it does not say.
pub(crate) fn opus_to_proto(fmtp: Option<&str>) -> Option<OpusWish> {
    let (wish, default) = (EncoderConfig::for_fmtp(fmtp), EncoderConfig::default());
    let said = |value: u32, default: u32| if value == default { 0 } else { value };
    (wish != default).then(|| OpusWish {
        max_average_bitrate: said(wish.bitrate, default.bitrate),
        max_playback_rate: said(wish.playback_rate, default.playback_rate),
        inband_fec: wish.fec,
        dtx: wish.dtx,
        cbr: wish.cbr,
    })
}

/// The same from the other half. What is beyond Opus counts as not said.
pub(crate) fn opus_from_proto(wish: &OpusWish) -> EncoderConfig {
    let default = EncoderConfig::default();
    let bitrates = 6_000..=default.bitrate;
    let rates = 8_000..=default.playback_rate;
    let said = |value: u32, range: std::ops::RangeInclusive<u32>| {
        if range.contains(&value) { value } else { *range.end() }
    };
    EncoderConfig {
        bitrate: said(wish.max_average_bitrate, bitrates),
        playback_rate: said(wish.max_playback_rate, rates),
        fec: wish.inband_fec,
        dtx: wish.dtx,
        cbr: wish.cbr,
        ..default
    }
}

/// A codec of ours as number of the schema.
pub(crate) fn to_proto(codec: Codec) -> i32 {
    i32::from(call::Codec::from(codec))
}

/// Known codecs, each once, in order.
pub(crate) fn codecs(media: &Media) -> Vec<Codec> {
    let mut codecs: Vec<Codec> = Vec::new();
    for number in &media.codecs {
        let codec = call::Codec::try_from(*number).ok().and_then(|c| Codec::try_from(c).ok());
        if let Some(codec) = codec.filter(|codec| !codecs.contains(codec)) {
            codecs.push(codec);
        }
    }
    codecs
}

/// The direction as the far party sees it.
pub(crate) fn direction(media: &Media) -> Direction {
    match media.direction() {
        call::Direction::Sendrecv => Direction::SendRecv,
        call::Direction::Sendonly => Direction::SendOnly,
        call::Direction::Recvonly => Direction::RecvOnly,
        call::Direction::Inactive => Direction::Inactive,
    }
}

/// Milliseconds per packet, kept to what a packet can reasonably hold.
pub(crate) fn ptime_ms(media: &Media) -> u32 {
    if (5..=120).contains(&media.ptime_ms) { media.ptime_ms } else { PTIME_MS }
}

pub(crate) fn direction_to_proto(direction: Direction) -> call::Direction {
    match direction {
        Direction::SendRecv => call::Direction::Sendrecv,
        Direction::SendOnly => call::Direction::Sendonly,
        Direction::RecvOnly => call::Direction::Recvonly,
        Direction::Inactive => call::Direction::Inactive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_cross_pops_and_nonsense_is_not_said() {
        let fmtp = "maxaveragebitrate=16000;maxplaybackrate=16000;useinbandfec=1;usedtx=1;cbr=1";
        for fmtp in [fmtp, "useinbandfec=1", "maxaveragebitrate=9000"] {
            let wish = opus_to_proto(Some(fmtp)).unwrap();
            assert_eq!(opus_from_proto(&wish).to_fmtp(), fmtp);
        }
        assert_eq!((opus_to_proto(None), opus_to_proto(Some("stereo=1"))), (None, None));
        let nonsense =
            OpusWish { max_average_bitrate: 1, max_playback_rate: u32::MAX, ..OpusWish::default() };
        assert_eq!(opus_from_proto(&nonsense), EncoderConfig::default());
    }
}
