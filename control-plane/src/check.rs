//! What can only be known by touching the machine: `control-plane check`, and the start itself.
//!
//! It binds each listening address for a moment, so it calls the port of a running node taken.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::SystemTime;

use crate::config::Config;
use crate::dns::{Bound, DnsConfig};
use crate::pki::Authority;
use crate::problem::Problem;
use crate::tls::Credentials;

/// Everything that keeps this node from starting.
pub fn check(config: &Config, now: SystemTime) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(credentials(config, now).err());
    problems.extend(authority(config).err());
    problems.extend(data_dir(&config.node.data_dir).err());
    if let Some(ca) = &config.ca {
        problems.extend(listen("ca.listen", ca.listen).err());
    }
    problems.extend(listen("api.listen", config.api).err());
    problems.extend(listen("admin.listen", config.admin).err());
    problems.extend(config.dns.as_ref().and_then(|config| dns(config).err()));
    problems
}

/// The node's certificate, if it may use it now.
pub fn credentials(config: &Config, now: SystemTime) -> Result<Credentials, Problem> {
    let credentials = Credentials::load(&config.tls)?;
    credentials.check_for(config, now)?;
    Ok(credentials)
}

/// The mesh's authority, on a node that has it.
pub fn authority(config: &Config) -> Result<Option<Authority>, Problem> {
    let Some(ca) = &config.ca else { return Ok(None) };
    let authority = Authority::load(&config.tls.ca, &ca.key)?;
    if authority.mesh() == config.node.mesh {
        return Ok(Some(authority));
    }
    let what = format!("is of mesh \"{}\", this is \"{}\"", authority.mesh(), config.node.mesh);
    Err(Problem::new("ca.key", what, "give the key of this mesh's authority"))
}

/// Makes the directory and proves that files can be written there. That a disk is full is no
/// fault of the configuration: a node that holds data begins all the same, and heals by itself.
pub fn data_dir(dir: &Path) -> Result<(), Problem> {
    let probe = dir.join("writable.probe");
    let written = fs::create_dir_all(dir).and_then(|()| fs::write(&probe, b"x"));
    // What was made of it goes away whatever came of it.
    let removed = fs::remove_file(&probe);
    let written = match written {
        Err(error) if is_full(&error) && dir.is_dir() => {
            tracing::warn!(dir = %dir.display(), "the disk is full: growth is refused until it heals");
            return Ok(());
        }
        written => written.and(removed),
    };
    written.map_err(|error| {
        let what = format!("{} is not writable ({error})", dir.display());
        let fix = "create it and give it to the user that runs control-plane";
        Problem::new("node.data_dir", what, fix)
    })
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Listens on an address.
pub fn listen(field: &str, address: SocketAddr) -> Result<TcpListener, Problem> {
    let listener = TcpListener::bind(address);
    let listener = listener.and_then(|l| l.set_nonblocking(true).map(|()| l));
    listener.map_err(|error| unusable(field, address, &error))
}

/// The sockets DNS is served on.
pub fn dns(config: &DnsConfig) -> Result<Bound, Problem> {
    let udp = |address: SocketAddr| {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true).map(|()| socket)
    };
    let both = |address: &SocketAddr| {
        let tcp = listen("dns.listen", *address)?;
        let udp = udp(*address).map_err(|error| unusable("dns.listen", *address, &error))?;
        Ok((udp, tcp))
    };
    config.listen.iter().map(both).collect::<Result<_, _>>().map(Bound)
}

fn unusable(field: &str, address: SocketAddr, error: &io::Error) -> Problem {
    let (what, fix) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            ("is taken", "stop what listens there (`ss -ltnp` names it) or choose another port")
        }
        io::ErrorKind::AddrNotAvailable => {
            ("is no address of this machine", "choose one that `ip address` shows")
        }
        io::ErrorKind::PermissionDenied => {
            ("is not allowed to this user", "choose a port above 1023")
        }
        _ => return Problem::new(field, format!("{address} cannot be used ({error})"), FIX),
    };
    Problem::new(field, format!("{address} {what}"), fix)
}

const FIX: &str = "choose another address";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = listen("api.listen", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let said = listen("api.listen", address).unwrap_err().to_string();
        assert!(said.starts_with(&format!("api.listen {address} is taken: stop what")), "{said}");
        let said = listen("api.listen", "192.0.2.1:7000".parse().unwrap()).unwrap_err().to_string();
        assert!(said.contains("is no address of this machine"), "{said}");
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        data_dir(&dir.path().join("new/deep")).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let said = data_dir(&file.join("below")).unwrap_err().to_string();
        assert!(said.starts_with("node.data_dir ") && said.contains("is not writable"), "{said}");
    }
}
