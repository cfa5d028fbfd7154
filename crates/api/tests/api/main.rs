//! The API as callers see it: requests in, answers out, on a real store in a temporary folder. Nothing is delivered; what
//! a test needs of attempts it writes into the store as the engine would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod applications;
mod attempted;
mod attempts;
mod authentication;
mod batch;
mod bounds;
mod endpoints;
mod environment;
mod event_types;
mod examples;
mod expunge;
mod idempotency;
mod import_openapi;
mod messages;
mod openapi;
mod operational;
mod pages;
mod poller;
mod schemas;
mod tasks;
mod transport;
mod world;
