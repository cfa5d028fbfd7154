//! Ends that nobody chose: the process is killed, the power goes, the disk fails. Nothing that was acked is lost, and only that
//! is repeated whose result was not stored.
//!
//! [`world`] is the load and what must be true of it afterwards; the others end it, each in its way.

mod faults;
mod kill;
mod power;
mod world;
