//! `/paths`: the paths to other POPs, for programs; `/paths/POP`: one of them, in words.

use pop_core::overlay::{Change, Hop, PathReport, PeerReport, Route};
use proto::time::Instant;
use serde_json::{Value, json};

use super::{millis, seconds};
use crate::telemetry as t;

/// All of them.
pub(super) fn page(reports: &[PeerReport], now: Instant) -> Value {
    json!({ "peers": reports.iter().map(|report| peer(report, now)).collect::<Vec<_>>() })
}

/// One, in sentences, and what changed lately, newest first.
pub(super) fn words(report: &PeerReport, now: Instant) -> String {
    let mut text = report.explain(now).join("\n");
    text += "\n\nChanges, newest first:\n";
    for change in report.changes.iter().rev() {
        let ago = seconds(now - change.at);
        let route = route(&change.route);
        text += &format!("  {ago:.1} s ago: {route}, because {}\n", change.why.sentence());
    }
    text
}

fn route(route: &Route) -> String {
    let mut text = format!("path {}", route.primary);
    if let Some(copy) = &route.copy {
        text += &format!(" with copies by {copy}");
    }
    if route.again.is_some() {
        text += " with everything again";
    }
    text
}

fn peer(report: &PeerReport, now: Instant) -> Value {
    let route = report.route.as_ref();
    json!({
        "peer": report.peer.as_str(),
        "primary": route.map(|route| route.primary.to_string()),
        "copy": route.and_then(|route| route.copy.as_ref()).map(Hop::to_string),
        "again_ms": route.and_then(|route| route.again).map(millis),
        "why": report.why.map(|(why, _)| why.name()),
        "since_seconds": report.why.map(|(_, at)| seconds(now - at)),
        "contender": report.contender.as_ref().map(|(hop, at)| json!({
            "path": hop.to_string(), "in_seconds": seconds(*at - now),
        })),
        "explain": report.explain(now),
        "paths": report.paths.iter().map(path).collect::<Vec<_>>(),
        "changes": report.changes.iter().map(|c| change(c, now)).collect::<Vec<_>>(),
    })
}

fn path(report: &PathReport) -> Value {
    let PathReport { sending, receiving, connected, silent, used_by_peer } = report;
    json!({
        "path": sending.hop.to_string(),
        "via": sending.hop.via.as_ref().map(proto::id::PopId::as_str),
        "connected": connected,
        "state": sending.health.name(),
        "rtt_ms": sending.rtt.map(millis),
        "jitter_ms": millis(sending.jitter),
        "queueing_ms": millis(sending.queueing),
        "loss": sending.loss,
        "bursts": sending.bursts,
        "r_factor": sending.r_factor(),
        "against": sending.risk,
        "drained": sending.drained,
        "used_by_peer": used_by_peer,
        "silent_here": silent,
        "received": receiving.received,
        "lost": receiving.lost,
    })
}

fn change(change: &Change, now: Instant) -> Value {
    json!({
        "seconds_ago": seconds(now - change.at),
        "primary": change.route.primary.to_string(),
        "copy": change.route.copy.as_ref().map(Hop::to_string),
        "why": change.why.name(),
        "r_factors": change.candidates.iter()
            .map(|c| (c.hop.to_string(), json!(c.r_factor())))
            .collect::<serde_json::Map<String, Value>>(),
    })
}

/// What Prometheus sees.
pub(super) fn metrics(reports: &[PeerReport]) {
    for report in reports {
        let peer = report.peer.as_str();
        for path in &report.paths {
            let name = path.sending.hop.to_string();
            let labels = [("peer", peer), ("path", name.as_str())];
            let good = path.sending.health == pop_core::overlay::Health::Good;
            t::PATH_GOOD.set_with(&labels, f64::from(u8::from(good)));
            t::PATH_R.set_with(&labels, path.sending.r_factor());
            t::PATH_LOSS.set_with(&labels, path.sending.loss);
            if let Some(rtt) = path.sending.rtt {
                t::PATH_RTT.set_with(&labels, seconds(rtt));
            }
            t::PATH_JITTER.set_with(&labels, seconds(path.sending.jitter));
            t::PATH_QUEUEING.set_with(&labels, seconds(path.sending.queueing));
        }
        for (why, count) in &report.totals {
            t::PATH_CHANGES.total_with(&[("peer", peer), ("reason", why.name())], *count);
        }
    }
}
