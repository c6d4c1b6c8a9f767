//! The E-model (ITU-T G.107): what a path does to a conversation, as a rating R and a MOS.
//!
//! Everything but delay, loss and codec is at the standard's default (table 3). Speech of 16 kHz
//! and more is rated by the wideband model (G.107.1), whose R goes up to 129; MOS is on one scale.

use proto::time::Duration;

use crate::codec::Codec;

/// What of a path matters to the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathQuality {
    /// One way, mouth to ear.
    pub delay: Duration,
    /// Packets lost or too late, 0 to 1.
    pub loss: f64,
    /// Burst ratio: 1 for random loss, more when losses come together (G.107 §3.5).
    pub burst_ratio: f64,
    /// Equipment impairment of the codec (G.113 appendix I).
    pub ie: f64,
    /// Packet-loss robustness of the codec (G.113 appendix I).
    pub bpl: f64,
    /// The band of the speech, from mouth to ear.
    pub band: Band,
}

/// How much of the voice is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Band {
    /// 300 to 3400 Hz (G.107).
    #[default]
    Narrow,
    /// 50 to 7000 Hz (G.107.1).
    Wide,
}

impl Band {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Wide => "wide",
        }
    }

    /// What a codec carries by itself.
    pub const fn of(codec: Codec) -> Self {
        match codec {
            Codec::Pcmu | Codec::Pcma => Self::Narrow,
            Codec::G722 | Codec::Opus => Self::Wide,
        }
    }
}

/// G.107.1 §7: a perfect wideband path, and how much longer its scale is.
const RO_WIDE: f64 = 129.0;
pub(super) const SCALE_WIDE: f64 = 1.29;

impl PathQuality {
    /// A narrow-band path with random loss, whatever the codec could carry.
    pub fn new(codec: Codec, delay: Duration, loss: f64) -> Self {
        Self::of(codec, Band::Narrow, delay, loss)
    }

    /// A path of a band with random loss.
    pub fn of(codec: Codec, band: Band, delay: Duration, loss: f64) -> Self {
        let (ie, bpl) = match band {
            Band::Narrow => impairment(codec),
            Band::Wide => impairment_wide(codec),
        };
        Self { delay, loss, burst_ratio: 1.0, ie, bpl, band }
    }

    /// R, the rating of transmission quality (G.107 §3.1, G.107.1 §7.1).
    pub fn r_factor(&self) -> f64 {
        let signal = Signal::default();
        match self.band {
            Band::Narrow => {
                let delay = signal.echo(self.delay) + absolute(self.delay);
                signal.ro - signal.simultaneous() - delay - self.equipment()
            }
            Band::Wide => {
                let signal = Signal { ro: RO_WIDE, ..signal };
                let delay = signal.echo(self.delay) + SCALE_WIDE * absolute(self.delay);
                signal.ro - delay - self.equipment()
            }
        }
    }

    /// MOS estimated from R.
    pub fn mos(&self) -> f64 {
        match self.band {
            Band::Narrow => mos(self.r_factor()),
            Band::Wide => mos(self.r_factor() / SCALE_WIDE),
        }
    }

    /// Ie,eff (G.107 §3.5).
    pub fn equipment(&self) -> f64 {
        let loss = self.loss.clamp(0.0, 1.0) * 100.0;
        let spread = loss / self.burst_ratio.max(1.0) + self.bpl;
        self.ie + (95.0 - self.ie) * loss / spread
    }
}

/// Ie and Bpl. G.711 with concealment: G.113 table I.4. The standard has no narrow-band values
/// for the others; these follow PESQ of our codecs under loss, on G.711's scale.
const fn impairment(codec: Codec) -> (f64, f64) {
    match codec {
        Codec::Pcmu | Codec::Pcma => (0.0, 25.1),
        Codec::G722 => (0.0, 20.0),
        Codec::Opus => (1.0, 25.1),
    }
}

/// Ie,wb and Bpl,wb. G.722 at 64 kb/s: G.113 table IV.1; Opus is in no table, its values are
/// provisional. Bpl of both with our concealment, and G.711, for completeness, at the rating that
/// narrow-band speech has among wideband.
const fn impairment_wide(codec: Codec) -> (f64, f64) {
    match codec {
        Codec::Pcmu | Codec::Pcma => (36.0, 25.1),
        Codec::G722 => (13.0, 15.0),
        Codec::Opus => (5.0, 15.0),
    }
}

/// MOS from R (G.107 annex B).
pub fn mos(r: f64) -> f64 {
    match r {
        r if r <= 0.0 => 1.0,
        r if r >= 100.0 => 4.5,
        r => (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).max(1.0),
    }
}

/// Default send loudness, receive loudness and the noises of both rooms and the circuit, in dB
/// (G.107 table 3).
const SLR: f64 = 8.0;
const RLR: f64 = 2.0;
const STMR: f64 = 15.0;
const TELR: f64 = 65.0;
const WEPL: f64 = 110.0;

fn db(power: f64) -> f64 {
    10.0 * power.log10()
}

fn power(db: f64) -> f64 {
    10.0_f64.powf(db / 10.0)
}

/// The parts that depend on no path.
struct Signal {
    noise: f64,
    ro: f64,
}

impl Default for Signal {
    /// Ro (G.107 §3.2).
    fn default() -> Self {
        let olr = SLR + RLR;
        let sent = 35.0 - SLR - 3.0 - 100.0 + 0.004 * (35.0 - olr - 3.0 - 14.0_f64).powi(2);
        let room = 35.0 + db(1.0 + power(10.0 - (STMR + 3.0)));
        let received = RLR - 121.0 + room + 0.008 * (room - 35.0).powi(2);
        let noise = db(power(-70.0) + power(sent) + power(received) + power(-64.0 + RLR));
        Self { noise, ro: 15.0 - 1.5 * (SLR + noise) }
    }
}

