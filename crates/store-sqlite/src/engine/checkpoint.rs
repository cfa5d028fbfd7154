//! Moving pages from the WAL into the database without stopping the writer.
//!
//! SQLite's own automatic checkpoint runs inside a commit, and so makes somebody wait for it. Here a thread with a
//! connection of its own copies in the background (PASSIVE), a slice at a time, so that no commit waits long for the disk.
//! When it has copied everything and the file is long, it asks the writer to finish the few pages that came meanwhile and
//! start the file anew. What this process reads is held back for that once the file is long (`pause`), so that reads which overlap
//! do not keep it from being started anew for ever; but not for a while where that did not help and nothing can be copied. Where another
//! process reads again and again, something can be each time, and reads are held back as often as the rests allow: there is no telling
//! a process that has just ended its last read from one that begins the next. Nobody waits for readers of another process: while one keeps pages of the WAL
//! in use, the WAL grows, and if nothing at all can be copied, the thread looks again after a rest that gets longer.
//!
//! When hardly anything is written, everything is copied within about two seconds, so that a copy of the database file alone
//! is complete. The thread also looks whether the files of the store are still there and whole (`files`); if not, it copies nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode};
use tokio::time::Instant;

use crate::engine::decode::SqlError;
use crate::engine::files::Files;
use crate::engine::pause::Pause;
use crate::limits::{KEPT_WAL_BYTES, LONGEST_READ_SECONDS};

/// The stack of a thread of the store, whatever `RUST_MIN_STACK` says.
pub(crate) const STACK_BYTES: usize = 2 * 1024 * 1024;

/// So much of the WAL is copied at a time, 2 MiB. While more is flushed to the disk in one go, commits wait for it: a few
/// milliseconds each time are better than a tenth of a second now and then.
const SLICE_PAGES: u64 = 512;

/// The WAL is started anew when it is so long, 32 MiB, and nearly everything is copied: short enough to read quickly at the
/// next start.
const RESTART_PAGES: u64 = 8_192;

/// The writer copies so many pages itself when it starts the WAL anew; everybody waits for that. With more, it is put off.
const FEW_PAGES: u64 = 64;

/// When the WAL is so long, 64 MiB, it is started anew however much is left to copy, and readers are held back, or waited for if they
/// are short and another process's.
const LONG_PAGES: u64 = 2 * RESTART_PAGES;

/// The file keeps so much of its length when it is started anew. Cutting it off takes a disk tens of milliseconds,
/// for which everybody waits, so what a load needs each time is kept; only what a reader made of it is given back.
const KEPT_BYTES: u64 = KEPT_WAL_BYTES;
const _: () =
    assert!(KEPT_BYTES == 2 * LONG_PAGES * 4_096, "as much again as what is long may come while reads are waited for");

/// So much of it is given back each time that it is started anew, or, when hardly anything is written, at each tick: 16 MiB, which take
/// about as long as a commit under load.
const CUT_BYTES: u64 = 16 * 1024 * 1024;

/// The writer waits so long for readers of another process.
const PATIENCE: Duration = Duration::from_millis(20);

/// For so long reads under way are waited for until they are overdue.
const LONGEST_READ: Duration = Duration::from_secs(LONGEST_READ_SECONDS);

/// So often what the process itself reads, for which is waited for [`LONGEST_READ`] more, is waited for twice as long after a pause that
/// was too short for it: up to 8 seconds more.
const MAX_LONGER_PAUSES: u32 = 3;

/// After reads were held back in vain, because somebody else reads, they are not held back for so long, unless something could be copied:
/// then whoever it was has ended a read, and maybe it was the last one.
const IN_VAIN: Duration = Duration::from_secs(30);

/// How often the thread looks about without being asked to.
const TICK: Duration = Duration::from_millis(500);

/// So many commits in a tick, or fewer, and the store is quiet: health checks write, too.
const QUIET_COMMITS: u64 = 4;

/// The longest rest after a checkpoint that could not be completed, in ticks.
const LONGEST_REST: u32 = 64;

