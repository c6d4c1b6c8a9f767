//! `/bgp`: routers, their neighbors, and the way to each address of interest.

use pop_core::bgp::{Drain, FeedState, Report, RouterReport, Validity, WayReport};
use proto::time::Instant;
use serde_json::{Value, json};

use super::{float, seconds};
use crate::bgp::{Caches, Counters, Handle};
use crate::telemetry as t;

/// All of it.
pub(super) fn page(report: &Report, caches: Option<&Caches>) -> Value {
    json!({
        "rpki": caches.map(|caches| rpki(caches, report.at)),
        "routers": report.routers.iter().map(|r| router(r, report.at)).collect::<Vec<_>>(),
        "ways": report.ways.iter().map(|w| way(w, report.at)).collect::<Vec<_>>(),
        "addresses": report.addresses,
    })
}

/// What caches told, and until when it is believed.
fn rpki(caches: &Caches, now: Instant) -> Value {
    let report = caches.report.borrow().clone();
    let cache = report.cache.and_then(|cache| caches.addresses.get(cache));
    json!({
        "caches": caches.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "connected_to": cache.map(ToString::to_string),
        "version": report.version,
        "serial": report.told.map(|(state, _)| state.serial),
        "told_seconds": report.told.map(|(_, at)| seconds(now - at)),
        "expires_in_seconds": report.expires.map(|at| seconds(at - now)),
        "records": report.records,
    })
}

fn router(router: &RouterReport, now: Instant) -> Value {
    let neighbors = router.neighbors.iter().map(|neighbor| {
        json!({
            "address": neighbor.address.to_string(),
            "upstream": neighbor.upstream,
            "as": neighbor.asn,
            "up": neighbor.up,
            "since_seconds": seconds(now - neighbor.since),
            "routes": neighbor.routes,
            "everything_told": neighbor.settled,
            "downs": neighbor.downs,
            "made_up": neighbor.made_up,
            "distrusted": neighbor.distrust.map(|(why, since)| json!({
                "why": why.sentence(),
                "since_seconds": seconds(now - since),
            })),
        })
    });
    json!({
        "address": router.address.to_string(),
        "name": router.name,
        "state": router.state.name(),
        "since_seconds": seconds(now - router.since),
        "neighbors": neighbors.collect::<Vec<_>>(),
        "neighbors_of_no_upstream":
            router.unmapped.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ignored": router.ignored.iter()
            .map(|(why, count)| (why.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<String, Value>>(),
    })
}

fn way(way: &WayReport, now: Instant) -> Value {
    json!({
        "address": way.address.to_string(),
        "upstream": way.upstream,
        "prefix": way.prefix.map(|prefix| prefix.to_string()),
        "as_path": way.as_path,
        "next_hop": way.next_hop.map(|hop| hop.to_string()),
        "communities": way.communities.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "rpki": way.validity.name(),
        "risk": way.hint.risk,
        "drained": way.hint.drain > Drain::No,
        "withdrawn": way.hint.drain == Drain::Withdrawn,
        "copies": way.hint.shaky,
        "against": way.hint.reasons.iter().map(|why| why.sentence(now)).collect::<Vec<_>>(),
    })
}

/// What Prometheus sees.
pub(super) fn metrics(report: &Report, handle: &Handle) {
    station(report, &handle.counters);
    let Some(caches) = &handle.caches else { return };
    let invalid = report.ways.iter().filter(|way| way.validity == Validity::Invalid).count();
    t::RPKI_INVALID.set(float(invalid as u64));
    let rtr = caches.report.borrow().clone();
    t::RPKI_RECORDS.set(float(rtr.records as u64));
    for (n, address) in caches.addresses.iter().enumerate() {
        let up = f64::from(u8::from(rtr.cache == Some(n)));
        t::RPKI_CACHE_UP.set_of("cache", address.to_string(), up);
    }
    for (reason, total) in caches.left() {
        t::RPKI_CACHE_LEFT.total_of("reason", reason, total);
    }
}

fn station(report: &Report, counters: &Counters) {
    t::BGP_ADDRESSES.set(float(report.addresses as u64));
    t::BGP_ROUTE_CHANGES.total(report.route_changes);
    t::BGP_WITHDRAWALS.total(report.withdrawals);
    t::BMP_MESSAGES.total(counters.messages());
    for (reason, total) in counters.hangups() {
        t::BMP_HANGUPS.total_of("reason", reason, total);
    }
    for router in &report.routers {
        let address = router.address.to_string();
        let up = f64::from(u8::from(router.state == FeedState::Up));
        t::BGP_FEED_UP.set_of("router", address.clone(), up);
        for (why, total) in &router.ignored {
            let labels = [("router", address.as_str()), ("reason", why.name())];
            t::BMP_IGNORED.total_with(&labels, *total);
        }
        for (why, total) in &router.distrusts {
            let labels = [("router", address.as_str()), ("reason", why.name())];
            t::BGP_DISTRUSTS.total_with(&labels, *total);
        }
        for neighbor in &router.neighbors {
            let name = neighbor.address.to_string();
            let labels = [("router", address.as_str()), ("neighbor", name.as_str())];
            let up = neighbor.up && router.state != FeedState::Lost;
            t::BGP_NEIGHBOR_UP.set_with(&labels, f64::from(u8::from(up)));
            t::BGP_NEIGHBOR_DOWNS.total_with(&labels, neighbor.downs);
            t::BGP_ROUTES.set_with(&labels, float(neighbor.routes as u64));
        }
    }
}
