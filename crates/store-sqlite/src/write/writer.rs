//! The one thread that writes.
//!
//! Jobs queue up while a commit is under way, and all that are waiting go into the next transaction together: group
//! commit. Nobody hears of a success before the commit that contains it has reached the disk; if the commit fails,
//! everybody in it hears of that.
//!
//! Accepting and settling check before they write, so only a failure of the driver stops them halfway, and that fails the
//! whole transaction. Other jobs run inside a savepoint each, so one that is refused takes nothing from the others. (A
//! savepoint for every job would have SQLite copy every page that a batch touches, once more.)
//!
//! Results have time: nobody waits for them. When nothing but results is queued, the writer waits a moment for something
//! to come along, so that under load one fsync serves both sides. What goes into which transaction is decided in `inbox.rs` and
//! `group.rs`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::delivery::DisableReason;
use postrider_domain::ids::{ApplicationId, EndpointId, Id as _, Ksuid};
use postrider_store::{AcceptError, Accepted, EndpointKey, NewMessage, Observers, Settlement, StoreError, Unstorable};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use crate::engine::askers::{self, Asker, Whose};
use crate::engine::checkpoint::{self, Checkpointer, STACK_BYTES};
use crate::engine::decode::SqlError;
use crate::engine::files::Files;
use crate::engine::group::{Filling, Kind, Turn, Waiting};
use crate::engine::inbox::{self, Inbox};
use crate::engine::lock::Lock;
use crate::engine::pause::Pause;
use crate::engine::tx::{Abort, FEW_ROWS, News, Tx, in_savepoint};
use crate::write::hot::Hot;

/// How many rows of what is stored an ordinary write reads and overwrites; they count as part of it.
const FEW_OVERWRITTEN: usize = FEW_ROWS / 2;

/// How long results wait for company. Long against the pause between two batches of accepts under load, short against
/// anything a person could notice.
const SETTLE_PATIENCE: Duration = Duration::from_millis(1);

/// Told after the commit: `None` if it reached the disk.
type Done = Box<dyn FnOnce(Option<&Failure>) + Send>;

/// What came between a group of writes and success.
struct Failure {
    error: StoreError,
    /// Whether it came after the commit: then the writes are there for all who use the store, but may not last.
    is_after_commit: bool,
}

impl Failure {
    /// The group came to nothing. What was wrong with one write is no fault of the others, which may well be tried again.
    fn of_group(error: StoreError) -> Self {
        let error = match error {
            StoreError::Inconsistent { .. } => {
                StoreError::Unavailable("another write of the same commit could not be stored".to_owned())
            }
            other => other,
        };
        Self { error, is_after_commit: false }
    }
}

/// Carries a write out; without a transaction it is not carried out, and who asked is told why.
type Write = Box<dyn FnOnce(Option<&Tx<'_>>) -> Done + Send>;

/// A write, until it is begun or withdrawn. It is the writer's, and ends with it: whoever waits hears of that.
struct Asked(Arc<Mutex<Option<Write>>>);

impl Asked {
    fn new(write: Write) -> Self {
        Self(Arc::new(Mutex::new(Some(write))))
    }

    fn is_there(&self) -> bool {
        self.0.lock().is_some()
    }

    fn take(&self) -> Option<Write> {
        self.0.lock().take()
    }
}

/// Held by a caller as long as he waits: if he goes before his write is begun, it and all that it holds are gone, wherever it is.
struct Waits(Weak<Mutex<Option<Write>>>);

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(asked) = self.0.upgrade() {
            let withdrawn = asked.lock().take();
            drop(withdrawn);
        }
    }
}

/// Any other write.
struct Other {
    whose: Whose,
    /// The rows it writes, about.
    rows: usize,
    write: Asked,
}

enum Job {
    Accept(Vec<NewMessage>, oneshot::Sender<Vec<Result<Accepted, AcceptError>>>),
    Settle(Settling),
    Other(Other),
}

/// Results to store.
struct Settling {
    batch: Arc<Vec<Settlement>>,
    /// Each result in a savepoint of its own, because one of them cannot be stored. That costs a copy of every page.
    one_by_one: bool,
    reply: oneshot::Sender<Result<Vec<Unstorable>, StoreError>>,
}