/// The same while the WAL is long: then what the process reads can be held back, and whoever else keeps it so may be done at any
/// moment, while every second of it takes room.
const LONGEST_REST_IF_LONG: u32 = 8;

/// So often a checkpoint that could not be completed is tried again with the next slice, without a rest: whoever reads for a moment may
/// have been in the way, and in the shortest rest the WAL may double.
const TRIES: u32 = 4;

/// The thread; ends when told to.
pub(crate) struct Checkpointer {
    wake: mpsc::SyncSender<bool>,
    thread: JoinHandle<()>,
}

/// What the writer's hook tells the thread.
#[derive(Default)]
struct Signs {
    /// Counts commits.
    commits: AtomicU64,
    /// Whether the thread is not to be woken, because it could do nothing.
    rests: AtomicBool,
    /// How long the WAL was when it was last copied, in pages.
    copied_at: AtomicU64,
}

impl Signs {
    /// Notes a commit after which the WAL is so long; whether it is time to copy.
    fn committed(&self, pages: u64) -> bool {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.is_time(pages) && !self.rests.load(Ordering::Relaxed)
    }

    /// Whether a WAL of so many pages has a slice that was not copied.
    fn is_time(&self, pages: u64) -> bool {
        let copied_at = self.copied_at.load(Ordering::Relaxed);
        // Shorter: it was started anew.
        let more = if pages < copied_at { pages } else { pages - copied_at };
        more >= SLICE_PAGES
    }
}

/// What came of copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Copied {
    /// How many pages the WAL has.
    of: u64,
    /// How many of them are in the database. Fewer than all if somebody reads what is older.
    pages: u64,
}

impl Copied {
    fn is_all(self) -> bool {
        self.pages >= self.of
    }
}

impl Checkpointer {
    /// Watches the WAL of `writer`, and calls `reset` when it can be started anew.
    pub(crate) fn start(
        own: Connection,
        files: Arc<Files>,
        reads: [Arc<Pause>; 2],
        writer: &mut Connection,
        reset: impl Fn(u64) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (wake, wakes) = mpsc::sync_channel::<bool>(1);
        let signs = Arc::new(Signs::default());
        let committed = Arc::clone(&files);
        let watch = Watch {
            own,
            files,
            reads,
            signs: Arc::clone(&signs),
            reached: 0,
            reset,
            rest: 0,
            longer: 1,
            misses: 0,
            late: 0,
            in_vain: None,
            seen: 0,
            copied: 0,
            calm: 0,
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || watch.run(&wakes))?;
        let hook = wake.clone();
        writer
            .wal_hook(Some(move |_: &mut _, pages: i32| {
                committed.committed(pages);
                if signs.committed(u64::from(pages.unsigned_abs())) {
                    // Full means that it is awake already.
                    let _ = hook.try_send(true);
                }
                Ok(())
            }))
            .map_err(std::io::Error::other)?;
        Ok(Self { wake, thread })
    }

    pub(crate) fn stop(self) {
        // Waits at most for the checkpoint under way. Both fail only if the thread is gone, which is what is wanted.
        let _ = self.wake.send(false);
        let _ = self.thread.join();
    }
}

/// The thread's side.
struct Watch<F> {
    own: Connection,
    files: Arc<Files>,
    reads: [Arc<Pause>; 2],
    signs: Arc<Signs>,
    reset: F,
    /// How many ticks are left of a rest.
    rest: u32,
    /// How long the next rest is.
    longer: u32,
    /// How often nothing could be done since the WAL was short.
    misses: u32,
    /// How often in a row the process's own reads took too long.
    late: u32,
    /// When they were held back last, if that changed nothing.
    in_vain: Option<Instant>,
    /// How many commits there were at the last tick.
    seen: u64,
    /// How many commits are in the database.
    copied: u64,
    /// How many pages of the WAL are.
    reached: u64,
    /// For how many ticks the store has been quiet.
    calm: u32,
}

