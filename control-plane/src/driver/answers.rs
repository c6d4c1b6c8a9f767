//! What a turn answers, handed over as a whole.
//!
//! Woken one by one from the driver's thread, each caller costs a wake of a thread, and a
//! connection writes each answer alone. So a task of the API's runtime takes all of a turn and
//! wakes their callers from there.

use tokio::sync::{mpsc, oneshot};

use super::Proposed;

/// Tells somebody who waits.
pub(super) type Delivery = Box<dyn FnOnce() + Send>;

/// Turns that wait to be handed out; beyond that the driver does it itself.
const TURNS: usize = 64;
/// So few are not worth another task's turn.
const FEW: usize = 2;

/// An answer and who waits for it.
pub(super) enum Answer {
    Proposed(oneshot::Sender<Proposed>, Proposed),
    Other(Delivery),
}

impl Answer {
    fn deliver(self) {
        match self {
            // The caller may have left.
            Self::Proposed(reply, proposed) => drop(reply.send(proposed)),
            Self::Other(deliver) => deliver(),
        }
    }
}

/// The answers of this turn.
pub(super) struct Answers {
    turn: Vec<Answer>,
    turns: mpsc::Sender<Vec<Answer>>,
}

impl Answers {
    /// Hands out on the runtime of the caller.
    pub(super) fn start() -> Self {
        let (turns, mut waiting) = mpsc::channel::<Vec<Answer>>(TURNS);
        tokio::spawn(async move {
            while let Some(turn) = waiting.recv().await {
                turn.into_iter().for_each(Answer::deliver);
            }
        });
        Self { turn: Vec::new(), turns }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        self.turn.push(answer);
    }

    /// Before anything that takes long.
    pub(super) fn hand_over(&mut self) {
        if self.turn.len() <= FEW {
            return self.turn.drain(..).for_each(Answer::deliver);
        }
        let turn = std::mem::take(&mut self.turn);
        if let Err(
            mpsc::error::TrySendError::Full(turn) | mpsc::error::TrySendError::Closed(turn),
        ) = self.turns.try_send(turn)
        {
            turn.into_iter().for_each(Answer::deliver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(answers: &mut Answers) -> oneshot::Receiver<Proposed> {
        let (reply, answer) = oneshot::channel();
        answers.push(Answer::Proposed(reply, Proposed::Lost));
        answer
    }

    #[tokio::test]
    async fn all_answers_of_a_turn_arrive_however_many() {
        let mut answers = Answers::start();
        for count in [0, 1, FEW, FEW + 1, 100] {
            let waiting: Vec<_> = (0..count).map(|_| lost(&mut answers)).collect();
            answers.hand_over();
            for answer in waiting {
                assert_eq!(answer.await, Ok(Proposed::Lost));
            }
        }
    }

    #[tokio::test]
    async fn nobody_is_forgotten_when_turns_pile_up() {
        let mut answers = Answers::start();
        // The task has no turn before the first await.
        let waiting: Vec<_> = (0..TURNS + 3)
            .flat_map(|_| {
                let of_turn: Vec<_> = (0..=FEW).map(|_| lost(&mut answers)).collect();
                answers.hand_over();
                of_turn
            })
            .collect();
        for answer in waiting {
            assert_eq!(answer.await, Ok(Proposed::Lost));
        }
    }
}
