//! telephone-event payloads (RFC 4733 §2.3): DTMF.

/// One named telephone event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Event code: 0–9, 10 `*`, 11 `#`, 12–15 A–D (RFC 4733 §3.2).
    pub code: u8,
    /// The event is over.
    pub end: bool,
    /// Power in −dBm0, 6 bits.
    pub volume: u8,
    /// Length so far, in units of the timestamp clock.
    pub duration: u16,
}

impl Event {
    /// The first event of a payload; `None` if it is shorter than one.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let [code, flags, high, low] = *payload.first_chunk::<4>()?;
        Some(Self {
            code,
            end: flags & 0x80 != 0,
            volume: flags & 0x3f,
            duration: u16::from_be_bytes([high, low]),
        })
    }

    /// The payload.
    pub fn encode(self) -> [u8; 4] {
        let [high, low] = self.duration.to_be_bytes();
        [self.code, u8::from(self.end) << 7 | self.volume & 0x3f, high, low]
    }

    /// The key pressed, if the event is DTMF.
    pub fn digit(self) -> Option<char> {
        b"0123456789*#ABCD".get(usize::from(self.code)).map(|&digit| char::from(digit))
    }

    /// The event of a key (RFC 4733 §3.2).
    pub fn of_digit(digit: char) -> Option<u8> {
        let digit = u8::try_from(digit.to_ascii_uppercase()).ok()?;
        b"0123456789*#ABCD".iter().position(|&d| d == digit).and_then(|n| u8::try_from(n).ok())
    }
}

/// Converts the duration in a payload from one clock rate to another, in place. Durations too
/// long for the faster clock stay at the largest (a new segment would be RFC 4733 §2.5.1.3).
pub fn convert_clock(payload: &mut [u8], from: u32, to: u32) {
    let Some(mut event) = Event::decode(payload) else { return };
    if from == to || from == 0 {
        return;
    }
    let duration = u64::from(event.duration) * u64::from(to) / u64::from(from);
    event.duration = u16::try_from(duration).unwrap_or(u16::MAX);
    if let Some(head) = payload.first_chunk_mut::<4>() {
        *head = event.encode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_back_and_convert() {
        let event = Event { code: 11, end: true, volume: 10, duration: 800 };
        let mut payload = event.encode();
        assert_eq!(Event::decode(&payload), Some(event));
        assert_eq!(event.digit(), Some('#'));
        assert_eq!(Event::of_digit('#'), Some(11));
        assert_eq!(Event::of_digit('x'), None);
        convert_clock(&mut payload, 8_000, 48_000);
        assert_eq!(Event::decode(&payload).unwrap().duration, 4_800);
        convert_clock(&mut payload, 8_000, 4_000_000_000);
        assert_eq!(Event::decode(&payload).unwrap().duration, u16::MAX);
        assert_eq!(Event::decode(&payload[..3]), None);
    }
}
