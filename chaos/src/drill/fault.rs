//! What is done to a mesh: verbs and their targets, and which calls they touch. Pure; `stage` does
//! it.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::file::{Flow, Regions};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// After the load is up.
    pub at: Duration,
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub target: Target,
    /// After which it is undone; `None`: never.
    pub lasts: Option<Duration>,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// An upstream carries nothing more, both ways.
    Cut,
    /// `meshctl pop drain`: the operator wants it empty.
    Drain,
    /// SIGKILL: the process is gone, its host answers.
    Kill,
    /// SIGSTOP; it goes on when the time is over.
    Pause,
    /// One node after the other: POPs are drained, stopped and started again, control nodes
    /// stopped and started again.
    Restart,
    /// The host says nothing more: the process stops, and nothing reaches or leaves its overlay.
    Silence,
}

/// To what it can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All nodes.
    All,
    /// All control nodes.
    ControlPlane,
    /// The control node that leads when the time comes.
    Leader,
    /// One POP.
    Pop(String),
    /// All POPs and control nodes of a region.
    Region(String),
    /// The region of the control node that leads when the time comes.
    RegionOfLeader,
    /// One upstream of a POP, counted from 0.
    Upstream(String, u8),
}

impl Verb {
    const ALL: [(&str, Self); 6] = [
        ("cut", Self::Cut),
        ("drain", Self::Drain),
        ("kill", Self::Kill),
        ("pause", Self::Pause),
        ("restart", Self::Restart),
        ("silence", Self::Silence),
    ];

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text.trim());
        let names = Self::ALL.map(|(name, _)| name).join(", ");
        match found {
            Some((_, verb)) => Ok(*verb),
            None => bail!("{text:?} is nothing a drill can do; it can: {names}"),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(_, verb)| verb == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl Target {
    pub(crate) fn parse(text: &str, mesh: &Regions) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let pops: Vec<&str> =
            mesh.regions.iter().flat_map(|r| &r.pops).map(String::as_str).collect();
        let pop = |pop: &str| -> Result<String> {
            ensure!(pops.contains(&pop), "no POP {pop:?}; there are {}", pops.join(", "));
            Ok(pop.to_owned())
        };
        Ok(match words.as_slice() {
            ["all", "nodes"] => Self::All,
            ["control", "plane"] => Self::ControlPlane,
            ["control", "leader"] => Self::Leader,
            ["pop", name] => Self::Pop(pop(name)?),
            ["region", "of", "leader"] => Self::RegionOfLeader,
            ["region", name] => {
                let names: Vec<&str> = mesh.regions.iter().map(|r| r.name.as_str()).collect();
                ensure!(names.contains(name), "no region {name:?}; there are {}", names.join(", "));
                Self::Region((*name).to_owned())
            }
            ["upstream", which] => {
                let (name, number) = which.split_once('/').unwrap_or((which, "0"));
                let number = number.parse().unwrap_or(u8::MAX);
                ensure!(
                    number < mesh.upstreams,
                    "{which}: a POP has {} upstreams, counted from 0 (mesh.upstreams)",
                    mesh.upstreams
                );
                Self::Upstream(pop(name)?, number)
            }
            _ => bail!(
                "{text:?} is nothing; write pop NAME, region NAME, region of leader, \
                 control plane, control leader, upstream NAME/0 or all nodes"
            ),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all nodes"),
            Self::ControlPlane => f.write_str("control plane"),
            Self::Leader => f.write_str("control leader"),
            Self::Pop(pop) => write!(f, "pop {pop}"),
            Self::Region(region) => write!(f, "region {region}"),
            Self::RegionOfLeader => f.write_str("region of leader"),
            Self::Upstream(pop, number) => write!(f, "upstream {pop}/{number}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.target)?;
        self.lasts.map_or(Ok(()), |lasts| write!(f, " for {}", super::words::short(lasts)))
    }
}

impl Fault {
    /// Verbs do not go with all targets.
    pub(crate) fn check(&self, mesh: &Regions) -> Result<()> {
        use Target as T;
        let fits = match self.verb {
            Verb::Cut => matches!(self.target, T::Upstream(..)),
            Verb::Drain => matches!(self.target, T::Pop(_)),
            Verb::Kill | Verb::Pause | Verb::Silence => {
                !matches!(self.target, T::Upstream(..) | T::All)
            }
            Verb::Restart => matches!(self.target, T::All | T::Pop(_)),
        };
        ensure!(fits, "{} does not go with {:?}", self.verb, self.target.to_string());
        match (self.verb, self.lasts) {
            (Verb::Pause, None) => bail!("for: a pause needs an end, as for = \"30s\""),
            (Verb::Restart, Some(_)) => bail!("for: a restart takes the time that it takes"),
            _ => {}
        }
        let left = mesh.regions.len() > 1;
        ensure!(left || !matches!(self.target, T::Region(_)), "what: there is no other region");
        Ok(())
    }

    /// Whether a call has a leg where this happens; `led` is the region of the leader.
    pub(super) fn touches(&self, flow: &Flow, mesh: &Regions, led: Option<&str>) -> bool {
        let ends = [&flow.from, &flow.to];
        let in_region = |name: &str| {
            let region = mesh.regions.iter().find(|region| region.name == name);
            region.is_some_and(|region| ends.iter().any(|pop| region.pops.contains(pop)))
        };
        match &self.target {
            Target::All | Target::ControlPlane | Target::Leader => true,
            Target::Pop(pop) => ends.contains(&pop),
            Target::Upstream(pop, _) => ends.contains(&pop) && flow.from != flow.to,
            Target::Region(region) => in_region(region),
            Target::RegionOfLeader => led.is_some_and(in_region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::file::Region;

    fn mesh() -> Regions {
        let region = |name: &str, pop: &str| Region {
            name: name.into(),
            pops: vec![pop.into()],
            control: 1,
        };
        Regions {
            regions: vec![region("eu", "fra1"), region("us", "iad1"), region("ap", "sin1")],
            rtt: Duration::ZERO,
            loss: 0.0,
            upstreams: 2,
        }
    }

    fn fault(verb: Verb, what: &str) -> Fault {
        let target = Target::parse(what, &mesh()).unwrap();
        Fault { at: Duration::ZERO, verb, target, lasts: None }
    }

    fn flow(from: &str, to: &str) -> Flow {
        Flow { from: from.into(), to: to.into() }
    }

    #[test]
    fn targets_are_written_as_they_are_read() {
        for what in [
            "all nodes",
            "control plane",
            "control leader",
            "pop fra1",
            "region ap",
            "region of leader",
            "upstream sin1/1",
        ] {
            assert_eq!(Target::parse(what, &mesh()).unwrap().to_string(), what);
        }
        for (what, cure) in [
            ("pop nowhere", "fra1, iad1, sin1"),
            ("region mars", "eu, us, ap"),
            ("upstream fra1/2", "counted from 0"),
            ("everything", "write pop NAME"),
        ] {
            let why = Target::parse(what, &mesh()).unwrap_err().to_string();
            assert!(why.contains(cure), "{what}: {why}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(fault(Verb::Cut, "pop fra1").check(&mesh()).is_err());
        assert!(fault(Verb::Drain, "region eu").check(&mesh()).is_err());
        assert!(fault(Verb::Pause, "pop fra1").check(&mesh()).is_err(), "without an end");
        assert!(fault(Verb::Restart, "pop fra1").check(&mesh()).is_ok());
        assert!(fault(Verb::Silence, "region eu").check(&mesh()).is_ok());
    }

    #[test]
    fn calls_are_touched_where_they_have_a_leg() {
        let touches = |what: &str, from: &str, to: &str| {
            fault(Verb::Kill, what).touches(&flow(from, to), &mesh(), Some("us"))
        };
        assert!(touches("pop fra1", "fra1", "sin1") && touches("pop fra1", "sin1", "fra1"));
        assert!(!touches("pop fra1", "iad1", "sin1"));
        assert!(touches("region ap", "fra1", "sin1") && !touches("region ap", "fra1", "iad1"));
        assert!(touches("region of leader", "iad1", "sin1"));
        assert!(!touches("region of leader", "fra1", "sin1"));
        assert!(touches("upstream fra1/1", "fra1", "sin1"));
        assert!(!touches("upstream fra1/1", "fra1", "fra1"), "its media never leaves the POP");
        assert!(touches("control plane", "iad1", "sin1"));
    }
}
