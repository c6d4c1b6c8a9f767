//! Calls that outlive their POP: capsules of our halves at other POPs, and of theirs here.
//!
//! ```text
//!   our answered halves ─ feed ─▶ guardians        (feed.rs; who they are: choose.rs)
//!   halves of others    ─▶ held ─ their POP is lost ─▶ adopted here   (hold.rs, takeover.rs)
//! ```
//!
//! A POP's epoch is *lost* when the control plane says so (`Pop.fenced`), or a newer one is
//! registered. Then the first guardian of a half that is not lost itself takes it; nobody asks and
//! nobody answers, so two cannot take one, as long as each acts only while it is sure not to be lost
//! itself ([`Pop::handle_lease`](super::Pop::handle_lease)).
//!
//! Bounds: [`WINDOW`] capsules under way to a guardian, [`CAPSULE_BYTES_MAX`] for each, [`held
//! halves`](Guard::wards_max) in all.

mod choose;
mod drain;
mod feed;
mod hold;
mod rejoin;
mod takeover;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};

use bytes::Bytes;
use prost::Message as _;
use proto::call::Capsule;
use proto::id::{Epoch, PopId, TrunkId};
use proto::time::Instant;

use super::CallStream;
use crate::call::{Arrived, CallKey, EndCause, Name};
use crate::view::View;

use drain::Handing;
use feed::{Feed, Own};
use hold::Incoming;

/// A capsule has about 1.2 KiB; a longer one is refused.
pub(crate) const CAPSULE_BYTES_MAX: usize = 4_096;
/// Capsules and ends a guardian has not confirmed.
const WINDOW: usize = 32;

/// Whose half a capsule is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) name: Name,
    pub(crate) pop: PopId,
    pub(crate) epoch: Epoch,
}

/// A half of another POP.
#[derive(Debug)]
pub(crate) struct Ward {
    /// The capsule, encoded: it was read once, to see that it can be.
    bytes: Bytes,
    /// When it came.
    at: Instant,
    /// The other half ended here meanwhile, and that one could not be told.
    over: Option<EndCause>,
    /// Its POP is lost: since when, as far as is known here.
    lost: Option<Instant>,
}

impl Ward {
    /// Who is to take it over.
    fn guardians(&self) -> Vec<proto::call::Guardian> {
        Capsule::decode(self.bytes.clone()).map(|capsule| capsule.guardians).unwrap_or_default()
    }
}

/// One half, by who has it, or had it and is lost. A map would keep room for eleven.
#[derive(Debug, Default)]
pub(crate) struct Wards(Vec<((PopId, Epoch), Ward)>);

impl Wards {
    fn retain(&mut self, mut keep: impl FnMut(&(PopId, Epoch), &mut Ward) -> bool) {
        self.0.retain_mut(|(owner, ward)| keep(owner, ward));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is done about halves that outlive their POP.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    /// By half; of several owners all but one are lost, or a half is being handed over.
    held: BTreeMap<Name, Wards>,
    incoming: BTreeMap<CallStream, Incoming>,
    feeds: BTreeMap<PopId, Feed>,
    /// All answered halves here, those that still call their peer over, too.
    halves: BTreeMap<Name, CallKey>,
    /// Those that are guarded, or should be.
    own: BTreeMap<Name, Own>,
    names: BTreeMap<CallKey, Name>,
    dirty: BTreeSet<CallKey>,
    /// Guardians that may be told more now.
    pump: BTreeSet<PopId>,
    /// The POPs of the view changed: guardians may be others, owners lost.
    stale: bool,
    /// What the view says of the POPs, as far as it counts here.
    pops: u64,
    /// Halves are left to be looked at, in a turn of their own.
    look_at: Option<Instant>,
    /// Nobody can have found us lost before.
    lease: Option<Instant>,
    /// We are registered: there is an epoch to guard.
    pub(crate) registered: bool,
    /// When the next re-INVITE to the peers of a trunk may leave.
    pace: BTreeMap<TrunkId, Instant>,
    /// Halves that were offered to guardians because this POP is drained.
    handing: BTreeMap<Name, Handing>,
    drain_at: Option<Instant>,
    /// Halves whose peers followed here, while the other half of the same call is still to come;
    /// their POP waits for both.
    waiting: BTreeMap<Name, PopId>,
    /// Halves that POPs gave us, since when: they may not have heard that we have them.
    came: BTreeMap<Name, (PopId, Instant)>,
    /// Halves that were to come with another one that did not: they go back.
    doomed: BTreeSet<Name>,
    wards_max: usize,
}

impl Guard {
    /// For so many halves of others.
    pub(crate) fn new(wards_max: usize) -> Self {
        Self { wards_max, ..Self::default() }
    }