impl<F: Fn(u64) -> bool> Watch<F> {
    fn run(mut self, wakes: &mpsc::Receiver<bool>) {
        loop {
            match wakes.recv_timeout(TICK) {
                Ok(true) if self.rest == 0 => {
                    // It may have been woken for what was copied meanwhile.
                    if self.signs.is_time(self.files.frames()) {
                        self.look_after();
                    }
                }
                Ok(true) => {}
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Ok(false) | Err(RecvTimeoutError::Disconnected) => return self.files.let_go(&self.own),
            }
        }
    }

    fn tick(&mut self) {
        // Says what is wrong; the writer refuses to write by itself.
        let _ = self.files.problem(&self.own);
        self.files.tick();
        self.rest = self.rest.saturating_sub(1).min(longest_rest(self.files.frames()));
        self.signs.rests.store(self.rest > 0, Ordering::Relaxed);
        let commits = self.signs.commits.load(Ordering::Relaxed);
        let is_quiet = commits - self.seen <= QUIET_COMMITS;
        self.seen = commits;
        self.calm = if is_quiet { self.calm.saturating_add(1) } else { 0 };
        if self.calm >= 2 && self.rest == 0 {
            if self.copied != commits && self.copy().is_none() {
                self.rest();
            }
            // Whatever made it so long, it does not stay so.
            if self.copied == commits && self.files.wal_length() > KEPT_BYTES && !(self.reset)(self.reached) {
                self.rest();
            }
        }
    }

    /// Copies a slice, and has the WAL started anew if it is time; if it is long, while nobody of this process reads it.
    fn look_after(&mut self) {
        let mut copied = self.copy();
        if copied.is_some() {
            self.in_vain = None;
        }
        if self.in_vain.is_some_and(|held| held.elapsed() < IN_VAIN) {
            return self.rest();
        }
        let reads = self.reads.clone();
        let held = if self.files.frames() >= LONG_PAGES {
            let more = LONGEST_READ * 2_u32.pow(self.late);
            let hold = |reads| Pause::hold(reads, LONGEST_READ, more);
            let Some(held) = reads.iter().map(|reads| hold(reads)).collect::<Option<Vec<_>>>() else {
                // Something of the process's own takes long, and is done soon.
                self.late = (self.late + 1).min(MAX_LONGER_PAUSES);
                return self.rest_for(1);
            };
            self.late = 0;
            // Those who read kept all of it. What they kept of the rest, and what came meanwhile, the writer copies: while it does,
            // nothing more comes.
            if copied.is_none() {
                copied = self.copy();
            }
            held
        } else {
            Vec::new()
        };
        let goes_on = match copied {
            Some(true) => (self.reset)(self.reached),
            Some(false) => true,
            None => false,
        };
        if !goes_on {
            self.in_vain = (!held.is_empty()).then(Instant::now);
            self.rest();
        }
    }

    /// Copies; true if the WAL should be started anew. `None` if nothing can be done.
    fn copy(&mut self) -> Option<bool> {
        if self.files.problem(&self.own).is_some() {
            // What is wrong must not get into the database.
            return Some(false);
        }
        // What is committed meanwhile may be copied or not.
        let commits = self.signs.commits.load(Ordering::Relaxed);
        let copied = copy(&self.own).unwrap_or_else(|error| {
            // A full disk, for instance. The data is safe in the WAL.
            tracing::warn!(%error, "a checkpoint failed; it is tried again");
            self.files.heard(&SqlError::Driver(error));
            None
        });
        if let Some(copied) = copied {
            self.signs.copied_at.store(copied.of, Ordering::Relaxed);
            let is_further = copied.pages != self.reached;
            self.reached = copied.pages;
            if copied.is_all() {
                self.copied = commits;
            }
            if copied.is_all() || is_further {
                if copied.of < LONG_PAGES {
                    (self.longer, self.misses) = (1, 0);
                }
                return Some(copied.pages >= RESTART_PAGES && is_time_to_restart(copied.of, copied.pages));
            }
        }
        None
    }

    /// Nothing can be done at present, nor for a while if that goes on, and for longer each time.
    fn rest(&mut self) {
        if self.misses < TRIES {
            self.misses += 1;
            return;
        }
        self.rest_for(self.longer);
        self.longer = (self.longer * 2).min(LONGEST_REST);
    }