/// A wish to start the WAL file anew, which was copied into the database in the background.
struct ResetWal {
    /// So many pages of it.
    copied: u64,
    /// Told when that is done, or was put off; false if the WAL is long, and somebody reads it for so long that there is no
    /// point in asking again soon. Nothing is copied meanwhile: it would be in the way.
    done: mpsc::SyncSender<bool>,
}

enum Command {
    Run(Job),
    ResetWal(ResetWal),
    Close,
}

impl inbox::Command for Command {
    fn about(&self) -> Option<Waiting> {
        match self {
            Self::Run(job) => Some(about(job)),
            Self::ResetWal(_) | Self::Close => None,
        }
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::Close)
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Run(Job::Other(other)) => other.write.is_there(),
            Self::Run(_) | Self::ResetWal(_) | Self::Close => true,
        }
    }
}

/// What only the owner of a store has.
pub(crate) struct Owned {
    /// The connection for checkpoints.
    pub(crate) checkpoints: Connection,
    pub(crate) files: Arc<Files>,
    /// What holds the process's own reads back, in the order in which that is done.
    pub(crate) reads: [Arc<Pause>; 2],
}

/// The writing side of a store.
pub(crate) struct Writer {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
    /// Told when everything that it had is let go of.
    has_ended: Mutex<Option<oneshot::Receiver<()>>>,
    is_closing: AtomicBool,
}

