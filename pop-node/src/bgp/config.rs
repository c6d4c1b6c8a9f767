//! `[bgp]` of the configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use pop_core::bgp::{BgpConfig, Community, Neighbor, Policy};
use serde::Deserialize;

use crate::config::ConfigError;

/// Routers of one POP.
const ROUTERS_MAX: usize = 16;
/// RPKI caches of one POP.
const CACHES_MAX: usize = 4;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BgpFile {
    bmp_listen: String,
    routers: Vec<String>,
    upstreams: Vec<Vec<String>>,
    #[serde(default)]
    drain_communities: Vec<String>,
    #[serde(default)]
    cost_communities: BTreeMap<String, f64>,
    #[serde(default)]
    rpki_caches: Vec<String>,
}

/// Checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[bgp] bmp_listen`
    pub bmp_listen: SocketAddr,
    /// `[bgp] rpki_caches`
    pub rpki_caches: Vec<SocketAddr>,
    /// The rest.
    pub station: BgpConfig,
}

fn refused(key: &'static str, problem: String, fix: &'static str) -> ConfigError {
    ConfigError::Value { table: "bgp", key, problem, fix }
}

/// Checks it, for a POP with so many upstreams.
pub fn settings(file: &BgpFile, upstreams: usize) -> Result<Settings, ConfigError> {
    let bmp_listen = crate::config::socket_address("bgp", "bmp_listen", &file.bmp_listen)?;
    if file.routers.is_empty() || file.routers.len() > ROUTERS_MAX {
        let problem = format!("lists {} routers", file.routers.len());
        return Err(refused(
            "routers",
            problem,
            "list the addresses your routers come from, 16 at most",
        ));
    }
    let routers = file.routers.iter().map(|router| {
        let fix = "write IP addresses, such as \"192.0.2.254\"";
        address(router).ok_or_else(|| refused("routers", format!("has {router:?}"), fix))
    });
    let routers = routers.collect::<Result<Vec<_>, _>>()?;
    if file.upstreams.len() != upstreams {
        let problem = format!("lists {}, [overlay] listen {upstreams}", file.upstreams.len());
        let fix = "list the BGP neighbors of each upstream, in the order of [overlay] listen; \
                   [] for one without";
        return Err(refused("upstreams", problem, fix));
    }
    let upstreams = file
        .upstreams
        .iter()
        .map(|all| all.iter().map(|one| neighbor(one, &routers)).collect::<Result<Vec<_>, _>>());
    let upstreams = upstreams.collect::<Result<Vec<_>, _>>()?;
    let drain = file.drain_communities.iter().map(|text| community("drain_communities", text));
    let cost = file.cost_communities.iter().map(|(text, cost)| {
        let fix = "give a cost in R, from 0 to 100: 4 is a quarter of a MOS point";
        if !(0.0..=100.0).contains(cost) {
            return Err(refused("cost_communities", format!("gives {text:?} {cost}"), fix));
        }
        Ok((community("cost_communities", text)?, *cost))
    });
    let policy =
        Policy { drain: drain.collect::<Result<_, _>>()?, cost: cost.collect::<Result<_, _>>()? };
    let rpki_caches = rpki_caches(&file.rpki_caches)?;
    Ok(Settings { bmp_listen, rpki_caches, station: BgpConfig { routers, upstreams, policy } })
}

fn rpki_caches(all: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    let fix = "list IP addresses with ports, such as \"192.0.2.5:323\", 4 at most, the best first";
    if all.len() > CACHES_MAX {
        return Err(refused("rpki_caches", format!("lists {}", all.len()), fix));
    }
    let caches = all
        .iter()
        .map(|text| text.parse().map_err(|_| refused("rpki_caches", format!("has {text:?}"), fix)));
    caches.collect()
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// `ADDRESS`, or `ADDRESS@ROUTER`.
fn neighbor(text: &str, routers: &[IpAddr]) -> Result<Neighbor, ConfigError> {
    let fix = "write the neighbor's IP address, or \"NEIGHBOR@ROUTER\" with one of routers";
    let wrong = || refused("upstreams", format!("has {text:?}"), fix);
    let (neighbor, router) = match text.split_once('@') {
        Some((neighbor, router)) => (neighbor, Some(address(router).ok_or_else(wrong)?)),
        None => (text, None),
    };
    if router.is_some_and(|router| !routers.contains(&router)) {
        return Err(wrong());
    }
    Ok(Neighbor { router, address: address(neighbor).ok_or_else(wrong)? })
}

fn community(key: &'static str, text: &str) -> Result<Community, ConfigError> {
    let fix = "write communities as \"65010:70\" or \"65010:1:2\"";
    text.parse().map_err(|_| refused(key, format!("has {text:?}"), fix))
}
