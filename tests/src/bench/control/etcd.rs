//! The peer: three nodes of Debian's etcd, default settings but for mutual TLS.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::Status;
use tonic::transport::Channel;

use super::bed::{Bed, Spot, until};
use super::system::{Got, Session, System};

#[allow(
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub(super) mod api {
    tonic::include_proto!("etcdserverpb");
}

use api::kv_client::KvClient;
use api::lease_client::LeaseClient;
use api::maintenance_client::MaintenanceClient;
use api::watch_client::WatchClient;
use api::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest,
    RangeRequest, RequestOp, StatusRequest, TxnRequest, WatchCreateRequest, WatchRequest, compare,
    event, request_op, watch_request,
};

const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// A client looks at so many neighbours somewhere in the pool and takes a free one at random. This
/// is kind: a range over the whole pool costs etcd a walk over all its keys, whatever the limit,
/// and clients that all want the lowest number need tens of attempts.
const LOOK_AT: u64 = 64;
/// Windows that may hold no free number before the pool counts as empty.
const LOOKS: u32 = 200;
/// Numbers of a pool, more than are taken while it is measured.
pub(super) const POOL: u64 = 60_000;
/// etcd takes at most 128 operations in a transaction.
const FILL_AT_ONCE: u64 = 128;
/// A value whose record is as large as the trunk we write.
const VALUE: &[u8] = &[b'v'; 112];

pub(super) struct Etcd(Bed);

impl Etcd {
    pub(super) async fn start(spots: Vec<Spot>) -> Result<Self> {
        Self::launch(Bed::new("etcd-", spots)?).await
    }

    /// Each node on a file system of its own.
    pub(super) async fn start_on_disks(spots: Vec<Spot>) -> Result<Self> {
        Self::launch(Bed::new("etcd-", spots)?.with_disks()?).await
    }

    async fn launch(mut bed: Bed) -> Result<Self> {
        let cluster: Vec<String> = bed
            .spots
            .iter()
            .enumerate()
            .map(|(index, spot)| format!("n{index}=https://{}:{PEER_PORT}", spot.peer))
            .collect();
        for index in 0..bed.spots.len() {
            let args = arguments(&bed, index, &cluster.join(","))?;
            bed.start(Path::new("/usr/bin/etcd"), args, &[])?;
        }
        let mut etcd = Self(bed);
        etcd.0.check()?;
        until("etcd's first election", Duration::from_secs(20), async || etcd.leader().await)
            .await?;
        etcd.0.check()?;
        Ok(etcd)
    }
}

fn arguments(bed: &Bed, index: usize, cluster: &str) -> Result<Vec<String>> {
    let spot = bed.spots.get(index).context("no such spot")?;
    let certs = bed.certs.get(index).context("no such certificate")?;
    let client = format!("https://{}:{CLIENT_PORT}", spot.client);
    let peer = format!("https://{}:{PEER_PORT}", spot.peer);
    let file = |path: &Path| path.display().to_string();
    let mut args: Vec<String> = Vec::new();
    let mut add = |name: &str, value: &str| args.push(format!("--{name}={value}"));
    add("name", &format!("n{index}"));
    add("data-dir", &file(&bed.data(index)));
    add("listen-client-urls", &client);
    add("advertise-client-urls", &client);
    add("listen-peer-urls", &peer);
    add("initial-advertise-peer-urls", &peer);
    add("initial-cluster", cluster);
    add("initial-cluster-state", "new");
    add("initial-cluster-token", "bench");
    for side in ["", "peer-"] {
        add(&format!("{side}cert-file"), &file(&certs.cert));
        add(&format!("{side}key-file"), &file(&certs.key));
        add(&format!("{side}trusted-ca-file"), &file(&certs.ca));
        add(&format!("{side}client-cert-auth"), "true");
    }
    add("logger", "zap");
    add("log-level", "error");
    Ok(args)
}

impl System for Etcd {
    type Session = EtcdSession;
    const NAME: &'static str = "etcd";

    fn bed(&self) -> &Bed {
        &self.0
    }