impl Writer {
    /// Starts the thread. It holds the lock until it ends, so that the next owner finds everything written.
    pub(crate) fn start(
        mut connection: Connection,
        owned: Option<Owned>,
        lock: Option<Arc<Lock>>,
        observers: Arc<Observers>,
    ) -> std::io::Result<Self> {
        let (commands, queue) = mpsc::channel();
        let reset = commands.clone();
        let (mut checkpointer, mut files) = (None, None);
        if let Some(owned) = owned {
            let reset = move |copied| {
                let (done, is_done) = mpsc::sync_channel(1);
                let asked = reset.send(Command::ResetWal(ResetWal { copied, done })).is_ok();
                // An error means that the writer has ended.
                asked && is_done.recv().unwrap_or(false)
            };
            let Owned { checkpoints, files: watched, reads } = owned;
            checkpointer = Some(Checkpointer::start(checkpoints, Arc::clone(&watched), reads, &mut connection, reset)?);
            files = Some(watched);
        }
        let (ended, has_ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            match Hot::prepare(&connection) {
                Ok(hot) => {
                    let observers = &observers;
                    run(Loop { connection: &connection, hot, observers, files: files.as_deref(), aside: None }, queue);
                }
                Err(error) => {
                    tracing::error!(%error, "the store's writer failed to prepare its statements");
                    drop(queue);
                }
            }
            if let Some(checkpointer) = checkpointer {
                checkpointer.stop();
            }
            if let Some(files) = files {
                files.let_go(&connection);
            }
            // In this order: see `lock`.
            drop(connection);
            drop(lock);
            let _ = ended.send(());
        })?;
        Ok(Self { commands, thread, has_ended: Mutex::new(Some(has_ended)), is_closing: AtomicBool::new(false) })
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        self.commands.send(Command::Run(job)).map_err(|_| StoreError::Closed)
    }

    pub(crate) async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let count = batch.len();
        let (reply, answer) = oneshot::channel();
        let answer = match self.send(Job::Accept(batch, reply)) {
            Ok(()) => answer.await.map_err(|_| StoreError::Closed),
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| vec![Err(AcceptError::Store(error)); count])
    }

    pub(crate) async fn settle(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError> {
        let batch = Arc::new(batch);
        match self.try_settle(Arc::clone(&batch), false).await {
            Err(StoreError::Inconsistent { .. }) => self.try_settle(batch, true).await,
            result => result,
        }
    }

    async fn try_settle(&self, batch: Arc<Vec<Settlement>>, one_by_one: bool) -> Result<Vec<Unstorable>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Settle(Settling { batch, one_by_one, reply }))?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `write`, which writes a few rows, when it is the turn of whose it is. Once it is begun it is carried out even if the
    /// caller no longer waits, and what the process writes is in any case. What a caller asks for is withdrawn if he goes before:
    /// he is the only one who was to hear of it, and whatever bounds his requests ends with them.
    pub(crate) async fn run<T, E, F>(&self, whose: impl Into<Whose>, write: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
    {
        self.run_rows(whose, FEW_ROWS, write).await
    }

    /// As [`Writer::run`], for what the process takes out of the store and gives to the engine: it is given also if there is
    /// a doubt whether the commit lasts, because the store, as it is, has it no more.
    pub(crate) async fn take<T, F>(&self, write: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Abort<StoreError>> + Send + 'static,
    {
        self.put(Whose::Process, FEW_ROWS, true, write).await
    }

    /// As [`Writer::run`], for a write of about so many rows: others wait for a few of those, not for all there are.
    pub(crate) async fn run_rows<T, E, F>(&self, whose: impl Into<Whose>, rows: usize, write: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
    {
        self.put(whose.into(), rows, false, write).await
    }

    /// As [`Writer::run_rows`], for what also reads or overwrites what is stored: SQLite writes all of a row that becomes longer or
    /// shorter, whatever changes in it. `stored` finds out how many rows that counts as, without reading it. If they are many,
    /// nothing is written yet: the write comes again, weighed by them, and again if they are more by then.
    pub(crate) async fn run_over<T, E, S, F>(
        &self,
        whose: impl Into<Whose>,
        rows: usize,
        stored: S,
        write: F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        S: Fn(&Connection) -> Result<usize, SqlError> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
    {
        let whose = whose.into();
        let (mut what, mut expected, mut weight) = ((stored, write), FEW_OVERWRITTEN, rows);
        loop {
            let attempt = move |tx: &Tx<'_>| {
                let (stored, write) = what;
                let overwritten = stored(tx)?;
                if overwritten > expected {
                    return Ok(Err((overwritten, (stored, write))));
                }
                write(tx).map(Ok)
            };
            match self.run_rows(whose.clone(), weight, attempt).await? {
                Ok(written) => return Ok(written),
                Err((overwritten, again)) => (what, expected, weight) = (again, overwritten, rows + overwritten),
            }
        }
    }

    async fn put<T, E, F>(&self, whose: Whose, rows: usize, unsure_will_do: bool, write: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Abort<E>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel::<Result<T, E>>();
        let write = Box::new(move |tx: Option<&Tx<'_>>| -> Done {
            let Some(tx) = tx else {
                return Box::new(move |failed| {
                    let error = failed.map_or(StoreError::Closed, |failure| failure.error.clone());
                    let _ = reply.send(Err(E::from(error)));
                });
            };
            let told_before = tx.news.borrow().len();
            let result = in_savepoint(tx, || write(tx));
            if result.is_err() {
                // What it had to tell did not happen.
                tx.news.borrow_mut().truncate(told_before);
            }
            if let (Err(Abort::Sql(error)), Some(files)) = (&result, tx.files) {
                files.heard(error);
            }
            Box::new(move |failed| {
                let result = match (result, failed) {
                    (Ok(value), Some(failure)) if unsure_will_do && failure.is_after_commit => Ok(value),
                    (Ok(_), Some(failure)) => Err(E::from(failure.error.clone())),
                    (Ok(value), None) => Ok(value),
                    (Err(Abort::Refused(error)), _) => Err(error),
                    (Err(Abort::Sql(error)), _) => Err(E::from(error.into())),
                };
                // Whoever asked may have gone; the write stands all the same.
                let _ = reply.send(result);
            })
        });
        let write = Asked::new(write);
        let _waits = whose.is_a_callers().then(|| Waits(Arc::downgrade(&write.0)));
        self.send(Job::Other(Other { whose, rows, write }))?;
        answer.await.map_err(|_| E::from(StoreError::Unavailable("the write was not carried out".to_owned())))?
    }

    /// Whether the thread runs, or was told to end.
    pub(crate) fn is_alive(&self) -> bool {
        !self.thread.is_finished() || self.is_closing.load(Ordering::Acquire)
    }

    /// Carries out what was handed over, and ends the thread.
    pub(crate) async fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        // Fails if the thread is gone already, which is what is wanted.
        let _ = self.commands.send(Command::Close);
        let has_ended = self.has_ended.lock().take();
        if let Some(has_ended) = has_ended {
            // An error means that it panicked, which let go of everything, too.
            let _ = has_ended.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread would wait for ever otherwise: the checkpointer can send to it, too.
        let _ = self.commands.send(Command::Close);
    }
}

/// Runs until told to close. Whoever asked for something that is still in the queue then is told by its end that nothing came
/// of it; the checkpointer waits for that.
fn run(mut writing: Loop<'_>, queue: mpsc::Receiver<Command>) {
    let (connection, files) = (writing.connection, writing.files);
    let asker = move |command: &Command| match command {
        Command::Run(Job::Other(other)) if files.is_none_or(Files::are_readable) => {
            askers::asker(connection, &other.whose)
        }
        // If nothing can be read, nothing is written either.
        _ => Asker::default(),
    };
    writing.run(&mut Inbox::new(queue, asker));
}

struct Loop<'c> {
    connection: &'c Connection,
    hot: Hot<'c>,
    observers: &'c Observers,
    files: Option<&'c Files>,
    /// What comes first in the next transaction.
    aside: Option<Job>,
}

