//! From a number to ordered candidates (POP, trunk), by the local view alone.
//!
//! An allocated number of ours goes where its owner says; one of ours that nobody owns goes
//! nowhere (a carrier would only send it back); any other number takes the route with the longest
//! prefix. Lower priority first; weights share load inside a priority as RFC 2782 does. A trunk
//! reachable from several POPs gives one candidate for each, this POP first. POPs that are cordoned come
//! last of all.
//!
//! Deliberately absent: path quality, time of day, cost.

use proto::control::{Number, NumberState, RouteCandidate};
use proto::e164::E164;
use proto::id::{PopId, TrunkId};

use crate::view::View;

/// More are not tried for one call.
pub const CANDIDATES_MAX: usize = 8;

/// One way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The POP the call leaves at.
    pub pop: PopId,
    /// The trunk it leaves by.
    pub trunk: TrunkId,
}

/// The ways out for a number, best first. `random` decides among weights.
pub fn candidates(view: &View, to: &E164, local: &PopId, random: u64) -> Vec<Candidate> {
    let ways = match view.number(to.as_str()) {
        Some(number) if !number.candidates.is_empty() && is_active(number) => &number.candidates,
        Some(number) if !is_active(number) => return Vec::new(),
        _ => match longest_prefix(view, to.digits()) {
            Some(ways) => ways,
            None => return Vec::new(),
        },
    };
    let mut found = Vec::new();
    for way in ordered(ways, random) {
        let Ok(id) = TrunkId::new(&way.trunk_id) else { continue };
        let Some(trunk) = view.trunk(&id).filter(|trunk| !trunk.host.is_empty()) else { continue };
        let mut pops: Vec<PopId> =
            trunk.pop_ids.iter().filter_map(|pop| PopId::new(pop).ok()).collect();
        pops.sort_by_key(|pop| pop != local);
        for pop in pops {
            let candidate = Candidate { pop, trunk: id.clone() };
            if !found.contains(&candidate) {
                found.push(candidate);
            }
        }
    }
    // Whoever shall take no new calls gets them only where nobody else is.
    found.sort_by_key(|candidate| view.is_cordoned(&candidate.pop));
    found.truncate(CANDIDATES_MAX);
    found
}

/// ACTIVE, and PORTING_OUT until it left.
fn is_active(number: &Number) -> bool {
    [NumberState::Active, NumberState::PortingOut].contains(&number.state())
}

fn longest_prefix<'a>(view: &'a View, digits: &str) -> Option<&'a [RouteCandidate]> {
    let prefixes = (0..=digits.len()).rev().filter_map(|length| digits.get(..length));
    prefixes
        .filter_map(|prefix| view.route_by_prefix(prefix))
        .map(|route| route.candidates.as_slice())
        .next()
}

