//! Sockets that may hold more packets, each at most once: a flooded socket, which epoll reports
//! again and again, gets one turn among the others and not one per report.

use std::collections::{BTreeSet, VecDeque};

use mio::Token;

#[derive(Default)]
pub(super) struct Ready {
    queue: VecDeque<Token>,
    /// What is in `queue`.
    queued: BTreeSet<Token>,
}

impl Ready {
    pub(super) fn push(&mut self, token: Token) {
        if self.queued.insert(token) {
            self.queue.push_back(token);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Token> {
        let token = self.queue.pop_front()?;
        self.queued.remove(&token);
        Some(token)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_reported_often_has_one_place() {
        let mut ready = Ready::default();
        for token in [1, 1, 2, 1, 2] {
            ready.push(Token(token));
        }
        assert_eq!(ready.len(), 2);
        assert_eq!(ready.pop(), Some(Token(1)));
        // Taken out, it may come back: behind the others.
        ready.push(Token(1));
        assert_eq!(ready.pop(), Some(Token(2)));
        assert_eq!(ready.pop(), Some(Token(1)));
        assert_eq!(ready.pop(), None);
        assert!(ready.is_empty());
    }
}
