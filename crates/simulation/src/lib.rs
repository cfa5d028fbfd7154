//! The engine, run by one seed.
//!
//! The real intake, batcher, lanes, workers, settler, waker and background tasks run on one thread, under a clock that moves
//! only when everybody waits, over the real SQLite engine or over the model of it, which has no threads and no files and takes a
//! fraction of the time ([`Over`]). The seed decides everything else: how long each call of the
//! store takes and whether it fails, what receivers answer, which hints are lost, late or doubled, what people change
//! meanwhile, and when the process ends, in order or not. So a seed that fails fails again, with the same trace.
//!
//! After that the world is calmed: receivers answer, the store works, hints arrive. Then everything must become quiet, and
//! what happened must be what was promised; see [`Broken`].

mod at_once;
mod book;
mod bounds;
mod broken;
mod carrier;
mod clock;
mod delegation;
mod dice;
mod dispatch;
mod health;
mod image;
mod life;
mod people;
mod place;
mod promises;
mod store;
mod unheard;
mod watch;
mod world;

pub use broken::Broken;
pub use promises::Report;
pub use unheard::{Change, is_found_without_hints};
pub use world::{Over, run};
