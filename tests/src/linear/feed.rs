//! What watchers saw: a prefix of one history of events, without a gap, and snapshots that are that
//! history folded.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::control::{Change, Event, Resource, ResourceKey, change, resource, resource_key};

use super::judge::{Complaint, Rule};

/// One thing a watcher was sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// Everything at a revision: the watcher begins anew.
    Snapshot {
        /// Where it stands.
        revision: u64,
        /// What there is.
        resources: Vec<Resource>,
    },
    /// What changed after the revision the watcher holds.
    Event(Event),
}

/// What one watcher saw, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    /// In order of arrival.
    pub seen: Vec<Seen>,
}

/// Resources by key, encoded.
type View = BTreeMap<Vec<u8>, Vec<u8>>;

/// Judges all watchers of a run together. `end`: the resources at the end, and their revision, if
/// a watcher ought to know them.
pub fn check(feeds: &[Feed], found: &mut Vec<Complaint>) {
    let events = one_history(feeds, found);
    snapshots(feeds, &events, found);
}

/// Each watcher's events follow each other, and all watchers saw the same ones.
fn one_history<'a>(feeds: &'a [Feed], found: &mut Vec<Complaint>) -> BTreeMap<u64, &'a Event> {
    let mut events: BTreeMap<u64, &Event> = BTreeMap::new();
    for (watcher, feed) in feeds.iter().enumerate() {
        let mut holds = 0;
        for seen in &feed.seen {
            match seen {
                // Never back: what a watcher acted on must not be undone.
                Seen::Snapshot { revision, .. } if *revision < holds => {
                    found.push(Rule::Watch.broken(format!(
                        "watcher {watcher} held revision {holds} and got a snapshot of {revision}"
                    )));
                }
                Seen::Snapshot { revision, .. } => holds = *revision,
                Seen::Event(event) => {
                    if event.prev_revision != holds || event.revision != holds + 1 {
                        found.push(Rule::Watch.broken(format!(
                            "watcher {watcher} held revision {holds} and got the event from {} to {}",
                            event.prev_revision, event.revision
                        )));
                    }
                    holds = event.revision;
                    let known = events.entry(event.revision).or_insert(event);
                    if *known != event {
                        found.push(Rule::Watch.broken(format!(
                            "two events have revision {}: {known:?} and {event:?}",
                            event.revision
                        )));
                    }
                }
            }
        }
    }
    events
}

/// A snapshot equals the events before it, as far as all of them were seen.
fn snapshots(feeds: &[Feed], events: &BTreeMap<u64, &Event>, found: &mut Vec<Complaint>) {
    let mut snapshots: BTreeMap<u64, Vec<(usize, View)>> = BTreeMap::new();
    for (watcher, feed) in feeds.iter().enumerate() {
        for seen in &feed.seen {
            if let Seen::Snapshot { revision, resources } = seen {
                snapshots.entry(*revision).or_default().push((watcher, view(resources)));
            }
        }
    }
    // The fold, known once any snapshot gives a beginning (revision 0 is empty).
    let mut fold: Option<(u64, View)> = Some((0, View::new()));
    for (revision, views) in snapshots {
        fold = fold.and_then(|fold| advance(fold, revision, events));
        for (watcher, view) in views {
            if let Some((_, expected)) = &fold
                && *expected != view
            {
                found.push(Rule::Watch.broken(format!(
                    "watcher {watcher} got a snapshot of revision {revision} with {} resources; \
                     the events up to there make {}, or others",
                    view.len(),
                    expected.len()
                )));
            }
            fold = Some((revision, view));
        }
    }
}

fn advance(
    (from, mut view): (u64, View),
    to: u64,
    events: &BTreeMap<u64, &Event>,
) -> Option<(u64, View)> {
    for revision in from + 1..=to {
        for change in &events.get(&revision)?.changes {
            apply(&mut view, change);
        }
    }
    Some((to, view))
}

fn apply(view: &mut View, change: &Change) {
    match &change.kind {
        Some(change::Kind::Put(resource)) => {
            view.insert(key_of(resource).encode_to_vec(), resource.encode_to_vec());
        }
        Some(change::Kind::Delete(key)) => _ = view.remove(&key.encode_to_vec()),
        None => {}
    }
}

fn view(resources: &[Resource]) -> View {
    resources.iter().map(|r| (key_of(r).encode_to_vec(), r.encode_to_vec())).collect()
}

fn key_of(resource: &Resource) -> ResourceKey {
    use resource_key::Kind as Key;
    let kind = match &resource.kind {
        Some(resource::Kind::Pop(pop)) => Some(Key::PopId(pop.pop_id.clone())),
        Some(resource::Kind::Trunk(trunk)) => Some(Key::TrunkId(trunk.trunk_id.clone())),
        Some(resource::Kind::Route(route)) => Some(Key::RouteId(route.route_id.clone())),
        Some(resource::Kind::Number(number)) => Some(Key::E164(number.e164.clone())),
        None => None,
    };
    ResourceKey { kind }
}
