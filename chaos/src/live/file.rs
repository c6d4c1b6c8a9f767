//! A lab as it stands in a file: mesh, ways that are different, routers. Pure.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::order::{Quality, end};
use crate::drill::Drill;
use crate::drill::file::{RawMesh, Regions};
use crate::lab::routers::Kind;

/// What is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Lab {
    /// Regions, POPs, and what lies between.
    pub mesh: Regions,
    /// Ways that are different, both directions.
    pub links: Vec<Way>,
    /// A POP with routers that tell it of its upstreams.
    pub bgp: Option<Bgp>,
}

/// A way and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Its ends.
    pub between: [(String, Option<u8>); 2],
    /// What is different.
    pub quality: Quality,
}

/// Routers of one POP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Which POP.
    pub pop: String,
    /// Its own router; each upstream has a GoBGP.
    pub router: Kind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLab {
    mesh: RawMesh,
    #[serde(default)]
    link: Vec<RawLink>,
    bgp: Option<RawBgp>,
}

#[derive(Deserialize)]
struct RawLink {
    between: [String; 2],
    /// Read apart: only so is a word that means nothing refused.
    #[serde(flatten)]
    quality: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBgp {
    pop: String,
    router: String,
}

impl Lab {
    /// The mesh of a drill.
    pub fn of(drill: Drill) -> Self {
        Self { mesh: drill.mesh, links: Vec::new(), bgp: None }
    }

    /// Reads a lab.
    pub fn parse(text: &str) -> Result<Self> {
        let raw: RawLab = toml::from_str(text).map_err(|why| {
            anyhow::anyhow!("{}", why.to_string().trim_end().replace('\n', "\n  "))
        })?;
        let mesh = raw.mesh.checked().context("[mesh]")?;
        let links = (1..)
            .zip(raw.link)
            .map(|(n, link)| link.checked(&mesh).with_context(|| format!("[[link]] number {n}")));
        let links = links.collect::<Result<_>>()?;
        let bgp = raw.bgp.map(|bgp| bgp.checked(&mesh).context("[bgp]")).transpose()?;
        Ok(Self { mesh, links, bgp })
    }
}

impl RawLink {
    fn checked(self, mesh: &Regions) -> Result<Way> {
        let [a, b] = self.between;
        let between = [end(&a, mesh).context("between")?, end(&b, mesh).context("between")?];
        if between[0].0 == between[1].0 {
            bail!("between: {a} and {b} are the same POP");
        }
        let quality: Quality = self.quality.try_into()?;
        // Complains of what is no quantity.
        quality.change(crate::wan::Profile::default())?;
        Ok(Way { between, quality })
    }
}

impl RawBgp {
    fn checked(self, mesh: &Regions) -> Result<Bgp> {
        let (pop, _) = end(&self.pop, mesh).context("pop")?;
        let router = match self.router.as_str() {
            "frr" => Kind::Frr,
            "gobgp" => Kind::GoBgp,
            other => bail!("router = {other:?}: frr or gobgp"),
        };
        Ok(Bgp { pop, router })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../labs/two-upstreams.toml");

    #[test]
    fn the_example_can_be_read() {
        let lab = Lab::parse(TEXT).unwrap();
        assert_eq!(lab.mesh.upstreams, 2);
        assert_eq!(lab.bgp.unwrap().router, Kind::Frr);
        assert_eq!(lab.links[0].between[0], ("fra1".to_owned(), Some(1)));
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_its_cure() {
        for (from, to, words) in [
            ("upstreams = 2", "upstreams = 9", "1 to 4"),
            ("\"fra1/1\"", "\"fra1/2\"", "[[link]] number 1: between: fra1/2"),
            ("\"fra1/1\"", "\"sin1\"", "the same POP"),
            ("router = \"frr\"", "router = \"cisco\"", "frr or gobgp"),
            ("delay = \"90ms\"", "delay = \"90\"", "delay: \"90\" is no duration"),
            ("delay = \"90ms\"", "dilay = \"90ms\"", "dilay"),
            ("pop = \"fra1\"", "pop = \"mars\"", "there are fra1"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let why = format!("{:#}", Lab::parse(&TEXT.replace(from, to)).unwrap_err());
            assert!(why.contains(words), "{from}: {why}");
        }
    }
}
