//! Groups: which replicated log keeps a key.
//!
//! A mesh begins with one group, [`GroupId::ROOT`], that keeps everything. Numbers can be split by
//! the first digits of E.164: a number of "+44…" belongs to the group of the longest prefix that
//! fits, else to the root. Each group is a cluster of its own: replicas, log, revisions, watch,
//! request ids. A request is carried out by one group or not at all: nothing here spans two.
//!
//! [`Key`] says what a request is about, [`keys`] says it of every command, [`Groups`] says whose
//! that is. Deliberately not here: who the replicas of a group are, and moving keys between groups.

mod touches;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proto::raft::command::Kind;

use crate::state::numbers::key;

pub use touches::{keys, of_id, of_number, of_query};

/// Most prefixes of one table.
pub const PREFIXES_MAX: usize = 4_096;

/// Names a group. It is the upper part of every reservation and port order id it gives, so that an
/// id says where it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u16);

/// Below the group in a sequence number.
const SEQUENCE_BITS: u32 = 48;

impl GroupId {
    /// Keeps what has no other group.
    pub const ROOT: Self = Self(0);

    /// What its sequence of reservations and port orders begins after.
    pub(crate) fn sequence(self) -> u64 {
        u64::from(self.0) << SEQUENCE_BITS
    }

    /// Whose sequence number it is.
    pub(crate) fn of_sequence(sequence: u64) -> Self {
        Self(u16::try_from(sequence >> SEQUENCE_BITS).unwrap_or(u16::MAX))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ROOT { f.write_str("root") } else { self.0.fmt(f) }
    }
}

/// What a request is about, as far as its group depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The group it is sent to, whichever: members, clock, hash.
    Here,
    /// What the mesh has once: POPs, trunks, routes, tenants, rules, compliance, access.
    Mesh,
    /// A run of numbers, both ends included.
    Numbers(u64, u64),
    /// Any number that begins with these digits.
    Prefix(u64),
    /// Any number at all.
    AnyNumber,
    /// A reservation or port order, by its sequence number.
    Sequence(u64),
}

/// Why a request has no group, or not the one it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// What it is about is kept in more than one.
    #[error(
        "this is about things of group {0} and of group {1}, and no request spans two groups: \
         make one request for each"
    )]
    Spans(GroupId, GroupId),
    /// It could be carried out by any of several.
    #[error(
        "numbers are kept in several groups ({0}, {1}, …): name numbers, a country or a prefix"
    )]
    Vague(GroupId, GroupId),
    /// Another one keeps it.
    #[error("group {0} keeps this, not group {1}: send it there")]
    Elsewhere(GroupId, GroupId),
}

/// Why a table of prefixes is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupsError {
    /// Not 1 to 15 digits, the first not 0.
    #[error("prefix {0:?}: 1 to 15 digits without \"+\", the first not 0")]
    Prefix(String),
    /// Twice.
    #[error("prefix {0} stands twice")]
    Twice(String),
    /// Too many.
    #[error("{0} prefixes: at most {PREFIXES_MAX}")]
    TooMany(usize),
}

/// Which group keeps which numbers. [`Groups::default`]: one group keeps everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    prefixes: BTreeMap<u64, GroupId>,
}

