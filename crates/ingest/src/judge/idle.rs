//! Processes that wait for their next question. The one that was asked last is asked next, so those that are too many for
//! what there is to judge stay where they are, and end when they have waited for as long as they may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What waits, which is a process wherever it is not a test.
pub(super) struct Idle<T> {
    longest: Duration,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Each with the instant at which it ends; the one that has waited for longest is in front.
    waiting: VecDeque<(Instant, T)>,
    /// Somebody looks after them.
    watched: bool,
}

impl<T: Send + 'static> Idle<T> {
    /// Nothing waits for longer than this.
    pub(super) fn new(longest: Duration) -> Arc<Self> {
        Arc::new(Self { longest, state: Mutex::new(State { waiting: VecDeque::new(), watched: false }) })
    }

    /// The one that was used last.
    pub(super) fn take(&self) -> Option<T> {
        self.state.lock().waiting.pop_back().map(|(_, one)| one)
    }

    /// Keeps one until it is needed, or its time is over.
    pub(super) fn put(self: &Arc<Self>, one: T) {
        let mut state = self.state.lock();
        state.waiting.push_back((Instant::now() + self.longest, one));
        if !std::mem::replace(&mut state.watched, true) {
            // It ends when nothing waits, so it is not there where no schema is ever enforced.
            tokio::spawn(Arc::clone(self).watch());
        }
    }

    async fn watch(self: Arc<Self>) {
        while let Some(next) = self.end_old() {
            tokio::time::sleep_until(next).await;
        }
    }

    /// Ends those whose time is over; the instant at which the next one ends, or `None` if nothing waits any more.
    fn end_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut ended = Vec::new();
        let mut state = self.state.lock();
        while let Some((_, one)) = state.waiting.pop_front_if(|(end, _)| *end <= now) {
            ended.push(one);
        }
        let next = state.waiting.front().map(|(end, _)| *end);
        state.watched = next.is_some();
        // To end one is a system call.
        drop(state);
        drop(ended);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets whoever watches do so.
    async fn after(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_needs_ends_and_what_is_in_use_stays() {
        let second = Duration::from_secs(1);
        let idle = Idle::new(10 * second);
        let tokens: Vec<_> = (0..2).map(Arc::new).collect();
        tokens.iter().for_each(|token| idle.put(Arc::clone(token)));
        let held = |number: usize| Arc::strong_count(&tokens[number]) > 1;
        for _ in 0..3 {
            after(6 * second).await;
            let used = idle.take().unwrap();
            assert_eq!(*used, 1, "the one that was used last");
            idle.put(used);
        }
        assert!(!held(0) && held(1));
        after(11 * second).await;
        assert!(!held(1) && idle.take().is_none());
        // It goes on after there was nothing.
        idle.put(Arc::clone(&tokens[0]));
        after(11 * second).await;
        assert!(!held(0));
    }
}
