//! An authority for the first day: makes a mesh's CA and issues certificates from it.
//!
//! The mesh's name is the CA's organisation, so that issuing needs no further argument. Keys are
//! ECDSA P-256, files of keys are readable by their owner only. Existing files are never replaced
//! unless asked. Does not revoke: issue short-lived certificates, or bring an own CA.

mod authority;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enroll::files;
use proto::identity::{Identity, Kind};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::problem::Problem;

pub use authority::{Authority, Requested, SignError};

/// How long an authority is valid.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Validity begins this much before now: clocks of a fleet differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// Default validity of a leaf, in days.
pub const LEAF_DAYS: u32 = 397;

/// Whom to issue a certificate to.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// POP id, node id, or operator's name.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Addresses for clients that verify those instead of our names.
    pub ips: Vec<IpAddr>,
    /// Days of validity.
    pub days: u32,
    /// Replace existing files.
    pub force: bool,
}

impl Default for Request {
    fn default() -> Self {
        let (name, region) = (String::new(), String::new());
        Self { kind: Kind::Pop, name, region, ips: Vec::new(), days: LEAF_DAYS, force: false }
    }
}

/// Where an issued certificate went.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Whom it names.
    pub identity: Identity,
    /// Certificate.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Makes the authority of a mesh: `ca.pem` and `ca.key` in `dir`.
pub fn init(mesh: &str, dir: &Path) -> Result<PathBuf, Problem> {
    Identity::new(mesh, "x", Kind::Operator, "x").map_err(|error| {
        Problem::new("--mesh", format!("{error}"), "choose a name like \"demo\"")
    })?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, mesh);
    params.distinguished_name.push(DnType::CommonName, format!("{mesh} mesh authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_VALIDITY);
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    create_dir(dir)?;
    let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    refuse_existing(
        &[&cert_path, &key_path],
        "choose another --out, an authority is not replaced",
    )?;
    write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
    write(&cert_path, cert.pem().as_bytes(), 0o644)?;
    Ok(cert_path)
}

/// Issues a certificate from the authority in `ca`, into `out`, with a copy of `ca.pem`.
pub fn issue(ca: &Path, request: &Request, out: &Path) -> Result<Issued, Problem> {
    let (ca_pem, issuer) = authority(ca)?;
    let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap_or(Vec::new().into());
    let mesh = mesh_of(&der)?;
    let identity =
        Identity::new(&mesh, &request.region, request.kind, &request.name).map_err(|error| {
            let what = format!("\"{}\" or --region \"{}\": {error}", request.name, request.region);
            Problem::new("--name", what, "use names such as \"fra1\" and \"eu\"")
        })?;
    if request.kind == Kind::Control && !request.name.parse::<u64>().is_ok_and(|id| id > 0) {
        let what = format!("is \"{}\"", request.name);
        return Err(Problem::new(
            "--name",
            what,
            "a control node's name is its node.id, 1 or more",
        ));
    }
    let stem = stem(request)?;
    create_dir(out)?;
    let (cert_path, key_path) = (out.join(format!("{stem}.pem")), out.join(format!("{stem}.key")));
    if !request.force {
        refuse_existing(
            &[&cert_path, &key_path],
            "choose another --out, or --force to replace it",
        )?;
    }
    let key = KeyPair::generate().map_err(failed)?;
    let params = leaf_params(&identity, &request.ips, request.days).map_err(failed)?;
    let cert = params.signed_by(&key, &issuer).map_err(failed)?;
    write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
    write(&cert_path, cert.pem().as_bytes(), 0o644)?;
    let ca_copy = out.join("ca.pem");
    if !ca_copy.exists() {
        write(&ca_copy, ca_pem.as_bytes(), 0o644)?;
    }
    Ok(Issued { identity, cert: cert_path, key: key_path })
}

/// Name of the files, without extension. Those of the authority and of control nodes are theirs.
fn stem(request: &Request) -> Result<String, Problem> {
    let name = &request.name;
    match request.kind {
        Kind::Control => Ok(format!("control-{name}")),
        Kind::Operator | Kind::Pop | Kind::Service
            if name == "ca" || name.starts_with("control-") =>
        {
            let what = format!("is \"{name}\", and other files have such names");
            Err(Problem::new("--name", what, "choose one but \"ca\" and \"control-…\""))
        }
        Kind::Operator | Kind::Pop | Kind::Service => Ok(name.clone()),
    }
}

fn leaf_params(
    identity: &Identity,
    ips: &[IpAddr],
    days: u32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(identity.dns_names())?;
    params.distinguished_name.push(DnType::CommonName, identity.principal());
    params.subject_alt_names.push(SanType::URI(identity.to_uri().try_into()?));
    params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, Duration::from_secs(u64::from(days) * 86_400));
    Ok(params)
}

