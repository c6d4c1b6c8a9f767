//! `Pops`: registration, heartbeats, list.

use std::pin::Pin;
use std::time::{Duration, Instant};

use proto::control::list_pops_response::Entry;
use proto::control::pops_server::Pops;
use proto::control::{
    AskPopRequest, AskPopResponse, HeartbeatRequest, HeartbeatResponse, ListPopsRequest,
    ListPopsResponse, Pop, PopQuestion, RegisterPopRequest, RegisterPopResponse, SteerPopRequest,
    SteerPopResponse,
};
use proto::identity::Kind;
use proto::raft::{SteerPop, command, outcome};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::read::Reads;
use super::{Answer, Api, Failure, answer, authorise, caller};
use crate::liveness::HeartStreamId;
use crate::questions::NotAsked;
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

    async fn cordon(&self, request: Request<SteerPopRequest>) -> Answer<SteerPopResponse> {
        answer("Pops.Cordon", self.steer(request, (true, false))).await
    }

    async fn drain(&self, request: Request<SteerPopRequest>) -> Answer<SteerPopResponse> {
        answer("Pops.Drain", self.steer(request, (true, true))).await
    }

    async fn uncordon(&self, request: Request<SteerPopRequest>) -> Answer<SteerPopResponse> {
        answer("Pops.Uncordon", self.steer(request, (false, false))).await
    }

    async fn ask(&self, request: Request<AskPopRequest>) -> Answer<AskPopResponse> {
        answer("Pops.Ask", async {
            let (_, request) = authorise(request)?;
            self.asked(request).await
        })
        .await
    }
}

/// A POP answers within this; it passes the time of a heartbeat at most twice.
const ANSWER: Duration = Duration::from_secs(3);

impl Api {
    async fn steer(
        &self,
        request: Request<SteerPopRequest>,
        (cordoned, draining): (bool, bool),
    ) -> Result<SteerPopResponse, Failure> {
        let (caller, SteerPopRequest { options, pop_id }) = authorise(request)?;
        let kind = command::Kind::SteerPop(SteerPop { pop_id, cordoned, draining });
        let (outcome, header) = self.0.cluster.write(&caller, options, kind).await?;
        let outcome::Kind::Pop(pop) = outcome else {
            return Err(Failure::internal("a change of a POP came to something else"));
        };
        Ok(SteerPopResponse { header: Some(header), pop: Some(pop) })
    }

    async fn asked(&self, request: AskPopRequest) -> Result<AskPopResponse, Failure> {
        let pop_id = request.pop_id;
        let question = request.question.filter(|question| question.about.is_some());
        let question = question
            .ok_or_else(|| Failure::invalid("question is missing: say what is asked about"))?;
        let unavailable = |reason: &str, message: String| {
            let failure = Failure::unavailable(reason, message);
            failure.with("subject", format!("pops/{pop_id}"))
        };
        let answer = self.0.questions.ask(&pop_id, question).map_err(|why| match why {
            NotAsked::NotHeard => unavailable(
                "POP_NOT_HEARD",
                format!("this node hears no POP \"{pop_id}\": see `meshctl pops`"),
            ),
            NotAsked::Busy => unavailable(
                "POP_BUSY",
                format!("POP \"{pop_id}\" has too many questions to answer: ask again"),
            ),
        })?;
        let answer = tokio::time::timeout(ANSWER, answer).await;
        let answer = answer.ok().and_then(Result::ok).ok_or_else(|| {
            let message = format!(
                "POP \"{pop_id}\" did not answer within 3 s: it is cut off, or of a version \
                 that cannot be asked"
            );
            unavailable("POP_SILENT", message)
        })?;
        if !answer.refused.is_empty() {
            return Err(Failure::new(Code::NotFound, "POP_REFUSED", answer.refused));
        }
        Ok(AskPopResponse { answer: Some(answer) })
    }

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

async fn next(asked: &mut Option<(u64, mpsc::Receiver<PopQuestion>)>) -> Option<PopQuestion> {
    match asked {
        Some((_, questions)) => questions.recv().await,
        None => std::future::pending().await,
    }
}

/// Why the heartbeats of a stream ended.
enum StreamEnd {
    /// This node stops, or refused them.
    Ours,
    /// The POP ended it in order.
    Goodbye,
    /// Its connection broke, or it was given up.
    Broke,
}

/// The heartbeats of one POP.
struct HeartStream {
    api: Api,
    pop_id: String,
    answers: mpsc::Sender<Result<HeartbeatResponse, Status>>,
}

impl HeartStream {
    async fn run(self, beats: Streaming<HeartbeatRequest>) {
        // Only the process of the newest epoch is asked: its first beat says that it is.
        let (mut asked, mut begun) = (None, None);
        let end = self.beats(beats, (&mut asked, &mut begun)).await;
        if let (Some(stream), StreamEnd::Broke) = (&begun, end) {
            self.api.0.liveness.broke(stream, Instant::now());
        }
        if let Some((number, _)) = asked {
            self.api.0.questions.end(&self.pop_id, number);
        }
    }

