//! What bodies say, as types, with the rules for what comes in: decoded from bytes, and encoded to bytes, without a server. Nothing
//! here knows axum, a caller or a store.

pub(crate) mod decode;
pub(crate) mod error;
pub(crate) mod model;
pub(crate) mod placed;
pub(crate) mod problem;
pub(crate) mod quirks;
pub(crate) mod rules;
pub(crate) mod schema;
pub(crate) mod typos;
pub(crate) mod url_policy;
