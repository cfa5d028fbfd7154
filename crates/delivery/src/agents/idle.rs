//! What is to be done now and then, also when nothing is sent: connections that nobody has used for a while are closed, and what
//! was not told yet of deliveries that were canceled, and of responses that were cut, is told.
//!
//! The pool closes connections by itself whenever one is taken or given back, and its size is bounded; but a receiver
//! should not have to keep connections open for nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::lanes::Lanes;

/// How often the pool is looked at.
const INTERVAL: Duration = Duration::from_secs(15);

/// Runs until the engine stops.
pub(crate) async fn run(lanes: Arc<Lanes>) {
    loop {
        lanes.clock.sleep_until(lanes.clock.now().saturating_add(INTERVAL)).await;
        lanes.carrier.close_idle();
        lanes.unsent.say_the_rest(lanes.clock.now());
        lanes.kept.say_the_rest(lanes.clock.now());
    }
}
