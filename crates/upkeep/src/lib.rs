//! What is looked after beside delivery, in small steps that never keep a message waiting.
//!
//! One agent per file, each with a `run`: `notifier` sends operational webhooks, `tasks` works off background tasks,
//! `retention` removes what is kept no longer. Each of them can be killed at any instant: what it has done and how
//! far it got are one commit, and it goes on from there.

pub mod limits;
mod notifier;
mod pause;
mod retention;
mod tasks;
mod trust;

pub use notifier::Notifier;
pub use retention::{Removed, RetentionOptions, Sweeper};
pub use tasks::TaskRunner;
