//! Taking messages in: check, match, accept.
//!
//! [`Intake`] is the one way in, whatever a message came by. It judges the message by the rules of its environment, finds
//! the endpoints that want it, commits it with its deliveries in a batch with whatever else is arriving, and hands it to
//! the dispatcher, in this order. What it answers with `Ok` is on disk.

mod batch;
mod batcher;
pub mod budget;
mod complexity;
mod intake;
mod judge;
mod options;
mod payload;
mod queue;
mod routes;
mod rules;
mod schema;
mod shared_loads;
mod submission;
mod sweeper;
mod turns;

use postrider_domain::memory::Part;

pub use intake::Intake;
pub use judge::{BeyondBudget, Bounds, CheckError, IMPORTS, Judges, Place, Program, SchemaOptions, run_child};
pub use options::LimitOptions;
pub use submission::{NewApplication, Submission, SubmitError, Submitted, Violation};
pub use turns::{Caller, Tenant, Turn, Whose};

/// What taking messages in takes in memory at most.
pub fn memory(limits: &LimitOptions, schemas: &SchemaOptions) -> Vec<Part> {
    let processes = schemas.memory_bytes.saturating_mul(schemas.most_processes() as u64);
    vec![
        Part::set("limits.queue_bytes", "messages being accepted", limits.queue_bytes),
        Part::fixed("routing cache", routes::CAPACITY),
        Part::fixed("routes being loaded", routes::BEING_READ),
        Part::fixed("cache of schemas", rules::CAPACITY),
        Part::set("schemas.memory_bytes", "processes that validate payloads, once there are any", processes).apart(),
    ]
}

/// The bounds that are declared here, for `docs/limits.md`.
pub fn limits() -> Vec<postrider_domain::limits::Limit> {
    [batcher::limits(), budget::limits(), intake::limits(), routes::limits(), turns::limits(), judge::limits()].concat()
}
