//! What session timers come to (RFC 4028): pure negotiation, no clocks.
//!
//! A peer that does not know them gets none: `liveness` asks it with OPTIONS instead.

use proto::time::Duration;

use crate::pop::Timing;
use crate::sip::{HeaderName, Headers, Refresher, SessionExpires};

/// No session interval is shorter (RFC 4028 §5).
pub(crate) const MIN_SE_S: u32 = 90;

/// The extensions we know, as tags of Supported.
pub(crate) const SUPPORTED: &str = "timer, 100rel";

/// What an INVITE or UPDATE of ours asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) seconds: u32,
    pub(crate) min_se: u32,
    pub(crate) refresher: Option<Refresher>,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) interval: Duration,
    /// We refresh; else the peer must.
    pub(crate) ours: bool,
}

/// The interval wanted is below what we take: 422 (RFC 4028 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooShort;

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX).max(MIN_SE_S)
}

/// The smallest interval we take.
pub(crate) fn min_se(timing: &Timing) -> u32 {
    seconds(timing.min_session_expires)
}

impl Wish {
    /// For a first INVITE.
    pub(crate) fn new(timing: &Timing) -> Self {
        let min_se = min_se(timing);
        Self { seconds: seconds(timing.session_expires).max(min_se), min_se, refresher: None }
    }

    /// After a 422 (RFC 4028 §7.3); `None` if it asks for nothing longer.
    pub(crate) fn raised(self, refusal: &Headers) -> Option<Self> {
        let min_se = refusal.min_se().filter(|wanted| *wanted > self.min_se)?;
        Some(Self { seconds: self.seconds.max(min_se), min_se, ..self })
    }

    /// Says it in a request.
    pub(crate) fn put(self, headers: &mut Headers) {
        let Self { seconds, min_se, refresher } = self;
        headers.set(HeaderName::Supported, SUPPORTED);
        headers.set(HeaderName::SessionExpires, &SessionExpires { seconds, refresher });
        headers.set(HeaderName::MinSe, min_se);
    }
}

/// Our answer to a request of the peer; `None`: no session timer (RFC 4028 §9).
pub(crate) fn answer(
    request: &Headers,
    timing: &Timing,
) -> Result<Option<SessionExpires>, TooShort> {
    let knows = [HeaderName::Supported, HeaderName::Require];
    if !knows.iter().any(|name| request.has_token(name, "timer")) {
        return Ok(None);
    }
    let wanted = request.session_expires();
    if wanted.is_some_and(|wanted| wanted.seconds < min_se(timing)) {
        return Err(TooShort);
    }
    let least = request.min_se().unwrap_or(0).max(min_se(timing));
    let ours = seconds(timing.session_expires);
    let seconds = wanted.map_or(ours, |wanted| wanted.seconds.min(ours)).max(least);
    // Table 2: what the client asks for, else we do it.
    let refresher = wanted.and_then(|wanted| wanted.refresher).unwrap_or(Refresher::Uas);
    Ok(Some(SessionExpires { seconds, refresher: Some(refresher) }))
}

/// Says it in a 2xx (RFC 4028 §9).
pub(crate) fn put_answer(answer: Option<SessionExpires>, headers: &mut Headers) {
    headers.set(HeaderName::Supported, SUPPORTED);
    let Some(answer) = answer else { return };
    if answer.refresher == Some(Refresher::Uac) {
        headers.push(HeaderName::Require, "timer");
    }
    headers.push(HeaderName::SessionExpires, &answer);
}

impl Terms {
    /// After our answer.
    pub(crate) fn as_server(answer: SessionExpires) -> Self {
        let ours = answer.refresher != Some(Refresher::Uac);
        Self { interval: interval(answer.seconds), ours }
    }

    /// From a 2xx to our request; `None`: the peer wants no session timer.
    pub(crate) fn as_client(response: &Headers) -> Option<Self> {
        let answer = response.session_expires()?;
        let ours = answer.refresher != Some(Refresher::Uas);
        Some(Self { interval: interval(answer.seconds), ours })
    }
}

/// A peer cannot make us refresh faster than the standard allows.
fn interval(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.max(MIN_SE_S)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(HeaderName::new(name), *value));
        headers
    }

    fn answered(lines: &[(&str, &str)]) -> Result<String, TooShort> {
        let answer = answer(&headers(lines), &Timing::default())?;
        Ok(answer.map_or_else(String::new, |answer| answer.to_string()))
    }

    #[test]
    fn the_answer_keeps_to_what_both_want() {
        let timer = ("Supported", "100rel, TIMER");
        assert_eq!(answered(&[]).unwrap(), "");
        assert_eq!(answered(&[("Session-Expires", "10")]).unwrap(), "", "it does not know timers");
        assert_eq!(answered(&[timer]).unwrap(), "1800;refresher=uas");
        assert_eq!(answered(&[("Require", "timer")]).unwrap(), "1800;refresher=uas");
        assert_eq!(answered(&[timer, ("x", "600;refresher=UAC")]).unwrap(), "600;refresher=uac");
        assert_eq!(answered(&[timer, ("Session-Expires", "7200")]).unwrap(), "1800;refresher=uas");
        let longer = [timer, ("Session-Expires", "7200"), ("Min-SE", "3600;x=y")];
        assert_eq!(answered(&longer).unwrap(), "3600;refresher=uas");
        assert_eq!(answered(&[timer, ("Session-Expires", "89")]), Err(TooShort));
        assert_eq!(answered(&[timer, ("Session-Expires", "soon")]).unwrap(), "1800;refresher=uas");
    }

    #[test]
    fn terms_are_seen_from_our_side() {
        let terms = |value: &str| Terms::as_client(&headers(&[("Session-Expires", value)]));
        let interval = Duration::from_secs(300);
        assert_eq!(terms("300;refresher=uac"), Some(Terms { interval, ours: true }));
        assert_eq!(terms("300;refresher=uas"), Some(Terms { interval, ours: false }));
        assert_eq!(terms("0").unwrap().interval, Duration::from_secs(90), "no refresh storm");
        assert_eq!(Terms::as_client(&Headers::new()), None);
        let ours = |refresher| Terms::as_server(SessionExpires { seconds: 300, refresher }).ours;
        assert!(ours(Some(Refresher::Uas)) && !ours(Some(Refresher::Uac)));
    }

    #[test]
    fn a_refusal_raises_the_wish_and_only_raises_it() {
        let wish = Wish::new(&Timing::default());
        let raised = wish.raised(&headers(&[("Min-SE", "2400")])).unwrap();
        assert_eq!((raised.seconds, raised.min_se), (2_400, 2_400));
        assert_eq!(raised.raised(&headers(&[("Min-SE", "2400")])), None);
        assert_eq!(wish.raised(&Headers::new()), None);
    }
}
