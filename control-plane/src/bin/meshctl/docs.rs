//! Resources as files and JSON show them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use proto::control::{
    DigestCredentials, MediaEncryption, Pop, Route, RouteCandidate, Transport, Trunk,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A trunk.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrunkDoc {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) pops: Vec<String>,
    #[serde(default)]
    pub(crate) host: String,
    #[serde(default)]
    pub(crate) port: u32,
    #[serde(default = "udp")]
    pub(crate) transport: String,
    #[serde(default)]
    pub(crate) sources: Vec<String>,
    #[serde(default)]
    pub(crate) codecs: Vec<String>,
    #[serde(default = "accepted")]
    pub(crate) media_encryption: String,
    #[serde(default)]
    pub(crate) low_bandwidth: bool,
    #[serde(default)]
    pub(crate) noise_suppression: bool,
    #[serde(default)]
    pub(crate) max_calls: u32,
    #[serde(default)]
    pub(crate) default_region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outbound_auth: Option<AuthDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inbound_auth: Option<AuthDoc>,
}

fn udp() -> String {
    "udp".into()
}

fn accepted() -> String {
    "accepted".into()
}

/// Digest credentials.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthDoc {
    pub(crate) username: String,
    pub(crate) password: String,
    #[serde(default)]
    pub(crate) realm: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) algorithms: Vec<String>,
}

impl std::fmt::Debug for AuthDoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:•••", self.username)
    }
}

impl AuthDoc {
    /// From `USER:PASSWORD[:REALM]`; a password with a colon needs a file.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(username), Some(password), realm, None) => {
                let (realm, algorithms) = (realm.unwrap_or_default(), Vec::new());
                Ok(Self { username, password, realm, algorithms })
            }
            _ => bail!("credentials are not USER:PASSWORD[:REALM]: use --file for others"),
        }
    }
}

impl From<DigestCredentials> for AuthDoc {
    fn from(auth: DigestCredentials) -> Self {
        let DigestCredentials { username, password, realm, algorithms } = auth;
        Self { username, password, realm, algorithms }
    }
}

impl From<AuthDoc> for DigestCredentials {
    fn from(auth: AuthDoc) -> Self {
        let AuthDoc { username, password, realm, algorithms } = auth;
        Self { username, password, realm, algorithms }
    }
}

impl From<Trunk> for TrunkDoc {
    fn from(trunk: Trunk) -> Self {
        let transport = match trunk.transport() {
            Transport::Tcp => "tcp",
            Transport::Udp | Transport::Unspecified => "udp",
        };
        let media_encryption = match MediaEncryption::try_from(trunk.media_encryption) {
            Ok(MediaEncryption::Unspecified) => "accepted".into(),
            Ok(MediaEncryption::Offered) => "offered".into(),
            Ok(MediaEncryption::Required) => "required".into(),
            Err(_) => trunk.media_encryption.to_string(),
        };
        Self {
            transport: transport.into(),
            media_encryption,
            low_bandwidth: trunk.low_bandwidth,
            noise_suppression: trunk.noise_suppression,
            id: trunk.trunk_id,
            pops: trunk.pop_ids,
            host: trunk.host,
            port: trunk.port,
            sources: trunk.sources,
            codecs: trunk.codecs,
            max_calls: trunk.max_calls,
            default_region: trunk.default_region,
            outbound_auth: trunk.outbound_auth.map(Into::into),
            inbound_auth: trunk.inbound_auth.map(Into::into),
        }
    }
}

impl TryFrom<TrunkDoc> for Trunk {
    type Error = anyhow::Error;

    fn try_from(doc: TrunkDoc) -> Result<Self> {
        let transport = match doc.transport.as_str() {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            other => bail!("transport is \"{other}\": write \"udp\" or \"tcp\""),
        };
        let media_encryption = match doc.media_encryption.as_str() {
            "accepted" => MediaEncryption::Unspecified,
            "offered" => MediaEncryption::Offered,
            "required" => MediaEncryption::Required,
            other => bail!(
                "media_encryption is \"{other}\": write \"accepted\", \"offered\" or \"required\""
            ),
        };
        Ok(Self {
            media_encryption: media_encryption.into(),
            low_bandwidth: doc.low_bandwidth,
            noise_suppression: doc.noise_suppression,
            trunk_id: doc.id,
            pop_ids: doc.pops,
            host: doc.host,
            port: doc.port,
            transport: transport.into(),
            sources: doc.sources,
            codecs: doc.codecs,
            outbound_auth: doc.outbound_auth.map(Into::into),
            inbound_auth: doc.inbound_auth.map(Into::into),
            max_calls: doc.max_calls,
            default_region: doc.default_region,
        })
    }
}

/// A route.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteDoc {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) prefix: String,
    pub(crate) candidates: Vec<CandidateDoc>,
}

/// One way out.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct CandidateDoc {
    pub(crate) trunk: String,
    #[serde(default)]
    pub(crate) priority: u32,
    #[serde(default = "one")]
    pub(crate) weight: u32,
}

fn one() -> u32 {
    1
}