    fn bed_mut(&mut self) -> &mut Bed {
        &mut self.0
    }

    fn session(&self, node: usize) -> Result<EtcdSession> {
        Ok(EtcdSession::new(self.0.channel(node, CLIENT_PORT)?))
    }

    async fn leader(&self) -> Result<usize> {
        let mut nodes = BTreeMap::new();
        let mut leaders = Vec::new();
        for node in 0..self.0.spots.len() {
            let mut client = MaintenanceClient::new(self.0.channel(node, CLIENT_PORT)?);
            let answer =
                tokio::time::timeout(Duration::from_secs(2), client.status(StatusRequest {}));
            let status = answer.await??.into_inner();
            nodes.insert(status.header.context("no header")?.member_id, node);
            leaders.push(status.leader);
        }
        leaders.dedup();
        let [leader] = leaders.as_slice() else { anyhow::bail!("nodes differ about the leader") };
        nodes.get(leader).copied().context("no leader")
    }
}

#[derive(Clone)]
pub(super) struct EtcdSession {
    kv: KvClient<Channel>,
    watch: WatchClient<Channel>,
    lease: LeaseClient<Channel>,
}

impl EtcdSession {
    fn new(channel: Channel) -> Self {
        let (kv, watch) = (KvClient::new(channel.clone()), WatchClient::new(channel.clone()));
        Self { kv, watch, lease: LeaseClient::new(channel) }
    }

    /// Puts `pop/NAME` under a lease of so many seconds and renews it until it fails.
    pub(super) async fn live(&self, name: &str, ttl: i64, renew: Duration) -> Result<(), Status> {
        let grant = LeaseGrantRequest { ttl, id: 0 };
        let id = self.lease.clone().lease_grant(grant).await?.into_inner().id;
        let put = PutRequest { key: format!("pop/{name}").into(), value: Vec::new(), lease: id };
        self.kv.clone().put(put).await?;
        let (renewals, stream) = tokio::sync::mpsc::channel(4);
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        // The answer comes only after the first renewal.
        let _ = renewals.send(LeaseKeepAliveRequest { id }).await;
        let mut answers = self.lease.clone().lease_keep_alive(stream).await?.into_inner();
        loop {
            answers.message().await?;
            tokio::time::sleep(renew).await;
            if renewals.send(LeaseKeepAliveRequest { id }).await.is_err() {
                return Err(Status::unavailable("the stream ended"));
            }
        }
    }

    /// Waits until `pop/NAME` is deleted.
    pub(super) async fn gone(&self, name: &str) -> Result<(), Status> {
        let key = format!("pop/{name}").into_bytes();
        self.events(key, Vec::new(), |kind, _| kind == event::EventType::Delete).await
    }

    /// Calls `seen` for each event until it says true.
    async fn events(
        &self,
        key: Vec<u8>,
        range_end: Vec<u8>,
        seen: impl Fn(event::EventType, &[u8]) -> bool + Send + Sync,
    ) -> Result<(), Status> {
        let create = WatchCreateRequest { key, range_end, start_revision: 0 };
        let kind = Some(watch_request::RequestUnion::CreateRequest(create));
        let first = tokio_stream::once(WatchRequest { request_union: kind });
        let requests = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
        let mut answers = self.watch.clone().watch(requests).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            for event in &answer.events {
                let key = event.kv.as_ref().map(|kv| kv.key.as_slice()).unwrap_or_default();
                if seen(event.r#type(), key) {
                    return Ok(());
                }
            }
        }
        Err(Status::unavailable("the watch ended"))
    }

    async fn txn(&self, txn: TxnRequest) -> Result<bool, Status> {
        Ok(self.kv.clone().txn(txn).await?.into_inner().succeeded)
    }
}

fn free(pool: u64, number: u64) -> Vec<u8> {
    format!("free/{pool}/{number:08}").into()
}

fn owned(pool: u64, number: u64) -> Vec<u8> {
    format!("number/{pool}/{number:08}").into()
}

