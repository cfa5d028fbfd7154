//! Waiting between steps: until an instant, or until somebody has news.

use std::sync::Arc;
use std::time::Duration;

use postrider_domain::clock::Clock;
use tokio::sync::Notify;

/// The wait before the store is asked again after it failed.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Waits until `pause` has passed.
pub(crate) async fn sleep(clock: &Arc<dyn Clock>, pause: Duration) {
    let until = clock.now().saturating_add(pause);
    // The clock may cut waits short.
    while clock.now() < until {
        clock.sleep_until(until).await;
    }
}

/// Waits until `pause` has passed, or there is news.
pub(crate) async fn sleep_or(clock: &Arc<dyn Clock>, pause: Duration, news: &Notify) {
    tokio::select! {
        () = sleep(clock, pause) => {}
        () = news.notified() => {}
    }
}