impl Loop<'_> {
    fn run(&mut self, inbox: &mut Inbox<'_, Command>) {
        while let Some(command) = inbox.first() {
            let first = match command {
                Command::Run(job) => job,
                Command::ResetWal(wish) => {
                    self.reset_wal(&wish);
                    continue;
                }
                Command::Close => return,
            };
            self.group(first, inbox, false);
            while let Some(first) = self.aside.take() {
                inbox.begin();
                self.group(first, inbox, true);
            }
        }
    }

    /// Carries out `first` and what waits behind it in one transaction.
    fn group(&mut self, first: Job, inbox: &mut Inbox<'_, Command>, was_aside: bool) {
        let mut group = Group::default();
        // Results that wait for company do so before the transaction begins: a guest may write meanwhile.
        let jobs = self.begin_with(first, &mut group, inbox, was_aside);
        let tx =
            Tx { connection: self.connection, news: RefCell::default(), moved: RefCell::default(), files: self.files };
        let failed = self.lost().or_else(|| self.statement("BEGIN IMMEDIATE"));
        let frames = self.files.map_or(0, Files::frames);
        let failed = self.carry_out(jobs, &mut group, &tx, inbox, failed);
        self.end(&tx, failed, frames, group.done);
        if let Some(wish) = &group.reset_wal {
            self.reset_wal(wish);
        }
    }

    /// The jobs that a transaction begins with: `first`, and what came while it waited for company, or that alone.
    fn begin_with(
        &mut self,
        first: Job,
        group: &mut Group,
        inbox: &mut Inbox<'_, Command>,
        was_aside: bool,
    ) -> VecDeque<Job> {
        let about = about(&first);
        let command = Filling::waits_for_company(about).then(|| inbox.next_within(SETTLE_PATIENCE)).flatten();
        let Some(second) = group.take(command) else { return [first].into() };
        match group.filling.turn_of_first(about, self::about(&second), was_aside) {
            Turn::This => [first, second].into(),
            Turn::Next => {
                self.aside = Some(first);
                [second].into()
            }
        }
    }

    /// Carries out jobs, and those that wait behind them for as long as there is room. Whom to tell is in `group` afterwards;
    /// returns what went wrong, if anything did.
    fn carry_out(
        &mut self,
        mut jobs: VecDeque<Job>,
        group: &mut Group,
        tx: &Tx<'_>,
        inbox: &mut Inbox<'_, Command>,
        mut failed: Option<StoreError>,
    ) -> Option<StoreError> {
        self.hot.begin();
        while let Some(job) = jobs.pop_front() {
            if failed.is_some() {
                group.done.push(refusal(job));
                continue;
            }
            group.filling.add(about(&job));
            let (done, error) = self.job(job, tx);
            group.done.push(done);
            failed = error;
            if failed.is_none() && self.connection.is_autocommit() {
                failed = Some(StoreError::Unavailable("the transaction was rolled back: is the disk full?".to_owned()));
            }
            if jobs.is_empty() && failed.is_none() && group.filling.takes_more() {
                jobs.extend(self.next(group, inbox));
            }
        }
        failed
    }

    /// The next job that waits, if its place is in this transaction.
    fn next(&mut self, group: &mut Group, inbox: &mut Inbox<'_, Command>) -> Option<Job> {
        let job = group.take(inbox.next())?;
        match group.filling.turn_of(about(&job)) {
            Turn::This => Some(job),
            Turn::Next => {
                self.aside = Some(job);
                None
            }
        }
    }

    /// Carries out a statement of the transaction itself; returns what went wrong.
    fn statement(&self, sql: &str) -> Option<StoreError> {
        let error = SqlError::Driver(self.connection.execute_batch(sql).err()?);
        self.heard(&error);
        Some(error.into())
    }

    fn heard(&self, error: &SqlError) {
        if let Some(files) = self.files {
            files.heard(error);
        }
    }

    /// Commits, or takes everything back; then tells everybody. `frames` is how long the WAL was before.
    fn end(&mut self, tx: &Tx<'_>, failed: Option<StoreError>, frames: u64, done: Vec<Done>) {
        let failed = failed.or_else(|| self.statement("COMMIT"));
        let failed = if let Some(error) = failed {
            tracing::error!(%error, jobs = done.len(), "a batch of writes failed; every caller got an error");
            self.hot.rolled_back();
            if !self.connection.is_autocommit() {
                // Nothing can be done if even this fails; the next BEGIN will say so.
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            Some(Failure::of_group(error))
        } else {
            self.hot.committed();
            self.tell(tx.news.take());
            // What went into a file that nobody finds again was not stored, for those who asked. But it may be found again.
            let problem = self.files.and_then(|files| files.problem_after_commit(self.connection, frames));
            problem.map(|problem| Failure { error: StoreError::Unavailable(problem), is_after_commit: true })
        };
        for done in done {
            done(failed.as_ref());
        }
    }

    /// Carries out a job: what to call after the commit, and the error that fails the whole group, if any.
    fn job(&mut self, job: Job, tx: &Tx<'_>) -> (Done, Option<StoreError>) {
        match job {
            Job::Accept(batch, reply) => {
                let results = guarded(self.files, || self.hot.accept(&batch));
                let failure = results.as_ref().err().cloned();
                let done: Done = Box::new(move |failed| {
                    let results = match (results, failed) {
                        (Ok(results), None) => results,
                        (Ok(results), Some(failure)) => {
                            results.iter().map(|result| unsuccessful(result, failure)).collect()
                        }
                        (Err(error), _) => vec![Err(AcceptError::Store(error)); batch.len()],
                    };
                    let _ = reply.send(results);
                });
                (done, failure)
            }
            Job::Settle(Settling { batch, one_by_one, reply }) => {
                let result = if one_by_one {
                    self.settle_one_by_one(&batch, tx)
                } else {
                    settled(self.files, || self.hot.settle(&batch, tx)).map(|()| Vec::new())
                };
                let failure = result.as_ref().err().cloned();
                let done: Done = Box::new(move |failed| {
                    let result = result.and_then(|stored| match failed {
                        Some(failure) => Err(failure.error.clone()),
                        None => Ok(stored),
                    });
                    let _ = reply.send(result);
                });
                (done, failure)
            }
            Job::Other(other) => {
                // It may change routes, of which the hot statements remember versions for the length of a group.
                self.hot.begin();
                let Some(write) = other.write.take() else { return (Box::new(|_| ()), None) };
                let done = write(Some(tx));
                for place in tx.moved.take() {
                    self.hot.forget_place(place);
                }
                (done, None)
            }
        }
    }

    /// Stores each result by itself: one that cannot be stored is named, and takes no other with it.
    fn settle_one_by_one(&mut self, batch: &[Settlement], tx: &Tx<'_>) -> Result<Vec<Unstorable>, StoreError> {
        let mut unstorable = Vec::new();
        for (place, settlement) in batch.iter().enumerate() {
            let told_before = tx.news.borrow().len();
            let one = std::slice::from_ref(settlement);
            let stored = in_savepoint(self.connection, || {
                settled(self.files, || self.hot.settle(one, tx)).map_err(|error| Abort::<StoreError>::Sql(error.into()))
            });
            let Err(abort) = stored else { continue };
            self.hot.settle_taken_back();
            tx.news.borrow_mut().truncate(told_before);
            match abort {
                Abort::Sql(SqlError::Store(error @ StoreError::Inconsistent { .. }))
                    if !self.connection.is_autocommit() =>
                {
                    unstorable.push(Unstorable { place, error });
                }
                Abort::Sql(error) => return Err(error.into()),
                Abort::Refused(error) => return Err(error),
            }
        }
        Ok(unstorable)
    }

    fn tell(&mut self, news: Vec<News>) {
        for item in news {
            match item {
                News::KeysDropped(run) => {
                    self.hot.keys_dropped(run);
                    continue;
                }
                News::EndpointDisabled(endpoint, reason) => {
                    self.log_disabled(endpoint, reason);
                    continue;
                }
                _ => {}
            }
            self.observers.tell(|observer| match &item {
                News::EndpointChanged(endpoint, of) => observer.endpoint_changed(*endpoint, *of),
                News::WorkAdded(endpoint, of) => observer.work_added(*endpoint, *of),
                News::MessagesExpunged(messages) => observer.messages_expunged(messages),
                News::NoticeAdded => observer.notice_added(),
                News::TaskAdded => observer.task_added(),
                News::ApplicationDeleted => observer.application_deleted(),
                News::KeysDropped(_) | News::EndpointDisabled(..) => {}
            });
        }
    }

    /// Whether the files of the store are gone.
    fn lost(&self) -> Option<StoreError> {
        self.files?.problem(self.connection).map(StoreError::Unavailable)
    }

    /// Whoever runs the server can see from its log that an endpoint gets nothing any more, and why.
    fn log_disabled(&self, endpoint: EndpointKey, reason: DisableReason) {
        let found = self.connection.query_row(
            "SELECT endpoint.id, application.id FROM endpoint JOIN application ON application.no = application_no
             WHERE endpoint.no = ?",
            [endpoint.0],
            |row| Ok((row.get::<_, [u8; 20]>(0)?, row.get::<_, [u8; 20]>(1)?)),
        );
        let Ok((id, application)) = found else { return };
        let (id, application) =
            (EndpointId::from_ksuid(Ksuid::from_bytes(id)), ApplicationId::from_ksuid(Ksuid::from_bytes(application)));
        tracing::warn!(endpoint = %id, %application, reason = reason.as_str(), "an endpoint was disabled");
    }

    fn reset_wal(&self, wish: &ResetWal) {
        let pages = self.files.map_or(0, Files::frames);
        let mut is_to_go_on = true;
        if checkpoint::is_time_to_restart(pages, wish.copied)
            && self.lost().is_none()
            && let Err(error) = checkpoint::restart(self.connection, checkpoint::patience(pages))
                .and_then(|()| checkpoint::give_back(self.connection, self.files.map_or(0, Files::wal_length)))
        {
            // Harmless: the WAL grows a little more, and the next checkpoint tries again.
            tracing::debug!(%error, "the WAL could not be restarted");
            is_to_go_on = checkpoint::patience(pages).is_zero();
        }
        // Nobody waits if the checkpointer has ended.
        let _ = wish.done.try_send(is_to_go_on);
    }
}

