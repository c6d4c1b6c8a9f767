//! `meshctl pki`

use anyhow::{Context, Result};
use control_plane::pki::{self, Request};
use proto::identity::Kind;
use serde_json::json;

use crate::cli::{Connection, KindArg, Pki};
use crate::table::Printer;

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
    }
}
