//! Who may call what: the gate every request passes.
//!
//! The router looks an RPC's row up (`table`), refuses what needs no look at the message, and
//! sends the rest on with a [`Gate`]. The handler's `authorise` asks it for the resources its
//! message names. Roles come from this node's applied state: a right taken away on one node ends
//! on another when that has applied it, some milliseconds later. An RPC without a row is refused.

mod table;

use std::any::Any;
use std::sync::Arc;

use control_core::access::Policy;
use proto::identity::{Identity, Kind};

pub use table::{Row, row};

/// What an RPC takes.
pub enum Needs {
    /// No certificate at all: the message proves itself.
    Nothing,
    /// A certificate of this mesh, whoever's.
    Identity,
    /// A control node's certificate: raft, which no role may stand above.
    ControlNode,
    /// This verb on this resource.
    Fixed(&'static str, &'static str),
    /// This verb on the caller's own entry under this prefix.
    Own(&'static str, &'static str),
    /// This verb on all resources the message names; none when it is of another type.
    Named(&'static str, fn(&dyn Any) -> Option<Vec<String>>),
}

/// The way into one RPC.
#[derive(Clone)]
pub struct Gate {
    row: &'static Row,
    policy: Arc<Policy>,
}

/// Why not: verb, resource and principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{principal} may not {verb} {resource}")]
pub struct Denied {
    /// Who.
    pub principal: String,
    /// What.
    pub verb: String,
    /// To what.
    pub resource: String,
}

impl Denied {
    fn new(caller: &Identity, verb: &str, resource: &str) -> Self {
        let principal = caller.principal();
        Self { principal, verb: verb.into(), resource: resource.into() }
    }
}

impl Gate {
    /// To the RPC of this row, under this policy.
    pub fn new(row: &'static Row, policy: Arc<Policy>) -> Self {
        Self { row, policy }
    }

    /// What can be said before the message is read.
    pub fn admit(&self, caller: &Identity) -> Result<(), Denied> {
        match self.row.needs {
            Needs::Nothing | Needs::Identity | Needs::Named(..) => Ok(()),
            Needs::ControlNode if caller.kind == Kind::Control => Ok(()),
            Needs::ControlNode => Err(Denied::new(caller, "replicate", "cluster")),
            Needs::Fixed(verb, resource) => self.check(caller, verb, resource),
            Needs::Own(verb, prefix) => {
                self.check(caller, verb, &format!("{prefix}/{}", caller.name))
            }
        }
    }

    /// What the message decides.
    pub fn admit_message(&self, caller: &Identity, message: &dyn Any) -> Result<(), Denied> {
        let Needs::Named(verb, resources) = self.row.needs else { return Ok(()) };
        if self.policy.is_unlimited(&caller.principal(), verb) {
            return Ok(());
        }
        let Some(resources) = resources(message) else {
            return Err(Denied::new(caller, verb, "what this message names"));
        };
        // A message that names nothing is not open to everybody.
        if resources.is_empty() {
            return self.check(caller, verb, "");
        }
        resources.iter().try_for_each(|resource| self.check(caller, verb, resource))
    }

    /// Whether the caller may do this.
    pub fn check(&self, caller: &Identity, verb: &str, resource: &str) -> Result<(), Denied> {
        match self.policy.check(&caller.principal(), verb, resource) {
            Some(_) => Ok(()),
            None => Err(Denied::new(caller, verb, resource)),
        }
    }
}