/// One transaction's worth of jobs.
#[derive(Default)]
struct Group {
    filling: Filling,
    done: Vec<Done>,
    reset_wal: Option<ResetWal>,
}

impl Group {
    /// The job in a command; what else it says is noted.
    fn take(&mut self, command: Option<Command>) -> Option<Job> {
        match command {
            Some(Command::Run(job)) => return Some(job),
            Some(Command::ResetWal(wish)) => self.reset_wal = Some(wish),
            Some(Command::Close) | None => {}
        }
        None
    }
}

/// What is told of a message that would have been accepted but for a failure of its group.
fn unsuccessful(result: &Result<Accepted, AcceptError>, failure: &Failure) -> Result<Accepted, AcceptError> {
    match result {
        Ok(Accepted::New(message)) if failure.is_after_commit => {
            Err(AcceptError::Unsure { message: *message, error: failure.error.clone() })
        }
        _ => Err(AcceptError::Store(failure.error.clone())),
    }
}

/// What is called for a job that was not carried out, because its group had failed already.
fn refusal(job: Job) -> Done {
    let error = |failed: Option<&Failure>| failed.map_or(StoreError::Closed, |failure| failure.error.clone());
    match job {
        Job::Accept(batch, reply) => Box::new(move |failed| {
            let _ = reply.send(vec![Err(AcceptError::Store(error(failed))); batch.len()]);
        }),
        Job::Settle(settling) => Box::new(move |failed| drop(settling.reply.send(Err(error(failed))))),
        Job::Other(other) => {
            other.write.take().map_or_else(|| Box::new(|_: Option<&Failure>| ()) as Done, |write| write(None))
        }
    }
}

