//! Quantities as people write them: `200ms`, `5s`, `10min`, `99.5 %`. Pure.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "min" => 60.0,
        _ => anyhow::bail!("{text:?} is no duration: write 200ms, 5s or 10min"),
    };
    let number: f64 = number.parse().with_context(|| format!("{text:?} begins with no number"))?;
    Duration::try_from_secs_f64(number * seconds).with_context(|| format!("{text:?} is too long"))
}

/// A share in percent.
pub(crate) fn percent(text: &str) -> Result<f64> {
    let number = text.trim().strip_suffix('%').map(str::trim);
    let number = number.with_context(|| format!("{text:?} is no share: write 99.5 %"))?;
    let number: f64 = number.parse().with_context(|| format!("{text:?} begins with no number"))?;
    ensure!((0.0..=100.0).contains(&number), "{text:?}: a share is 0 to 100 %");
    Ok(number)
}

/// A duration, short: `83 ms`, `2.4 s`, `10.0 min`.
pub(super) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.2} s"),
        s => format!("{:.1} min", s / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_need_their_unit() {
        assert_eq!(duration("200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(duration(" 1.5 s").unwrap(), Duration::from_millis(1_500));
        assert_eq!(duration("10min").unwrap(), Duration::from_secs(600));
        for bad in ["5", "s", "5 h", "-1s", "1e9999s", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(percent("99.5 %").unwrap(), 99.5);
        for bad in ["99.5", "101 %", "x %", "NaN %"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_short() {
        let said = [83, 2_412, 600_000].map(|ms| short(Duration::from_millis(ms)));
        assert_eq!(said, ["83 ms", "2.41 s", "10.0 min"]);
    }
}
