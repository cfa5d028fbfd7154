//! The HTTP API: routes over the store's traits and the intake, wire-compatible with the Svix server's REST API.
//!
//! A request passes, in this order: [`Api::respond`] (trailing slashes, CORS, panics), the router, the extractors of its
//! handler (query, token, application, body), the handler, and on the way back the answer as JSON. Handlers decide
//! nothing about delivery: they check, call one store operation, and show the result. That commits once, and what it does is done whole
//! or not at all; where it may be too much for that (an import, an array of messages, the payloads of many messages), or a message
//! brings its application along, there are several commits, and to send the same again completes them.
//!
//! `routes/mod.rs` says how a route is added.

mod access;
mod account;
mod answer;
mod at_work;
mod auth;
mod body;
mod cors;
mod decode;
mod docs;
mod error;
mod headers;
mod idempotency;
mod json;
mod large;
pub mod limits;
mod lines;
mod memory;
mod model;
mod openapi;
mod options;
mod pagination;
mod params;
mod places;
mod problem;
mod progress;
mod query;
mod quirks;
mod router;
mod routes;
mod rules;
mod schemas;
mod state;
mod store_ping;
mod typos;
mod url_policy;
mod webhooks;
mod workers;

pub use account::limits;
pub use auth::KeyUsage;
pub use axum::response::Response;
pub use memory::memory;
pub use options::{AuthOptions, SigningOptions};
pub use progress::{Progress, Watched};
pub use router::{Api, Parts};
pub use routes::openapi::document as openapi_document;
pub use url_policy::{UrlCheck, UrlRefused};
pub use webhooks::limits as import_limits;
pub use workers::Workers;
