//! The sender against real sockets: receivers here are small, and as hostile as the case needs.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod addresses;
mod age;
mod burdens;
mod dns;
mod floods;
mod handshake;
mod hostile;
mod names;
mod neighbours;
mod odd;
mod oddities;
mod reuse;
mod secure;
mod streams;
mod support;
mod verdicts;
mod windows;
