//! A few connections for reading, each with a thread of its own, so a long list never stops the runtime, and waits its turn when all
//! connections are busy. The threads are there from the beginning: nothing that is read waits for one that the system may not give, and
//! none has the priority of whoever asks, who would hold a connection that others wait for. Those who ask take turns, by environment and within one by
//! application: whatever somebody asks for, a read of anybody else waits for about one of his. Of connections that the process reads
//! with, too, callers never have all: what the engine and the health check read does not wait behind what callers ask for.
//!
//! A read that a caller asked for ends with an error, [`StoreError::Unavailable`], if it is still under way when the WAL has waited
//! for it to be started anew (`pause`): nobody makes it grow by reading for long. What the process reads is bounded by whoever reads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use postrider_store::{Asker, StoreError};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Semaphore, oneshot};

use crate::engine::checkpoint::STACK_BYTES;
use crate::engine::decode::SqlError;
use crate::engine::files::Files;
use crate::engine::lock::Lock;
use crate::engine::pause::Pause;
use crate::engine::turns::{Line as _, Turns};

/// So many steps of SQLite, a microsecond or two, a statement takes before it looks whether its read is to end; they are counted from
/// one use of a prepared statement to the next.
const STEPS: i32 = 100;

/// A connection for reading.
struct Reader {
    connection: Connection,
    /// Whether a caller asked for what is read.
    is_asked: Arc<AtomicBool>,
    files: Option<Arc<Files>>,
}

impl Reader {
    fn new(mut connection: Connection, files: Option<Arc<Files>>, pause: &Arc<Pause>) -> rusqlite::Result<Self> {
        let is_asked = Arc::new(AtomicBool::new(false));
        let (asked, pause) = (Arc::clone(&is_asked), Arc::clone(pause));
        let is_to_end = move || asked.load(Ordering::Relaxed) && pause.is_overdue();
        connection.progress_handler(STEPS, Some(is_to_end))?;
        Ok(Self { connection, is_asked, files })
    }

    fn read<T>(
        &self,
        is_asked: bool,
        pause: &Arc<Pause>,
        read: impl FnOnce(&Connection) -> Result<T, SqlError>,
    ) -> Result<T, StoreError> {
        if self.files.as_ref().is_some_and(|files| !files.are_readable()) {
            return Err(StoreError::Unavailable("its files were cut while they were in use".to_owned()));
        }
        self.is_asked.store(is_asked, Ordering::Relaxed);
        let reading = pause.begin();
        // A panic must not take the connection with it: there would be fewer and fewer, until nothing can be read.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&self.connection)));
        drop(reading);
        match result {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) if was_ended(&error) => {
                let problem = "a read took so long that others had to wait for it, and was ended";
                Err(StoreError::Unavailable(problem.to_owned()))
            }
            Ok(Err(error)) => {
                if let Some(files) = &self.files {
                    files.heard(&error);
                }
                Err(error.into())
            }
            Err(_) => Err(StoreError::Unavailable("a read failed unexpectedly; see the log".to_owned())),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(files) = &self.files {
            files.let_go(&self.connection);
        }
    }
}

/// What a thread is given to do.
type Work = Box<dyn FnOnce(&Reader) + Send>;

/// A thread that has nothing to do. It ends when this is gone.
struct Idle {
    number: usize,
    work: mpsc::Sender<Work>,
}

/// The reading side.
pub(crate) struct Readers {
    /// None from when it is closed: threads that read then end when they have.
    idle: Arc<Mutex<Option<Vec<Idle>>>>,
    threads: Mutex<BTreeMap<usize, Thread>>,
    turns: Arc<Semaphore>,
    /// Of the turns, those that callers may have at a time.
    asked: Arc<Gate>,
    /// How many there are, idle or not.
    count: u32,
    /// What holds reads back while the WAL is started anew.
    pause: Arc<Pause>,
}

/// A thread, and what tells that it has let go of its connection.
struct Thread {
    handle: JoinHandle<()>,
    has_ended: oneshot::Receiver<()>,
}