impl Groups {
    /// From pairs of the first digits (without "+") and who keeps what begins with them.
    pub fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a str, GroupId)>,
    ) -> Result<Self, GroupsError> {
        let mut prefixes = BTreeMap::new();
        for (digits, group) in pairs {
            let prefix = key::parse(&format!("+{digits}"));
            let prefix = prefix.ok_or_else(|| GroupsError::Prefix(digits.into()))?;
            if prefixes.insert(prefix, group).is_some() {
                return Err(GroupsError::Twice(digits.into()));
            }
        }
        if prefixes.len() > PREFIXES_MAX {
            return Err(GroupsError::TooMany(prefixes.len()));
        }
        Ok(Self { prefixes })
    }

    /// All there are.
    pub fn all(&self) -> BTreeSet<GroupId> {
        self.prefixes.values().copied().chain([GroupId::ROOT]).collect()
    }

    /// The one group that keeps all of these; `None` when any does.
    pub fn of(&self, keys: &[Key]) -> Result<Option<GroupId>, GroupError> {
        if self.prefixes.is_empty() {
            return Ok(None);
        }
        let mut found: Option<GroupId> = None;
        for key in keys {
            let mut kept = self.keeping(*key).into_iter();
            let (Some(group), other) = (kept.next(), kept.next()) else { continue };
            match (other, found) {
                (Some(other), _) if *key == Key::AnyNumber => {
                    return Err(GroupError::Vague(group, other));
                }
                (Some(other), _) => return Err(GroupError::Spans(group, other)),
                (None, Some(one)) if one != group => return Err(GroupError::Spans(one, group)),
                (None, _) => found = Some(group),
            }
        }
        Ok(found)
    }

    /// Whether `here` keeps all of these, and nobody else any.
    pub fn check(&self, here: GroupId, keys: &[Key]) -> Result<(), GroupError> {
        match self.of(keys)? {
            Some(group) if group != here => Err(GroupError::Elsewhere(group, here)),
            _ => Ok(()),
        }
    }

    /// Whether `here` may carry out a command.
    pub fn admit(&self, here: GroupId, kind: &Kind) -> Result<(), GroupError> {
        // Most meshes have one group, and this is asked for each write.
        if self.prefixes.is_empty() { Ok(()) } else { self.check(here, &keys(kind)) }
    }

    /// Every group that keeps some of it: whom a reader asks. None for [`Key::Here`].
    pub fn keeping(&self, key: Key) -> BTreeSet<GroupId> {
        match key {
            Key::Here => BTreeSet::new(),
            Key::Mesh => BTreeSet::from([GroupId::ROOT]),
            Key::Sequence(sequence) => BTreeSet::from([GroupId::of_sequence(sequence)]),
            Key::AnyNumber => self.all(),
            Key::Prefix(digits) => {
                let longer = self.prefixes.iter().filter(|(prefix, _)| begins(**prefix, digits));
                let longer = longer.map(|(_, group)| *group);
                longer.chain([self.of_number(digits)]).collect()
            }
            Key::Numbers(first, last) => {
                let starts = self.prefixes.keys().flat_map(|prefix| turns(*prefix));
                let within = starts.filter(|number| first < *number && *number <= last);
                within.chain([first]).map(|number| self.of_number(number)).collect()
            }
        }
    }

    /// Longest prefix wins.
    fn of_number(&self, number: u64) -> GroupId {
        let mut digits = number;
        while digits > 0 {
            if let Some(group) = self.prefixes.get(&digits) {
                return *group;
            }
            digits /= 10;
        }
        GroupId::ROOT
    }
}

/// Whether a prefix begins with these digits.
fn begins(prefix: u64, digits: u64) -> bool {
    let longer = key::length(prefix).saturating_sub(key::length(digits));
    prefix / 10u64.pow(longer) == digits
}

