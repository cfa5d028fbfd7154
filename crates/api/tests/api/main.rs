//! The API as callers see it: requests in, answers out, on a real store in a temporary folder. Nothing is delivered; what
//! a test needs of attempts it writes into the store as the engine would.

mod access;
mod applications;
mod attempts;
mod endpoints;
mod event_types;
mod idempotency;
mod messages;
mod pages;
mod transport;
mod world;
