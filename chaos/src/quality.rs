//! What a listener would say: the E-model (ITU-T G.107) of what an endpoint heard. Pure.

use std::time::Duration;

use pop_core::codec::Codec;
use pop_core::media::quality::PathQuality;

use crate::wan::Profile;

/// A packet of speech is spoken before it is sent.
const PACKETISATION: Duration = Duration::from_millis(20);
/// What a phone's playout buffer holds at least.
const PLAYOUT_MIN: Duration = Duration::from_millis(20);

/// MOS of a direction: codec at the ear, share of packets lost, jitter there, and the WAN's delay.
pub(crate) fn mos(codec: Codec, loss: f64, jitter: Duration, profile: &Profile) -> f64 {
    // The playout buffer of a phone follows its jitter, about twice of it.
    let playout = PLAYOUT_MIN.max(jitter * 2);
    let delay = PACKETISATION + profile.delay + profile.jitter + playout;
    PathQuality::new(codec, delay, loss).mos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_loss_and_jitter_each_cost() {
        let near = Profile::default();
        let far = Profile::delayed(Duration::from_millis(250));
        let calm = Duration::from_millis(1);
        let clean = mos(Codec::Pcmu, 0.0, calm, &near);
        // Golden value of G.107 without delay: 4.4094.
        assert!((4.38..4.41).contains(&clean), "{clean}");
        assert!(mos(Codec::Pcmu, 0.0, calm, &far) < clean - 0.2);
        assert!(mos(Codec::Pcmu, 0.05, calm, &near) < clean - 0.3);
        assert!(mos(Codec::Pcmu, 0.0, Duration::from_millis(150), &near) < clean - 0.2);
    }
}
