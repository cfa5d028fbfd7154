//! What is to be done now and then, also when nothing is sent: connections that nobody has used for a while are closed, and what
//! was not told yet of deliveries that were canceled, and of responses that were cut, is told.
//!
//! The pool closes connections by itself whenever one is taken or given back, and its size is bounded; but a receiver
//! should not have to keep connections open for nothing.

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
        shared.unsent.say_the_rest(shared.clock.now());
        shared.kept.say_the_rest(shared.clock.now());
    }
}
