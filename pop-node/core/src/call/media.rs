//! Between session descriptions and what POPs tell each other about media.

use proto::call::{self, Media, OpusWish};
use proto::control::{MediaEncryption, Trunk};
use proto::id::StreamId;

use crate::codec::{Codec, EncoderConfig};
use crate::media::{Direction, Format};
use crate::sdp::offer_answer::{Description, Negotiated, Policy, RemoteMedia};

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

/// What we encode for a trunk whose link carries little, and ask it to send: Opus in speech at its
/// best below 12 kb/s (narrow to medium band), and headers of 40 bytes seldom.
const LOW_BITRATE: u32 = 10_000;
const LOW_PTIME_MS: std::ops::RangeInclusive<u32> = 40..=60;

/// How media of a trunk is treated beside its codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Treatment {
    /// Its link carries little: low bit rate, long packets, redundant audio (RFC 2198).
    pub(crate) low_bandwidth: bool,
    /// The noise in what comes from it is suppressed.
    pub(crate) noise_suppression: bool,
}

impl Treatment {
    pub(crate) const fn of(trunk: &Trunk) -> Self {
        let Trunk { low_bandwidth, noise_suppression, .. } = trunk;
        Self { low_bandwidth: *low_bandwidth, noise_suppression: *noise_suppression }
    }

    /// The codecs of a description, Opus first where the link needs it.
    pub(crate) fn order(self, mut codecs: Vec<Codec>) -> Vec<Codec> {
        if self.low_bandwidth {
            // Stable: the others stay in their order.
            codecs.sort_by_key(|codec| *codec != Codec::Opus);
        }
        codecs
    }

    /// A description of ours, with what the link needs.
    pub(crate) fn describe(self, what: Description) -> Description {
        if !self.low_bandwidth {
            return what;
        }
        let opus = EncoderConfig { bitrate: what.opus.bitrate.min(LOW_BITRATE), ..what.opus };
        let codecs = self.order(what.codecs);
        Description { codecs, opus, ptime_ms: *LOW_PTIME_MS.end(), redundant: true, ..what }
    }

    /// How to encode for the peer: as it wants, within what the link carries.
    pub(crate) fn format(self, remote: &RemoteMedia, codec: Codec) -> Option<Format> {
        let Negotiated { payload_type, fmtp, .. } = remote.format(codec)?;
        let (mut ptime_ms, mut fmtp) = (remote.ptime_ms.unwrap_or(PTIME_MS), fmtp.clone());
        if self.low_bandwidth && codec == Codec::Opus {
            let (low, high) = LOW_PTIME_MS.into_inner();
            ptime_ms = remote.ptime_ms.unwrap_or(high).clamp(low, high);
            ptime_ms = ptime_ms.min(remote.max_ptime_ms.unwrap_or(high));
            let wish = EncoderConfig::for_fmtp(fmtp.as_deref());
            // Copies of RFC 2198 repair more, and in-band ones starve the voice at this rate.
            let fec = wish.fec && remote.redundant(codec).is_none();
            let bitrate = wish.bitrate.min(LOW_BITRATE);
            fmtp = Some(EncoderConfig { bitrate, fec, ..wish }.to_fmtp());
        }
        Some(Format { codec, payload_type: *payload_type, ptime_ms, fmtp })
    }

    /// Does what we send carry copies?
    pub(crate) fn copies(self, codec: Codec) -> bool {
        self.low_bandwidth && codec == Codec::Opus
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
pub(crate) fn to_far(
    remote: &RemoteMedia,
    (allowed, treatment): (&[Codec], Treatment),
    receive: StreamId,
) -> Media {
    let codecs = remote.codecs.iter().map(|n| n.codec).filter(|c| allowed.contains(c));
    let codecs = treatment.order(codecs.collect());
    // Only Opus cares how long its packets are wanted.
    let opus = treatment.format(remote, Codec::Opus).filter(|_| codecs.contains(&Codec::Opus));
    let ptime_ms = opus.as_ref().filter(|_| treatment.low_bandwidth).map(|format| format.ptime_ms);
    Media {
        codecs: codecs.into_iter().map(to_proto).collect(),
        direction: i32::from(direction_to_proto(remote.direction)),
        telephone_event: !remote.telephone_events.is_empty(),
        ptime_ms: ptime_ms.or(remote.ptime_ms).unwrap_or(PTIME_MS),
        stream: receive.0,
        ssrc: 0,
        opus: opus.and_then(|format| opus_to_proto(format.fmtp.as_deref())),
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

/// What the peer of the other half wants of Opus.
pub(crate) fn opus(media: &Media) -> EncoderConfig {
    media.opus.as_ref().map(opus_from_proto).unwrap_or_default()
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
