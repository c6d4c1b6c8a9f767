//! Voice codecs, concealment and resampling.
//!
//! G.711 (PCMU, PCMA), G.722 and Opus (RFC 3551, RFC 6716, RFC 7587), each behind one
//! [`Decoder`] and one [`Encoder`]; loss concealment for all of them.
//!
//! Deliberately no timing here (that is `media::transcode`) and no SDP text (that is `sdp`).

mod coder;
pub mod complexity;
mod conceal;
mod denoise;
mod g711;
mod noise;
mod opus_config;
pub mod resample;
#[cfg(test)]
pub(crate) mod tests;

pub use coder::{CodecError, Decoder, Encoder, PACKET_MS_MAX};
pub use conceal::Concealer;
pub use denoise::NoiseSuppressor;
#[cfg(test)]
pub(crate) use denoise::test_noise as denoise_tests;
pub use g711::{alaw_decode, alaw_encode, ulaw_decode, ulaw_encode};
pub use noise::{COMFORT_NOISE, ComfortNoise};
pub(crate) use opus_config::OPUS_PAUSE_BYTES;
pub use opus_config::{EncoderConfig, opus_has_fec, opus_is_pause};

/// A voice codec the mesh speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// G.711 µ-law (RFC 3551 §4.5.14).
    Pcmu,
    /// G.711 A-law (RFC 3551 §4.5.14).
    Pcma,
    /// G.722 at 64 kb/s (RFC 3551 §4.5.2).
    G722,
    /// Opus (RFC 7587).
    Opus,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pcmu, Self::Pcma, Self::G722, Self::Opus];

    /// The encoding name of `a=rtpmap`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Opus => "opus",
        }
    }

    /// By encoding name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// The RTP clock rate in Hz. G.722 says 8000 by an old mistake (RFC 3551 §4.5.2).
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 8_000,
            Self::Opus => 48_000,
        }
    }

    /// The channel count of `a=rtpmap`: 2 for Opus whatever is sent (RFC 7587 §4.1).
    pub const fn channels(self) -> u8 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 1,
            Self::Opus => 2,
        }
    }

    /// The static payload type (RFC 3551 §6), if it has one.
    pub const fn static_payload_type(self) -> Option<u8> {
        match self {
            Self::Pcmu => Some(0),
            Self::Pcma => Some(8),
            Self::G722 => Some(9),
            Self::Opus => None,
        }
    }

    /// By static payload type (RFC 3551 §6).
    pub fn from_static_payload_type(payload_type: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.static_payload_type() == Some(payload_type))
    }

    /// The payload type our offers use: the static one, 111 for Opus.
    pub const fn offered_payload_type(self) -> u8 {
        match self.static_payload_type() {
            Some(payload_type) => payload_type,
            None => 111,
        }
    }

    /// Milliseconds per packet when nobody says otherwise (RFC 3551 §4.2, RFC 7587 §6.1).
    pub const fn default_ptime_ms(self) -> u32 {
        20
    }

    /// The sample rate the codec works at best; Opus also decodes and encodes at others.
    pub const fn sample_rate(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma => 8_000,
            Self::G722 => 16_000,
            Self::Opus => 48_000,
        }
    }
}

impl From<Codec> for proto::call::Codec {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Pcmu => Self::Pcmu,
            Codec::Pcma => Self::Pcma,
            Codec::G722 => Self::G722,
            Codec::Opus => Self::Opus,
        }
    }
}

/// The peer named no codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("codec is unspecified")]
pub struct CodecUnspecified;

impl TryFrom<proto::call::Codec> for Codec {
    type Error = CodecUnspecified;

    fn try_from(codec: proto::call::Codec) -> Result<Self, CodecUnspecified> {
        match codec {
            proto::call::Codec::Unspecified => Err(CodecUnspecified),
            proto::call::Codec::Pcmu => Ok(Self::Pcmu),
            proto::call::Codec::Pcma => Ok(Self::Pcma),
            proto::call::Codec::G722 => Ok(Self::G722),
            proto::call::Codec::Opus => Ok(Self::Opus),
        }
    }
}