    /// Is this half guarded here?
    pub(crate) fn holds(&self, name: Name) -> bool {
        self.held.contains_key(&name)
    }

    fn ward(&self, owner: &Owner) -> Option<&Ward> {
        let wards = &self.held.get(&owner.name)?.0;
        wards
            .iter()
            .find(|(of, _)| (&of.0, of.1) == (&owner.pop, owner.epoch))
            .map(|(_, ward)| ward)
    }

    fn put(&mut self, owner: Owner, ward: Ward) {
        let wards = &mut self.held.entry(owner.name).or_default().0;
        wards.retain(|((pop, epoch), _)| (pop, *epoch) != (&owner.pop, owner.epoch));
        // Nearly always the only one.
        wards.reserve_exact(1);
        wards.push(((owner.pop, owner.epoch), ward));
    }

    fn retain(&mut self, mut keep: impl FnMut(&Owner, &mut Ward) -> bool) {
        self.held.retain(|name, wards| {
            wards.retain(|(pop, epoch), ward| {
                keep(&Owner { name: *name, pop: pop.clone(), epoch: *epoch }, ward)
            });
            !wards.is_empty()
        });
    }

    /// The other half ended here; this one may never hear of it.
    pub(crate) fn note_end(&mut self, name: Name, cause: EndCause) {
        for (_, ward) in self.held.get_mut(&name).into_iter().flat_map(|wards| &mut wards.0) {
            ward.over.get_or_insert(cause);
        }
    }

    /// A half changed, perhaps; whether it is answered and goes on.
    pub(crate) fn touch(&mut self, name: Name, key: CallKey, answered: bool) {
        self.dirty.insert(key);
        if answered {
            self.halves.insert(name, key);
        } else if self.halves.get(&name) == Some(&key) {
            self.halves.remove(&name);
        }
    }

    /// The view is another one; whether POPs came, went, or were found lost is seen here. Most news of
    /// a POP change nothing for those whose calls it guards.
    pub(crate) fn view_changed(&mut self, view: &View) {
        let pops = hash_of(view);
        self.stale |= std::mem::replace(&mut self.pops, pops) != pops;
    }

    /// All is to be looked at anew.
    pub(crate) fn renew(&mut self) {
        self.stale = true;
    }

    /// Halves of others kept here, and their bytes.
    pub(crate) fn wards(&self) -> (usize, usize) {
        let wards = || self.held.values().flat_map(|wards| &wards.0);
        (wards().count(), wards().map(|(_, ward)| ward.bytes.len()).sum())
    }

    /// Nothing is under way; wards of others may be here.
    pub(crate) fn is_idle(&self) -> bool {
        self.own.is_empty()
            && self.names.is_empty()
            && self.halves.is_empty()
            && self.dirty.is_empty()
            && self.waiting.is_empty()
            && self.doomed.is_empty()
    }
}

/// Of all that choosing guardians and finding lost POPs asks of a view.
fn hash_of(view: &View) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (id, pop) in view.pops() {
        (id.as_str(), &pop.region, pop.epoch).hash(&mut hasher);
        (pop.expired, pop.fenced, pop.cordoned).hash(&mut hasher);
    }
    hasher.finish()
}

/// Is the process of this registration lost, as far as the view knows?
pub(crate) fn is_lost(view: &View, pop: &PopId, epoch: Epoch) -> bool {
    view.pop(pop)
        .is_none_or(|known| known.epoch > epoch.0 || (known.epoch == epoch.0 && known.fenced))
}

/// What came of taking halves over, for those who asked and for the counters.
pub(crate) type Arrivals = Vec<Arrived>;
