//! Reaching a control node: flags, environment, file; then one node after the other.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use control_plane::config::TlsFiles;
use control_plane::peer::endpoint;
use control_plane::tls::Credentials;
use proto::control::WriteOptions;
use proto::identity::CONTROL_DNS_NAME;
use serde::Deserialize;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::cli::{Connection, Write};
use crate::refusal::{Refusal, describe, reason};

/// One try at one node: an election fits in.
const ATTEMPT: Duration = Duration::from_secs(7);
/// A list of trunks or routes comes in one message.
pub(crate) const LIST_BYTES_MAX: usize = 256 << 20;
/// Between rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// No control node was reached, or none could answer; a write may be tried again.
#[derive(Debug, thiserror::Error)]
#[error("no control node could do it: {0}: start one, or correct --endpoint")]
pub(crate) struct Unreached(String);

impl Unreached {
    /// What each node said.
    pub(crate) const fn new(said: String) -> Self {
        Self(said)
    }
}

/// The control nodes.
pub(crate) struct Mesh {
    nodes: Vec<(String, Channel)>,
    files: TlsFiles,
    patience: Duration,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    endpoints: Vec<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Mesh {
    /// Reads what is needed; connects when first used.
    pub(crate) fn open(given: &Connection) -> Result<Self> {
        let config = given.config.clone().or_else(|| variable("VOXMESH_CONFIG").map(Into::into));
        let file = config.map_or_else(|| Ok(File::default()), |path| read(&path))?;
        let path = |flag: &Option<PathBuf>, name: &str, file: Option<PathBuf>, what: &str| {
            let found = flag.clone().or_else(|| variable(name).map(PathBuf::from)).or(file);
            found.with_context(|| format!("{what} is not given: use --{what}, {name} or --config"))
        };
        let files = TlsFiles {
            ca: path(&given.ca, "VOXMESH_CA", file.ca, "ca")?,
            cert: path(&given.cert, "VOXMESH_CERT", file.cert, "cert")?,
            key: path(&given.key, "VOXMESH_KEY", file.key, "key")?,
        };
        let mut endpoints = given.endpoint.clone();
        if let (true, Some(list)) = (endpoints.is_empty(), variable("VOXMESH_ENDPOINT")) {
            endpoints = list.split(',').map(|e| e.trim().to_owned()).collect();
        }
        if endpoints.is_empty() {
            endpoints = file.endpoints;
        }
        if endpoints.is_empty() {
            bail!("no control node is given: use --endpoint, VOXMESH_ENDPOINT or --config");
        }
        let credentials = Credentials::load(&files)?;
        credentials.check(SystemTime::now())?;
        Self::dial(&endpoints, &credentials, files, Duration::from_secs(given.timeout))
    }

    fn dial(
        endpoints: &[String],
        tls: &Credentials,
        files: TlsFiles,
        patience: Duration,
    ) -> Result<Self> {
        let nodes = endpoints.iter().map(|address| {
            let channel = endpoint(address, CONTROL_DNS_NAME, tls)?.connect_lazy();
            Ok((address.clone(), channel))
        });
        Ok(Self { nodes: nodes.collect::<Result<_>>()?, files, patience })
    }

    /// The caller's own certificate files.
    pub(crate) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The nodes, each by its address.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, Channel)> {
        self.nodes.iter().map(|(address, channel)| (address.as_str(), channel.clone()))
    }

    /// Asks one node after the other until one answers, or time is up. `ask` must be safe to
    /// repeat: a read, or a write with the same request id.
    pub(crate) async fn call<A, T>(
        &self,
        message: A,
        ask: impl AsyncFn(Channel, Request<A>) -> Result<Response<T>, Status>,
    ) -> Result<T>
    where
        A: Clone,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            let mut failures = Vec::new();
            for (address, channel) in self.nodes() {
                let mut request = Request::new(message.clone());
                let left = deadline.saturating_duration_since(Instant::now());
                request.set_timeout(ATTEMPT.min(left));
                let answer = tokio::time::timeout(ATTEMPT.min(left), ask(channel, request)).await;
                match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
                {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if worth_another_node(&status) => {
                        failures.push(format!("{address} ({})", describe(&status)));
                    }
                    Err(status) => return Err(Refusal::of(&status).into()),
                }
            }
            if Instant::now() + PAUSE >= deadline {
                let said = failures.join(", ");
                return Err(Unreached(said).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether another node may do it.
pub(crate) fn worth_another_node(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => true,
        // No node said this: the connection broke in the middle.
        Code::Internal => reason(status).is_none(),
        _ => false,
    }
}

/// Says that a write is a rehearsal: beside the answer, as programs read one shape.
pub(crate) fn announce(write: &Write) {
    if write.dry_run {
        let said = "meshctl: dry run: nothing is changed, this is what would happen";
        // Nobody misses a line that could not be written.
        let _ = writeln!(std::io::stderr(), "{said}");
    }
}

/// A write's id, kept through all its tries.
pub(crate) fn options(write: &Write) -> Option<WriteOptions> {
    announce(write);
    let request_id = write.request_id.clone().unwrap_or_else(new_request_id);
    Some(options_of(write, request_id))
}

/// A rehearsal has no id: a node of a version without rehearsals refuses that, and would carry out
/// the write if it had one.
pub(crate) fn options_of(write: &Write, request_id: String) -> WriteOptions {
    let request_id = if write.dry_run { String::new() } else { request_id };
    WriteOptions { request_id, validate_only: write.dry_run }
}

/// 128 random bits: std's hasher keys come from the system's random source.
fn new_request_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let word = |n: u8| RandomState::new().hash_one((n, std::process::id(), SystemTime::now()));
    format!("meshctl-{:016x}{:016x}", word(0), word(1))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let file: File = toml::from_str(&text)
        .with_context(|| format!("{} is not valid: correct it", path.display()))?;
    let beside = |name: Option<PathBuf>| {
        name.map(|name| path.parent().map_or_else(|| name.clone(), |dir| dir.join(&name)))
    };
    Ok(File { ca: beside(file.ca), cert: beside(file.cert), key: beside(file.key), ..file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_file_are_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meshctl.toml");
        std::fs::write(&path, "endpoints = ['a:1']\nca = 'ca.pem'\ncert = '/x/anna.pem'\n")
            .unwrap();
        let file = read(&path).unwrap();
        assert_eq!(file.ca, Some(dir.path().join("ca.pem")));
        assert_eq!(file.cert, Some("/x/anna.pem".into()));
        std::fs::write(&path, "endpoint = 'a:1'").unwrap();
        assert!(format!("{:#}", read(&path).err().unwrap()).contains("unknown field"));
    }

    #[test]
    fn request_ids_differ() {
        assert_ne!(new_request_id(), new_request_id());
        assert!(new_request_id().len() <= 64);
    }
}