impl Thread {
    /// Starts one that reads with a connection, and is idle.
    fn start(number: usize, reader: Reader, lock: Option<Arc<Lock>>) -> std::io::Result<(Self, Idle)> {
        let (sender, work) = mpsc::channel::<Work>();
        let (ended, has_ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("store-reader".to_owned()).stack_size(STACK_BYTES);
        let handle = thread.spawn(move || {
            while let Ok(work) = work.recv() {
                work(&reader);
            }
            // In this order: see `lock`.
            drop(reader);
            drop(lock);
            let _ = ended.send(());
        })?;
        Ok((Self { handle, has_ended }, Idle { number, work: sender }))
    }
}

impl Readers {
    /// Starts a thread for each of `connections`. `own` of them are always left to the process. The threads hold the lock until they end:
    /// whoever owns the store next finds that nobody reads with it any more.
    pub(crate) fn start(
        connections: Vec<Connection>,
        own: usize,
        files: Option<&Arc<Files>>,
        lock: Option<&Arc<Lock>>,
    ) -> std::io::Result<Self> {
        let pause = Arc::<Pause>::default();
        let turns = Arc::new(Semaphore::new(connections.len()));
        let asked = Arc::new(Gate::new(connections.len().saturating_sub(own)));
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let (threads, idle) = (Mutex::default(), Arc::new(Mutex::new(Some(Vec::new()))));
        // If one cannot be started, those before it end as those of a store do.
        let readers = Self { idle, threads, turns, asked, count, pause };
        for (number, connection) in connections.into_iter().enumerate() {
            let reader = Reader::new(connection, files.cloned(), &readers.pause).map_err(std::io::Error::other)?;
            let (thread, idle) = Thread::start(number, reader, lock.cloned())?;
            readers.threads.lock().insert(number, thread);
            set_idle(&readers.idle, idle);
        }
        Ok(readers)
    }

    /// What holds reads back.
    pub(crate) fn pause(&self) -> Arc<Pause> {
        Arc::clone(&self.pause)
    }

    /// Runs `read` on a connection that sees every commit made so far.
    pub(crate) async fn run<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        let asker = Asker::current();
        let place = self.asked.enter(asker).await.ok_or(StoreError::Closed)?;
        let read = move |connection: &Connection| {
            let _place = place;
            read(connection)
        };
        self.run_for(asker != Asker::PROCESS, read).await
    }

    /// As [`Readers::run`], for what the process reads by itself.
    pub(crate) async fn run_own<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        self.run_for(false, read).await
    }

    async fn run_for<T, F>(&self, is_asked: bool, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (idle, pause) = (Arc::clone(&self.idle), self.pause());
        let Idle { number, work: thread } = idle.lock().as_mut().and_then(Vec::pop).ok_or(StoreError::Closed)?;
        let (done, result) = oneshot::channel();
        let again = thread.clone();
        let work = move |reader: &Reader| {
            let result = reader.read(is_asked, &pause, read);
            // Whoever has the turn next finds the thread idle; it is so even if nobody waits for the result any more.
            set_idle(&idle, Idle { number, work: again });
            drop(turn);
            let _ = done.send(result);
        };
        thread.send(Box::new(work)).map_err(|_| StoreError::Closed)?;
        // It ends when nobody has this any more, and whoever closes the store waits for that.
        drop(thread);
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `read`, which may consist of several statements, so that all of them see the same commit.
    pub(crate) async fn run_at_once<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        self.run(|connection| {
            // Ends when it is dropped.
            let _snapshot = connection.unchecked_transaction()?;
            read(connection)
        })
        .await
    }

    /// Waits for the reads under way; none starts from then on. The connections are closed one after the other: of two that are closed
    /// at the same time neither is the last one for SQLite, and the WAL would stay.
    pub(crate) async fn close(&self) {
        // Fails if it is closed already. Nobody has a turn from then on: they are given back when there are none any more.
        let all = self.turns.acquire_many(self.count).await;
        self.turns.close();
        self.asked.close();
        // All of them: with every turn taken nobody reads.
        let idle = self.idle.lock().take().unwrap_or_default();
        drop(all);
        for Idle { number, work } in idle {
            drop(work);
            let thread = self.threads.lock().remove(&number);
            if let Some(thread) = thread {
                // An error says the same.
                let _ = thread.has_ended.await;
            }
        }
    }
}

impl Drop for Readers {
    /// Connections with which nothing is read are closed when this returns. A read that nobody waits for any more may take long, and its
    /// thread ends after that.
    fn drop(&mut self) {
        let idle = self.idle.lock().take().unwrap_or_default();
        let mut threads = std::mem::take(&mut *self.threads.lock());
        for Idle { number, work } in idle {
            drop(work);
            if let Some(thread) = threads.remove(&number) {
                let _ = thread.handle.join();
            }
        }
    }
}

/// A thread has nothing to do; if the store is closed, it ends.
fn set_idle(idle: &Mutex<Option<Vec<Idle>>>, thread: Idle) {
    if let Some(idle) = idle.lock().as_mut() {
        idle.push(thread);
    }
}

