//! Who guards a half: the POP of the other half, and one that shares no region with either.

use proto::id::{CallId, Epoch, PopId};

use crate::call::splitmix;
use crate::view::View;

/// How many guard a half of a call that has both halves at one POP.
const LOCAL: usize = 2;

/// The guardians of a half at `own`, in the order in which they take over. Rendezvous hashing: when a
/// POP comes or goes, only its own share of the calls changes hands.
pub(super) fn guardians(
    view: &View,
    own: &PopId,
    peer: Option<&PopId>,
    call: CallId,
) -> Vec<(PopId, Epoch)> {
    let region = |id: &PopId| view.pop(id).map_or("", |pop| pop.region.as_str());
    let (ours, theirs) = (region(own), peer.map_or("", |peer| region(peer)));
    let lives = |id: &&PopId| view.pop(id).is_some_and(|pop| !pop.fenced);
    // May be gone soon; better than none.
    let leaves = |id: &PopId| view.pop(id).is_none_or(|pop| pop.expired || pop.cordoned);
    let others = view.pops().map(|(id, _)| id);
    let others = others.filter(|id| *id != own && Some(*id) != peer).filter(lives);
    // Most foreign first: what takes one region away leaves the call.
    let mut ranked: Vec<_> = others
        .map(|id| {
            let near = region(id) == ours || (peer.is_some() && region(id) == theirs);
            (leaves(id), near, std::cmp::Reverse(score(call, id)), id)
        })
        .collect();
    ranked.sort();
    let mut chosen: Vec<&PopId> = Vec::new();
    match peer {
        Some(peer) => {
            chosen.push(peer);
            chosen.extend(ranked.first().map(|(.., id)| *id));
        }
        None => {
            // A neighbour keeps the way short; the second is for the loss of the region.
            let is_neighbour = |(leaves, near, ..): &&(bool, bool, _, _)| *near && !*leaves;
            let neighbour = ranked.iter().find(is_neighbour).map(|(.., id)| *id);
            let foreign = ranked.iter().map(|(.., id)| *id).filter(|id| Some(*id) != neighbour);
            chosen.extend(neighbour);
            chosen.extend(foreign.take(LOCAL - chosen.len()));
        }
    }
    let epoch = |id: &PopId| Epoch(view.pop(id).map_or(0, |pop| pop.epoch));
    chosen.into_iter().map(|id| (id.clone(), epoch(id))).collect()
}

fn score(call: CallId, pop: &PopId) -> u64 {
    let bytes = call.0.iter().copied().chain(pop.as_str().bytes());
    bytes.fold(0, |hash, byte| splitmix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use proto::control::resource::Kind;
    use proto::control::{Pop, Resource};
    use proto::id::Revision;

    use super::*;
    use crate::view::ViewUpdate;

    fn view(pops: &[(&str, &str)], lost: &str) -> View {
        with(pops, |pop| pop.fenced = pop.pop_id == lost)
    }

    fn with(pops: &[(&str, &str)], change: impl Fn(&mut Pop)) -> View {
        let resource = |(id, region): &(&str, &str)| {
            let (pop_id, region) = ((*id).to_owned(), (*region).to_owned());
            let mut pop = Pop { pop_id, region, epoch: 3, ..Pop::default() };
            change(&mut pop);
            Resource { kind: Some(Kind::Pop(pop)) }
        };
        let resources = pops.iter().map(resource).collect();
        let (cluster_id, revision) = ("c".to_owned(), Revision(1));
        let mut view = View::default();
        view.apply(ViewUpdate::Snapshot { cluster_id, revision, resources }).unwrap();
        view
    }

    const MESH: &[(&str, &str)] = &[
        ("fra1", "eu"),
        ("fra2", "eu"),
        ("sin1", "as"),
        ("sin2", "as"),
        ("iad1", "us"),
        ("iad2", "us"),
    ];

    fn pop(id: &str) -> PopId {
        PopId::new(id).unwrap()
    }

    fn chosen(view: &View, peer: Option<&str>, call: u8) -> Vec<String> {
        let peer = peer.map(pop);
        let chosen = guardians(view, &pop("fra1"), peer.as_ref(), CallId([call; 16]));
        assert!(chosen.iter().all(|(_, epoch)| *epoch == Epoch(3)));
        chosen.into_iter().map(|(id, _)| id.as_str().to_owned()).collect()
    }

    #[test]
    fn the_far_pop_comes_first_then_one_of_a_third_region_the_same_for_both_halves() {
        let view = view(MESH, "");
        for call in 0..50 {
            let guardians = chosen(&view, Some("sin1"), call);
            assert_eq!(guardians[0], "sin1");
            assert!(guardians[1].starts_with("iad"), "{guardians:?}");
            let other =
                super::guardians(&view, &pop("sin1"), Some(&pop("fra1")), CallId([call; 16]));
            assert_eq!(other[1].0.as_str(), guardians[1]);
        }
        let spread: std::collections::BTreeSet<_> =
            (0..50).map(|call| chosen(&view, Some("sin1"), call)[1].clone()).collect();
        assert_eq!(spread.len(), 2, "all at one POP");
    }

    #[test]
    fn a_call_of_one_pop_has_a_neighbour_and_one_abroad() {
        for call in 0..20 {
            let guardians = chosen(&view(MESH, ""), None, call);
            assert_eq!((guardians[0].as_str(), guardians.len()), ("fra2", 2));
            assert!(!guardians[1].starts_with("fra"));
        }
        assert!(!chosen(&view(MESH, "fra2"), None, 1).contains(&"fra2".to_owned()));
        assert_eq!(chosen(&view(&MESH[..1], ""), None, 1), [""; 0]);
        assert_eq!(chosen(&view(&MESH[..2], ""), None, 1), ["fra2"]);
    }

    #[test]
    fn pops_that_may_be_gone_soon_come_last_and_are_better_than_none() {
        let cordoned = |which: &'static [&str]| {
            with(MESH, move |pop| pop.cordoned = which.contains(&pop.pop_id.as_str()))
        };
        for call in 0..20 {
            let chosen_now = chosen(&cordoned(&["iad1", "iad2"]), Some("sin1"), call);
            assert!(chosen_now[1].starts_with("fra2") || chosen_now[1].starts_with("sin2"));
            let chosen_now = chosen(&cordoned(&["fra2"]), None, call);
            assert!(!chosen_now.contains(&"fra2".to_owned()) && chosen_now.len() == 2);
        }
        let all = with(MESH, |pop| pop.expired = true);
        assert_eq!(chosen(&all, Some("sin1"), 1).len(), 2);
        assert_eq!(chosen(&all, None, 1).len(), 2);
    }

    #[test]
    fn a_pop_that_goes_takes_only_its_own_share_along() {
        let (before, after) = (view(MESH, ""), view(MESH, "iad1"));
        for call in 0..50 {
            let second = |view: &View| chosen(view, Some("sin1"), call)[1].clone();
            let kept = second(&before);
            assert!(kept == "iad1" || second(&after) == kept);
        }
    }
}
