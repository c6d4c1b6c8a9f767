//! Names of trunks to addresses: SRV when no port is given, then A and AAAA (RFC 3263 §4.2).
//!
//! The transport is the trunk's own, so NAPTR (§4.1) is not asked. Addresses written as numbers
//! never come here late: they are answered at once. Bounded: [`QUERIES_MAX`] at a time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use pop_core::pop::ResolveError;
use pop_core::sip::Transport;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::drops::{Drops, Reason};

/// Queries at once.
const QUERIES_MAX: usize = 64;
/// A caller hears nothing meanwhile.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses tried for one host.
const ADDRESSES_MAX: usize = 8;
/// SIP without a port (RFC 3261 §19.1.2).
const SIP_PORT: u16 = 5060;

/// A question of the call machine.
#[derive(Debug, Clone)]
pub struct Query {
    /// Names the answer.
    pub number: u64,
    /// A name, or an address.
    pub host: String,
    /// 0: SRV, or 5060.
    pub port: u16,
    /// For the SRV name.
    pub transport: Transport,
}

/// Its answer, best address first.
#[derive(Debug)]
pub struct Answer {
    /// Of the query.
    pub number: u64,
    /// The addresses, or why there are none.
    pub result: Result<Vec<SocketAddr>, ResolveError>,
}

/// Asks the name servers of the system.
#[derive(Clone)]
pub struct Resolver {
    system: Arc<OnceCell<TokioResolver>>,
    queries: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    drops: Drops,
}

impl Resolver {
    /// Reads the system's settings at the first name, not before.
    pub fn new(answers: mpsc::Sender<Answer>, drops: Drops) -> Self {
        let queries = Arc::new(Semaphore::new(QUERIES_MAX));
        Self { system: Arc::default(), queries, answers, drops }
    }

    /// The answer of an address written as numbers, at once.
    pub fn literal(query: &Query) -> Option<Answer> {
        let host = query.host.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = host.parse().ok()?;
        let port = if query.port == 0 { SIP_PORT } else { query.port };
        Some(Answer { number: query.number, result: Ok(vec![SocketAddr::new(address, port)]) })
    }

    /// Asks; the answer comes over the channel. `None` if one was taken on, else the refusal.
    pub fn ask(&self, query: Query) -> Option<Answer> {
        let Ok(permit) = self.queries.clone().try_acquire_owned() else {
            self.drops.count(Reason::ResolverBusy);
            return Some(Answer { number: query.number, result: Err(ResolveError::Timeout) });
        };
        let this = self.clone();
        tokio::spawn(async move {
            let looked = tokio::time::timeout(TIMEOUT, this.look_up(&query)).await;
            let result = looked.unwrap_or(Err(ResolveError::Timeout));
            drop(permit);
            // Nobody listens any more: the process is ending.
            let _ = this.answers.send(Answer { number: query.number, result }).await;
        });
        None
    }

    async fn look_up(&self, query: &Query) -> Result<Vec<SocketAddr>, ResolveError> {
        let system = self.system.get_or_try_init(build).await.map_err(|error| {
            tracing::error!(%error, "the system's resolver settings are of no use");
            ResolveError::Timeout
        })?;
        let targets = if query.port == 0 {
            srv(system, query).await?
        } else {
            vec![(query.host.clone(), query.port)]
        };
        let mut found = Vec::new();
        let mut failure = ResolveError::NotFound;
        for (host, port) in targets {
            match system.lookup_ip(host.as_str()).await {
                Ok(addresses) => {
                    found.extend(addresses.iter().map(|ip| SocketAddr::new(ip, port)));
                }
                Err(error) => failure = reason(&error),
            }
            if found.len() >= ADDRESSES_MAX {
                break;
            }
        }
        found.truncate(ADDRESSES_MAX);
        if found.is_empty() { Err(failure) } else { Ok(found) }
    }
}

async fn build() -> Result<TokioResolver, NetError> {
    // Reads a file or two, once.
    TokioResolver::builder_tokio()?.build()
}

fn reason(error: &NetError) -> ResolveError {
    if error.is_nx_domain() || error.is_no_records_found() {
        ResolveError::NotFound
    } else {
        ResolveError::Timeout
    }
}

/// Hosts and ports by priority, then weight; the host itself when there is no SRV record.
async fn srv(system: &TokioResolver, query: &Query) -> Result<Vec<(String, u16)>, ResolveError> {
    let name = format!("_sip._{}.{}", query.transport.as_param(), query.host);
    let lookup = match system.srv_lookup(name).await {
        Ok(lookup) => lookup,
        Err(error) => match reason(&error) {
            ResolveError::NotFound => return Ok(vec![(query.host.clone(), SIP_PORT)]),
            ResolveError::Timeout => return Err(ResolveError::Timeout),
        },
    };
    let mut records: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => {
                Some((srv.priority, u16::MAX - srv.weight, srv.target.to_utf8(), srv.port))
            }
            _ => None,
        })
        .collect();
    // The heaviest first: a trunk's load is shared by its own weights, not by its DNS.
    records.sort();
    Ok(records.into_iter().map(|(_, _, target, port)| (target, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(host: &str, port: u16) -> Query {
        Query { number: 7, host: host.to_owned(), port, transport: Transport::Udp }
    }

    #[test]
    fn numbers_are_answered_at_once() {
        for (host, port, expected) in [
            ("127.0.0.1", 0, "127.0.0.1:5060"),
            ("127.0.0.1", 5070, "127.0.0.1:5070"),
            ("::1", 5062, "[::1]:5062"),
            ("[::1]", 0, "[::1]:5060"),
        ] {
            let answer = Resolver::literal(&query(host, port)).unwrap();
            assert_eq!(answer.number, 7);
            assert_eq!(answer.result.unwrap(), [expected.parse().unwrap()]);
        }
        assert!(Resolver::literal(&query("carrier.example", 0)).is_none());
    }

    #[tokio::test]
    async fn too_many_questions_are_refused_at_once() {
        let (answers, _keep) = mpsc::channel(1);
        let drops = Drops::default();
        let resolver = Resolver::new(answers, drops.clone());
        let all = u32::try_from(QUERIES_MAX).unwrap();
        let _busy = resolver.queries.clone().try_acquire_many_owned(all).unwrap();
        let refusal = resolver.ask(query("carrier.example", 0)).unwrap();
        assert_eq!(refusal.result, Err(ResolveError::Timeout));
        assert_eq!(drops.get(Reason::ResolverBusy), 1);
    }
}
