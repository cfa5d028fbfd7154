//! What the listener answers: a pure function of what it was told and of what it has seen.

use std::collections::{HashMap, VecDeque};

use http::StatusCode;

/// Ids whose attempts are counted; the oldest are forgotten first, so that memory stays bounded.
const REMEMBERED: usize = 100_000;

/// Decides the answers.
pub(super) struct Behaviour {
    statuses: Vec<StatusCode>,
    turn: usize,
    fail_first: u32,
    attempts: HashMap<Box<str>, u32>,
    order: VecDeque<Box<str>>,
}

/// One request, as the listener sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Which attempt of its message this is, from 1; `None` without an id.
    pub(super) attempt: Option<u32>,
    /// What to answer.
    pub(super) status: StatusCode,
}

impl Behaviour {
    /// Answers `statuses` in turn, except for the first `fail_first` attempts of each id, which get 500.
    pub(super) fn new(statuses: Vec<StatusCode>, fail_first: u32) -> Self {
        Self { statuses, turn: 0, fail_first, attempts: HashMap::new(), order: VecDeque::new() }
    }

    /// The next request. One that is not `trusted` is refused, and does not count as an attempt of the id it claims.
    pub(super) fn next(&mut self, id: Option<&str>, trusted: bool) -> Seen {
        if !trusted {
            return Seen { attempt: None, status: StatusCode::UNAUTHORIZED };
        }
        let attempt = id.map(|id| self.count(id));
        if attempt.is_some_and(|attempt| attempt <= self.fail_first) {
            return Seen { attempt, status: StatusCode::INTERNAL_SERVER_ERROR };
        }
        let status = self.statuses.get(self.turn).copied().unwrap_or(StatusCode::OK);
        self.turn = (self.turn + 1) % self.statuses.len().max(1);
        Seen { attempt, status }
    }

    fn count(&mut self, id: &str) -> u32 {
        if let Some(attempts) = self.attempts.get_mut(id) {
            *attempts = attempts.saturating_add(1);
            return *attempts;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.attempts.remove(&oldest);
        }
        self.attempts.insert(id.into(), 1);
        self.order.push_back(id.into());
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(behaviour: &mut Behaviour, ids: &[&str]) -> Vec<u16> {
        ids.iter().map(|id| behaviour.next(Some(id), true).status.as_u16()).collect()
    }

    #[test]
    fn codes_are_answered_in_turn() {
        let mut behaviour = Behaviour::new(vec![StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE], 0);
        assert_eq!(answers(&mut behaviour, &["a", "b", "c"]), [200, 503, 200]);
    }

    #[test]
    fn the_first_attempts_of_every_message_fail() {
        let mut behaviour = Behaviour::new(vec![StatusCode::NO_CONTENT], 2);
        assert_eq!(answers(&mut behaviour, &["a", "a", "b", "a", "b", "b"]), [500, 500, 500, 204, 500, 204]);
    }

    #[test]
    fn what_does_not_verify_is_refused_and_is_no_attempt() {
        let mut behaviour = Behaviour::new(vec![StatusCode::OK], 1);
        assert_eq!(behaviour.next(Some("a"), false).status, StatusCode::UNAUTHORIZED);
        assert_eq!(behaviour.next(Some("a"), true).attempt, Some(1));
    }

    #[test]
    fn a_request_without_an_id_is_answered_but_not_counted() {
        let mut behaviour = Behaviour::new(vec![StatusCode::OK], 5);
        assert_eq!(behaviour.next(None, true), Seen { attempt: None, status: StatusCode::OK });
    }

    #[test]
    fn the_oldest_ids_are_forgotten() {
        let mut behaviour = Behaviour::new(vec![StatusCode::OK], 0);
        for id in 0..=REMEMBERED {
            behaviour.next(Some(&id.to_string()), true);
        }
        assert_eq!(behaviour.attempts.len(), REMEMBERED);
        assert_eq!(behaviour.next(Some("0"), true).attempt, Some(1));
        assert_eq!(behaviour.next(Some(&REMEMBERED.to_string()), true).attempt, Some(2));
    }
}
