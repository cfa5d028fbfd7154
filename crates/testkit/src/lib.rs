//! What the black-box tests stand on: a server in a process of its own, a client, receivers that misbehave on request,
//! and a clock that tests move.
//!
//! Only tests depend on this crate. Three habits keep such tests honest:
//!
//! * Nothing sleeps and hopes. A test waits for an event ([`wait::until`], [`Receiver::wait_for`]) with a deadline that
//!   is generous, because it only matters when the test fails.
//! * Every test has its own process, store, environment and ports, so tests run at the same time in any order.
//! * When a test fails, the log of its server is printed with it.

pub mod certificates;
pub mod client;
pub mod clock;
pub mod disk;
pub mod ledger;
pub mod load;
pub mod process;
pub mod random;
pub mod raw;
pub mod receiver;
pub mod server;
pub mod token;
pub mod wait;

pub use certificates::{Authority, Identity};
pub use client::{Answer, App, Client};
pub use clock::ManualClock;
pub use disk::{Disk, Fault, FaultKind, Plan};
pub use ledger::Ledger;
pub use load::{Acked, Load};
pub use receiver::{Received, Receiver, Reply};
pub use server::{TestServer, TestServerBuilder};
