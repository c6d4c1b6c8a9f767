//! What can be asked of a lab that is up, and how it answers: one line of JSON each. Pure.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::drill::file::Regions;
use crate::drill::{duration, percent};
use crate::wan::Profile;

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Nodes and ways.
    Show,
    /// Change ways.
    Link {
        /// An end: `fra1` or `fra1/1`.
        from: String,
        /// An end, or `all`.
        to: String,
        /// Not the other way, too.
        one_way: bool,
        /// How they are from now on.
        quality: Quality,
    },
    /// What a drill can do.
    Do {
        /// `kill`, …
        verb: String,
        /// `pop fra1`, …
        what: String,
        /// Take it back.
        undo: bool,
    },
    /// End.
    Down,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Why it was not done.
    pub error: Option<String>,
    /// For people.
    pub lines: Vec<String>,
    /// For programs.
    pub facts: serde_json::Value,
}

/// How good a way is, as people write it; what is not said stays as it was.
#[derive(Args, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quality {
    /// One-way delay, as 80ms
    #[arg(long, value_name = "TIME")]
    pub delay: Option<String>,
    /// At most this much more, evenly spread, as 5ms
    #[arg(long, value_name = "TIME")]
    pub jitter: Option<String>,
    /// Share of packets lost, as "5 %"; 0% heals a cut
    #[arg(long, value_name = "SHARE")]
    pub loss: Option<String>,
    /// Mean length of a burst of losses, in packets; 1: each by itself
    #[arg(long, value_name = "PACKETS")]
    pub burst: Option<u8>,
    /// What gets through, as 512kbit or 2mbit a second; none: all
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Packets that wait at most; more are dropped
    #[arg(long, value_name = "PACKETS")]
    pub queue: Option<u32>,
    /// Nothing gets through
    #[arg(long)]
    pub cut: bool,
}

impl Quality {
    /// The profile of a way that was like `before`.
    pub fn change(&self, before: Profile) -> Result<Profile> {
        let mut profile = before;
        if let Some(delay) = &self.delay {
            profile.delay = duration(delay).context("delay")?;
        }
        if let Some(jitter) = &self.jitter {
            profile.jitter = duration(jitter).context("jitter")?;
        }
        if let Some(loss) = &self.loss {
            profile.loss = percent(loss).context("loss")? / 100.0;
        }
        if let Some(burst) = self.burst {
            ensure!(burst >= 1, "burst = {burst}: 1 or more");
            profile.burst = burst.into();
        }
        if let Some(rate) = &self.rate {
            profile.rate = bytes_a_second(rate).context("rate")?;
        }
        if let Some(queue) = self.queue {
            ensure!(queue >= 1, "queue = {queue}: 1 or more");
            profile.queue_packets = usize::try_from(queue)?;
        }
        if self.cut {
            profile.loss = 1.0;
        }
        Ok(profile)
    }
}

/// `512kbit`, `2mbit`, `none`.
fn bytes_a_second(text: &str) -> Result<u64> {
    let wrong = || format!("{text:?} is no rate: write 512kbit, 2mbit or none");
    let small = text.trim().to_ascii_lowercase();
    if small == "none" {
        return Ok(0);
    }
    let units = [("kbit", 1_000_u64), ("mbit", 1_000_000)];
    let found = units.iter().find_map(|(unit, bits)| Some((small.strip_suffix(unit)?, *bits)));
    let (number, bits) = found.with_context(wrong)?;
    let number: u64 = number.trim().parse().with_context(wrong)?;
    let bytes = number.checked_mul(bits).with_context(wrong)? / 8;
    ensure!(bytes > 0, wrong());
    Ok(bytes)
}

/// An end of a way: a POP and one of its upstreams, or all of them.
pub fn end(text: &str, mesh: &Regions) -> Result<(String, Option<u8>)> {
    let (pop, number) = text.split_once('/').map_or((text, None), |(pop, n)| (pop, Some(n)));
    let pops: Vec<&str> = mesh.regions.iter().flat_map(|r| &r.pops).map(String::as_str).collect();
    ensure!(pops.contains(&pop), "no POP {pop:?}; there are {}", pops.join(", "));
    let number = number.map(|number| -> Result<u8> {
        let parsed = number.parse().ok().filter(|n| *n < mesh.upstreams);
        parsed.with_context(|| {
            format!(
                "{text}: a POP has {} upstreams, counted from 0 (mesh.upstreams)",
                mesh.upstreams
            )
        })
    });
    Ok((pop.to_owned(), number.transpose()?))
}

#[cfg(test)]
mod tests {
    use proto::time::Duration;

    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let before = Profile { loss: 0.02, ..Profile::delayed(Duration::from_millis(50)) };
        let quality = Quality { jitter: Some("5ms".into()), ..Quality::default() };
        let after = quality.change(before).unwrap();
        assert_eq!(after, Profile { jitter: Duration::from_millis(5), ..before });
        let quality = Quality { cut: true, rate: Some("2mbit".into()), ..Quality::default() };
        let after = quality.change(before).unwrap();
        assert_eq!((after.loss, after.rate, after.delay), (1.0, 250_000, before.delay));
        let healed = Quality { loss: Some("0%".into()), ..Quality::default() };
        assert_eq!(healed.change(after).unwrap().loss, 0.0);
    }

    #[test]
    fn a_mistake_is_named() {
        let complaint =
            |quality: Quality| format!("{:#}", quality.change(Profile::default()).unwrap_err());
        let of = |text: &str| Some(text.to_owned());
        for (quality, words) in [
            (Quality { delay: of("80"), ..<_>::default() }, "delay: \"80\" is no duration"),
            (Quality { loss: of("5"), ..<_>::default() }, "loss: \"5\" is no share"),
            (Quality { rate: of("2mb"), ..<_>::default() }, "rate: \"2mb\" is no rate"),
            (Quality { rate: of("0kbit"), ..<_>::default() }, "none"),
            (Quality { burst: Some(0), ..<_>::default() }, "1 or more"),
        ] {
            let why = complaint(quality);
            assert!(why.contains(words), "{why}");
        }
    }
}
