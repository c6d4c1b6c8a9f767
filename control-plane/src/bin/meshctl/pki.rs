//! `meshctl pki`

use anyhow::{Context, Result, bail};
use control_plane::config::TlsFiles;
use control_plane::pki::{self, Request};
use enroll::files;
use proto::identity::Kind;
use serde_json::json;

use crate::cli::{Connection, KindArg, Pki};
use crate::connect::Mesh;
use crate::table::Printer;

/// Replaces the operator's own files; the key is new too.
pub(crate) async fn renew(mesh: &Mesh, printer: &Printer) -> Result<()> {
    let mut failures = Vec::new();
    for (address, channel) in mesh.nodes() {
        let joined = match enroll::renew::renew(channel).await {
            Ok(joined) => joined,
            Err(error) => {
                failures.push(format!("{address} ({error})"));
                continue;
            }
        };
        let TlsFiles { cert, key, .. } = mesh.files();
        // Each holds both: whatever happens between the two writes, each is a pair in itself.
        for path in [key, cert] {
            files::write(path, joined.pem.as_bytes(), 0o600)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let uri = joined.identity.to_uri();
        let sentence = format!("{uri}: new key and certificate in {}", cert.display());
        return printer.done(&json!({ "identity": uri, "cert": cert, "key": key }), &sentence);
    }
    bail!("no control node renews it: {}: see that one has [ca]", failures.join(", "))
}

pub(crate) fn run(command: &Pki, connection: &Connection, printer: &Printer) -> Result<()> {
    match command {
        Pki::Init { mesh, out } => {
            let ca = pki::init(mesh, out)?;
            let sentence = format!(
                "authority of mesh \"{mesh}\": {} (give it to every node), and its ca.key beside \
                 (keep it offline)",
                ca.display()
            );
            printer.done(&json!({ "mesh": mesh, "ca": ca }), &sentence)
        }
        Pki::Issue { kind, name, region, ip, days, out, force } => {
            let ca = connection.ca.as_deref();
            let ca = ca.context("--ca is not given: name the directory of `meshctl pki init`")?;
            let kind = match kind {
                KindArg::Control => Kind::Control,
                KindArg::Operator => Kind::Operator,
                KindArg::Pop => Kind::Pop,
                KindArg::Service => Kind::Service,
            };
            let (name, region, ips) = (name.clone(), region.clone(), ip.clone());
            let request = Request { kind, name, region, ips, days: *days, force: *force };
            let issued = pki::issue(ca, &request, out)?;
            let document = json!({
                "identity": issued.identity.to_uri(),
                "cert": issued.cert,
                "key": issued.key,
            });
            let (uri, cert) = (issued.identity.to_uri(), issued.cert.display());
            let sentence = format!("{uri}: {cert}, {}, valid {days} days", issued.key.display());
            printer.done(&document, &sentence)
        }
        Pki::Renew => Ok(()), // Needs the mesh: `renew`.
    }
}