/// Stores results. What is wrong with one of them, so that trying again does not help, is [`StoreError::Inconsistent`].
fn settled(files: Option<&Files>, write: impl FnOnce() -> Result<(), SqlError>) -> Result<(), StoreError> {
    let of_a_result = |problem: String| StoreError::Inconsistent {
        table: "attempt",
        column: "*",
        row: "a result".to_owned(),
        problem,
    };
    let result = catch_unwind(AssertUnwindSafe(write));
    if let (Ok(Err(error)), Some(files)) = (&result, files) {
        files.heard(error);
    }
    match result {
        Err(_) => Err(of_a_result("it could not be stored because of an internal error; see the log".to_owned())),
        Ok(Err(SqlError::Driver(error))) if is_of_what_is_written(&error) => Err(of_a_result(error.to_string())),
        Ok(result) => result.map_err(StoreError::from),
    }
}

/// Whether an error of the driver is about a value, and not about the disk, the memory or the machine.
fn is_of_what_is_written(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch),
        None => true,
    }
}

/// Runs part of a transaction; a panic is an error.
fn guarded<T>(files: Option<&Files>, write: impl FnOnce() -> Result<T, SqlError>) -> Result<T, StoreError> {
    let result = catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| {
        let problem = "a write failed unexpectedly; see the log".to_owned();
        Err(SqlError::Store(StoreError::Unavailable(problem)))
    });
    if let (Err(error), Some(files)) = (&result, files) {
        files.heard(error);
    }
    result.map_err(StoreError::from)
}

