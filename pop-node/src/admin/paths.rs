//! `/paths`: the paths to other POPs, for programs; `/paths/POP`: one of them, in words.

use pop_core::bgp::Drain;
use pop_core::overlay::{Change, Hop, Moment, PathReport, PeerReport, Route, Seen};
use proto::time::Instant;
use serde_json::{Value, json};

use super::{millis, seconds};
use crate::telemetry as t;

/// All of them.
pub(super) fn page(reports: &[PeerReport], now: Instant) -> Value {
    json!({ "peers": reports.iter().map(|report| peer(report, now)).collect::<Vec<_>>() })
}

/// Of all of them the path in use.
pub(super) fn brief(reports: &[PeerReport], now: Instant) -> Value {
    let one = |report: &PeerReport| {
        let mut all = peer(report, now);
        if let Some(all) = all.as_object_mut() {
            all.remove("changes");
            all.remove("explain");
        }
        let primary = report.route.as_ref().map(|route| route.primary.to_string());
        if let Some(paths) = all.get_mut("paths").and_then(Value::as_array_mut) {
            let name = |path: &Value| path.get("path").and_then(Value::as_str).map(str::to_owned);
            paths.retain(|path| name(path) == primary);
        }
        all
    };
    json!({ "peers": reports.iter().map(one).collect::<Vec<_>>() })
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

/// All paths to a POP as they were at a moment.
pub(super) fn moment(peer: &str, moment: &Moment, now: Instant) -> Value {
    json!({
        "peer": peer,
        "seconds_ago": seconds(now - moment.at),
        "primary": moment.route.as_ref().map(|route| route.primary.to_string()),
        "copy": moment.route.as_ref().and_then(|r| r.copy.as_ref()).map(Hop::to_string),
        "paths": moment.paths.iter().map(seen).collect::<Vec<_>>(),
    })
}

fn seen(path: &Seen) -> Value {
    json!({
        "path": path.path,
        "state": path.state,
        "rtt_ms": (path.rtt_us > 0).then(|| f64::from(path.rtt_us) / 1_000.0),
        "loss": f64::from(path.loss) / 10_000.0,
        "r_factor": f64::from(path.r) / 2.0,
        "bgp": path.against,
    })
}

/// The same in sentences.
pub(super) fn moment_words(peer: &str, moment: &Moment, now: Instant) -> String {
    let ago = seconds(now - moment.at);
    let mut text = match &moment.route {
        Some(used) => format!("{ago:.0} s ago media for {peer} went by {}.\n", route(used)),
        None => format!("{ago:.0} s ago no path to {peer} was up.\n"),
    };
    for Seen { path, state, rtt_us, loss, r, against } in &moment.paths {
        let rtt = match rtt_us {
            0 => "no round trip yet".to_owned(),
            us => format!("round trip {:.1} ms", f64::from(*us) / 1_000.0),
        };
        let (loss, r) = (f64::from(*loss) / 100.0, f64::from(*r) / 2.0);
        let against = match against.join(", ") {
            none if none.is_empty() => none,
            some => format!(", BGP: {some}"),
        };
        text += &format!("Path {path}: {state}, {rtt}, loss {loss:.2} %, R {r:.1}{against}.\n");
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
        "primary_why": report.chosen.map(|(why, _)| why.name()),
        "primary_since_seconds": report.chosen.map(|(_, at)| seconds(now - at)),
        "contender": report.contender.as_ref().map(|(hop, at)| json!({
            "path": hop.to_string(), "in_seconds": seconds(*at - now),
        })),
        "explain": report.explain(now),
        "paths": report.paths.iter().map(|p| path(p, now)).collect::<Vec<_>>(),
        "changes": report.changes.iter().map(|c| change(c, now)).collect::<Vec<_>>(),
    })
}

fn path(report: &PathReport, now: Instant) -> Value {
    let PathReport { sending, against, receiving, connected, silent, used_by_peer } = report;
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
        "drained": sending.drain > Drain::No,
        "withdrawn": sending.drain == Drain::Withdrawn,
        "bgp": against.iter().map(|why| why.sentence(now)).collect::<Vec<_>>(),
        "transit": *sending.transit,
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
            t::PATH_RISK.set_with(&labels, path.sending.risk);
            t::PATH_DRAINED.set_with(&labels, f64::from(u8::from(path.sending.drain > Drain::No)));
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
