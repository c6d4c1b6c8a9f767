//! One heartbeat stream to each control node: a new leader already knows who is alive.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use proto::control::pops_client::PopsClient;
use proto::control::{HeartbeatRequest, PopAnswer, PopQuestion};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Asked, Event, Node, Shared};
use crate::backoff::Backoff;

/// Between heartbeats. A POP expires after four that a majority of the control nodes misses.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// A POP that a node heard over a stream that lasts is not silent for it within this: less than the
/// control plane's two seconds, because clocks differ. A stream that breaks is silence sooner, so a
/// break seen here takes the lease away at once.
const LEASE: Duration = Duration::from_millis(1_500);
/// A node that answers nothing for so long is left, and tried again.
const SILENCE: Duration = Duration::from_secs(5);
/// POPs named in one heartbeat; whoever misses more is cut off itself.
const UNSEEN_MAX: usize = 256;
/// Questions taken from one message; a node sends one in each.
const QUESTIONS_MAX: usize = 8;
/// Later nobody waits for the answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Runs for the life of the process.
pub(super) async fn run(
    shared: Arc<Shared>,
    index: usize,
    pop_id: String,
    events: mpsc::Sender<Event>,
    seed: u64,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), seed);
    loop {
        let registered = shared.registered.notified();
        if shared.epoch.load(Ordering::Relaxed) == 0 {
            registered.await;
        }
        let Some(node) = shared.nodes.get(index) else { return };
        let epoch = shared.epoch.load(Ordering::Relaxed);
        let status = beat(&shared, index, (&pop_id, epoch), &events, &mut backoff).await;
        node.heard.store(false, Ordering::Relaxed);
        // A broken stream is silence for the node soon: what it heard before counts no more.
        renew(&shared, node, None, &events);
        if status.code() == Code::FailedPrecondition {
            if is_verdict(&status) {
                shared.lose(epoch);
            } else {
                shared.fence(epoch);
            }
        }
        if shared.is_fenced() {
            return;
        }
        tracing::info!(node = node.endpoint, why = super::said(&status), "no heartbeats");
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// Not a newer process: the cluster gave up on this epoch, and its process may register anew.
pub(super) fn is_verdict(status: &Status) -> bool {
    status.metadata().get("voxmesh-verdict").is_some_and(|verdict| verdict == "fenced")
}

/// Beats with one epoch until the stream ends, or the epoch changes.
async fn beat(
    shared: &Shared,
    index: usize,
    (pop_id, epoch): (&str, u64),
    events: &mpsc::Sender<Event>,
    backoff: &mut Backoff,
) -> Status {
    let Some(node) = shared.nodes.get(index) else { return Status::ok("") };
    let (beats, stream) = mpsc::channel(1);
    // The node may answer only after the first one.
    let _ = beats.try_send(heartbeat(shared, pop_id, epoch));
    let mut sent = VecDeque::from([Instant::now()]);
    let (replies, mut replied) = mpsc::channel(QUESTIONS_MAX);
    let mut client = PopsClient::new(node.channel.clone());
    let opened = client.heartbeat(ReceiverStream::new(stream));
    let mut answers = match tokio::time::timeout(SILENCE, opened).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("no answer"),
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = tokio::time::Instant::now();
    let mut unseen = shared.unseen.clone();
    // What does not fit yet leaves when the one before has, and says the newest.
    let mut due = false;
    let mut answered: Vec<PopAnswer> = Vec::new();
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    let asks = !answer.questions.is_empty();
                    for question in answer.questions.into_iter().take(QUESTIONS_MAX) {
                        tokio::spawn(reply(shared.asked.clone(), question, replies.clone()));
                        // Asking is no answer to a beat.
                        continue;
                    }
                    if !asks && let Some(at) = sent.pop_front() {
                        renew(shared, node, Some(at), events);
                    }
                    node.heard.store(true, Ordering::Relaxed);
                    backoff.reset();
                    last = tokio::time::Instant::now();
                }
                Ok(None) => return Status::unavailable("the node ended the stream"),
                Err(status) => return status,
            },
            _ = ticks.tick() => {
                if shared.epoch.load(Ordering::Relaxed) != epoch {
                    return Status::cancelled("registered again");
                }
                if last.elapsed() > SILENCE {
                    return Status::deadline_exceeded("no answer");
                }
                due = true;
            }
            // Who is out of sight is told at once: others may be waiting for that word.
            Ok(()) = unseen.changed() => due = true,
            permit = beats.reserve(), if due => {
                let Ok(permit) = permit else { return Status::unavailable("the stream broke") };
                unseen.mark_unchanged();
                let mut beat = heartbeat(shared, pop_id, epoch);
                beat.answers = std::mem::take(&mut answered);
                sent.push_back(Instant::now());
                permit.send(beat);
                due = false;
            }
            Some(answer) = replied.recv(), if answered.len() < QUESTIONS_MAX => {
                answered.push(answer);
                due = true;
            }
        }
    }
}

/// The node heard a beat that was sent at `at`: it does not find this POP silent before its time is
/// over. What a majority of the nodes heard says how long none can have given it up.
fn renew(shared: &Shared, node: &Node, at: Option<Instant>, events: &mpsc::Sender<Event>) {
    *node.answered.lock().unwrap_or_else(PoisonError::into_inner) = at;
    let of = |node: &Node| *node.answered.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times: Vec<Instant> = shared.nodes.iter().filter_map(of).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    // Without a majority there is none.
    let until = times.get(shared.nodes.len() / 2).map_or_else(Instant::now, |at| *at + LEASE);
    // A full queue: the loop is late, and hears of it by the next one.
    let _ = events.try_send(Event::Lease(until));
}

/// The answer to a question goes with the next heartbeat.
async fn reply(
    asked: mpsc::Sender<Asked>,
    question: PopQuestion,
    replies: mpsc::Sender<PopAnswer>,
) {
    let (answer, said) = oneshot::channel();
    let number = question.number;
    if asked.try_send(Asked { question, answer }).is_ok()
        && let Ok(Ok(answer)) = tokio::time::timeout(ANSWER, said).await
    {
        // The stream is over: so is the question.
        let _ = replies.send(PopAnswer { number, ..answer }).await;
    }
}

fn heartbeat(shared: &Shared, pop_id: &str, epoch: u64) -> HeartbeatRequest {
    HeartbeatRequest {
        pop_id: pop_id.to_owned(),
        epoch,
        calls: shared.calls.load(Ordering::Relaxed),
        view_revision: shared.revision.load(Ordering::Relaxed),
        answers: Vec::new(),
        unseen: shared.unseen.borrow().iter().take(UNSEEN_MAX).map(ToString::to_string).collect(),
    }
}
