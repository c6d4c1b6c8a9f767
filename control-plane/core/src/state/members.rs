//! The control nodes: who they are, who of them votes, and which commands they all know.
//!
//! Who votes changes with the log entry that says so, in the same transaction (Raft §6); the
//! record of a member says where it is. A removed one leaves its record: ids are never reused.

use prost::Message;
use proto::control::{ClusterMember, MemberChange, MemberRole, member_change};
use proto::raft::{ChangeMembers, Done, FoundMembers, Reason, Rejected, outcome};

use super::tables::{Meta, Record};
use super::{Answer, State, Store, refuse, rejected};

/// Most voters: more only slow each write down.
pub const VOTERS_MAX: usize = 7;
/// Most members, learners included.
pub const MEMBERS_MAX: usize = 16;

/// Raft's configuration, as it is stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Conf {
    /// Voters; of the new set while a change is half done.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// They get the log only.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// Voters of the old set while a change is half done.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Learners as soon as the change is done.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// The second half follows by itself.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

impl Conf {
    /// Between two sets of voters.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether it has a part in this configuration.
    pub fn contains(&self, id: u64) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing].iter().any(|set| set.contains(&id))
    }

    /// Whether raft can work with it.
    pub fn is_sound(&self) -> bool {
        let Self { voters, learners, voters_outgoing, learners_next, auto_leave } = self;
        let sets = [voters, learners, voters_outgoing, learners_next];
        let clean = |set: &Vec<u64>| {
            let mut sorted = set.clone();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len() == set.len() && !set.contains(&0) && set.len() <= MEMBERS_MAX
        };
        sets.into_iter().all(clean)
            && !voters.is_empty()
            && learners.iter().all(|id| !voters.contains(id) && !voters_outgoing.contains(id))
            && learners_next.iter().all(|id| voters_outgoing.contains(id) && !voters.contains(id))
            && *auto_leave == self.is_joint()
    }
}

impl Record for ClusterMember {
    const TABLE: u8 = b'c';
    fn name(&self) -> String {
        name(self.node_id)
    }
}

/// In the order of ids.
fn name(id: u64) -> String {
    format!("{id:020}")
}

impl<S: Store> State<S> {
    /// Who votes and who learns.
    pub fn conf(&self) -> Conf {
        self.tables.meta(Meta::Conf, |conf| Conf::decode(conf).unwrap_or_default())
    }

    /// Raft took a change.
    pub(crate) fn set_conf(&mut self, conf: &Conf) {
        self.tables.put_meta(Meta::Conf, conf.encode_to_vec());
    }

    /// Newest commands the log may hold; 0 before the cluster's first.
    pub fn feature_level(&self) -> u32 {
        u32::try_from(self.tables.meta_u64(Meta::FeatureLevel)).unwrap_or(u32::MAX)
    }