/// What decides when it is a job's turn.
fn about(job: &Job) -> Waiting {
    let (kind, rows) = match job {
        Job::Accept(batch, _) => (Kind::Accept, batch.iter().map(NewMessage::rows).sum()),
        Job::Settle(settling) => (Kind::Settle, settling.batch.iter().map(Settlement::rows).sum()),
        Job::Other(other) => (Kind::Other, other.rows),
    };
    Waiting { kind, rows }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};

    use postrider_store::{ApplicationKey, MessageKey, Observer};

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Observer for Counter {
        fn endpoint_changed(&self, _: EndpointKey, _: Option<ApplicationKey>) {}
        fn work_added(&self, _: EndpointKey, _: Option<ApplicationKey>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn messages_expunged(&self, _: &[MessageKey]) {}
    }

    #[test]
    fn whoever_waits_for_the_wal_to_be_started_anew_is_let_go_when_the_writer_ends() {
        let (commands, queue) = mpsc::channel();
        let (done, is_done) = mpsc::sync_channel(1);
        commands.send(Command::Close).unwrap();
        commands.send(Command::ResetWal(ResetWal { copied: 0, done })).unwrap();
        let connection = crate::engine::plans::database();
        let (hot, observers) = (Hot::prepare(&connection).unwrap(), Observers::default());
        let checkpointer = std::thread::spawn(move || is_done.recv());
        run(Loop { connection: &connection, hot, observers: &observers, files: None, aside: None }, queue);
        assert!(checkpointer.join().unwrap().is_err());
    }

    /// Whether a write is asked for, and is not done yet.
    fn waits(write: &mut Pin<Box<impl Future<Output = Result<(), StoreError>>>>) -> bool {
        write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_write_whose_caller_has_gone_is_let_go_of_at_once_unless_it_is_begun_or_the_processs_own() {
        let writer = Writer::start(crate::engine::plans::database(), None, None, Arc::default()).expect("a thread");
        let done = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let done = Arc::clone(&done);
            move || done.lock().push(what)
        };
        let customer = || Whose::from(postrider_store::ApplicationKey(1));
        let (begun, is_begun) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel::<()>();
        let noted = note("begun");
        let mut first = Box::pin(writer.run(customer(), move |_| {
            assert!(begun.send(()).is_ok() && goes_on.recv().is_ok());
            noted();
            Ok::<_, Abort<StoreError>>(())
        }));
        assert!(waits(&mut first));
        assert!(is_begun.recv().is_ok());
        let write = |whose: Whose, noted: Box<dyn Fn() + Send>| {
            Box::pin(writer.run(whose, move |_| {
                noted();
                Ok::<_, Abort<StoreError>>(())
            }))
        };
        let held = Arc::strong_count(&done);
        let mut given_up = write(customer(), Box::new(note("given up")));
        assert!(waits(&mut given_up));
        drop(given_up);
        assert_eq!(Arc::strong_count(&done), held, "what it held is gone while the writer is at something else");
        for whose in [Whose::Process, Whose::Engine(EndpointKey(1))] {
            let mut own = write(whose, Box::new(note("own")));
            assert!(waits(&mut own));
        }
        let mut wanted = write(customer(), Box::new(note("wanted")));
        assert!(waits(&mut wanted));
        drop(first);
        assert!(go_on.send(()).is_ok());
        assert!(wanted.await.is_ok());
        writer.close().await;
        assert_eq!(*done.lock(), ["begun", "own", "own", "wanted"]);
    }

    #[tokio::test]
    async fn whoever_asks_for_a_write_that_the_writer_does_not_come_to_is_told_when_it_ends() {
        let writer = Writer::start(crate::engine::plans::database(), None, None, Arc::default()).expect("a thread");
        let (go_on, goes_on) = mpsc::channel::<()>();
        let mut first = Box::pin(writer.run(Whose::Process, move |_| {
            assert!(goes_on.recv().is_ok());
            Ok::<_, Abort<StoreError>>(())
        }));
        assert!(waits(&mut first));
        assert!(writer.commands.send(Command::Close).is_ok());
        let customer = Whose::from(postrider_store::ApplicationKey(1));
        let mut late = Box::pin(writer.run(customer, |_| Ok::<_, Abort<StoreError>>(())));
        assert!(waits(&mut late));
        assert!(go_on.send(()).is_ok());
        assert!(first.await.is_ok());
        let told = tokio::time::timeout(Duration::from_secs(60), late).await;
        assert!(matches!(told, Ok(Err(StoreError::Unavailable(_)))), "{told:?}");
        writer.close().await;
    }

    #[tokio::test]
    async fn what_a_write_had_to_tell_is_not_told_if_it_came_to_nothing() {
        let (observers, counter) = (Arc::new(Observers::default()), Arc::new(Counter::default()));
        observers.add(Arc::clone(&counter) as Arc<dyn Observer>);
        let writer = Writer::start(crate::engine::plans::database(), None, None, observers).expect("a thread");
        let refused = writer.run(Whose::Process, |tx| {
            tx.tell(News::WorkAdded(EndpointKey(1), None));
            Err::<(), _>(Abort::Refused(StoreError::Closed))
        });
        assert!(refused.await.is_err());
        let done = writer.run(Whose::Process, |tx| {
            tx.tell(News::WorkAdded(EndpointKey(2), None));
            Ok::<_, Abort<StoreError>>(())
        });
        assert!(done.await.is_ok());
        writer.close().await;
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    }
}
