//! Moving pages from the WAL into the database without stopping the writer.
//!
//! SQLite's own automatic checkpoint runs inside a commit, and so makes somebody wait for it. Here a thread with a
//! connection of its own copies in the background (PASSIVE), and only when it is done asks the writer to finish the few
//! pages that came meanwhile and start the file anew. Nothing depends on it but the length of the WAL.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;

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
                match own.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
                    Ok(_) => reset(),
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