    /// All that ever were members, by id, each with its role now.
    pub fn members(&self) -> impl Iterator<Item = ClusterMember> + '_ {
        let conf = self.conf();
        self.tables.scan::<ClusterMember>(None).map(move |mut member| {
            let role = role(&conf, member.node_id);
            member.set_role(role);
            member
        })
    }

    /// One of them.
    pub fn member(&self, id: u64) -> Option<ClusterMember> {
        self.tables.get::<ClusterMember>(&name(id))
    }

    /// Whether it was a member and is none any more.
    pub fn is_removed(&self, id: u64) -> bool {
        let conf = self.conf();
        // Before the table is filled all are there.
        !conf.voters.is_empty() && !conf.contains(id) && self.member(id).is_some()
    }

    pub(super) fn found_members(&mut self, found: &FoundMembers) -> Answer {
        if self.tables.scan::<ClusterMember>(None).next().is_some() {
            return refuse(Reason::AlreadyExists, "the members are known already");
        }
        found.members.iter().for_each(|member| self.tables.put(member));
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn set_feature_level(&mut self, level: u32) -> Answer {
        if level <= self.feature_level() {
            let message = format!("the feature level is {} already", self.feature_level());
            return refuse(Reason::AlreadyExists, message);
        }
        self.tables.put_meta_u64(Meta::FeatureLevel, level.into());
        Ok(outcome::Kind::Done(Done {}))
    }

    /// Writes the records; the replica lets raft change who votes.
    pub(super) fn change_members(&mut self, change: &ChangeMembers) -> Answer {
        self.check_members(change)?;
        for change in &change.changes {
            match &change.kind {
                Some(member_change::Kind::AddLearner(member)) => self.tables.put(member),
                Some(member_change::Kind::Update(new)) => {
                    if let Some(old) = self.member(new.node_id) {
                        let incarnation = old.incarnation;
                        self.tables.put(&ClusterMember { incarnation, ..new.clone() });
                    }
                }
                _ => {}
            }
        }
        Ok(outcome::Kind::Done(Done {}))
    }

    /// Whether the change fits the members as they are.
    pub(crate) fn check_members(&self, change: &ChangeMembers) -> Result<(), Rejected> {
        let conf = self.conf();
        let (mut voters, mut count) = (conf.voters.clone(), self.members_count(&conf));
        for change in &change.changes {
            self.check_member(&conf, change)?;
            match &change.kind {
                Some(member_change::Kind::AddLearner(_)) => count += 1,
                Some(member_change::Kind::Promote(id)) => voters.push(*id),
                Some(member_change::Kind::Demote(id) | member_change::Kind::Remove(id)) => {
                    voters.retain(|voter| voter != id);
                }
                _ => {}
            }
        }
        if conf.is_joint() && changes_conf(change) {
            return Err(rejected(Reason::Conflict, "another change of members is half done"));
        }
        if voters.is_empty() {
            return Err(rejected(Reason::IllegalTransition, "the last voter must stay"));
        }
        if voters.len() > VOTERS_MAX || count > MEMBERS_MAX {
            let message = format!("at most {VOTERS_MAX} voters and {MEMBERS_MAX} members");
            return Err(rejected(Reason::Limit, message));
        }
        Ok(())
    }

    fn members_count(&self, conf: &Conf) -> usize {
        conf.voters.len() + conf.learners.len()
    }

    fn check_member(&self, conf: &Conf, change: &MemberChange) -> Result<(), Rejected> {
        let needs = |id: u64, held: bool, what: &str| {
            let message = format!("node {id} is {} and not {what}", role_name(conf, id));
            if held { Ok(()) } else { Err(rejected(Reason::IllegalTransition, message)) }
        };
        match &change.kind {
            Some(member_change::Kind::AddLearner(member)) => {
                let id = member.node_id;
                if conf.contains(id) || self.member(id).is_some() {
                    let message = format!("the id {id} was used before: choose a new one");
                    return Err(rejected(Reason::AlreadyExists, message));
                }
                Ok(())
            }
            Some(member_change::Kind::Promote(id)) => {
                needs(*id, conf.learners.contains(id), "a learner")
            }
            Some(member_change::Kind::Demote(id)) => {
                needs(*id, conf.voters.contains(id), "a voter")
            }
            Some(member_change::Kind::Remove(id)) => needs(*id, conf.contains(*id), "a member"),
            Some(member_change::Kind::Update(member)) => {
                needs(member.node_id, conf.contains(member.node_id), "a member")
            }
            None => Err(rejected(Reason::Invalid, "a change names nothing to do")),
        }
    }
}

/// Whether raft has to know of it.
pub(crate) fn changes_conf(change: &ChangeMembers) -> bool {
    change.changes.iter().any(|c| !matches!(c.kind, Some(member_change::Kind::Update(_)) | None))
}

fn role(conf: &Conf, id: u64) -> MemberRole {
    if conf.voters.contains(&id) {
        MemberRole::Voter
    } else if conf.contains(id) {
        MemberRole::Learner
    } else {
        MemberRole::Removed
    }
}

