//! `Pops`: registration, heartbeats, list.

use std::pin::Pin;
use std::time::{Duration, Instant};

use proto::control::list_pops_response::Entry;
use proto::control::pops_server::Pops;
use proto::control::{
    HeartbeatRequest, HeartbeatResponse, ListPopsRequest, ListPopsResponse, Pop,
    RegisterPopRequest, RegisterPopResponse,
};
use proto::identity::Kind;
use proto::raft::{command, outcome};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::read::Reads;
use super::{Answer, Api, Failure, answer, authorise, caller};
use crate::telemetry;

/// Feature level from which POPs expire by the log.
const EXPIRING_LEVEL: u32 = 3;
/// Below it, a POP is alive that was heard within this.
const HEARD: Duration = Duration::from_secs(3);

type Beats = Pin<Box<dyn Stream<Item = Result<HeartbeatResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Pops for Api {
    async fn register(&self, request: Request<RegisterPopRequest>) -> Answer<RegisterPopResponse> {
        answer("Pops.Register", async {
            let (caller, request) = authorise(request)?;
            let pop = request.pop.ok_or_else(|| Failure::invalid("pop is missing"))?;
            if caller.kind == Kind::Pop && caller.region != pop.region {
                let message = format!(
                    "pop.region is \"{}\", your certificate says \"{}\"",
                    pop.region, caller.region
                );
                return Err(Failure::forbidden(message));
            }
            let kind = command::Kind::RegisterPop(pop);
            let (outcome, header) = self.0.cluster.write(&caller, request.options, kind).await?;
            let outcome::Kind::Pop(pop) = outcome else {
                return Err(Failure::internal("a registration came to something else"));
            };
            Ok(RegisterPopResponse { header: Some(header), pop: Some(pop) })
        })
        .await
    }

    type HeartbeatStream = Beats;

    async fn heartbeat(&self, request: Request<Streaming<HeartbeatRequest>>) -> Answer<Beats> {
        answer("Pops.Heartbeat", async {
            // The gate let it in for the POP of its own name only.
            let caller = caller(request.extensions())?;
            if caller.kind != Kind::Pop {
                return Err(Failure::denied(&caller));
            }
            let (answers, receiver) = mpsc::channel(4);
            let stream = HeartStream { api: self.clone(), pop_id: caller.name.clone(), answers };
            tokio::spawn(stream.run(request.into_inner()));
            let stream: Beats = Box::pin(ReceiverStream::new(receiver));
            Ok(stream)
        })
        .await
    }

    async fn list(&self, request: Request<ListPopsRequest>) -> Answer<ListPopsResponse> {
        answer("Pops.List", async {
            let (_, request) = authorise(request)?;
            let pops = |replica: &control_core::replica::Replica| {
                (replica.state().pops().collect::<Vec<Pop>>(), replica.feature_level())
            };
            let ((pops, level), header) = self.0.cluster.read(request.freshness()?, pops).await?;
            let now = Instant::now();
            let pops = pops.into_iter().map(|pop| self.entry(pop, level, now)).collect();
            Ok(ListPopsResponse { header: Some(header), pops })
        })
        .await
    }
}

impl Api {
    fn entry(&self, pop: Pop, level: u32, now: Instant) -> Entry {
        let beat = self.0.liveness.last(&pop.pop_id);
        let silent = beat.as_ref().map(|beat| beat.silent(now).as_millis());
        Entry {
            // Before POPs expire by the log, what this node hears has to do.
            alive: match level >= EXPIRING_LEVEL {
                true => !pop.expired,
                false => beat.as_ref().is_some_and(|beat| beat.silent(now) <= HEARD),
            },
            silent_ms: silent.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            calls: beat.as_ref().map_or(0, |beat| beat.calls),
            view_revision: beat.map_or(0, |beat| beat.view_revision),
            pop: Some(pop),
        }
    }
}

/// The heartbeats of one POP.
struct HeartStream {
    api: Api,
    pop_id: String,
    answers: mpsc::Sender<Result<HeartbeatResponse, Status>>,
}

impl HeartStream {
    async fn run(self, mut beats: Streaming<HeartbeatRequest>) {
        let mut stop = self.api.0.stop.clone();
        loop {
            let beat = tokio::select! {
                beat = beats.message() => beat,
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.answers.closed() => return,
            };
            let Ok(Some(beat)) = beat else { return };
            let answer = self.heard(&beat).await;
            let fatal = answer.is_err();
            if self.answers.send(answer.map_err(Status::from)).await.is_err() || fatal {
                return;
            }
        }
    }

    async fn heard(&self, beat: &HeartbeatRequest) -> Result<HeartbeatResponse, Failure> {
        if beat.pop_id != self.pop_id {
            let message = format!("this certificate beats for POP \"{}\" only", self.pop_id);
            return Err(Failure::forbidden(message));
        }
        let cluster = &self.api.0.cluster;
        let pop_id = self.pop_id.clone();
        let look = move |replica: &control_core::replica::Replica| {
            let state = replica.state();
            (state.pop(&pop_id).map_or(0, |pop| pop.epoch), state.revision())
        };
        let (epoch, revision) = cluster.driver().query(look).await?;
        if beat.epoch < epoch {
            let message = format!(
                "POP \"{}\" was registered anew with epoch {epoch}: this process with epoch {} \
                 may not go on under that name",
                self.pop_id, beat.epoch
            );
            let failure = Failure::new(Code::FailedPrecondition, "FENCED", message);
            return Err(failure
                .with("subject", format!("pops/{}", self.pop_id))
                .with("epoch", epoch));
        }
        telemetry::heartbeat();
        self.api.0.liveness.heard(beat, epoch, Instant::now());
        Ok(HeartbeatResponse { revision: revision.0 })
    }
}
