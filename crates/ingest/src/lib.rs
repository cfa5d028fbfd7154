//! Taking messages in: check, match, accept.
//!
//! [`Intake`] is the one way in, whatever a message came by. It finds the endpoints that want the message, commits it with
//! its deliveries in a batch with whatever else is arriving, and hands it to the dispatcher, in this order. What it
//! answers with `Ok` is on disk.

mod batcher;
mod intake;
mod routes;
mod submission;
mod sweeper;

pub use intake::Intake;
pub use submission::{NewApplication, Submission, SubmitError, Submitted};