impl Signal {
    /// Is: loudness, sidetone and quantising (G.107 §3.3), one PCM quantisation.
    fn simultaneous(&self) -> f64 {
        let x = (SLR + RLR + 0.2 * (64.0 + self.noise - RLR)) / 8.0;
        let loudness = 20.0 * ((1.0 + x.powi(8)).powf(1.0 / 8.0) - x);
        let q = 37.0;
        let g = 1.07 + 0.258 * q + 0.0602 * q * q;
        let y = (self.ro - 100.0) / 15.0 + 46.0 / 8.4 - g / 9.0;
        let z = 46.0 / 30.0 - g / 40.0;
        let quantising = 15.0 * (1.0 + 10.0_f64.powf(y) + 10.0_f64.powf(z)).log10();
        loudness + self.sidetone() + quantising
    }

    /// Ist (G.107 §3.3), with an echo path as long as none.
    fn sidetone(&self) -> f64 {
        let stmr = -db(power(-STMR) + power(-TELR));
        let bend = |x: f64, exponent: f64| (1.0 + x.powf(exponent)).powf(1.0 / exponent);
        12.0 * bend((stmr - 13.0) / 6.0, 8.0)
            - 28.0 * bend((stmr + 1.0) / 19.4, 35.0)
            - 13.0 * bend(((stmr - 3.0) / 33.0).abs(), 13.0)
            + 29.0
    }

    /// Idte and Idle: echo of talker and listener (G.107 §3.4).
    fn echo(&self, delay: Duration) -> f64 {
        let t = delay.as_secs_f64() * 1_000.0;
        let talker = if t < 1.0 {
            0.0
        } else {
            let terv = TELR - 40.0 * ((1.0 + t / 10.0) / (1.0 + t / 150.0)).log10()
                + 6.0 * (-0.3 * t * t).exp();
            let roe = -1.5 * (self.noise - RLR);
            let re = 80.0 + 2.5 * (terv - 14.0);
            let half = (roe - re) / 2.0;
            (half + (half * half + 100.0).sqrt() - 1.0) * (1.0 - (-t).exp())
        };
        let rle = 10.5 * (WEPL + 7.0) * (2.0 * t + 1.0).powf(-0.25);
        let half = (self.ro - rle) / 2.0;
        talker + half + (half * half + 169.0).sqrt()
    }
}

/// Idd: too long a delay, echo or not (G.107 §3.4).
fn absolute(delay: Duration) -> f64 {
    let t = delay.as_secs_f64() * 1_000.0;
    if t <= 100.0 {
        return 0.0;
    }
    let x = (t / 100.0).log2();
    let sixth = |x: f64| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (sixth(x) - 3.0 * sixth(x / 3.0) + 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn g711(delay_ms: u64, loss: f64) -> PathQuality {
        PathQuality::new(Codec::Pcmu, Duration::from_millis(delay_ms), loss)
    }

    fn assert_near(value: f64, golden: f64) {
        assert!((value - golden).abs() < 0.000_1, "{value} is not {golden}");
    }

    #[test]
    fn golden_values() {
        for (delay_ms, r, mos) in [
            (0, 93.2062, 4.4094),
            (100, 90.6637, 4.3549),
            (150, 89.5391, 4.3275),
            (250, 79.1771, 3.9925),
        ] {
            assert_near(g711(delay_ms, 0.0).r_factor(), r);
            assert_near(g711(delay_ms, 0.0).mos(), mos);
        }
        assert_near(g711(0, 0.01).r_factor(), 89.5664);
        assert_near(g711(0, 0.01).mos(), 4.3282);
        assert_near(g711(0, 0.05).r_factor(), 77.4255);
        assert_near(g711(0, 0.05).mos(), 3.9231);
        assert_near(PathQuality { burst_ratio: 2.0, ..g711(0, 0.05) }.equipment(), 17.2101);
        let g729a = PathQuality { ie: 11.0, bpl: 19.0, ..g711(0, 0.02) };
        assert_near(g729a.r_factor(), 74.2062);
        assert_near(g729a.mos(), 3.7876);
    }

    #[test]
    fn golden_values_of_wideband() {
        let opus = |delay_ms, loss| {
            PathQuality::of(Codec::Opus, Band::Wide, Duration::from_millis(delay_ms), loss)
        };
        assert_near(opus(0, 0.0).r_factor(), 123.8463);
        assert_near(opus(0, 0.0).mos(), 4.4568);
        // Beyond 100 ms delay costs as much of the longer scale.
        let cost = |delay_ms| absolute(Duration::from_millis(delay_ms));
        assert_near(cost(250), 8.9167);
        let signal = Signal { ro: RO_WIDE, ..Signal::default() };
        let echo = signal.echo(Duration::from_millis(250));
        assert_near(opus(250, 0.0).r_factor(), 129.0 - echo - 1.29 * cost(250) - 5.0);
        assert_near(opus(0, 0.03).equipment(), 5.0 + 90.0 * 3.0 / 18.0);
        let g722 = PathQuality::of(Codec::G722, Band::Wide, Duration::ZERO, 0.0);
        assert!(g722.mos() < opus(0, 0.0).mos() && g722.mos() > g711(0, 0.0).mos() - 0.1);
    }

    #[test]
    fn the_bar_for_good_quality() {
        assert!(mos(85.06) >= 4.2 && mos(85.0) < 4.2);
        assert!(g711(150, 0.0124).mos() >= 4.2 && g711(150, 0.0126).mos() < 4.2);
        assert_eq!((mos(-3.0), mos(120.0)), (1.0, 4.5));
        assert_eq!(g711(100_000, 1.0).mos(), 1.0);
    }
}
