//! How calls sound, in JSON: for records and for the page of a call.

use std::time::Duration;

use pop_core::codec::Codec;
use pop_core::media::{HeardReport, Level, Point, QualityReport, StreamReport, Summary};
use pop_core::pop::{LegTimeline, Which};
use pop_core::rtp::xr::VoipMetrics;
use serde_json::{Map, Value, json};

use crate::clock::{Clock, rfc3339};

/// What a leg received, from its beginning, and what is known of the rest of the way.
pub fn report(report: &QualityReport, clock: &Clock) -> Value {
    let mut value = json!({
        "codec": report.codec.map(Codec::name),
        "received": report.received,
        "sent": report.sent,
        "lost": report.lost,
        "late": report.late,
        "burst_ratio": rounded(report.burst_ratio),
        "jitter_ms": millis(report.jitter),
        "delay_change_ms": report.point.and_then(|point| change(&point)),
        "remote_lost": report.remote_lost,
        "remote_jitter_ms": report.remote_jitter.map(millis),
        "round_trip_ms": report.round_trip.map(millis),
        "remote": report.remote.map(remote),
        "playout_ms": millis(report.playout_delay),
        "played": report.played,
        "concealed": report.concealed,
        "repaired": report.repaired,
        "concealed_ratio": ratio(report.concealed, report.played),
        "level_dbov": report.level.map(|level| rounded(level.rms_dbov)),
        "clipped_ratio": report.level.map(|level| rounded(level.clipped)),
        "silence": report.point.and_then(|point| point.silence).map(|cause| cause.name()),
        "band": report.band.name(),
        "r_factor": report.r_factor,
        "mos": report.mos,
        "stream": report.stream.as_ref().map(|of| stream(of, clock)),
        "heard": report.heard.map(heard),
    });
    summarize(&mut value, &report.summary, clock);
    value
}

/// What the peer says in RTCP XR.
fn remote(voip: VoipMetrics) -> Value {
    let share = |byte: u8| rounded(f64::from(byte) / 256.0);
    let mos = |tenths: u8| f64::from(tenths) / 10.0;
    json!({
        "loss": share(voip.loss_rate),
        "discarded": share(voip.discard_rate),
        "burst_density": share(voip.burst_density),
        "burst_ms": voip.burst_ms,
        "playout_ms": voip.playout_ms,
        "r_factor": voip.r_factor,
        "mos_listening": voip.mos_lq.map(mos),
        "mos_conversation": voip.mos_cq.map(mos),
    })
}

fn stream(report: &StreamReport, clock: &Clock) -> Value {
    let mut value = json!({
        "peer": report.peer.as_str(),
        "received": report.received,
        "lost": report.lost,
        "late": report.late,
        "burst_ratio": rounded(report.burst_ratio),
        "jitter_ms": millis(report.jitter),
        "delay_change_ms": report.point.and_then(|point| change(&point)),
        "played": report.played,
        "concealed": report.concealed,
        "concealed_ratio": ratio(report.concealed, report.played),
        "r_factor": report.r_factor,
        "mos": report.mos,
    });
    summarize(&mut value, &report.summary, clock);
    value
}

fn heard(report: HeardReport) -> Value {
    json!({
        "loss": rounded(report.loss),
        "delay_ms": millis(report.delay),
        "r_factor": report.r_factor,
        "mos": report.mos,
    })
}

/// Adds what the points came to.
fn summarize(value: &mut Value, summary: &Summary, clock: &Clock) {
    let worst = summary.worst();
    let mut add =
        |name: &str, what: Value| value.as_object_mut().map(|o| o.insert(name.into(), what));
    add("mos_min", json!(worst.and_then(|worst| worst.mos)));
    add("mos_median", json!(summary.median_mos().map(rounded)));
    add("worst", json!(worst.map(|worst| point(worst, clock))));
}

/// The legs' timeline, oldest point first, and the latest report.
pub fn timeline(leg: &LegTimeline, clock: &Clock) -> Value {
    json!({
        "leg": match leg.which {
            Which::In => "in",
            Which::Out => "out",
        },
        "quality": leg.quality.as_ref().map(|of| report(of, clock)),
        "timeline": leg.timeline.points().map(|of| point(of, clock)).collect::<Vec<_>>(),
    })
}

/// What does not apply is left out: there are many of these.
fn point(point: &Point, clock: &Clock) -> Value {
    let value = json!({
        "end": rfc3339(clock.wall(point.end)),
        "seconds": rounded(point.length.as_secs_f64()),
        "received": point.received,
        "lost": point.lost,
        "late": point.late,
        "burst_ratio": rounded(point.burst_ratio),
        "jitter_ms": rounded(millis(point.jitter)),
        "delay_change_ms": change(point),
        "round_trip_ms": point.round_trip.map(|time| rounded(millis(time))),
        "concealed_ratio": ratio(point.concealed, point.played),
        "level_dbov": point.level.map(|Level { rms_dbov, .. }| rounded(rms_dbov)),
        "silence": point.silence.map(|cause| cause.name()),
        "r_factor": point.r_factor.map(rounded),
        "mos": point.mos.map(rounded),
    });
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a delay")]
fn change(point: &Point) -> Option<f64> {
    point.delay_change.map(|micros| micros as f64 / 1_000.0)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// To three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Share of the frames that were made up, if any were played here.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(concealed: u64, played: u64) -> Option<f64> {
    let all = concealed + played;
    (all > 0).then(|| rounded(concealed as f64 / all as f64))
}
