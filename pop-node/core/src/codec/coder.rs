//! One decoder and one encoder type for all codecs.

use std::fmt;

use audio_codec::g722::{G722Decoder, G722Encoder};
use audio_codec::{Decoder as _, Encoder as _};

use super::conceal::Concealer;
use super::opus_config::{EncoderConfig, opus_encoder};
use super::{Codec, g711};

/// Longest packet a decoder takes, in milliseconds (RFC 6716 §2.1.4: Opus has 120).
pub const PACKET_MS_MAX: usize = 200;
/// Largest Opus packet we make (RFC 6716 §3.4: one frame has at most 1275 bytes).
const OPUS_BYTES_MAX: usize = 1_276;

/// Why a codec refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The codec cannot work at this sample rate.
    #[error("{name} does not run at {rate} Hz", name = .codec.name())]
    SampleRate {
        /// The codec.
        codec: Codec,
        /// The rate asked for.
        rate: u32,
    },
    /// Noise is not suppressed at this sample rate.
    #[error("noise suppression does not run at {0} Hz")]
    Suppression(u32),
    /// The payload is empty, too long or malformed.
    #[error("payload cannot be decoded")]
    Payload,
    /// The number of samples is none the codec can put in a packet.
    #[error("frame of {0} samples cannot be encoded")]
    Frame(usize),
}

fn check_rate(codec: Codec, rate: u32) -> Result<(), CodecError> {
    let fits = match codec {
        Codec::Pcmu | Codec::Pcma | Codec::G722 => rate == codec.sample_rate(),
        Codec::Opus => matches!(rate, 8_000 | 12_000 | 16_000 | 24_000 | 48_000),
    };
    if fits { Ok(()) } else { Err(CodecError::SampleRate { codec, rate }) }
}

enum Decoding {
    Pcmu,
    Pcma,
    G722(Box<G722Decoder>),
    Opus(opus::Decoder),
}

/// Turns packets of one stream into samples, also those that never came.
pub struct Decoder {
    codec: Codec,
    rate: u32,
    decoding: Decoding,
    concealer: Option<Concealer>,
}

impl Decoder {
    /// A mono decoder to `rate` samples per second (Opus: any of its rates; others: their own).
    pub fn new(codec: Codec, rate: u32) -> Result<Self, CodecError> {
        check_rate(codec, rate)?;
        let decoding = match codec {
            Codec::Pcmu => Decoding::Pcmu,
            Codec::Pcma => Decoding::Pcma,
            Codec::G722 => Decoding::G722(Box::new(G722Decoder::new())),
            Codec::Opus => Decoding::Opus(
                opus::Decoder::new(rate, opus::Channels::Mono)
                    .map_err(|_| CodecError::SampleRate { codec, rate })?,
            ),
        };
        let concealer = (codec != Codec::Opus).then(|| Concealer::new(rate));
        Ok(Self { codec, rate, decoding, concealer })
    }

    /// The codec.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Samples per second it produces.
    pub const fn rate(&self) -> u32 {
        self.rate
    }

    /// How many samples a payload will become.
    pub fn samples(&self, payload: &[u8]) -> Result<usize, CodecError> {
        let samples = match &self.decoding {
            Decoding::Pcmu | Decoding::Pcma => payload.len(),
            Decoding::G722(_) => payload.len() * 2,
            Decoding::Opus(decoder) if !payload.is_empty() => {
                decoder.get_nb_samples(payload).map_err(|_| CodecError::Payload)?
            }
            Decoding::Opus(_) => 0,
        };
        match samples {
            0 => Err(CodecError::Payload),
            n if n > self.rate as usize * PACKET_MS_MAX / 1_000 => Err(CodecError::Payload),
            n => Ok(n),
        }
    }

    /// Appends the samples of a packet; nothing on error.
    pub fn decode(&mut self, payload: &[u8], pcm: &mut Vec<i16>) -> Result<usize, CodecError> {
        let samples = self.samples(payload)?;
        let before = pcm.len();
        pcm.resize(before + samples, 0);
        let out = pcm.get_mut(before..).unwrap_or_default();
        let done = match &mut self.decoding {
            Decoding::Pcmu => each(payload, out, g711::ulaw_decode),
            Decoding::Pcma => each(payload, out, g711::alaw_decode),
            Decoding::G722(decoder) => decoder.decode_into(payload, out).ok(),
            Decoding::Opus(decoder) => decoder.decode(payload, out, false).ok(),
        };
        let Some(done) = done else {
            pcm.truncate(before);
            return Err(CodecError::Payload);
        };
        pcm.truncate(before + done);
        if let (Some(concealer), Some(out)) = (&mut self.concealer, pcm.get_mut(before..)) {
            concealer.received(out);
        }
        Ok(done)
    }

    /// Something else was played: losses are concealed from it. After a loss its beginning is faded
    /// in.
    pub fn played_instead(&mut self, pcm: &mut [i16]) {
        if let Some(concealer) = &mut self.concealer {
            concealer.received(pcm);
        }
    }

