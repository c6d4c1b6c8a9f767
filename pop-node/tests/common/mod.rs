//! A mesh's certificates in a temporary directory, and configurations that use them.
#![allow(dead_code, reason = "each test crate uses its part")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pop_node::config::Config;
use pop_node::tls::Credentials;
use proto::identity::{Identity, Kind};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};

/// A certificate authority of one mesh.
pub(crate) struct Authority {
    pub(crate) directory: tempfile::TempDir,
    mesh: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(mesh: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, mesh: mesh.to_owned(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `FILE.pem` and `FILE.key` for a POP; `days` from now it begins and ends.
    pub(crate) fn issue(&self, file: &str, pop: &str, days: (i64, i64)) {
        let identity = Identity::new(&self.mesh, "eu", Kind::Pop, pop).unwrap();
        self.issue_identity(file, &identity, days);
    }

    pub(crate) fn issue_identity(
        &self,
        file: &str,
        identity: &Identity,
        (from, until): (i64, i64),
    ) {
        let mut params = CertificateParams::new(identity.dns_names()).unwrap();
        params.subject_alt_names.push(SanType::URI(identity.to_uri().try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let today = rcgen::date_time_ymd(1970, 1, 1) + now;
        let shift = |days: i64| {
            let length = Duration::from_secs(days.unsigned_abs() * 86_400);
            if days < 0 { today - length } else { today + length }
        };
        (params.not_before, params.not_after) = (shift(from), shift(until));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A configuration for `pop` on `ip` with the certificate `FILE.pem`.
    pub(crate) fn toml(&self, file: &str, pop: &str, ip: &str) -> String {
        let directory = self.directory.path().display();
        format!(
            "[pop]\nid = \"{pop}\"\nregion = \"eu\"\nmesh = \"{mesh}\"\n\
             data_dir = \"{directory}/data-{pop}\"\n\
             [sip]\nlisten = [\"udp:{ip}:5060\", \"tcp:{ip}:5060\"]\n\
             [media]\naddress = \"{ip}\"\nports = \"20000-29999\"\n\
             [overlay]\nlisten = \"{ip}:4433\"\n\
             [control]\nendpoints = [\"{ip}:7000\"]\n\
             [tls]\nca = \"{directory}/ca.pem\"\ncert = \"{directory}/{file}.pem\"\n\
             key = \"{directory}/{file}.key\"\n\
             [admin]\nlisten = \"{ip}:9090\"\n",
            mesh = self.mesh,
        )
    }

    pub(crate) fn config(&self, file: &str, pop: &str, ip: &str) -> Config {
        Config::parse(&self.toml(file, pop, ip), Path::new("pop.toml")).unwrap()
    }

    /// Valid credentials of a POP.
    pub(crate) fn credentials(&self, pop: &str) -> Credentials {
        self.issue(pop, pop, (-1, 30));
        let config = self.config(pop, pop, "127.0.0.1");
        Credentials::load(&config, SystemTime::now()).unwrap()
    }
}

/// A port pair on `ip` that is free now: even, and the next.
pub(crate) fn free_pair(ip: IpAddr) -> SocketAddr {
    free_pairs(ip, 1)
}

/// The first of so many pairs, one after the other.
pub(crate) fn free_pairs(ip: IpAddr, pairs: u16) -> SocketAddr {
    for port in (30_000..60_000).step_by(2) {
        if (port..port + 2 * pairs).all(|port| UdpSocket::bind((ip, port)).is_ok()) {
            return SocketAddr::new(ip, port);
        }
    }
    panic!("no free ports on {ip}");
}