/// Numbers at which the group may change because of a prefix: where it begins, and after it.
fn turns(prefix: u64) -> impl Iterator<Item = u64> {
    let windows = (0..=15 - key::length(prefix)).map(|more| 10u64.pow(more));
    windows.flat_map(move |unit| [prefix * unit, (prefix + 1) * unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: GroupId = GroupId(1);
    const UK: GroupId = GroupId(44);
    const LONDON: GroupId = GroupId(4420);

    fn split() -> Groups {
        Groups::new([("1", ONE), ("44", UK), ("4420", LONDON)]).expect("good prefixes")
    }

    #[test]
    fn one_group_keeps_everything() {
        let groups = Groups::default();
        for keys in [&[Key::AnyNumber][..], &[Key::Mesh, Key::Numbers(1, 99)], &[Key::Here], &[]] {
            assert_eq!(groups.of(keys), Ok(None));
            assert_eq!(groups.check(GroupId::ROOT, keys), Ok(()));
        }
    }

    #[test]
    fn the_longest_prefix_keeps_a_number() {
        let groups = split();
        let of = |number| groups.of(&[Key::Numbers(number, number)]);
        assert_eq!(of(12_125_550_100), Ok(Some(ONE)));
        assert_eq!(of(441_632_960_000), Ok(Some(UK)));
        assert_eq!(of(442_079_460_000), Ok(Some(LONDON)));
        assert_eq!(of(4_930_901_820), Ok(Some(GroupId::ROOT)));
        assert_eq!(of(4), Ok(Some(GroupId::ROOT)), "shorter than any prefix");
        let here = groups.check(UK, &[Key::Numbers(12_125_550_100, 12_125_550_100)]);
        assert_eq!(here, Err(GroupError::Elsewhere(ONE, UK)));
    }

    #[test]
    fn a_run_across_a_border_is_refused() {
        let groups = split();
        let of = |first, last| groups.of(&[Key::Numbers(first, last)]);
        assert_eq!(of(441_632_960_000, 441_632_960_999), Ok(Some(UK)));
        assert_eq!(of(441_999_999_990, 442_000_000_010), Err(GroupError::Spans(UK, LONDON)));
        // Both ends in one group, another one between them.
        assert_eq!(of(441_999_999_990, 442_100_000_000), Err(GroupError::Spans(UK, LONDON)));
        assert_eq!(of(19_999_999_999, 20_000_000_000), Err(GroupError::Spans(GroupId::ROOT, ONE)));
        let two = [Key::Numbers(1_212, 1_212), Key::Numbers(4_411, 4_411)];
        assert_eq!(groups.of(&two), Err(GroupError::Spans(ONE, UK)));
        assert_eq!(groups.of(&[Key::Mesh, two[0]]), Err(GroupError::Spans(GroupId::ROOT, ONE)));
    }

    #[test]
    fn a_prefix_is_of_one_group_or_of_several() {
        let groups = split();
        assert_eq!(groups.of(&[Key::Prefix(4416)]), Ok(Some(UK)));
        assert_eq!(groups.of(&[Key::Prefix(44_207)]), Ok(Some(LONDON)));
        assert_eq!(groups.of(&[Key::Prefix(49)]), Ok(Some(GroupId::ROOT)));
        assert_eq!(groups.of(&[Key::Prefix(44)]), Err(GroupError::Spans(UK, LONDON)));
        assert_eq!(groups.of(&[Key::AnyNumber]), Err(GroupError::Vague(GroupId::ROOT, ONE)));
        let readers = BTreeSet::from([GroupId::ROOT, UK, LONDON]);
        assert_eq!(groups.keeping(Key::Prefix(4)), readers, "a reader asks them all");
    }

    #[test]
    fn an_id_says_who_gave_it() {
        let groups = split();
        assert_eq!(groups.of(&[Key::Sequence(UK.sequence() + 7)]), Ok(Some(UK)));
        assert_eq!(groups.of(&[Key::Sequence(7)]), Ok(Some(GroupId::ROOT)));
        let last = GroupId(u16::MAX);
        assert_eq!(GroupId::of_sequence(last.sequence() + 1), last);
    }

    #[test]
    fn a_wrong_table_is_refused() {
        let of = |pairs: &[(&'static str, GroupId)]| Groups::new(pairs.iter().copied());
        assert_eq!(of(&[("049", UK)]), Err(GroupsError::Prefix("049".into())));
        assert_eq!(of(&[("", UK)]), Err(GroupsError::Prefix(String::new())));
        assert_eq!(of(&[("44", UK), ("44", ONE)]), Err(GroupsError::Twice("44".into())));
    }
}