    fn rest_for(&mut self, ticks: u32) {
        self.rest = ticks;
        self.signs.rests.store(true, Ordering::Relaxed);
    }
}

/// How many ticks a rest has at most beside a WAL of so many pages.
fn longest_rest(pages: u64) -> u32 {
    if pages >= LONG_PAGES { LONGEST_REST_IF_LONG } else { LONGEST_REST }
}

/// Copies what there is, without waiting for anybody. `None` if another checkpoint is under way: the writer is starting the
/// file anew, or an operator's tool copies.
fn copy(own: &Connection) -> rusqlite::Result<Option<Copied>> {
    match own.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
        Ok((of, pages)) => {
            Ok(Some(Copied { of: u64::from(of.unsigned_abs()), pages: u64::from(pages.unsigned_abs()) }))
        }
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the writer should start a WAL of `pages` anew, of which so many are copied. It has to copy the others itself.
pub(crate) fn is_time_to_restart(pages: u64, copied: u64) -> bool {
    // Fewer: it was started anew by itself, since.
    pages >= copied && (pages - copied <= FEW_PAGES || pages >= LONG_PAGES)
}

/// How long the writer waits for whoever reads a WAL of so many pages: not at all, unless it is long. Whoever begins to read
/// meanwhile needs nothing of it, so nobody is waited for who comes later.
pub(crate) fn patience(pages: u64) -> Duration {
    if pages >= LONG_PAGES { PATIENCE } else { Duration::ZERO }
}

/// Starts the WAL anew if nobody uses it, or nobody any more within `patience`. It is the writer's connection, so everybody
/// waits.
pub(crate) fn restart(writer: &Connection, patience: Duration) -> rusqlite::Result<()> {
    writer.busy_timeout(patience)?;
    let restarted = writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::RESTART).map(drop);
    writer.busy_timeout(crate::engine::lock::BUSY_TIMEOUT)?;
    restarted
}