    async fn beats(
        &self,
        mut beats: Streaming<HeartbeatRequest>,
        (asked, begun): (
            &mut Option<(u64, mpsc::Receiver<PopQuestion>)>,
            &mut Option<HeartStreamId>,
        ),
    ) -> StreamEnd {
        let mut stop = self.api.0.stop.clone();
        let mut revision = 0;
        loop {
            let turn = tokio::select! {
                beat = beats.message() => Ok(beat),
                Some(question) = next(asked) => Err(question),
                _ = stop.wait_for(|stop| *stop) => return StreamEnd::Ours,
                // The connection broke, or the POP gave this stream up: it comes back, or not.
                () = self.answers.closed() => return StreamEnd::Broke,
            };
            let beat = match turn {
                Ok(beat) => beat,
                Err(question) => {
                    let asked = HeartbeatResponse { revision, questions: vec![question] };
                    if self.answers.send(Ok(asked)).await.is_err() {
                        return StreamEnd::Broke;
                    }
                    continue;
                }
            };
            let mut beat = match beat {
                Ok(Some(beat)) => beat,
                Ok(None) => return StreamEnd::Goodbye,
                Err(_) => return StreamEnd::Broke,
            };
            let answers = std::mem::take(&mut beat.answers);
            let answer = self.heard(&beat).await;
            if let Ok(answer) = &answer {
                revision = answer.revision;
                asked.get_or_insert_with(|| self.api.0.questions.begin(&self.pop_id));
                let liveness = &self.api.0.liveness;
                begun.get_or_insert_with(|| liveness.begun(&self.pop_id, beat.epoch));
                answers.into_iter().for_each(|a| self.api.0.questions.answered(&self.pop_id, a));
            }
            let fatal = answer.is_err();
            let sent = self.answers.send(answer.map_err(Status::from)).await;
            if fatal {
                return StreamEnd::Ours;
            }
            if sent.is_err() {
                return StreamEnd::Broke;
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
            (state.pop(&pop_id), state.revision())
        };
        let (named, revision) = cluster.driver().query(look).await?;
        let epoch = named.as_ref().map_or(0, |pop| pop.epoch);
        if named.as_ref().is_some_and(|pop| pop.fenced) && beat.epoch == epoch {
            return Err(self.given_up(epoch));
        }
        if beat.epoch < epoch {
            let message = format!(
                "POP \"{}\" was registered anew with epoch {epoch}: this process with epoch {} \
                 may not go on under that name",
                self.pop_id, beat.epoch
            );
            let failure = Failure::new(Code::FailedPrecondition, "FENCED", message);
            return Err(failure
                .with("subject", format!("pops/{}", self.pop_id))
                .with("epoch", epoch)
                .with("verdict", "superseded"));
        }
        telemetry::heartbeat();
        self.api.0.liveness.heard(beat, named.as_ref(), Instant::now());
        Ok(HeartbeatResponse { revision: revision.0, questions: Vec::new() })
    }

    /// Neither a majority of the control nodes nor the other POPs saw it for a while.
    fn given_up(&self, epoch: u64) -> Failure {
        let message = format!(
            "POP \"{}\" was given up with epoch {epoch}: the mesh took its calls over; it must end \
             them without a word to their peers and register anew",
            self.pop_id
        );
        Failure::new(Code::FailedPrecondition, "FENCED", message)
            .with("subject", format!("pops/{}", self.pop_id))
            .with("epoch", epoch)
            .with("verdict", "fenced")
    }
}