impl CandidateDoc {
    /// From `TRUNK[:PRIORITY[:WEIGHT]]`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let trunk = parts.next().filter(|trunk| !trunk.is_empty());
        let number = |part: Option<&str>, default| part.map_or(Some(default), |p| p.parse().ok());
        let (priority, weight) = (number(parts.next(), 0), number(parts.next(), 1));
        match (trunk, priority, weight, parts.next()) {
            (Some(trunk), Some(priority), Some(weight), None) => {
                Ok(Self { trunk: trunk.into(), priority, weight })
            }
            _ => bail!("\"{text}\" is not TRUNK[:PRIORITY[:WEIGHT]], such as \"telco:0:10\""),
        }
    }
}

/// All of a `--to` flag.
pub(crate) fn candidates(texts: &[String]) -> Result<Vec<RouteCandidate>> {
    texts.iter().map(|text| Ok(CandidateDoc::parse(text)?.into())).collect()
}

/// "telco:0:10 backup:1:1"
pub(crate) fn describe(candidates: &[CandidateDoc]) -> String {
    let all = candidates.iter().map(|c| format!("{}:{}:{}", c.trunk, c.priority, c.weight));
    all.collect::<Vec<_>>().join(" ")
}

impl From<RouteCandidate> for CandidateDoc {
    fn from(candidate: RouteCandidate) -> Self {
        let RouteCandidate { trunk_id, priority, weight } = candidate;
        Self { trunk: trunk_id, priority, weight }
    }
}

impl From<CandidateDoc> for RouteCandidate {
    fn from(candidate: CandidateDoc) -> Self {
        let CandidateDoc { trunk, priority, weight } = candidate;
        Self { trunk_id: trunk, priority, weight }
    }
}

impl From<Route> for RouteDoc {
    fn from(route: Route) -> Self {
        let candidates = route.candidates.into_iter().map(Into::into).collect();
        Self { id: route.route_id, prefix: route.prefix, candidates }
    }
}

impl From<RouteDoc> for Route {
    fn from(route: RouteDoc) -> Self {
        let candidates = route.candidates.into_iter().map(Into::into).collect();
        Self { route_id: route.id, prefix: route.prefix, candidates }
    }
}

/// A POP and how it is heard.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct PopDoc {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) alive: bool,
    /// For good, until it registers anew.
    pub(crate) fenced: bool,
    pub(crate) cordoned: bool,
    pub(crate) draining: bool,
    /// Absent: the answering node never heard it.
    pub(crate) silent_ms: Option<u64>,
    pub(crate) calls: u32,
    pub(crate) epoch: u64,
    pub(crate) view_revision: u64,
    pub(crate) overlay_address: String,
    pub(crate) sip_addresses: Vec<String>,
    pub(crate) version: String,
}

impl From<proto::control::list_pops_response::Entry> for PopDoc {
    fn from(entry: proto::control::list_pops_response::Entry) -> Self {
        let pop: Pop = entry.pop.unwrap_or_default();
        Self {
            id: pop.pop_id,
            region: pop.region,
            alive: entry.alive,
            fenced: pop.fenced,
            cordoned: pop.cordoned,
            draining: pop.draining,
            silent_ms: entry.silent_ms,
            calls: entry.calls,
            epoch: pop.epoch,
            view_revision: entry.view_revision,
            overlay_address: pop.overlay_address,
            sip_addresses: pop.sip_addresses,
            version: pop.version,
        }
    }
}

/// A document from a file: JSON if it begins like JSON or is named so, else TOML.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let json = text.trim_start().starts_with('{') || path.extension().is_some_and(|e| e == "json");
    let wrong = || format!("{} is not valid: correct it", path.display());
    if json {
        serde_json::from_str(&text).with_context(wrong)
    } else {
        toml::from_str(&text).with_context(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunk_comes_from_toml_and_json_alike() {
        let dir = tempfile::tempdir().unwrap();
        let toml = dir.path().join("t.toml");
        let text = "id = 'telco'\npops = ['fra1']\nhost = 'sip.example.net'\ntransport = 'tcp'\n\
                    [inbound_auth]\nusername = 'u'\npassword = 'p'\n";
        std::fs::write(&toml, text).unwrap();
        let doc: TrunkDoc = read(&toml).unwrap();
        let json = dir.path().join("t.json");
        std::fs::write(&json, serde_json::to_string(&doc).unwrap()).unwrap();
        assert_eq!(read::<TrunkDoc>(&json).unwrap(), doc);
        let trunk = Trunk::try_from(doc.clone()).unwrap();
        assert_eq!(trunk.transport(), Transport::Tcp);
        assert_eq!(TrunkDoc::from(trunk), doc);
        std::fs::write(&toml, "id = 'telco'\nhosts = 'x'").unwrap();
        assert!(format!("{:#}", read::<TrunkDoc>(&toml).unwrap_err()).contains("hosts"));
        assert!(!format!("{doc:?}").contains("\"p\""));
    }

    #[test]
    fn candidates_have_defaults() {
        let of = |text| CandidateDoc::parse(text).ok().map(|c| (c.priority, c.weight));
        assert_eq!(of("telco"), Some((0, 1)));
        assert_eq!(of("telco:2"), Some((2, 1)));
        assert_eq!(of("telco:2:30"), Some((2, 30)));
        for bad in ["", ":1", "telco:x", "telco:1:2:3", "telco:-1"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
