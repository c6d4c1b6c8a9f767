//! StayRTR on loopback: an RPKI cache that tells what a file says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chaos::lab::process::Process;
use serde_json::json;

/// Beside the routers, at the address of the POP's own.
const PORT: u16 = 8282;
const METRICS_PORT: u16 = 9847;

/// A cache.
pub struct Cache {
    file: PathBuf,
    _process: Process,
}

/// Where it listens, apart from other tests on this machine.
pub fn address() -> SocketAddr {
    (super::bgp::address(0), PORT).into()
}

impl Cache {
    /// Starts it: these ASes may announce these prefixes.
    pub fn start(dir: &Path, allowed: &[(&str, u32)]) -> Result<Self> {
        let dir = dir.join("rpki");
        std::fs::create_dir_all(&dir).context("no directory for the RPKI cache")?;
        let file = dir.join("vrps.json");
        save(&file, allowed)?;
        let pairs = [
            ("-bind", address().to_string()),
            ("-cache", file.display().to_string()),
            ("-checktime", "false".to_owned()),
            ("-metrics.addr", format!("{}:{METRICS_PORT}", address().ip())),
            ("-refresh", "1".to_owned()),
        ];
        let value = |(key, value): (&str, String)| format!("{key}={value}");
        let args = pairs.into_iter().map(value).collect();
        let process = super::start(&dir, "stayrtr", "stayrtr", args)?;
        Ok(Self { file, _process: process })
    }

    /// From now on these: it looks each second, and tells whoever is connected.
    pub fn allow(&self, allowed: &[(&str, u32)]) -> Result<()> {
        save(&self.file, allowed)
    }
}

fn save(file: &Path, allowed: &[(&str, u32)]) -> Result<()> {
    let roas = allowed.iter().map(|(prefix, asn)| {
        let bits = prefix.split_once('/').and_then(|(_, bits)| bits.parse::<u8>().ok());
        json!({ "prefix": prefix, "maxLength": bits, "asn": format!("AS{asn}"), "ta": "test" })
    });
    let all = json!({ "metadata": {}, "roas": roas.collect::<Vec<_>>() }).to_string();
    // At once: half a file is none.
    let part = file.with_extension("part");
    std::fs::write(&part, all).context("cannot write the RPKI cache's file")?;
    std::fs::rename(&part, file).context("cannot replace the RPKI cache's file")
}
