//! Three control nodes with the settings an operator gets.

use std::fmt::Write as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::control::admin_client::AdminClient;
use proto::control::allocate_number_request::Which;
use proto::control::list_pops_response::Entry;
use proto::control::numbers_client::NumbersClient;
use proto::control::pops_client::PopsClient;
use proto::control::routing_client::RoutingClient;
use proto::control::watch_client::WatchClient;
use proto::control::{
    AllocateNumberRequest, BatchAllocateRequest, Block, GetNumberRequest, HeartbeatRequest,
    ImportBlocksRequest, ListPopsRequest, NumberPick, Pop, PutTrunkRequest, RegisterPopRequest,
    Shelf, StatusRequest, Trunk, WatchRequest, WriteOptions, change, resource, watch_response,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::bed::{Bed, POP, Spot, until};
use super::system::{Got, Session, System};

const API_PORT: u16 = 7000;
const ADMIN_PORT: u16 = 9090;
/// The API's limit for one batch of allocations.
const HOLD_AT_ONCE: u64 = 1_000;
/// How often a POP beats to each node.
const BEAT: Duration = Duration::from_millis(500);
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

impl Ours {
    /// Registers the POP.
    pub(super) async fn register(&self, node: usize) -> Result<u64> {
        let pop = Pop {
            pop_id: POP.into(),
            region: "eu".into(),
            overlay_address: "192.0.2.1:4433".into(),
            sip_addresses: vec!["udp:192.0.2.1:5060".into()],
            ..Pop::default()
        };
        let options = options(1 << 42);
        let request = RegisterPopRequest { options, pop: Some(pop) };
        let mut pops = PopsClient::new(self.0.pop_channel(node, API_PORT)?);
        let pop = pops.register(request).await?.into_inner().pop;
        Ok(pop.context("registered nothing")?.epoch)
    }

    /// The POP beats to one node, as often as a POP does, until it fails.
    pub(super) fn beat(&self, node: usize, epoch: u64) -> Result<impl Future<Output = ()> + use<>> {
        let mut pops = PopsClient::new(self.0.pop_channel(node, API_PORT)?);
        Ok(async move {
            loop {
                // A channel, because the connection goes on sending a stream whose call was dropped.
                let (beats, stream) = tokio::sync::mpsc::channel(4);
                let beat = HeartbeatRequest { pop_id: POP.into(), epoch, ..<_>::default() };
                let beating = async {
                    while beats.send(beat.clone()).await.is_ok() {
                        tokio::time::sleep(BEAT).await;
                    }
                };
                let call = pops.heartbeat(tokio_stream::wrappers::ReceiverStream::new(stream));
                let answering = async {
                    if let Ok(answers) = call.await {
                        let mut answers = answers.into_inner();
                        while matches!(answers.message().await, Ok(Some(_))) {}
                    }
                };
                tokio::select! {
                    () = beating => {}
                    () = answering => {}
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }
}

impl OurSession {
    /// Whether the POP is alive, as all acknowledged writes and this node's ears say.
    pub(super) async fn pop_alive(&self) -> Result<bool, Status> {
        let pops = self.pops.clone().list(ListPopsRequest::default()).await?.into_inner().pops;
        let of_pop = |entry: &&Entry| entry.pop.as_ref().is_some_and(|pop| pop.pop_id == POP);
        Ok(pops.iter().find(of_pop).is_some_and(|entry| entry.alive))
    }

    /// Whether the POP's beats reach the node asked.
    pub(super) async fn pop_heard(&self) -> Result<bool, Status> {
        let pops = self.pops.clone().list(ListPopsRequest::default()).await?.into_inner().pops;
        let of_pop = |entry: &&Entry| entry.pop.as_ref().is_some_and(|pop| pop.pop_id == POP);
        Ok(pops.iter().find(of_pop).is_some_and(|entry| entry.silent_ms.is_some()))
    }

    /// Watches until an event says that the POP expired.
    pub(super) async fn pop_expires(&self) -> Result<(), Status> {
        let mut events = self.watch.clone().watch(WatchRequest::default()).await?.into_inner();
        while let Some(answer) = events.message().await? {
            let Some(watch_response::Kind::Event(event)) = answer.kind else { continue };
            for change in event.changes {
                let Some(change::Kind::Put(resource)) = change.kind else { continue };
                if matches!(resource.kind, Some(resource::Kind::Pop(pop)) if pop.expired) {
                    return Ok(());
                }
            }
        }
        Err(Status::unavailable("the watch ended"))
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
    watch: WatchClient<Channel>,
    pops: PopsClient<Channel>,
}

impl OurSession {
    fn new(channel: Channel) -> Self {
        let routing = RoutingClient::new(channel.clone());
        let watch = WatchClient::new(channel.clone());
        let pops = PopsClient::new(channel.clone());
        Self { routing, numbers: NumbersClient::new(channel), watch, pops }
    }

    /// Imports a pool as blocks of this size.
    pub(super) async fn import(&self, pool: u64, numbers: u64, block: u64) -> Result<()> {
        let shelf = Shelf { pool: format!("pool-{pool}"), ..Shelf::default() };
        let starts = (0..numbers.div_ceil(block)).map(|n| n * block);
        let blocks = starts.map(|from| Block {
            first: e164(pool, from),
            count: block.min(numbers - from),
            shelf: Some(shelf.clone()),
            ..Block::default()
        });
        let blocks: Vec<Block> = blocks.collect();
        let options = options((1 << 40) + pool);
        self.numbers.clone().import_blocks(ImportBlocksRequest { options, blocks }).await?;
        Ok(())
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
    Some(WriteOptions {
        request_id: format!("bench-{}-{unique}", std::process::id()),
        ..<_>::default()
    })
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
        self.import(pool, numbers, numbers).await
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

    async fn hold(&self, from: u64, to: u64) -> Result<()> {
        let mut next = from;
        while next < to {
            let count = u32::try_from((to - next).min(HOLD_AT_ONCE))?;
            let shelf = Some(Shelf { pool: "pool-8".into(), ..Shelf::default() });
            let request = BatchAllocateRequest {
                options: options((1 << 41) + next),
                tenant: "acme".into(),
                pick: Some(NumberPick { shelf, count, ..NumberPick::default() }),
                ..BatchAllocateRequest::default()
            };
            let held = self.numbers.clone().batch_allocate(request).await?.into_inner().numbers;
            ensure!(held.len() == usize::try_from(count)?, "{} numbers held", held.len());
            next += u64::from(count);
        }
        Ok(())
    }

    async fn watch(&self, seen: impl Fn(u64) + Send + Sync) -> Result<(), Status> {
        let mut events = self.watch.clone().watch(WatchRequest::default()).await?.into_inner();
        while let Some(answer) = events.message().await? {
            let Some(watch_response::Kind::Event(event)) = answer.kind else { continue };
            for change in event.changes {
                let Some(change::Kind::Put(resource)) = change.kind else { continue };
                let Some(resource::Kind::Trunk(trunk)) = resource.kind else { continue };
                let key = trunk.trunk_id.strip_prefix("carrier-");
                if let Some(key) = key.and_then(|key| key.parse().ok()) {
                    seen(key);
                }
            }
        }
        Err(Status::unavailable("the watch ended"))
    }
}
