//! Nobody harms anybody: endpoints, tenants and receivers that misbehave run beside healthy ones.
//!
//! `endpoints` counts: whatever others do, a healthy endpoint gets everything. `tenants` and `receivers` measure: while a
//! hostile tenant or receiver does its worst, a healthy tenant's latency, of accepting and end to end, stays near what it
//! was alone, and the server's memory below a bound. `neighbour` says how that is judged, and how a longer run is asked for.

mod endpoints;
mod hostile;
mod neighbour;
mod receivers;
mod tenants;
