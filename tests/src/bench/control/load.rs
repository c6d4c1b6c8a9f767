//! Clients that ask, wait, and ask again; what they measured.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tonic::Status;

use super::super::percentile;
use super::system::{Got, System};

/// Clients that share a connection, as the callers of one application do.
const CLIENTS_PER_CONNECTION: usize = 8;
/// Not measured: connections are made, caches fill.
const WARM_UP: Duration = Duration::from_millis(500);

/// Many clients for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) clients: usize,
    pub(super) time: Duration,
    /// Which node they ask.
    pub(super) node: usize,
}

/// What they measured.
#[derive(Debug, Default, Clone)]
pub(super) struct Measured {
    /// Answers a second.
    pub(super) rate: f64,
    /// Sorted, in ms.
    pub(super) latencies: Vec<f64>,
    /// CPU time of all nodes per answer, in µs.
    pub(super) cpu_us: f64,
    /// Tries per answer.
    pub(super) attempts: f64,
    /// Numbers handed out.
    pub(super) numbers: Vec<u64>,
    pub(super) errors: u64,
}

impl Measured {
    pub(super) fn ms(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }
}

#[derive(Default)]
struct Client {
    latencies: Vec<f64>,
    got: Vec<Got>,
    errors: u64,
    first_error: Option<Status>,
}

/// Runs `work(session, number of this request)` in a closed loop. `first`: no request number below
/// was used before; the next free one comes back.
#[allow(clippy::cast_precision_loss, reason = "counts and times")]
pub(super) async fn run<S: System, F, Fut>(
    system: &S,
    load: Load,
    first: u64,
    work: F,
) -> Result<(Measured, u64)>
where
    F: Fn(S::Session, u64) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = Result<Got, Status>> + Send + 'static,
{
    let connections = load.clients.div_ceil(CLIENTS_PER_CONNECTION);
    let sessions: Vec<S::Session> =
        (0..connections).map(|_| system.session(load.node)).collect::<Result<_>>()?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + load.time;
    // Room for more requests than any client makes.
    let each: u64 = 10_000_000;
    let clients: Vec<_> = sessions
        .iter()
        .cycle()
        .take(load.clients)
        .cloned()
        .zip(0u64..)
        .map(|(session, n)| tokio::spawn(client(session, first + n * each, begin, end, work)))
        .collect();
    tokio::time::sleep_until(begin.into()).await;
    let before = system.bed().cpu()?;
    tokio::time::sleep_until(end.into()).await;
    let cpu = system.bed().cpu()?.saturating_sub(before);
    let mut measured = Measured::default();
    let mut error = None;
    let mut attempts = 0;
    for client in clients {
        let client = client.await.context("a client died")?;
        measured.latencies.extend(client.latencies);
        measured.numbers.extend(client.got.iter().map(|got| got.number));
        attempts += client.got.iter().map(|got| u64::from(got.attempts)).sum::<u64>();
        measured.errors += client.errors;
        error = error.or(client.first_error);
    }
    let answers = measured.latencies.len() as f64;
    ensure!(answers > 0.0, "{}: no answer: {error:?}", S::NAME);
    measured.latencies.sort_by(f64::total_cmp);
    measured.rate = answers / load.time.as_secs_f64();
    measured.cpu_us = cpu.as_secs_f64() * 1e6 / answers;
    measured.attempts = attempts as f64 / measured.numbers.len() as f64;
    if let Some(error) = error.filter(|_| measured.errors as f64 > answers / 100.0) {
        anyhow::bail!("{}: {} errors, the first: {error}", S::NAME, measured.errors);
    }
    Ok((measured, first + load.clients as u64 * each))
}

async fn client<C, F, Fut>(session: C, first: u64, begin: Instant, end: Instant, work: F) -> Client
where
    C: Clone,
    F: Fn(C, u64) -> Fut,
    Fut: Future<Output = Result<Got, Status>>,
{
    let mut client = Client::default();
    for unique in first.. {
        let asked = Instant::now();
        if asked >= end {
            break;
        }
        let answer = work(session.clone(), unique).await;
        let answered = Instant::now();
        match answer {
            Ok(got) => {
                // Also outside of the measured time: no number may be given out twice.
                client.got.push(got);
                if asked >= begin && answered <= end {
                    client.latencies.push((answered - asked).as_secs_f64() * 1e3);
                }
            }
            Err(status) => {
                client.errors += 1;
                client.first_error.get_or_insert(status);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    client
}
