//! Certificates for one run: an own authority, made now, gone with the directory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proto::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority with its directory.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a node finds what it proves itself with.
#[derive(Debug, Clone)]
pub struct Files {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// The node's private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority and writes `ca.pem` into `dir`. Its key never touches the disk.
    pub fn new(mesh: &str, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{mesh} lab authority"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("no key for the authority")?;
        let cert = params.self_signed(&key).context("no certificate for the authority")?;
        write(&dir.join("ca.pem"), cert.pem().as_bytes(), 0o644)?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Makes key and certificate of one identity and writes them as `STEM.pem`, `STEM.key`.
    /// `ips`: addresses it may be dialed by.
    pub fn issue(
        &self,
        identity: &Identity,
        stem: &str,
        ips: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Files> {
        let mut params = CertificateParams::new(identity.dns_names())
            .with_context(|| format!("no certificate for {stem}"))?;
        params.distinguished_name.push(DnType::CommonName, identity.principal());
        let uri = identity.to_uri().try_into().context("the identity is no URI")?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.subject_alt_names.extend(ips.into_iter().map(SanType::IpAddress));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().with_context(|| format!("no key for {stem}"))?;
        let cert = params.signed_by(&key, &self.issuer).context("signing failed")?;
        let files = self.files(stem);
        write(&files.cert, cert.pem().as_bytes(), 0o644)?;
        write(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
        Ok(files)
    }

    /// The file names of one identity.
    pub fn files(&self, stem: &str) -> Files {
        Files {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{stem}.pem")),
            key: self.dir.join(format!("{stem}.key")),
        }
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}
