//! The store on SQLite: one file, one process, one writer.
//!
//! * `write::writer` is a thread that owns the only connection that writes. What is asked of it while a commit is under way
//!   goes into the next one: group commit, with one fsync for all. WAL and `synchronous=FULL`, so `Ok` means on disk.
//! * `engine::readers` are a few connections that see the last commit and never block the writer. Lists have connections of
//!   their own, so that a slow page never keeps a lane or a look-up waiting; nor does what is read with them because it may be
//!   large: a message's payload, and an event type with its schemas. Who waits for those, as a message does whose event type
//!   changed, waits for his turn among the pages.
//! * `areas` are those of the contract, under its names. The hot path is accept and settle, in `write::hot`.
//! * `lists` are the indexes by which filtered lists are read.
//!
//! The schema is in `migrations/`, commented.

mod areas;
mod engine;
pub mod limits;
mod lists;
mod open;
mod store;
mod write;

pub use engine::open_error::OpenError;
pub use open::{Ownership, memory};
pub use store::SqliteStore;