    /// Appends `samples` made-up samples for lost audio. `next` is the packet right after the
    /// loss if it is here already: Opus may carry a copy of the lost one in it (RFC 6716 §2.1.7).
    pub fn conceal(&mut self, samples: usize, next: Option<&[u8]>, pcm: &mut Vec<i16>) {
        let samples = samples.min(self.rate as usize * PACKET_MS_MAX / 1_000);
        let before = pcm.len();
        pcm.resize(before + samples, 0);
        let mut out = pcm.get_mut(before..).unwrap_or_default();
        if let Some(concealer) = &mut self.concealer {
            concealer.conceal(out);
        } else if let Decoding::Opus(decoder) = &mut self.decoding {
            // libopus makes up multiples of 2.5 ms, at most 120 ms at a time.
            let (unit, most) = (self.rate as usize / 400, self.rate as usize * 120 / 1_000);
            let mut next = next.filter(|p| !p.is_empty());
            while out.len() >= unit {
                let n = (out.len() / unit * unit).min(most);
                let (head, rest) = out.split_at_mut(n);
                let packet = next.take().filter(|_| rest.is_empty());
                if decoder.decode(packet.unwrap_or_default(), head, packet.is_some()).is_err() {
                    return;
                }
                out = rest;
            }
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("codec", &self.codec).field("rate", &self.rate).finish()
    }
}

fn each(payload: &[u8], out: &mut [i16], decode: fn(u8) -> i16) -> Option<usize> {
    out.iter_mut().zip(payload).for_each(|(sample, &byte)| *sample = decode(byte));
    Some(payload.len())
}

enum Encoding {
    Pcmu,
    Pcma,
    G722(Box<G722Encoder>),
    Opus(opus::Encoder),
}

/// Turns samples into packets of one stream.
pub struct Encoder {
    codec: Codec,
    rate: u32,
    encoding: Encoding,
}

impl Encoder {
    /// A mono encoder of `rate` samples per second (Opus: any of its rates; others: their own).
    pub fn new(codec: Codec, rate: u32, config: EncoderConfig) -> Result<Self, CodecError> {
        check_rate(codec, rate)?;
        let encoding = match codec {
            Codec::Pcmu => Encoding::Pcmu,
            Codec::Pcma => Encoding::Pcma,
            Codec::G722 => Encoding::G722(Box::new(G722Encoder::new())),
            Codec::Opus => Encoding::Opus(
                opus_encoder(rate, config).map_err(|_| CodecError::SampleRate { codec, rate })?,
            ),
        };
        Ok(Self { codec, rate, encoding })
    }

    /// The codec.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// Samples per second it takes.
    pub const fn rate(&self) -> u32 {
        self.rate
    }

    /// CPU against quality, 0 to 10 (libopus complexity); the others have no choice.
    pub fn set_complexity(&mut self, complexity: u8) {
        if let Encoding::Opus(encoder) = &mut self.encoding {
            // Cannot fail: the value is in range.
            let _ = encoder.set_complexity(i32::from(complexity.min(10)));
        }
    }

    /// What share of our packets the peer loses, in percent. From 1 on an Opus encoder that may
    /// puts a copy of each packet into the next (RFC 6716 §2.1.7), at the cost of clean quality.
    pub fn expect_loss(&mut self, percent: u8) {
        if let Encoding::Opus(encoder) = &mut self.encoding {
            let _ = encoder.set_packet_loss_perc(i32::from(percent.min(30)));
        }
    }

    /// Appends one packet of all of `pcm`; nothing on error. Opus takes 2.5, 5, 10, 20, 40, 60,
    /// 80, 100 or 120 ms, G.722 an even number of samples.
    pub fn encode(&mut self, pcm: &[i16], out: &mut Vec<u8>) -> Result<usize, CodecError> {
        let error = CodecError::Frame(pcm.len());
        if pcm.is_empty() || pcm.len() > self.rate as usize * PACKET_MS_MAX / 1_000 {
            return Err(error);
        }
        let before = out.len();
        let room = match &self.encoding {
            Encoding::Pcmu | Encoding::Pcma => pcm.len(),
            Encoding::G722(_) => pcm.len() / 2,
            Encoding::Opus(_) => OPUS_BYTES_MAX,
        };
        out.resize(before + room, 0);
        let packet = out.get_mut(before..).unwrap_or_default();
        let done = match &mut self.encoding {
            Encoding::Pcmu => each_sample(pcm, packet, g711::ulaw_encode),
            Encoding::Pcma => each_sample(pcm, packet, g711::alaw_encode),
            Encoding::G722(_) if !pcm.len().is_multiple_of(2) => Err(error),
            Encoding::G722(encoder) => encoder.encode_into(pcm, packet).map_err(|_| error),
            Encoding::Opus(encoder) => encoder.encode(pcm, packet).map_err(|_| error),
        };
        out.truncate(before + done.unwrap_or(0));
        done
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("codec", &self.codec).field("rate", &self.rate).finish()
    }
}

fn each_sample(pcm: &[i16], out: &mut [u8], encode: fn(i16) -> u8) -> Result<usize, CodecError> {
    out.iter_mut().zip(pcm).for_each(|(byte, &sample)| *byte = encode(sample));
    Ok(pcm.len())
}
