//! Waiting for something to become true, with a deadline that only matters when it does not.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Far more than anything takes on a busy machine with two cores.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at what cannot tell by itself that it changed.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks again and again until `look` finds something, and returns that.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, look).await
}

/// As [`until`], with another deadline.
///
/// # Panics
/// After `deadline`, naming `what`.
pub async fn until_within<T>(deadline: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for: {what}");
        sleep(INTERVAL).await;
    }
}

/// Awaits something that ends by itself.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_becomes_true_is_returned() {
        let mut looks = 0;
        let found = until("the third look", async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for: the impossible")]
    async fn what_never_becomes_true_is_named() {
        until_within(Duration::from_millis(20), "the impossible", async || None::<()>).await;
    }
}
