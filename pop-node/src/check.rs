//! `pop-node check`: everything that can be known to be wrong before anything starts.
//!
//! Each finding is one sentence that names the thing and the fix. It binds every listening
//! address for a moment, so a running POP of the same file makes it say "taken".

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::sockets::{self, BindError};
use crate::tls::{Credentials, TlsError};

/// A control node that answers does so within this.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);

/// What keeps the POP from starting.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory.
    #[error(
        "[pop] data_dir {path} is not writable: {source}; create it and give it to the user that \
         runs pop-node"
    )]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// Certificate files.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What `check` found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The POP would not start.
    pub problems: Vec<Problem>,
    /// The POP would start, but an operator wants to know.
    pub notes: Vec<String>,
}

/// Looks at everything the configuration names.
pub fn check(config: &Config, wall: SystemTime) -> Findings {
    let mut findings = Findings::default();
    let problems = &mut findings.problems;
    problems.extend(Credentials::load(config, wall).err().map(Problem::Tls));
    problems.extend(data_dir(config).err());
    problems.extend(config.sip.iter().filter_map(|l| sockets::sip(*l).err()).map(Problem::Bind));
    let overlay = config.overlay_listen.iter().copied().map(sockets::overlay);
    problems.extend(overlay.filter_map(Result::err).map(Problem::Bind));
    problems.extend(media(config).err().map(Problem::Bind));
    problems.extend(sockets::admin(config.admin).err().map(Problem::Bind));
    let bmp = config.bgp.iter().filter_map(|bgp| sockets::bmp(bgp.bmp_listen).err());
    problems.extend(bmp.map(Problem::Bind));
    findings.notes.extend(control(config));
    findings
}

/// Creates the data directory if need be, and proves that a file can be written there.
pub fn data_dir(config: &Config) -> Result<(), Problem> {
    let probe = config.data_dir.join(".pop-node-check");
    let write = || -> io::Result<()> {
        fs::create_dir_all(&config.data_dir)?;
        let mut file = fs::File::create(&probe)?;
        file.write_all(b"writable\n")?;
        file.sync_all()?;
        fs::remove_file(&probe)
    };
    write().map_err(|source| Problem::DataDir { path: config.data_dir.clone(), source })
}

/// One media port stands for all: the address must be ours.
fn media(config: &Config) -> Result<(), BindError> {
    let address = SocketAddr::new(config.media_address, 0);
    UdpSocket::bind(address).map(|_| ()).map_err(|source| BindError {
        table: "media",
        key: "address",
        what: config.media_address.to_string(),
        source,
    })
}

fn control(config: &Config) -> Option<String> {
    let answers = |endpoint: &String| {
        let mut addresses = endpoint.to_socket_addrs().ok()?;
        addresses.find(|a| TcpStream::connect_timeout(a, CONTROL_TIMEOUT).is_ok())
    };
    if config.control.iter().any(|endpoint| answers(endpoint).is_some()) {
        return None;
    }
    Some(format!(
        "no control node answers at [control] endpoints {}; the POP would start from its copy in \
         data_dir, if it has one",
        config.control.join(", ")
    ))
}
