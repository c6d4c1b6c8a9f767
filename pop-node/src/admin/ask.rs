//! Questions of operators that come through the control plane: the same figures as on the page.

use pop_core::pop::CallSummary;
use proto::control::pop_question::About;
use proto::control::{CallsQuestion, PathsQuestion, PopAnswer};
use proto::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::paths;
use crate::clock::Clock;
use crate::control::Asked;
use crate::link::Links;
use crate::signaling::StatusRequest;

/// A longer answer is refused: it has to pass as one message.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Questions that wait.
const QUESTIONS_MAX: usize = 32;

/// Answers what comes until the process ends.
pub fn start(
    links: Links,
    signaling: mpsc::Sender<StatusRequest>,
    clock: Clock,
) -> mpsc::Sender<Asked> {
    let (asked, questions) = mpsc::channel(QUESTIONS_MAX);
    tokio::spawn(answer(questions, (links, signaling), clock));
    asked
}

async fn answer(
    mut asked: mpsc::Receiver<Asked>,
    (links, signaling): (Links, mpsc::Sender<StatusRequest>),
    clock: Clock,
) {
    while let Some(Asked { question, answer }) = asked.recv().await {
        let said = match question.about {
            Some(About::Paths(about)) => on_paths(&about, &links, clock).await,
            Some(About::Calls(about)) => on_calls(&about, &signaling).await,
            None => Err("this POP is of a version that does not know the question".to_owned()),
        };
        let said = said.and_then(|said| match said.document.len() > DOCUMENT_BYTES_MAX {
            true => Err("the answer is longer than 1 MiB: ask about one peer or call".to_owned()),
            false => Ok(said),
        });
        let refused = |refused| PopAnswer { refused, ..PopAnswer::default() };
        // Nobody waits any more: fine.
        let _ = answer.send(said.unwrap_or_else(refused));
    }
}

async fn on_calls(
    about: &CallsQuestion,
    signaling: &mpsc::Sender<StatusRequest>,
) -> Result<PopAnswer, String> {
    let (answer, status) = oneshot::channel();
    let ending = || "the process is ending".to_owned();
    signaling.send(StatusRequest::Figures(answer)).await.map_err(|_| ending())?;
    let status = status.await.map_err(|_| ending())?;
    let wanted = |call: &&(CallSummary, Duration)| {
        about.call_id.is_empty() || call.0.call_id.to_string() == about.call_id
    };
    let calls: Vec<_> = status.calls.iter().filter(wanted).map(super::call).collect();
    let document = serde_json::json!({ "calls": calls }).to_string();
    Ok(PopAnswer { document, ..PopAnswer::default() })
}

async fn on_paths(about: &PathsQuestion, links: &Links, clock: Clock) -> Result<PopAnswer, String> {
    let ending = || "the process is ending".to_owned();
    let now = clock.now();
    if about.seconds_ago > 0 {
        let ago = Duration::from_secs(about.seconds_ago.into());
        let at = Instant::ZERO + (now - Instant::ZERO).saturating_sub(ago);
        let moment = links.past(&about.peer, at).await.ok_or_else(ending)?;
        let moment = moment.ok_or_else(|| {
            format!("nothing is known of {:?} from {} s ago", about.peer, about.seconds_ago)
        })?;
        let document = paths::moment(&about.peer, &moment, now).to_string();
        let words = paths::moment_words(&about.peer, &moment, now);
        return Ok(PopAnswer { document, words, ..PopAnswer::default() });
    }
    let mut reports = links.paths().await.ok_or_else(ending)?;
    if !about.peer.is_empty() {
        reports.retain(|report| report.peer.as_str() == about.peer);
        if reports.is_empty() {
            return Err(format!("no path to a POP {:?} was ever up", about.peer));
        }
    }
    let words = match reports.as_slice() {
        [report] if !about.peer.is_empty() => paths::words(report, now),
        _ => String::new(),
    };
    // All of them together without their past: a mesh of 200 POPs fits.
    let document = match about.peer.is_empty() {
        true => paths::brief(&reports, now).to_string(),
        false => paths::page(&reports, now).to_string(),
    };
    Ok(PopAnswer { document, words, ..PopAnswer::default() })
}
