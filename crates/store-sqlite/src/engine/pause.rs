//! Holding reads back for a moment, so that the WAL can be started anew while nobody of this process reads it.
//!
//! While reads overlap, there is always somebody who needs pages of the WAL, and it would grow for as long as that goes on. Reads
//! that begin while they are held back wait; those under way are waited for, each of which is short. One that is not is overdue after
//! a second: what a caller asked for is ended then (`readers`), and what the process reads is waited for as long again, and for longer if
//! that was too short several times (`checkpoint`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What is under way of some readers, and whether more may begin.
#[derive(Default)]
pub(crate) struct Pause {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether those who read have been waited for long enough.
    is_overdue: AtomicBool,
}

#[derive(Default)]
struct State {
    reading: usize,
    is_held: bool,
}

/// A read that is under way; it ends when this is dropped.
pub(crate) struct Reading(Arc<Pause>);

/// While this is there, nobody reads, and nobody begins to.
pub(crate) struct Held<'a>(&'a Pause);

impl Pause {
    /// Begins to read, as soon as reads are not held back.
    pub(crate) fn begin(self: &Arc<Self>) -> Reading {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.is_held);
        state.reading += 1;
        Reading(Arc::clone(self))
    }

    /// Holds reads back, and waits for those under way; after `patience` they are overdue, and `None` if they take longer than
    /// `more` from then on. One thread does so.
    pub(crate) fn hold(&self, patience: Duration, more: Duration) -> Option<Held<'_>> {
        let mut state = self.state.lock();
        state.is_held = true;
        let held = Held(self);
        let mut wait =
            |patience| self.changed.wait_while_for(&mut state, |state| state.reading > 0, patience).timed_out();
        let mut late = wait(patience);
        if late {
            self.is_overdue.store(true, Ordering::Relaxed);
            late = wait(more);
            self.is_overdue.store(false, Ordering::Relaxed);
        }
        drop(state);
        (!late).then_some(held)
    }

    /// Whether who reads is to stop, if nothing but a caller waits for that.
    pub(crate) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Relaxed)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.state.lock().reading -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_held = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_begins_to_read_while_reads_are_held_back_waits_and_who_reads_is_waited_for() {
        let pause = Arc::new(Pause::default());
        let first = pause.begin();
        assert!(pause.hold(Duration::ZERO, Duration::ZERO).is_none(), "somebody reads");
        // Given up, it holds nobody back.
        let second = pause.begin();
        let (holding, (held, is_held)) = (Arc::clone(&pause), mpsc::channel());
        let (let_go, goes_on) = mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            let hold = holding.hold(Duration::from_secs(600), Duration::ZERO);
            held.send(hold.is_some()).unwrap();
            goes_on.recv().unwrap();
        });
        drop(first);
        assert!(is_held.try_recv().is_err());
        drop(second);
        assert!(is_held.recv().unwrap());
        let (beginning, (begun, has_begun)) = (Arc::clone(&pause), mpsc::channel());
        let reader = std::thread::spawn(move || {
            let _reading = beginning.begin();
            begun.send(()).unwrap();
        });
        assert!(has_begun.try_recv().is_err());
        let_go.send(()).unwrap();
        has_begun.recv().unwrap();
        holder.join().unwrap();
        reader.join().unwrap();
        assert!(pause.hold(Duration::ZERO, Duration::ZERO).is_some());
    }
}