fn role_name(conf: &Conf, id: u64) -> &'static str {
    match role(conf, id) {
        MemberRole::Voter => "a voter",
        MemberRole::Learner => "a learner",
        MemberRole::Removed | MemberRole::Unspecified => "no member",
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::Command;
    use proto::raft::command::Kind;

    use super::*;

    fn member(id: u64) -> ClusterMember {
        let address = format!("10.0.0.{id}:7000");
        ClusterMember { node_id: id, address, region: "eu".into(), ..ClusterMember::default() }
    }

    fn change(state: &mut State, kinds: &[member_change::Kind]) -> Result<(), Reason> {
        let changes = kinds.iter().map(|k| MemberChange { kind: Some(k.clone()) }).collect();
        let command = Command {
            request_id: format!("r{}", state.log_time_ms()),
            principal: "operator/anna".into(),
            kind: Some(Kind::ChangeMembers(ChangeMembers { changes })),
        };
        match state.apply(state.log_time_ms() + 1, &command).outcome.kind {
            Some(outcome::Kind::Done(_)) => Ok(()),
            Some(outcome::Kind::Rejected(r)) => Err(r.reason()),
            other => panic!("{other:?}"),
        }
    }

    fn founded() -> State {
        let mut state = State::bootstrap(&[1, 2, 3]);
        let found = FoundMembers { members: (1..=3).map(member).collect() };
        let kind = Some(Kind::FoundMembers(found));
        state.apply(1, &Command { kind, ..Command::default() });
        state
    }

    #[test]
    fn only_changes_that_fit_are_taken() {
        use member_change::Kind::{AddLearner, Demote, Promote, Remove, Update};
        let mut state = founded();
        assert_eq!(state.members().map(|m| m.role()).collect::<Vec<_>>(), [MemberRole::Voter; 3]);
        let illegal = Err(Reason::IllegalTransition);
        assert_eq!(change(&mut state, &[Promote(1)]), illegal, "a voter already");
        assert_eq!(change(&mut state, &[Promote(4)]), illegal, "unknown");
        assert_eq!(change(&mut state, &[Remove(4)]), illegal);
        assert_eq!(change(&mut state, &[Update(member(4))]), illegal);
        assert_eq!(change(&mut state, &[Demote(1), Demote(2), Demote(3)]), illegal);
        assert_eq!(change(&mut state, &[AddLearner(member(3))]), Err(Reason::AlreadyExists));
        assert_eq!(change(&mut state, &[AddLearner(member(4))]), Ok(()));
        let mut conf = state.conf();
        conf.learners = vec![4];
        state.set_conf(&conf);
        assert_eq!(change(&mut state, &[Promote(4), Remove(1)]), Ok(()));
        conf = Conf { voters: vec![2, 3, 4], ..Conf::default() };
        state.set_conf(&conf);
        assert!(state.is_removed(1) && !state.is_removed(4) && !state.is_removed(9));
        assert_eq!(change(&mut state, &[AddLearner(member(1))]), Err(Reason::AlreadyExists));
        let moved = ClusterMember { address: "10.9.9.9:7000".into(), ..member(4) };
        assert_eq!(change(&mut state, &[Update(moved)]), Ok(()));
        assert_eq!(state.member(4).unwrap().address, "10.9.9.9:7000");
        let joint = Conf { voters_outgoing: vec![1, 2, 3], auto_leave: true, ..conf };
        state.set_conf(&joint);
        assert_eq!(change(&mut state, &[Demote(2)]), Err(Reason::Conflict));
    }

    #[test]
    fn the_level_only_rises() {
        let mut state = founded();
        let mut set = |level| {
            let kind = Some(Kind::SetFeatureLevel(level));
            state.apply(9, &Command { kind, ..Command::default() });
            state.feature_level()
        };
        assert_eq!((set(2), set(1), set(3)), (2, 2, 3));
    }

    #[test]
    fn configurations_that_raft_cannot_have_are_noticed() {
        let good = Conf {
            voters: vec![1, 2],
            learners: vec![4],
            voters_outgoing: vec![2, 3],
            learners_next: vec![3],
            auto_leave: true,
        };
        assert!(good.is_sound());
        let cases: [fn(&mut Conf); 8] = [
            |c| c.voters.clear(),
            |c| c.voters.push(0),
            |c| c.voters.push(1),
            |c| c.learners.push(1),
            |c| c.learners.push(3),
            |c| c.learners_next.push(9),
            |c| c.auto_leave = false,
            |c| c.voters_outgoing.clear(),
        ];
        for (at, case) in cases.iter().enumerate() {
            let mut bad = good.clone();
            case(&mut bad);
            assert!(!bad.is_sound(), "case {at}");
        }
    }
}
