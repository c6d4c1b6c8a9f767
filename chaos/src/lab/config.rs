//! The nodes' TOML files, written as an operator would write them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::pki::Files;
use super::{BMP_PORT, Routers};

#[derive(Serialize)]
struct Tls<'a> {
    ca: &'a Path,
    cert: &'a Path,
    key: &'a Path,
}

impl<'a> From<&'a Files> for Tls<'a> {
    fn from(files: &'a Files) -> Self {
        Self { ca: &files.ca, cert: &files.cert, key: &files.key }
    }
}

#[derive(Serialize)]
struct Admin {
    listen: SocketAddr,
}

/// One voter, as every control node's file lists it.
#[derive(Serialize, Debug, Clone)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    pub(super) region: String,
}

/// What a control node's file says.
#[derive(Debug)]
pub(super) struct Control<'a> {
    pub(super) id: u64,
    pub(super) region: &'a str,
    pub(super) mesh: &'a str,
    pub(super) data_dir: &'a Path,
    pub(super) api: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) members: &'a [Member],
    pub(super) tls: &'a Files,
}

impl Control<'_> {
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Node<'a> {
            id: u64,
            region: &'a str,
            mesh: &'a str,
            data_dir: &'a Path,
        }
        #[derive(Serialize)]
        struct Api {
            listen: SocketAddr,
        }
        #[derive(Serialize)]
        struct File<'a> {
            node: Node<'a>,
            api: Api,
            members: &'a [Member],
            tls: Tls<'a>,
            admin: Admin,
        }
        let node =
            Node { id: self.id, region: self.region, mesh: self.mesh, data_dir: self.data_dir };
        save(
            path,
            &File {
                node,
                api: Api { listen: self.api },
                members: self.members,
                tls: self.tls.into(),
                admin: Admin { listen: self.admin },
            },
        )
    }
}

/// What a POP's file says.
#[derive(Debug)]
pub(super) struct Pop<'a> {
    pub(super) id: &'a str,
    pub(super) region: &'a str,
    pub(super) mesh: &'a str,
    pub(super) data_dir: &'a Path,
    pub(super) sip: SocketAddr,
    pub(super) media: IpAddr,
    pub(super) overlay: Vec<SocketAddr>,
    pub(super) advertise: Vec<SocketAddr>,
    pub(super) control: &'a [SocketAddr],
    pub(super) admin: SocketAddr,
    pub(super) tls: &'a Files,
    pub(super) max_calls: u32,
    pub(super) opus_complexity: Option<u8>,
    pub(super) shared_media: bool,
    pub(super) media_threads: Option<u8>,
    pub(super) bgp: Option<&'a Routers>,
}

#[derive(Serialize)]
struct Media {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    opus_complexity: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u8>,
}

impl Pop<'_> {
    fn media(&self) -> Media {
        Media {
            address: self.media,
            opus_complexity: self.opus_complexity,
            ports: (!self.shared_media).then_some("20000-29999"),
            shared_port: self.shared_media.then_some(20_000),
            threads: self.media_threads,
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Identity<'a> {
            id: &'a str,
            region: &'a str,
            mesh: &'a str,
            data_dir: &'a Path,
        }
        #[derive(Serialize)]
        struct Sip {
            listen: [String; 2],
        }
        #[derive(Serialize)]
        struct Overlay<'a> {
            listen: &'a [SocketAddr],
            advertise: &'a [SocketAddr],
        }
        #[derive(Serialize)]
        struct Endpoints<'a> {
            endpoints: &'a [SocketAddr],
        }
        #[derive(Serialize)]
        struct Bgp<'a> {
            bmp_listen: SocketAddr,
            routers: &'a [IpAddr],
            upstreams: &'a [Vec<IpAddr>],
            rpki_caches: &'a [SocketAddr],
        }
        #[derive(Serialize)]
        struct Limits {
            max_calls: u32,
        }
        #[derive(Serialize)]
        struct File<'a> {
            pop: Identity<'a>,
            sip: Sip,
            media: Media,
            overlay: Overlay<'a>,
            control: Endpoints<'a>,
            tls: Tls<'a>,
            admin: Admin,
            #[serde(skip_serializing_if = "Option::is_none")]
            bgp: Option<Bgp<'a>>,
            limits: Limits,
        }
        let (id, region, mesh, data_dir) = (self.id, self.region, self.mesh, self.data_dir);
        save(
            path,
            &File {
                pop: Identity { id, region, mesh, data_dir },
                sip: Sip { listen: [format!("udp:{}", self.sip), format!("tcp:{}", self.sip)] },
                media: self.media(),
                overlay: Overlay { listen: &self.overlay, advertise: &self.advertise },
                control: Endpoints { endpoints: self.control },
                tls: self.tls.into(),
                admin: Admin { listen: self.admin },
                bgp: self.bgp.map(|bgp| Bgp {
                    bmp_listen: (self.sip.ip(), BMP_PORT).into(),
                    routers: &bgp.routers,
                    upstreams: &bgp.upstreams,
                    rpki_caches: &bgp.rpki_caches,
                }),
                limits: Limits { max_calls: self.max_calls },
            },
        )
    }
}

/// What `meshctl --config` reads.
pub(super) fn operator(path: &Path, endpoints: &[SocketAddr], tls: &Files) -> Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        endpoints: &'a [SocketAddr],
        ca: &'a Path,
        cert: &'a Path,
        key: &'a Path,
    }
    save(path, &File { endpoints, ca: &tls.ca, cert: &tls.cert, key: &tls.key })
}

fn save(path: &Path, file: &impl Serialize) -> Result<()> {
    let text = toml::to_string(file).context("a configuration cannot be written as TOML")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
