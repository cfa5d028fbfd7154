//! A few connections for reading. Each read runs on a blocking thread with a connection of its own, so a long list never
//! stops the runtime, and waits its turn when all connections are busy. Of connections that the process reads with, too, callers never
//! have all: what the engine and the health check read does not wait behind what callers ask for.

use std::sync::Arc;

use parking_lot::Mutex;
use postrider_store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::decode::SqlError;
use crate::files::Files;

/// The reading side.
pub(crate) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    /// So many of the turns callers may have at a time.
    asked: Arc<Semaphore>,
    /// How many there are, idle or not.
    count: u32,
    files: Option<Arc<Files>>,
}

impl Readers {
    /// `own` of the connections are always left to the process.
    pub(crate) fn new(connections: Vec<Connection>, own: usize, files: Option<Arc<Files>>) -> Self {
        let turns = Arc::new(Semaphore::new(connections.len()));
        let asked = Arc::new(Semaphore::new(connections.len().saturating_sub(own)));
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self { idle: Arc::new(Mutex::new(connections)), turns, asked, count, files }
    }

    /// Runs `read` on a connection that sees every commit made so far.
    pub(crate) async fn run<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        let place = Arc::clone(&self.asked).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        self.run_own(move |connection| {
            let _place = place;
            read(connection)
        })
        .await
    }

    /// As [`Readers::run`], for what the process reads by itself.
    pub(crate) async fn run_own<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, SqlError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (idle, files) = (Arc::clone(&self.idle), self.files.clone());
        let work = move || {
            // Held until the connection is back, even if nobody waits for the result any more.
            let _turn = turn;
            if files.as_ref().is_some_and(|files| !files.are_readable()) {
                return Err(StoreError::Unavailable("its files were cut while they were in use".to_owned()));
            }
            let connection = idle.lock().pop().ok_or(StoreError::Closed)?;
            // A panic must not take the connection with it: the pool would shrink until nothing can be read.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&connection)));
            idle.lock().push(connection);
            match result {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(error)) => {
                    if let Some(files) = files {
                        files.heard(&error);
                    }
                    Err(error.into())
                }
                Err(_) => Err(StoreError::Unavailable("a read failed unexpectedly; see the log".to_owned())),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
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

    /// Waits for the reads under way; none starts from then on.
    pub(crate) async fn close(&self) {
        // Fails if it is closed already.
        let _ = self.turns.acquire_many(self.count).await;
        self.turns.close();
        self.asked.close();
        for connection in self.idle.lock().drain(..) {
            if let Some(files) = &self.files {
                files.let_go(&connection);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_the_process_reads_does_not_wait_behind_what_callers_ask_for() {
        let connections = (0..3).map(|_| crate::plans::database()).collect();
        let readers = Arc::new(Readers::new(connections, 1, None));
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
        while readers.asked.available_permits() > 0 {
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
}
