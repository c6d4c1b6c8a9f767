//! Three control nodes with the settings an operator gets.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::control::admin_client::AdminClient;
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::routing_client::RoutingClient;
use proto::control::{
    AllocateNumberRequest, GetNumberRequest, ImportNumbersRequest, PutTrunkRequest, StatusRequest,
    Trunk, WriteOptions,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::bed::{Bed, Spot, until};
use super::system::{Got, Session, System};

const API_PORT: u16 = 7000;
const ADMIN_PORT: u16 = 9090;
/// The API's limit for one import.
const FILL_AT_ONCE: u64 = 10_000;
/// Numbers a pool has room for.
const POOL: u64 = 10_000_000;

pub(super) struct Ours(Bed);

impl Ours {
    pub(super) async fn start(spots: Vec<Spot>) -> Result<Self> {
        Self::launch(Bed::new("voxmesh-", spots)?).await
    }

    /// Each node on a file system of its own.
    pub(super) async fn start_on_disks(spots: Vec<Spot>) -> Result<Self> {
        Self::launch(Bed::new("voxmesh-", spots)?.with_disks()?).await
    }

    async fn launch(mut bed: Bed) -> Result<Self> {
        let program = chaos::lab::bin_dir()?.join("control-plane");
        for index in 0..bed.spots.len() {
            let file = configuration(&bed, index)?;
            let args = vec!["--config".into(), file.display().to_string()];
            bed.start(&program, args, &[("RUST_LOG", "warn")])?;
        }
        let mut ours = Self(bed);
        ours.0.check()?;
        until("our first election", Duration::from_secs(20), async || ours.leader().await).await?;
        ours.0.check()?;
        Ok(ours)
    }
}

fn configuration(bed: &Bed, index: usize) -> Result<PathBuf> {
    let spot = bed.spots.get(index).context("no such spot")?;
    let certs = bed.certs.get(index).context("no such certificate")?;
    let dir = bed.data(index);
    let show = |path: &Path| path.display().to_string();
    // Clients and members may come by different networks.
    let listen = if spot.client == spot.peer { spot.client.to_string() } else { "0.0.0.0".into() };
    let mut text = format!(
        "[node]\nid = {}\nregion = \"eu\"\nmesh = \"bench\"\ndata_dir = \"{}\"\n\
         [api]\nlisten = \"{listen}:{API_PORT}\"\n\
         [admin]\nlisten = \"{listen}:{ADMIN_PORT}\"\n\
         [tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        index + 1,
        show(&dir),
        show(&certs.ca),
        show(&certs.cert),
        show(&certs.key),
    );
    for (other, spot) in bed.spots.iter().enumerate() {
        let _ = writeln!(
            text,
            "[[members]]\nid = {}\naddress = \"{}:{API_PORT}\"\nregion = \"eu\"",
            other + 1,
            spot.peer
        );
    }
    let file = bed.path().join(format!("node-{index}.toml"));
    std::fs::write(&file, text)?;
    Ok(file)
}

impl System for Ours {
    type Session = OurSession;
    const NAME: &'static str = "ours";

    fn bed(&self) -> &Bed {
        &self.0
    }

    fn bed_mut(&mut self) -> &mut Bed {
        &mut self.0
    }

    fn session(&self, node: usize) -> Result<OurSession> {
        Ok(OurSession::new(self.0.channel(node, API_PORT)?))
    }

    async fn leader(&self) -> Result<usize> {
        let mut leaders = Vec::new();
        for node in 0..self.0.spots.len() {
            let mut client = AdminClient::new(self.0.channel(node, API_PORT)?);
            let answer =
                tokio::time::timeout(Duration::from_secs(2), client.status(StatusRequest {}));
            leaders.push(answer.await??.into_inner().leader_id);
        }
        leaders.dedup();
        let [leader] = leaders.as_slice() else { anyhow::bail!("nodes differ about the leader") };
        usize::try_from(*leader)?.checked_sub(1).context("no leader")
    }
}

#[derive(Clone)]
pub(super) struct OurSession {
    routing: RoutingClient<Channel>,
    numbers: NumbersClient<Channel>,
}

impl OurSession {
    fn new(channel: Channel) -> Self {
        let routing = RoutingClient::new(channel.clone());
        Self { routing, numbers: NumbersClient::new(channel) }
    }

    async fn allocate(&self, which: Which, unique: u64) -> Result<u64, Status> {
        let request = AllocateNumberRequest {
            options: options(unique),
            tenant: "acme".into(),
            which: Some(which),
            ..AllocateNumberRequest::default()
        };
        let answer = self.numbers.clone().allocate(request).await?.into_inner();
        let number = answer.number.ok_or_else(|| Status::internal("no number"))?;
        let digits = number.e164.strip_prefix("+4930").and_then(|digits| digits.parse().ok());
        digits.ok_or_else(|| Status::internal("a number of no pool"))
    }
}

/// Each process of the benchmark has its own request ids.
fn options(unique: u64) -> Option<WriteOptions> {
    Some(WriteOptions { request_id: format!("bench-{}-{unique}", std::process::id()) })
}

fn e164(pool: u64, number: u64) -> String {
    format!("+4930{:08}", (pool + 1) * POOL + number)
}

/// About 128 bytes, as etcd's value.
fn trunk(key: u64) -> Trunk {
    static PORT: AtomicU64 = AtomicU64::new(0);
    let port = PORT.fetch_add(1, Ordering::Relaxed) % 60_000;
    Trunk {
        trunk_id: format!("carrier-{key:08}"),
        pop_ids: vec!["fra1".into(), "iad1".into()],
        host: "sbc-of-a-carrier-somewhere-in-europe.example.net".into(),
        port: 1 + u32::try_from(port).unwrap_or_default(),
        sources: vec!["192.0.2.10".into(), "198.51.100.0/24".into()],
        codecs: vec!["opus".into(), "PCMA".into()],
        ..Trunk::default()
    }
}

impl Session for OurSession {
    async fn write(&self, key: u64, unique: u64) -> Result<(), Status> {
        let request = PutTrunkRequest { options: options(unique), trunk: Some(trunk(key)) };
        self.routing.clone().put_trunk(request).await.map(|_| ())
    }

    async fn read(&self, key: u64) -> Result<(), Status> {
        let request = GetNumberRequest { e164: e164(0, key), ..<_>::default() };
        match self.numbers.clone().get(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(status),
        }
    }

    async fn fill(&self, pool: u64, numbers: u64) -> Result<()> {
        ensure!(numbers <= POOL, "the pool is too small");
        let mut from = 0;
        while from < numbers {
            let to = numbers.min(from + FILL_AT_ONCE);
            let request = ImportNumbersRequest {
                options: options((1 << 40) + pool * POOL + from),
                pool: format!("pool-{pool}"),
                e164: (from..to).map(|number| e164(pool, number)).collect(),
                ..ImportNumbersRequest::default()
            };
            self.numbers.clone().import(request).await?;
            from = to;
        }
        Ok(())
    }

    async fn any(&self, pool: u64, unique: u64) -> Result<Got, Status> {
        let number = self.allocate(Which::AnyOfPool(format!("pool-{pool}")), unique).await?;
        Ok(Got { number, attempts: 1 })
    }

    async fn given(&self, pool: u64, number: u64, unique: u64) -> Result<bool, Status> {
        match self.allocate(Which::E164(e164(pool, number)), unique).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(status),
        }
    }
}
