//! Where a machine puts what it got: `DIR/ca.pem`, `DIR/NAME.pem` (key and certificate in one
//! file, so that a renewal replaces both at once) and the first configuration.
//!
//! The key is on disk before the token is used: a machine that crashes in between asks again
//! with the same key, and the mesh answers again. Nothing that exists is replaced.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use proto::identity::Kind;

use crate::files;
use crate::join::{JoinError, Joined, join, new_key};
use crate::token::Token;

/// Why a machine did not get its files.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The directory.
    #[error("{path} cannot be used ({source}): choose a --dir you may write")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// From the system.
        source: io::Error,
    },
    /// The mesh.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Somebody else's files.
    #[error("{0} exists: choose another --dir, or remove it if this machine begins anew")]
    Exists(PathBuf),
    /// The other program's token.
    #[error("this token is for {0}: use the program of that name")]
    OtherProgram(String),
}

/// What lies where.
pub struct Placed {
    /// What the mesh said.
    pub joined: Joined,
    /// The authorities.
    pub ca: PathBuf,
    /// Key and certificate.
    pub identity: PathBuf,
}

/// Joins with `token` and writes the files into `dir`. `kind`: what this program runs as.
pub async fn enter(token: &Token, dir: &Path, kind: Kind) -> Result<Placed, PlaceError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| PlaceError::Io { path, source }
    };
    fs::create_dir_all(dir).map_err(io(dir))?;
    let ca = dir.join("ca.pem");
    if ca.exists() {
        return Err(PlaceError::Exists(ca));
    }
    let pending = dir.join("join.key");
    let key = match fs::read_to_string(&pending) {
        Ok(key) => key,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = new_key()?;
            files::write(&pending, key.as_bytes(), 0o600).map_err(io(&pending))?;
            key
        }
        Err(error) => return Err(io(&pending)(error)),
    };
    let joined = join(token, &key).await?;
    if joined.identity.kind != kind {
        return Err(PlaceError::OtherProgram(joined.identity.principal()));
    }
    let name = match kind {
        Kind::Control => format!("control-{}", joined.identity.name),
        Kind::Operator | Kind::Pop | Kind::Service => joined.identity.name.clone(),
    };
    let identity = dir.join(format!("{name}.pem"));
    files::write(&identity, joined.pem.as_bytes(), 0o600).map_err(io(&identity))?;
    // Last: with it, this machine has joined.
    files::write(&ca, joined.ca_pem.as_bytes(), 0o644).map_err(io(&ca))?;
    fs::remove_file(&pending).map_err(io(&pending))?;
    Ok(Placed { joined, ca, identity })
}

/// Writes the first configuration, unless there is one; whether it was written.
pub fn configure(path: &Path, text: &str) -> Result<bool, PlaceError> {
    if path.exists() {
        return Ok(false);
    }
    let failed = |source| PlaceError::Io { path: path.into(), source };
    files::write(path, text.as_bytes(), 0o644).map_err(failed)?;
    Ok(true)
}

/// The address of this machine that the mesh is reached from, without asking anybody.
pub fn own_address(members: &[proto::control::Member]) -> Option<std::net::IpAddr> {
    members.iter().find_map(|member| {
        let local = if member.address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = std::net::UdpSocket::bind(local).ok()?;
        // Connecting a UDP socket only looks at the routes.
        socket.connect(&member.address).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}