/// Cuts something off a WAL whose file is so long, if it is longer than what is kept. To be called when it was started anew: SQLite
/// cuts the file in the first commit afterwards, which is made here.
pub(crate) fn give_back(writer: &Connection, bytes: u64) -> rusqlite::Result<()> {
    if bytes <= KEPT_BYTES {
        return Ok(());
    }
    let left = bytes.saturating_sub(CUT_BYTES).max(KEPT_BYTES);
    writer.execute_batch(&format!("PRAGMA journal_size_limit = {left}"))?;
    // What stays as it is would not be written.
    let write =
        "INSERT INTO sequence (name, next) VALUES ('cut', 0) ON CONFLICT DO UPDATE SET next = (next & 0xffff) + 1";
    let written = writer.execute(write, []);
    // Without a limit nothing is cut: no commit of anybody's waits for that.
    writer.execute_batch("PRAGMA journal_size_limit = -1")?;
    written.map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    thread_local! {
        /// The connection that copies while another one's checkpoint waits, and what came of it.
        static SECOND: RefCell<Option<Connection>> = const { RefCell::new(None) };
        static COPIED: RefCell<Vec<rusqlite::Result<Option<Copied>>>> = const { RefCell::new(Vec::new()) };
    }

    /// Called while a checkpoint waits for a reader. Does not go on waiting.
    fn copy_meanwhile(_: i32) -> bool {
        SECOND.with_borrow(|second| COPIED.with_borrow_mut(|copied| copied.extend(second.as_ref().map(copy))));
        false
    }

    #[test]
    fn a_slice_is_copied_when_it_is_full_also_after_the_wal_was_started_anew() {
        let signs = Signs::default();
        assert!(!signs.committed(SLICE_PAGES - 1) && signs.committed(SLICE_PAGES));
        signs.copied_at.store(SLICE_PAGES, Ordering::Relaxed);
        assert!(!signs.committed(2 * SLICE_PAGES - 1) && signs.committed(2 * SLICE_PAGES));
        signs.copied_at.store(RESTART_PAGES, Ordering::Relaxed);
        assert!(!signs.committed(SLICE_PAGES - 1) && signs.committed(SLICE_PAGES));
        signs.rests.store(true, Ordering::Relaxed);
        assert!(!signs.committed(SLICE_PAGES));
    }

    #[test]
    fn the_writer_copies_little_itself_unless_the_wal_is_long() {
        assert!(is_time_to_restart(RESTART_PAGES + FEW_PAGES, RESTART_PAGES));
        assert!(!is_time_to_restart(RESTART_PAGES + FEW_PAGES + 1, RESTART_PAGES));
        assert!(is_time_to_restart(LONG_PAGES, RESTART_PAGES));
        assert!(!is_time_to_restart(FEW_PAGES, RESTART_PAGES), "it is another WAL");
    }

    #[test]
    fn beside_a_long_wal_nobody_rests_for_long() {
        assert_eq!([0, LONG_PAGES - 1].map(longest_rest), [LONGEST_REST; 2]);
        assert!(TICK * longest_rest(LONG_PAGES) <= Duration::from_secs(4));
    }

    #[test]
    fn a_checkpoint_beside_another_one_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Connection::open(folder.path().join("a.db")).unwrap();
        let (mut writer, reader) = (open(), open());
        writer.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        assert!(copy(&writer).unwrap().unwrap().is_all());
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        let second = open();
        // One that has read nothing does not know yet that there is a WAL.
        second.execute_batch("SELECT * FROM t").unwrap();
        SECOND.set(Some(second));
        writer.busy_handler(Some(copy_meanwhile)).unwrap();
        // The reader still needs pages of the file, so it can't be started anew.
        let _ = writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::RESTART);
        assert!(matches!(COPIED.take()[..], [Ok(None)]));
        SECOND.set(None);
    }

    #[test]
    fn a_reader_keeps_the_rest_for_later_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Connection::open(folder.path().join("a.db")).unwrap();
        let (writer, reader, own) = (open(), open(), open());
        writer.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        own.execute_batch("SELECT * FROM t").unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        assert!(!copy(&own).unwrap().unwrap().is_all());
        // Returns at once, or the test would take as long as a writer waits for another process.
        assert!(restart(&writer, Duration::ZERO).is_err());
        reader.execute_batch("COMMIT").unwrap();
        assert!(copy(&own).unwrap().unwrap().is_all());
        restart(&writer, Duration::ZERO).unwrap();
    }

    #[test]
    fn reads_are_not_held_back_again_soon_where_that_did_not_help() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let open = || Connection::open(&path).unwrap();
        let (writer, other, own) = (open(), open(), open());
        writer.execute_batch("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a)").unwrap();
        own.execute_batch("SELECT * FROM t").unwrap();
        // As another process does that copies the database.
        other.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        writer.execute("INSERT INTO t VALUES (zeroblob(?))", [LONG_PAGES * 4_096]).unwrap();
        let files = Arc::new(Files::note(&path, &own));
        files.committed(i32::try_from(LONG_PAGES).unwrap());
        let reads: [Arc<Pause>; 2] = Default::default();
        let (signs, reset) = (Arc::default(), |_| false);
        let (rest, longer, misses, late, in_vain) = (0, 1, 0, 0, None);
        let (reached, seen, copied, calm) = (0, 0, 0, 0);
        let kept = reads.clone();
        let mut watch =
            Watch { own, files, reads, signs, reset, rest, longer, misses, late, in_vain, seen, copied, reached, calm };
        watch.look_after();
        assert!(watch.reached > 0 && watch.in_vain.is_none(), "what was there before is copied");
        watch.look_after();
        assert!(watch.in_vain.is_some());
        let reading = kept[0].begin();
        watch.look_after();
        assert_eq!(watch.late, 0, "nobody was waited for");
        drop(reading);
        other.execute_batch("COMMIT").unwrap();
        watch.look_after();
        assert!(watch.reached >= LONG_PAGES, "{}", watch.reached);
    }

    /// What one write stores, and how many there are: four times what the file keeps, as fast as the disk takes it, which may be faster
    /// than it can be copied.
    const WRITE_BYTES: usize = 256 * 1024;
    const WRITES: usize = 4 * KEPT_BYTES as usize / WRITE_BYTES;

    /// Each of two reads ends after so many writes, halfway through the other.
    const READ_WRITES: usize = 16;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_wal_does_not_grow_by_all_that_is_written_while_what_the_process_reads_overlaps_at_every_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let store = Arc::new(crate::SqliteStore::open(&path, crate::Ownership::Owner).unwrap());
        let written = Arc::new(AtomicUsize::new(0));
        let is_over = |written: &AtomicUsize| written.load(Ordering::SeqCst) >= WRITES;
        let mut tasks = tokio::task::JoinSet::new();
        for offset in [0, READ_WRITES / 2] {
            let (store, written) = (Arc::clone(&store), Arc::clone(&written));
            tasks.spawn(async move {
                while !is_over(&written) {
                    let written = Arc::clone(&written);
                    let read = store.lists.run_at_once(move |connection| {
                        connection.query_row("SELECT count(*) FROM sequence", [], |_| Ok(()))?;
                        let round = |written: usize| (written + offset) / READ_WRITES;
                        let begun = round(written.load(Ordering::SeqCst));
                        while round(written.load(Ordering::SeqCst)) == begun && !is_over(&written) {
                            std::thread::yield_now();
                        }
                        Ok(())
                    });
                    read.await.unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (store, written) = (Arc::clone(&store), Arc::clone(&written));
            tasks.spawn(async move {
                while !is_over(&written) {
                    let write = store.writer.run(crate::engine::askers::Whose::Process, |tx| {
                        let sql = "INSERT INTO answer (owner, key, created_at, status, body) VALUES (0, x'00', 0, 200, zeroblob(?))";
                        tx.execute(sql, [WRITE_BYTES])?;
                        Ok::<_, crate::engine::tx::Abort<postrider_store::StoreError>>(())
                    });
                    write.await.unwrap();
                    written.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        tasks.join_all().await;
        let length = path.with_extension("db-wal").metadata().unwrap().len();
        assert!(length <= 2 * KEPT_BYTES, "{length}");
        postrider_store::Store::close(&*store).await;
    }

    /// What a WAL says that was started anew, unlike the one before.
    fn salt(database: &std::path::Path) -> Vec<u8> {
        let (wal, mut salt) = (std::fs::File::open(database.with_extension("db-wal")).unwrap(), vec![0; 8]);
        std::os::unix::fs::FileExt::read_exact_at(&wal, &mut salt, 16).unwrap();
        salt
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_wal_is_started_anew_though_callers_read_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let store = Arc::new(crate::SqliteStore::open(&path, crate::Ownership::Owner).unwrap());
        let is_over = Arc::new(AtomicBool::new(false));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..2 {
            let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
            readers.spawn(postrider_store::as_stranger(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let is_over = Arc::clone(&is_over);
                    let read = store.lists.run_at_once(move |connection| {
                        // As lists are read: one short statement after the other.
                        let mut statement = connection.prepare_cached("SELECT count(*) FROM sequence")?;
                        while !is_over.load(Ordering::SeqCst) {
                            statement.query_row([], |_| Ok(()))?;
                        }
                        Ok(())
                    });
                    // It is over, or it was ended.
                    let _ = read.await;
                }
            }));
        }
        let write = async |bytes: usize| {
            let write = store.writer.run(crate::engine::askers::Whose::Process, move |tx| {
                let sql =
                    "INSERT INTO answer (owner, key, created_at, status, body) VALUES (0, x'00', 0, 200, zeroblob(?))";
                tx.execute(sql, [bytes])?;
                Ok::<_, crate::engine::tx::Abort<postrider_store::StoreError>>(())
            });
            write.await.unwrap();
        };
        write(1).await;
        let before = salt(&path);
        for _ in 0..=LONG_PAGES as usize * 4_096 / WRITE_BYTES {
            write(WRITE_BYTES).await;
        }
        // Little, for as long as it takes; the thread looks again after each slice.
        while salt(&path) == before {
            write(WRITE_BYTES / 4).await;
            tokio::time::sleep(TICK / 50).await;
        }
        is_over.store(true, Ordering::SeqCst);
        readers.join_all().await;
        postrider_store::Store::close(&*store).await;
    }
}