fn put(key: Vec<u8>, value: &[u8]) -> RequestOp {
    let put = PutRequest { key, value: value.to_vec(), lease: 0 };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn delete(key: Vec<u8>) -> RequestOp {
    let delete = DeleteRangeRequest { key, range_end: Vec::new() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

/// If the key was last changed at this revision; 0: if it is not there.
fn unchanged(key: Vec<u8>, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key,
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
    }
}

/// A good mix of a number nobody else has.
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Session for EtcdSession {
    async fn write(&self, key: u64, _unique: u64) -> Result<(), Status> {
        let put =
            PutRequest { key: format!("trunk/{key:08}").into(), value: VALUE.to_vec(), lease: 0 };
        self.kv.clone().put(put).await.map(|_| ())
    }

    async fn read(&self, key: u64) -> Result<(), Status> {
        let key = format!("trunk/{key:08}").into();
        self.kv.clone().range(RangeRequest { key, ..RangeRequest::default() }).await.map(|_| ())
    }

    async fn fill(&self, pool: u64, numbers: u64) -> Result<()> {
        let mut from = 0;
        while from < numbers {
            let to = numbers.min(from + FILL_AT_ONCE);
            let success = (from..to).map(|number| put(free(pool, number), b"1")).collect();
            ensure!(self.txn(TxnRequest { success, ..TxnRequest::default() }).await?, "not filled");
            from = to;
        }
        Ok(())
    }

    async fn any(&self, pool: u64, unique: u64) -> Result<Got, Status> {
        let mut attempts = 0;
        for look in 0..LOOKS {
            let random = scatter(unique.wrapping_mul(1_000).wrapping_add(u64::from(look)));
            let from = random % POOL;
            let range = RangeRequest {
                key: free(pool, from),
                range_end: free(pool, from + LOOK_AT),
                keys_only: true,
                ..RangeRequest::default()
            };
            let found = self.kv.clone().range(range).await?.into_inner().kvs;
            let pick = usize::try_from(scatter(random)).unwrap_or(0).checked_rem(found.len());
            let Some(kv) = pick.and_then(|pick| found.get(pick)) else { continue };
            let text = String::from_utf8_lossy(&kv.key);
            let number = text.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            let txn = TxnRequest {
                compare: vec![unchanged(kv.key.clone(), kv.mod_revision)],
                success: vec![delete(kv.key.clone()), put(owned(pool, number), VALUE)],
                failure: Vec::new(),
            };
            attempts += 1;
            if self.txn(txn).await? {
                return Ok(Got { number, attempts });
            }
        }
        Err(Status::resource_exhausted("the pool is empty"))
    }

    async fn given(&self, pool: u64, number: u64, _unique: u64) -> Result<bool, Status> {
        let key = free(pool, number);
        // Free means that its key is there: created after revision 0.
        let there = Compare {
            result: compare::CompareResult::Greater.into(),
            target: compare::CompareTarget::Create.into(),
            key: key.clone(),
            target_union: Some(compare::TargetUnion::CreateRevision(0)),
        };
        let success = vec![delete(key), put(owned(pool, number), VALUE)];
        self.txn(TxnRequest { compare: vec![there], success, failure: Vec::new() }).await
    }

    async fn hold(&self, from: u64, to: u64) -> Result<()> {
        let mut next = from;
        while next < to {
            let end = to.min(next + FILL_AT_ONCE);
            let success = (next..end).map(|number| put(owned(9, number), VALUE)).collect();
            ensure!(self.txn(TxnRequest { success, ..TxnRequest::default() }).await?, "not held");
            next = end;
        }
        Ok(())
    }

    async fn watch(&self, seen: impl Fn(u64) + Send + Sync) -> Result<(), Status> {
        self.events(b"trunk/".to_vec(), b"trunk0".to_vec(), |_, key| {
            let text = String::from_utf8_lossy(key);
            if let Some(key) = text.strip_prefix("trunk/").and_then(|key| key.parse().ok()) {
                seen(key);
            }
            false
        })
        .await
    }
}