/// By priority, then drawn by weight without putting back (RFC 2782, "Weight").
fn ordered(ways: &[RouteCandidate], random: u64) -> Vec<&RouteCandidate> {
    let mut left: Vec<&RouteCandidate> = ways.iter().collect();
    left.sort_by_key(|way| way.priority);
    let mut drawn = Vec::with_capacity(left.len());
    let mut state = random;
    while let Some(priority) = left.first().map(|way| way.priority) {
        let same = left.iter().take_while(|way| way.priority == priority).count();
        let group = left.iter().take(same);
        let total: u64 = group.clone().map(|way| u64::from(way.weight)).sum();
        state = crate::call::splitmix(state);
        let mut point = if total == 0 { 0 } else { state % total };
        let index = group
            .map(|way| u64::from(way.weight))
            .position(|weight| {
                let hit = point < weight || total == 0;
                point = point.saturating_sub(weight);
                hit
            })
            .unwrap_or(0);
        drawn.push(left.remove(index));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use proto::control::resource::Kind;
    use proto::control::{Pop, Resource, Route, Trunk};
    use proto::id::Revision;

    use super::*;
    use crate::view::ViewUpdate;

    fn way(trunk_id: &str, priority: u32, weight: u32) -> RouteCandidate {
        RouteCandidate { trunk_id: trunk_id.to_owned(), priority, weight }
    }

    fn trunk(id: &str, host: &str, pops: &[&str]) -> Kind {
        Kind::Trunk(Trunk {
            trunk_id: id.to_owned(),
            host: host.to_owned(),
            pop_ids: pops.iter().map(|p| (*p).to_owned()).collect(),
            ..Trunk::default()
        })
    }

    fn route(prefix: &str, candidates: Vec<RouteCandidate>) -> Kind {
        let route_id = format!("r{prefix}");
        Kind::Route(Route { route_id, prefix: prefix.to_owned(), candidates })
    }

    fn number(e164: &str, state: NumberState, candidates: Vec<RouteCandidate>) -> Kind {
        let (e164, state) = (e164.to_owned(), i32::from(state));
        Kind::Number(Number { e164, state, candidates, ..Number::default() })
    }

    fn view(kinds: Vec<Kind>) -> View {
        let mut view = View::default();
        let resources = kinds.into_iter().map(|kind| Resource { kind: Some(kind) }).collect();
        let (cluster_id, revision) = ("c".to_owned(), Revision(1));
        view.apply(ViewUpdate::Snapshot { cluster_id, revision, resources }).unwrap();
        view
    }

    fn find(view: &View, to: &str, local: &str, random: u64) -> Vec<String> {
        let to = E164::parse(to).unwrap();
        let found = candidates(view, &to, &PopId::new(local).unwrap(), random);
        found.iter().map(|c| format!("{}@{}", c.trunk, c.pop)).collect()
    }

    fn mesh() -> View {
        view(vec![
            trunk("a", "192.0.2.1", &["fra1", "sin1"]),
            trunk("b", "192.0.2.2", &["sin1"]),
            trunk("inbound", "", &["fra1"]),
            route("", vec![way("b", 1, 1)]),
            route("49", vec![way("b", 1, 1), way("a", 2, 1)]),
            route("4930", vec![way("inbound", 0, 1), way("gone", 0, 1), way("a", 1, 1)]),
            number("+4930901820", NumberState::Active, vec![way("b", 1, 1)]),
            number("+4930901821", NumberState::Available, vec![way("b", 1, 1)]),
            number("+4930901822", NumberState::Quarantine, vec![way("b", 1, 1)]),
            number("+4930901823", NumberState::Active, vec![]),
        ])
    }

    #[test]
    fn the_longest_prefix_wins_and_dead_ways_are_left_out() {
        let mesh = mesh();
        assert_eq!(find(&mesh, "+14155552671", "fra1", 0), ["b@sin1"]);
        assert_eq!(find(&mesh, "+498912345678", "fra1", 0), ["b@sin1", "a@fra1", "a@sin1"]);
        assert_eq!(find(&mesh, "+4930901899", "fra1", 0), ["a@fra1", "a@sin1"]);
        assert_eq!(find(&mesh, "+4930901899", "sin1", 0), ["a@sin1", "a@fra1"]);
    }

    #[test]
    fn own_numbers_go_to_their_owner_or_nowhere() {
        let mesh = mesh();
        assert_eq!(find(&mesh, "+4930901820", "fra1", 0), ["b@sin1"]);
        assert_eq!(find(&mesh, "+4930901821", "fra1", 0), [""; 0]);
        assert_eq!(find(&mesh, "+4930901822", "fra1", 0), [""; 0]);
        assert_eq!(find(&mesh, "+4930901823", "fra1", 0), ["a@fra1", "a@sin1"]);
    }

    #[test]
    fn cordoned_pops_come_last_and_are_better_than_none() {
        let pop = |id: &str, cordoned| {
            Kind::Pop(Pop { pop_id: id.to_owned(), cordoned, ..Pop::default() })
        };
        let with = |kinds: Vec<Kind>| {
            let mut all = vec![
                trunk("a", "192.0.2.1", &["fra1", "sin1"]),
                trunk("b", "192.0.2.2", &["sin1"]),
                route("49", vec![way("b", 1, 1), way("a", 2, 1)]),
            ];
            all.extend(kinds);
            view(all)
        };
        let mesh = with(vec![pop("fra1", false), pop("sin1", true)]);
        assert_eq!(find(&mesh, "+498912345678", "fra1", 0), ["a@fra1", "b@sin1", "a@sin1"]);
        let mesh = with(vec![pop("fra1", true), pop("sin1", true)]);
        assert_eq!(find(&mesh, "+498912345678", "fra1", 0), ["b@sin1", "a@fra1", "a@sin1"]);
        let draining = Pop { pop_id: "fra1".to_owned(), draining: true, ..Pop::default() };
        let mesh = with(vec![Kind::Pop(draining)]);
        assert_eq!(find(&mesh, "+498912345678", "fra1", 0), ["b@sin1", "a@sin1", "a@fra1"]);
    }

    #[test]
    fn weights_share_and_zero_comes_last() {
        let one = |id| trunk(id, "192.0.2.1", &["fra1"]);
        let ways = vec![way("a", 1, 3), way("b", 1, 1), way("c", 1, 0), way("d", 0, 0)];
        let mesh = view(vec![one("a"), one("b"), one("c"), one("d"), route("", ways)]);
        let runs: Vec<_> = (0..4_000).map(|r| find(&mesh, "+14155552671", "fra1", r)).collect();
        let first = |id: &str| runs.iter().filter(|run| run[1].starts_with(id)).count();
        assert!(runs.iter().all(|run| run.len() == 4 && run[0] == "d@fra1" && run[3] == "c@fra1"));
        assert!((2_850..3_150).contains(&first("a")), "{}", first("a"));
        assert_eq!(first("a") + first("b"), 4_000);
    }
}
