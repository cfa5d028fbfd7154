//! Nobody harms anybody: endpoints, tenants and receivers that misbehave run beside healthy ones.
//!
//! `endpoints` counts: whatever others do, a healthy endpoint gets everything. `tenants`, `receivers`, `secure` and `strangers`
//! measure: while a hostile tenant, receiver or anybody without a token does its worst, a healthy tenant's latency, of accepting and end to end, stays near what it
//! was alone, and the server's memory below what `postrider config check` says of its settings. `neighbour`
//! says how that is judged, and how a longer run is asked for.
//!
//! What is promised is promised of the program as people run it, so these are tests of an optimised build only:
//! `cargo test --profile quick --package postrider --test isolation`. (Lints see them in any.)

#![cfg(any(not(debug_assertions), clippy))]

mod endpoints;
mod hostile;
mod labour;
mod neighbour;
mod receivers;
mod secure;
mod strangers;
mod tenants;
