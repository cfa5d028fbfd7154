//! Handing accepted messages over in steps.
//!
//! On a machine with several cores the engine's tasks run while a batch is handed over. Here there is one thread, and handing
//! over is no task: nothing would ever come between two messages of a batch. So it gets a thread of its own, and that one and the
//! simulated machine take turns: now and then it stops between two messages, or where the engine prepares an endpoint, time
//! goes by, and it goes on. Only one of
//! the two ever runs, so a seed still decides everything.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use postrider_domain::ids::MessageId;
use postrider_store::{Dispatch, HandOver};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::dice::Dice;

/// The longest pause between two steps: in most batches, and in others, so that a lane can have its turn meanwhile.
const PAUSE: [Duration; 3] = [Duration::from_millis(300), Duration::from_millis(300), Duration::from_secs(1)];

/// How often there is one, and how many there are in a batch at most: the engine relies on it that no batch takes long.
const PAUSES: f64 = 0.2;
const MOST_PAUSES: usize = 4;

thread_local! {
    /// Of a thread that hands over: how it stops.
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
}

struct Stop {
    dice: Arc<Dice>,
    left: usize,
    stopped: SyncSender<()>,
    go_on: Receiver<()>,
}

/// Stops here for a while, if this thread hands messages over. The caller must not hold a lock.
pub(crate) fn may_stop() {
    STOP.with_borrow_mut(|stop| {
        let Some(stop) = stop.as_mut().filter(|stop| stop.left > 0 && stop.dice.happens(PAUSES)) else { return };
        stop.left -= 1;
        // An error is the end of the simulated machine.
        if stop.stopped.send(()).is_ok() {
            let _ = stop.go_on.recv();
        }
    });
}

/// Takes batches, and hands them over one after the other.
pub(crate) struct Stepwise {
    to: Arc<dyn Dispatch>,
    batches: UnboundedSender<HandOver>,
}

impl Stepwise {
    pub(crate) fn new(to: Arc<dyn Dispatch>, dice: Arc<Dice>) -> Self {
        let (sender, mut batches) = unbounded_channel();
        let taker = Arc::clone(&to);
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                let longest = *dice.one(&PAUSE);
                let mut steps = Steps::begin(Arc::clone(&taker), Arc::clone(&dice), batch);
                while steps.go_on() {
                    tokio::time::sleep(dice.time(longest)).await;
                }
            }
        });
        Self { to, batches: sender }
    }
}

impl Dispatch for Stepwise {
    fn announce(&self, messages: &[MessageId]) {
        self.to.announce(messages);
    }

    fn dispatch(&self, batch: HandOver) {
        // An error is the end of the simulated machine.
        let _ = self.batches.send(batch);
    }
}

/// A batch that is being handed over.
struct Steps {
    go_on: Option<SyncSender<()>>,
    stopped: Receiver<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Steps {
    fn begin(to: Arc<dyn Dispatch>, dice: Arc<Dice>, batch: HandOver) -> Self {
        let (stopped, has_stopped) = sync_channel(0);
        let (go_on, goes_on) = sync_channel::<()>(0);
        let runtime = Handle::current();
        let thread = std::thread::spawn(move || {
            let _runtime = runtime.enter();
            if goes_on.recv().is_ok() {
                STOP.set(Some(Stop { dice, left: MOST_PAUSES, stopped, go_on: goes_on }));
                to.dispatch(batch);
                STOP.set(None);
            }
        });
        Self { go_on: Some(go_on), stopped: has_stopped, thread: Some(thread) }
    }

    /// Lets it run up to where it stops; false if it has ended.
    fn go_on(&mut self) -> bool {
        self.go_on.as_ref().is_some_and(|go_on| go_on.send(()).is_ok()) && self.stopped.recv().is_ok()
    }
}

impl Drop for Steps {
    /// If the machine ends meanwhile, the rest comes at once, and to nothing.
    fn drop(&mut self) {
        self.go_on = None;
        let (_, nobody) = sync_channel(0);
        self.stopped = nobody;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
