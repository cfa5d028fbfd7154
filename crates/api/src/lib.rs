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
mod http;
mod import;
pub mod limits;
mod memory;
mod openapi;
mod options;
mod router;
mod routes;
mod state;
mod store_ping;
mod wire;

pub use access::auth::KeyUsage;
pub use axum::response::Response;
pub use http::account::limits;
pub use http::progress::{Progress, Watched};
pub use http::workers::Workers;
pub use import::limits as import_limits;
pub use memory::memory;
pub use options::{AuthOptions, SigningOptions};
pub use router::{Api, Parts};
pub use routes::openapi::document as openapi_document;
pub use wire::url_policy::{UrlCheck, UrlRefused};
