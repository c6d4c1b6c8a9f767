//! Questions to POPs that only they can answer, over the heartbeats they send to this node.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::control::{PopAnswer, PopQuestion};
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for a POP's stream.
const WAITING_MAX: usize = 8;
/// Questions of all POPs without an answer.
const OPEN_MAX: usize = 1_024;

/// Which POPs can be asked, and what they were asked.
#[derive(Debug, Default)]
pub struct Questions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// The newest heartbeat stream of each POP.
    streams: BTreeMap<String, (u64, mpsc::Sender<PopQuestion>)>,
    open: BTreeMap<u64, (String, oneshot::Sender<PopAnswer>)>,
}

/// Why a question was not put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAsked {
    /// The POP has no heartbeat stream to this node.
    NotHeard,
    /// Too many questions are open.
    Busy,
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A POP opened a heartbeat stream: the questions for it, until [`Self::end`] with the number.
    pub fn begin(&self, pop_id: &str) -> (u64, mpsc::Receiver<PopQuestion>) {
        let (sender, questions) = mpsc::channel(WAITING_MAX);
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.streams.insert(pop_id.to_owned(), (number, sender));
        (number, questions)
    }

    /// That stream is over; a newer one may be there.
    pub fn end(&self, pop_id: &str, number: u64) {
        let mut inner = self.lock();
        if inner.streams.get(pop_id).is_some_and(|(held, _)| *held == number) {
            inner.streams.remove(pop_id);
        }
    }

    /// Puts a question. The answer comes, or the sender of it is dropped.
    pub fn ask(
        &self,
        pop_id: &str,
        mut question: PopQuestion,
    ) -> Result<oneshot::Receiver<PopAnswer>, NotAsked> {
        let mut inner = self.lock();
        // Whoever asked has gone: its time is over.
        inner.open.retain(|_, (_, waiting)| !waiting.is_closed());
        if inner.open.len() >= OPEN_MAX {
            return Err(NotAsked::Busy);
        }
        inner.next += 1;
        question.number = inner.next;
        let number = question.number;
        let (_, stream) = inner.streams.get(pop_id).ok_or(NotAsked::NotHeard)?;
        stream.try_send(question).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotAsked::Busy,
            mpsc::error::TrySendError::Closed(_) => NotAsked::NotHeard,
        })?;
        let (waiting, answer) = oneshot::channel();
        inner.open.insert(number, (pop_id.to_owned(), waiting));
        Ok(answer)
    }

    /// A POP answers: only what it was asked itself.
    pub fn answered(&self, pop_id: &str, answer: PopAnswer) {
        let mut inner = self.lock();
        if inner.open.get(&answer.number).is_some_and(|(asked, _)| asked == pop_id)
            && let Some((_, waiting)) = inner.open.remove(&answer.number)
        {
            // Nobody waits any more: fine.
            let _ = waiting.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u64, words: &str) -> PopAnswer {
        PopAnswer { number, words: words.into(), ..PopAnswer::default() }
    }

    #[tokio::test]
    async fn only_the_pop_that_was_asked_answers() {
        let questions = Questions::default();
        assert_eq!(questions.ask("fra1", PopQuestion::default()).unwrap_err(), NotAsked::NotHeard);
        let (_, mut asked) = questions.begin("fra1");
        let said = questions.ask("fra1", PopQuestion::default()).unwrap();
        let number = asked.recv().await.unwrap().number;
        questions.answered("sin1", answer(number, "forged"));
        questions.answered("fra1", answer(number + 1, "never asked"));
        questions.answered("fra1", answer(number, "true"));
        assert_eq!(said.await.unwrap().words, "true");
    }

    #[tokio::test]
    async fn a_newer_stream_is_not_ended_by_the_older_one_and_queues_are_bounded() {
        let questions = Questions::default();
        let (old, _) = questions.begin("fra1");
        let (new, _asked) = questions.begin("fra1");
        questions.end("fra1", old);
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| questions.ask("fra1", PopQuestion::default()).unwrap())
            .collect();
        assert_eq!(questions.ask("fra1", PopQuestion::default()).unwrap_err(), NotAsked::Busy);
        assert_eq!(questions.lock().open.len(), WAITING_MAX);
        drop(waiting);
        questions.end("fra1", new);
        assert_eq!(questions.ask("fra1", PopQuestion::default()).unwrap_err(), NotAsked::NotHeard);
        assert!(questions.lock().open.is_empty());
    }
}