fn validity(params: &mut CertificateParams, length: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Duration::from_secs(now.as_secs());
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATE);
    params.not_after = date_time_ymd(1970, 1, 1) + now.saturating_add(length);
}

fn authority(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>), Problem> {
    let fix = "give --ca the directory that `meshctl pki init` wrote";
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|error| {
            Problem::new("--ca", format!("{} cannot be read ({error})", path.display()), fix)
        })
    };
    let (cert, key) = (read("ca.pem")?, read("ca.key")?);
    let unusable = |error: rcgen::Error| {
        Problem::new("--ca", format!("{} holds no authority ({error})", dir.display()), fix)
    };
    let key = KeyPair::from_pem(&key).map_err(unusable)?;
    let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(unusable)?;
    Ok((cert, issuer))
}

fn mesh_of(der: &CertificateDer<'_>) -> Result<String, Problem> {
    let certificate = X509Certificate::from_der(der).ok();
    let mesh = certificate.and_then(|(_, certificate)| {
        let name = certificate.subject().iter_organization().next()?;
        name.as_str().ok().map(str::to_owned)
    });
    mesh.ok_or_else(|| {
        let what = "ca.pem names no mesh (its subject has no organisation)";
        Problem::new("--ca", what, "make the authority with `meshctl pki init`")
    })
}

fn create_dir(dir: &Path) -> Result<(), Problem> {
    fs::create_dir_all(dir).map_err(|error| {
        let what = format!("{} cannot be made ({error})", dir.display());
        Problem::new("--out", what, "choose a directory you may write")
    })
}

fn refuse_existing(paths: &[&Path], fix: &str) -> Result<(), Problem> {
    match paths.iter().find(|path| path.exists()) {
        None => Ok(()),
        Some(path) => Err(Problem::new("--out", format!("{} exists", path.display()), fix)),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Problem> {
    files::write(path, bytes, mode).map_err(|error| {
        let what = format!("{} cannot be written ({error})", path.display());
        Problem::new("--out", what, "choose a directory you may write")
    })
}

fn failed(error: rcgen::Error) -> Problem {
    Problem::new("certificate", format!("cannot be made ({error})"), "report this with its input")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_named_after_their_owner_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
        init("demo", &ca).unwrap();
        let request = Request { kind: Kind::Control, name: "1".into(), ..Request::default() };
        let request = Request { region: "eu".into(), ..request };
        let issued = issue(&ca, &request, &out).unwrap();
        assert_eq!(issued.cert, out.join("control-1.pem"));
        assert_eq!(issued.identity.mesh, "demo");
        assert!(out.join("ca.pem").exists() && !out.join("ca.key").exists());
        for key in [issued.key.clone(), ca.join("ca.key")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let said = issue(&ca, &request, &out).unwrap_err().to_string();
        assert!(said.contains("exists") && said.contains("--force"), "{said}");
        issue(&ca, &Request { force: true, ..request }, &out).unwrap();
    }

    #[test]
    fn an_authority_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        init("demo", dir.path()).unwrap();
        assert!(init("demo", dir.path()).unwrap_err().to_string().contains("ca.pem exists"));
    }

    #[test]
    fn bad_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(init("De mo", dir.path()).is_err());
        init("demo", dir.path()).unwrap();
        let request = Request { region: "eu".into(), ..Request::default() };
        let bad = [
            (Kind::Pop, "FRA"),
            (Kind::Pop, "ca"),
            (Kind::Operator, "ca"),
            (Kind::Operator, "control-1"),
            (Kind::Control, "one"),
            (Kind::Control, "0"),
        ];
        for (kind, name) in bad {
            let request = Request { kind, name: name.into(), force: true, ..request.clone() };
            let said = issue(dir.path(), &request, dir.path()).unwrap_err().to_string();
            assert!(said.starts_with("--name "), "{said}");
        }
        let said = issue(Path::new("/nowhere"), &request, dir.path()).unwrap_err().to_string();
        assert!(said.starts_with("--ca /nowhere/ca.pem cannot be read"), "{said}");
    }
}
