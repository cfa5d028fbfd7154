//! Closing connections that nobody has used for a while.
//!
//! The pool does that by itself whenever a connection is taken or given back, and its size is bounded. This agent is for
//! the time in which nothing is sent: a receiver should not have to keep connections open for nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Shared;

/// How often the pool is looked at.
const INTERVAL: Duration = Duration::from_secs(15);

/// Runs until the engine stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.clock.sleep_until(shared.clock.now().saturating_add(INTERVAL)).await;
        shared.carrier.close_idle();
    }
}
