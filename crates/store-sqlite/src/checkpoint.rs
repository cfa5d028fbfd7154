//! Moving pages from the WAL into the database without stopping the writer.
//!
//! SQLite's own automatic checkpoint runs inside a commit, and so makes somebody wait for it. Here a thread with a
//! connection of its own copies in the background (PASSIVE), and only when it is done asks the writer to finish the few
//! pages that came meanwhile and start the file anew. Nothing depends on it but the length of the WAL.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode};

/// 32 MiB of WAL: long enough that pages which change again and again are copied once, short enough to read quickly at
/// the next start.
const CHECKPOINT_PAGES: i32 = 8_192;

/// The thread; ends when told to.
pub(crate) struct Checkpointer {
    wake: mpsc::SyncSender<bool>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Watches the WAL of `writer`, and calls `reset` when it can be started anew.
    pub(crate) fn start(
        own: Connection,
        writer: &mut Connection,
        reset: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (wake, wakes) = mpsc::sync_channel::<bool>(1);
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned()).spawn(move || {
            while let Ok(true) = wakes.recv() {
                match copy(&own) {
                    Ok(true) => reset(),
                    Ok(false) => {}
                    // A full disk, for instance. The data is safe in the WAL; the next wake tries again.
                    Err(error) => tracing::warn!(%error, "a checkpoint failed"),
                }
            }
        })?;
        let hook = wake.clone();
        writer
            .wal_hook(Some(move |_: &mut _, pages: i32| {
                if pages >= CHECKPOINT_PAGES {
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

/// Copies what there is. `false` if another checkpoint is under way, which does the same: the writer is starting the file
/// anew, or an operator's tool copies.
fn copy(own: &Connection) -> rusqlite::Result<bool> {
    match own.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// The connection that copies while another one's checkpoint waits, and what came of it.
        static SECOND: RefCell<Option<Connection>> = const { RefCell::new(None) };
        static COPIED: RefCell<Vec<rusqlite::Result<bool>>> = const { RefCell::new(Vec::new()) };
    }

    /// Called while a checkpoint waits for a reader. Does not go on waiting.
    fn copy_meanwhile(_: i32) -> bool {
        SECOND.with_borrow(|second| COPIED.with_borrow_mut(|copied| copied.extend(second.as_ref().map(copy))));
        false
    }

    #[test]
    fn a_checkpoint_beside_another_one_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Connection::open(folder.path().join("a.db")).unwrap();
        let (mut writer, reader) = (open(), open());
        writer.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(copy(&writer), Ok(true));
        reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        writer.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        let second = open();
        // One that has read nothing does not know yet that there is a WAL.
        second.execute_batch("SELECT * FROM t").unwrap();
        SECOND.set(Some(second));
        writer.busy_handler(Some(copy_meanwhile)).unwrap();
        // The reader still needs pages of the file, so it can't be started anew.
        let _ = writer.wal_checkpoint_v2(None::<&str>, CheckpointMode::RESTART);
        assert_eq!(COPIED.take(), [Ok(false)]);
        SECOND.set(None);
    }
}
