//! How long an attempt has waited for its turns on this machine: of that the receiver is not to blame.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The waits of one attempt. Those that go on at the same time are one.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    over: Duration,
    /// Since when there has been one, and how many there are.
    under_way: Option<(Instant, usize)>,
}

impl Waits {
    /// Counts how long this takes, also if it is given up.
    pub(crate) async fn count<F: Future>(&self, wait: F) -> F::Output {
        self.begin();
        let _end = End(self);
        wait.await
    }

    /// How long they have taken so far.
    pub(crate) fn total(&self) -> Duration {
        let counted = self.0.lock();
        counted.over + counted.under_way.map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }

    fn begin(&self) {
        self.0.lock().under_way.get_or_insert_with(|| (Instant::now(), 0)).1 += 1;
    }

    fn end(&self) {
        let mut counted = self.0.lock();
        match counted.under_way {
            Some((since, 1)) => {
                counted.over += since.elapsed();
                counted.under_way = None;
            }
            Some((since, count)) => counted.under_way = Some((since, count - 1)),
            None => {}
        }
    }
}

struct End<'a>(&'a Waits);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_at_the_same_time_counts_once_also_while_it_lasts_and_if_it_is_given_up() {
        let waits = Waits::default();
        tokio::join!(waits.count(sleep(3 * SECOND)), waits.count(sleep(2 * SECOND)), async {
            sleep(SECOND).await;
            assert_eq!(waits.total(), SECOND);
        });
        assert_eq!(waits.total(), 3 * SECOND);
        sleep(SECOND).await;
        assert!(timeout(SECOND, waits.count(std::future::pending::<()>())).await.is_err());
        assert_eq!(waits.total(), 4 * SECOND);
    }
}