/// Whether a read came to nothing because it was to end.
fn was_ended(error: &SqlError) -> bool {
    let SqlError::Driver(error) = error else { return false };
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// Lets so many through at a time; of those who wait, each in his turn.
struct Gate(Mutex<Waiting>);

struct Waiting {
    free: usize,
    /// By environment and application; whoever has gone away has dropped the other end.
    line: Turns<u64, Turns<u64, VecDeque<oneshot::Sender<Place>>>>,
    is_closed: bool,
}

/// A place behind a gate, free again when dropped.
struct Place(Option<Arc<Gate>>);

impl Gate {
    fn new(places: usize) -> Self {
        Self(Mutex::new(Waiting { free: places, line: Turns::default(), is_closed: false }))
    }

    /// Waits for a place; `None` if the gate is closed.
    async fn enter(self: &Arc<Self>, asker: Asker) -> Option<Place> {
        let place = {
            let mut waiting = self.0.lock();
            if waiting.is_closed {
                return None;
            }
            if waiting.free > 0 {
                waiting.free -= 1;
                return Some(Place(Some(Arc::clone(self))));
            }
            let (sender, place) = oneshot::channel();
            let line = waiting.line.of(asker.environment).of(asker.application);
            // Those who have gone away take no room for long.
            line.skip(&|sender: &oneshot::Sender<Place>| !sender.is_closed());
            line.push_back(sender);
            place
        };
        place.await.ok()
    }

    /// Gives a place to the next who still waits for it.
    fn leave(self: Arc<Self>) {
        let mut place = Place(Some(Arc::clone(&self)));
        loop {
            let next = {
                let mut waiting = self.0.lock();
                // Whoever has gone away has no turn.
                waiting.line.skip(&|sender: &oneshot::Sender<Place>| !sender.is_closed());
                let next = waiting.line.pop();
                waiting.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else {
                place.0 = None;
                return;
            };
            match next.send(place) {
                Ok(()) => return,
                Err(back) => place = back,
            }
        }
    }

    /// Nobody enters from now on, and nobody waits.
    fn close(&self) {
        let line = {
            let mut waiting = self.0.lock();
            waiting.is_closed = true;
            std::mem::take(&mut waiting.line)
        };
        drop(line);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

    #[tokio::test]
    async fn what_the_process_reads_does_not_wait_behind_what_callers_ask_for() {
        let connections = (0..3).map(|_| crate::engine::plans::database()).collect();
        let readers = Arc::new(Readers::start(connections, 1, None, None).unwrap());
        let mut asked = tokio::task::JoinSet::new();
        let mut go_on = Vec::new();
        for _ in 0..100 {
            let (readers, (let_go, waits)) = (Arc::clone(&readers), mpsc::channel::<()>());
            go_on.push(let_go);
            asked.spawn(async move {
                // An error means that it is let go.
                readers.run(move |_| Ok(waits.recv().is_err())).await
            });
        }
        while readers.asked.0.lock().free > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(readers.run_own(|_| Ok(1)).await.unwrap(), 1);
        assert!(asked.try_join_next().is_none());
        drop(go_on);
        let done = asked.join_all().await;
        assert!(done.len() == 100 && done.into_iter().all(|result| result.unwrap()));
        readers.close().await;
        assert!(matches!(readers.run(|_| Ok(())).await, Err(StoreError::Closed)));
    }

    /// Reads until it is ended, or for longer than any test may.
    const ENDLESS_SQL: &str =
        "WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n LIMIT 1000000000000) SELECT count(*) FROM n";

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_caller_reads_for_long_is_ended_when_reads_are_held_back_and_what_the_process_reads_is_not() {
        let connections = (0..2).map(|_| crate::engine::plans::database()).collect();
        let readers = Arc::new(Readers::start(connections, 0, None, None).unwrap());
        let read = |begun: mpsc::Sender<()>| {
            let readers = Arc::clone(&readers);
            async move {
                let read = move |connection: &Connection| {
                    begun.send(()).unwrap();
                    Ok(connection.query_row(ENDLESS_SQL, [], |row| row.get::<_, i64>(0))?)
                };
                readers.run(read).await
            }
        };
        let (begun, has_begun) = mpsc::channel();
        let asked = tokio::spawn(postrider_store::as_stranger(read(begun)));
        has_begun.recv().unwrap();
        let pause = readers.pause();
        let held = tokio::task::spawn_blocking(move || pause.hold(SECOND, SECOND).is_some());
        assert!(held.await.unwrap());
        assert!(matches!(asked.await.unwrap(), Err(StoreError::Unavailable(_))));
        // The connection is as good as ever.
        for _ in 0..2 {
            assert_eq!(
                readers
                    .run(|connection| Ok(connection.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?))
                    .await
                    .unwrap(),
                1
            );
        }
        let (own, (let_go, is_let_go)) = (Arc::clone(&readers), mpsc::channel::<()>());
        let (begun, has_begun) = mpsc::channel();
        let own = tokio::spawn(async move {
            let read = move |connection: &Connection| {
                begun.send(()).unwrap();
                let short = ENDLESS_SQL.replace("1000000000000", "100000");
                while is_let_go.try_recv().is_err() {
                    connection.query_row(&short, [], |row| row.get::<_, i64>(0))?;
                }
                Ok(())
            };
            own.run(read).await
        });
        has_begun.recv().unwrap();
        let pause = readers.pause();
        let held = tokio::task::spawn_blocking(move || pause.hold(SECOND / 20, SECOND / 20).is_some());
        assert!(!held.await.unwrap());
        let_go.send(()).unwrap();
        own.await.unwrap().unwrap();
        readers.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_dropped_does_not_wait_for_a_read_and_the_reads_thread_ends_all_the_same() {
        let connections = (0..2).map(|_| crate::engine::plans::database()).collect();
        let readers = Arc::new(Readers::start(connections, 0, None, None).unwrap());
        let (begun, has_begun) = mpsc::channel();
        let (let_go, waits) = mpsc::channel::<()>();
        let asked = tokio::spawn({
            let readers = Arc::clone(&readers);
            async move {
                let read = move |_: &Connection| {
                    begun.send(()).unwrap();
                    Ok(waits.recv().is_err())
                };
                readers.run(read).await
            }
        });
        has_begun.recv().unwrap();
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        let readers = Arc::into_inner(readers).expect("nobody else has it");
        // All connections have it.
        let pause = Arc::downgrade(&readers.pause);
        let dropped = tokio::task::spawn_blocking(move || drop(readers));
        tokio::time::timeout(10 * SECOND, dropped).await.expect("it waits for no read").unwrap();
        assert!(pause.strong_count() > 0, "something is still read");
        drop(let_go);
        let ended = async {
            while pause.strong_count() > 0 {
                tokio::time::sleep(SECOND / 1_000).await;
            }
        };
        tokio::time::timeout(10 * SECOND, ended).await.expect("a thread that has read ends");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whatever_is_read_while_a_store_is_closed_it_ends() {
        for _ in 0..200 {
            let connections = (0..2).map(|_| crate::engine::plans::database()).collect();
            let readers = Arc::new(Readers::start(connections, 0, None, None).unwrap());
            let mut asked = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let readers = Arc::clone(&readers);
                asked.spawn(async move { while readers.run_own(|_| Ok(())).await.is_ok() {} });
            }
            tokio::task::yield_now().await;
            readers.close().await;
            while asked.join_next().await.is_some() {}
        }
    }

    fn asker(environment: u64, application: u64) -> Asker {
        Asker { environment, application }
    }

    #[tokio::test]
    async fn those_who_wait_for_a_read_take_turns() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(asker(1, 1)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        let many = std::iter::repeat_n(asker(1, 1), 50).chain(std::iter::repeat_n(asker(1, 2), 2));
        for asker in many.chain([asker(2, 1)]) {
            let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
            waiting.spawn(async move {
                let _place = gate.enter(asker).await.unwrap();
                order.lock().push((asker.environment, asker.application));
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        waiting.join_all().await;
        assert_eq!(order.lock()[..5], [(1, 1), (2, 1), (1, 2), (1, 1), (1, 2)]);
        assert_eq!((order.lock().len(), gate.0.lock().free), (53, 1));
    }

    #[tokio::test]
    async fn who_no_longer_waits_takes_no_place_with_him() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(asker(1, 1)).await.unwrap();
        for _ in 0..100 {
            // Each waits, and goes away.
            let mut entering = Box::pin(gate.enter(asker(1, 1)));
            assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(entering.as_mut().poll(cx).is_pending())).await);
        }
        let last = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(asker(1, 1)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert!(last.await.unwrap());
        assert_eq!(gate.0.lock().free, 1);
    }

    #[tokio::test]
    async fn who_no_longer_waits_takes_nobodys_turn() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(asker(1, 1)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        let mut gone = None;
        for (number, environment) in [(1, 1), (0, 1), (2, 1), (3, 2), (4, 2)] {
            let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
            let entered = waiting.spawn(async move {
                let _place = gate.enter(asker(environment, 1)).await.unwrap();
                order.lock().push(number);
            });
            tokio::task::yield_now().await;
            if number == 0 {
                gone = Some(entered);
            }
        }
        gone.unwrap().abort();
        tokio::task::yield_now().await;
        drop(held);
        while waiting.join_next().await.is_some() {}
        assert_eq!(*order.lock(), [1, 3, 2, 4]);
    }

    #[tokio::test]
    async fn nobody_waits_behind_a_gate_that_was_closed() {
        let gate = Arc::new(Gate::new(1));
        let held = gate.enter(asker(1, 1)).await;
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter(asker(1, 1)).await.is_none() }
        });
        tokio::task::yield_now().await;
        gate.close();
        assert!(waiting.await.unwrap());
        drop(held);
        assert!(gate.enter(asker(1, 1)).await.is_none());
    }
}
