//! The store on SQLite: one file, one process, one writer.
//!
//! * `writer` is a thread that owns the only connection that writes. What is asked of it while a commit is under way
//!   goes into the next one: group commit, with one fsync for all. WAL and `synchronous=FULL`, so `Ok` means on disk.
//! * `readers` are a few connections that see the last commit and never block the writer. Lists have connections of
//!   their own, so that a slow page never keeps a lane or a look-up waiting; nor does what is read with them because it may be
//!   large: a message's payload, and an event type with its schemas. Who waits for those, as a message does whose event type
//!   changed, waits for his turn among the pages.
//! * `work` is the hot path: accept, settle, due, wakes. The other areas have the names they have in the contract.
//!
//! The schema is in `migrations/`, commented.

mod api_keys;
mod applications;
mod asked;
mod askers;
mod attempted;
mod attempts;
mod blocks;
mod bulk;
mod checkpoint;
mod cut;
mod decode;
mod deliveries;
mod endpoints;
mod environments;
mod event_types;
mod files;
mod group;
mod history;
mod hot;
mod idempotency;
mod inbox;
mod indexer;
mod inserts;
mod keys;
pub mod limits;
mod lock;
mod messages;
mod migrate;
mod notices;
mod open;
mod open_error;
mod outbox;
mod owners;
mod pause;
#[cfg(test)]
mod plans;
mod postings;
mod progress;
mod range;
mod readers;
mod retention;
mod rows;
mod set_back;
mod standings;
mod store;
mod streams;
mod tally;
mod tasks;
mod terms;
mod tokens;
mod turns;
mod tx;
mod urls;
mod work;
mod writer;

pub use open::{Ownership, memory};
pub use open_error::OpenError;
pub use store::SqliteStore;
