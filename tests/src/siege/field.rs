//! Network namespaces: one a node, one for the clients, a bridge between them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Tells the inner process the name of its field.
pub(super) const VARIABLE: &str = "VOXMESH_FIELD";
/// Nodes.
pub(super) const NODES: usize = 3;

/// The namespaces of a run. The one that built them removes them.
pub(super) struct Field {
    name: String,
    built: bool,
}

impl Field {
    /// Makes namespaces and links.
    pub(super) fn build() -> Result<Self> {
        let field = Self { name: format!("siege{}", std::process::id()), built: true };
        let hub = field.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "address", "add", "10.77.0.254/24", "dev", "br0"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        for node in 0..NODES {
            let (namespace, port) = (field.namespace(node), port(node));
            ip(&["netns", "add", &namespace])?;
            let pair = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
            ip(&[&["-n", &hub, "link", "add", &port][..], &pair].concat())?;
            ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            let net = format!("{}/24", address(node));
            ip(&["-n", &namespace, "address", "add", &net, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        }
        Ok(field)
    }

    /// The one this process was started in.
    pub(super) fn entered() -> Option<Self> {
        std::env::var(VARIABLE).ok().map(|name| Self { name, built: false })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the clients and the bridge are.
    pub(super) fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// Where a node is.
    pub(super) fn namespace(&self, node: usize) -> String {
        format!("{}-{}", self.name, node + 1)
    }

    /// The cable of a node: in or out.
    pub(super) fn plug(&self, node: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&["-n", &self.hub(), "link", "set", &port(node), state])
    }

    /// Whether `to` gets what `from` sends: a false hardware address makes it vanish silently.
    pub(super) fn hears(&self, from: usize, to: usize, hears: bool) -> Result<()> {
        let (namespace, to) = (self.namespace(from), address(to));
        let change: &[&str] = if hears {
            // Flushed, not deleted: a link that went down meanwhile has forgotten it already.
            &["flush", "to", &to, "dev", "eth0", "nud", "permanent"]
        } else {
            &["replace", &to, "dev", "eth0", "lladdr", "02:00:00:00:00:ff", "nud", "permanent"]
        };
        ip(&[&["-n", &namespace, "neigh"][..], change].concat())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if self.built {
            for name in (0..NODES).map(|node| self.namespace(node)).chain([self.hub()]) {
                // What is not there need not go.
                let _gone = ip(&["netns", "del", &name]);
            }
        }
    }
}

/// Address of a node.
pub(super) fn address(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

fn port(node: usize) -> String {
    format!("node{}", node + 1)
}

/// A disk of this size. It goes with the mount namespace of this process.
pub(super) fn small_disk(at: &Path, mib: u32) -> Result<()> {
    std::fs::create_dir_all(at).with_context(|| format!("cannot make {}", at.display()))?;
    let size = format!("size={mib}m");
    tool("mount", &["-t", "tmpfs", "-o", &size, "siege", &at.display().to_string()])
}

/// Undoes it.
pub(super) fn unmount(at: &Path) {
    // What is left goes with the namespace.
    let _gone = tool("umount", &["-l", &at.display().to_string()]);
}

fn ip(args: &[&str]) -> Result<()> {
    tool("ip", args)
}

fn tool(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {program}: is it installed?"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", args.join(" "), error.trim());
    Ok(())
}
